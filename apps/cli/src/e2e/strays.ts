/** What a host keeps for its instances, held against the rows: what nobody owns, and what somebody lacks. */
import assert from 'node:assert/strict'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { Client } from '@typevisor/api/client'
import { askServer } from '@typevisor/storage'
import { runTagOf } from './child.ts'

interface Kept {
  /** Those of an instance that failed may be there or not. */
  readonly optional: boolean
  readonly isLive: boolean
  /** Of which volume, and whether a guest that runs has it. */
  readonly disks: ReadonlyMap<string, { readonly isAttached: boolean }>
  /** Of the root disk, which each has. */
  readonly snapshots: readonly string[]
  /** What may be: other disks came and went. */
  readonly mayHave: (volume: string) => boolean
  readonly saveCount: number
}

/** In words, nothing when all is as it should be. To be asked when nothing is under way. */
export async function strays(client: Client, agentDir: string): Promise<string[]> {
  const rows = new Map<string, Kept>()
  for (const { id, state } of (await client.call('instance.list', { query: { limit: 100 } })).items) {
    const { items } = await client.call('instance.snapshots', { params: { instance: id } })
    rows.set(id, {
      optional: state.kind === 'failed' || state.kind === 'crashed',
      isLive: state.kind === 'running' || state.kind === 'paused',
      disks: await disksOf(client, id),
      snapshots: items.map((snapshot) => `${id}.root@${snapshot.id}`),
      mayHave: (volume) => items.some((snapshot) => volume.startsWith(`${id}.`) && volume.endsWith(`@${snapshot.id}`)),
      saveCount: items.filter(({ memoryBytes }) => memoryBytes !== null).length + (state.kind === 'saved' ? 1 : 0),
    })
  }
  return [...(await ofStore(rows, agentDir)), ...(await ofFolders(rows, agentDir))]
}

/** Of these instances, those that have cgroups of their own, since the guest is there. */
export async function cgroupsOf(instances: ReadonlySet<string>): Promise<string[]> {
  const names = await Promise.all(
    ['cpu/', 'memory/', 'pids/', ''].map((part) => readdir(`/sys/fs/cgroup/${part}typevisor`).catch(() => [])),
  )
  return [...new Set(names.flat())].filter((name) => instances.has(name))
}

/** The seed is a file, and an instance that is not on its host has what was there before there were devices. */
async function disksOf(client: Client, id: string): Promise<Kept['disks']> {
  const devices = await client.call('instance.devices', { params: { instance: id } }).then(
    ({ items }) => items,
    () => null,
  )
  if (devices === null) return new Map([[`${id}.root`, { isAttached: true }]])
  return new Map(
    devices.flatMap(({ name, sizeBytes, state }) =>
      sizeBytes === null || name === 'seed' ? [] : [[`${id}.${name}`, { isAttached: state !== 'kept' }] as const],
    ),
  )
}

async function ofStore(rows: ReadonlyMap<string, Kept>, agentDir: string): Promise<string[]> {
  const server = await askServer(join(agentDir, 'disks'))
  assert.ok(server, 'a volume server answers')
  try {
    const wrong: string[] = []
    const found = new Map((await server.call('list', {})).map((volume) => [volume.name, volume]))
    const { attachmentCount } = await server.call('hello', {})
    const served = [...rows.values()].flatMap(({ disks, isLive }) =>
      [...disks].flatMap(([disk, { isAttached }]) => (isLive && isAttached ? [disk] : [])),
    )
    if (attachmentCount !== served.length && ![...rows.values()].some(({ optional }) => optional)) {
      const sockets = await readdir(join('/run/typevisor', runTagOf(agentDir), 'nbd')).catch(() => [])
      const others = new Set(sockets.map((name) => name.replace(/\.sock$/, ''))).symmetricDifference(new Set(served))
      wrong.push(`${attachmentCount} disks are served, want ${served.length}: ${[...others].join(' ')}`)
    }
    const wanted = new Set([...rows.values()].flatMap(({ disks, snapshots }) => [...disks.keys(), ...snapshots]))
    const isSomebodys = (name: string): boolean => wanted.has(name) || [...rows.values()].some(({ mayHave }) => mayHave(name))
    for (const name of found.keys()) if (!name.startsWith('gold-') && !isSomebodys(name)) wrong.push(`volume ${name} is nobody's`)
    for (const { disks, snapshots, optional, isLive } of rows.values()) {
      if (optional) continue
      for (const name of [...disks.keys(), ...snapshots]) if (!found.has(name)) wrong.push(`there is no volume ${name}`)
      for (const [disk, { isAttached }] of disks) {
        const isLeased = (found.get(disk)?.lease.holder ?? null) !== null
        if (isLeased !== (isLive && isAttached))
          wrong.push(`${disk} is ${isLeased ? 'leased without a guest' : 'not leased under its guest'}`)
      }
    }
    return wrong
  } finally {
    server.close()
  }
}

async function ofFolders(rows: ReadonlyMap<string, Kept>, agentDir: string): Promise<string[]> {
  const wrong: string[] = []
  for (const folder of ['volumes', 'saves', 'domains']) {
    const names = await readdir(join(agentDir, folder))
    for (const name of names) if (!rows.has(name.split('.')[0] ?? '')) wrong.push(`${folder}/${name} is nobody's`)
    if (folder !== 'saves') continue
    for (const [id, { saveCount, optional }] of rows) {
      const own = names.filter((name) => name.startsWith(`${id}.`))
      if (!optional && own.length !== saveCount)
        wrong.push(`${id} has ${saveCount} saves, in saves are ${own.join(' ') || 'none'}`)
    }
  }
  return wrong
}
