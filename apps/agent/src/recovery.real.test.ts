/** Real guests that panic, and that are started again with their host. */
import assert from 'node:assert/strict'
import { chmod, mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Fault, gib, mib } from '@typevisor/base'
import { missingQemu } from '@typevisor/image/testing'
import { isHostEvent, parseImageName, type AgentEvent, type DomainId, type DomainName, type DomainSpec } from '@typevisor/model'
import { consoleLog, realClock, realRng, uuidv7Ids } from '@typevisor/runtime-node'
import { openHost, type Host } from './host.ts'

const clock = realClock()
const rng = realRng()
const ids = uuidv7Ids(clock, rng)
const LIMIT_MS = 90_000

async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  for (const end = performance.now() + LIMIT_MS; !(await holds()); await sleep(50))
    assert.ok(performance.now() < end, `it never came: ${what}`)
}

/** The emulators whose command lines name the domain. */
async function emulatorsOf(id: DomainId): Promise<number[]> {
  const found: number[] = []
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue
    const words = await readFile(`/proc/${entry}/cmdline`, 'utf8').catch(() => '')
    if (words.startsWith('qemu-system') || words.includes('/qemu-system')) if (words.includes(id)) found.push(Number(entry))
  }
  return found
}

async function eventsOf(host: Host): Promise<string[]> {
  const told: string[] = []
  const reading = new AbortController()
  const last = host.agent.hello.sequence
  for await (const event of host.toolstack.events(0, { signal: reading.signal })) {
    if (!isHostEvent(event)) told.push(textOf(event))
    if (event.sequence >= last) break
  }
  return told
}
const textOf = (event: AgentEvent): string => `${event.from} > ${event.to} (${event.cause})`

const answers = (host: Host, id: DomainId): Promise<boolean> =>
  host.toolstack.exec(id, { argv: ['/bin/true'], timeoutMs: 5000 }).then(
    ({ exitCode }) => exitCode === 0,
    () => false,
  )

test(
  'a guest that panics is dumped and boots again; after a reboot of the host what ran runs again',
  { skip: missingQemu(), timeout: 300_000 },
  async () => {
    const dataDir = await mkdtemp(join(tmpdir(), 'tv-recovery-'))
    await chmod(dataDir, 0o711)
    const log = consoleLog({ level: 'error' })
    const open = (bootId?: string) =>
      openHost({ name: 'host-1', dataDir, driver: 'qemu', version: '0', clock, rng, ids, log, bootId })
    const id = ids.next() as DomainId
    const spec: DomainSpec = {
      name: 'web' as DomainName,
      vcpuCount: 1,
      memoryBytes: mib(192),
      image: parseImageName('micro'),
      rootDiskBytes: gib(1),
      cloudInit: { hostname: 'web', user: null, sshKeys: [], userData: null },
      forwards: [],
      labels: {},
      onCrash: 'dump-reboot',
      autostart: true,
    }
    let host = await open()
    try {
      await host.images.build(parseImageName('micro'))
      await host.toolstack.define(id, spec, { commandId: ids.next() })
      await host.toolstack.carryOut('start', id, { commandId: ids.next() })
      await until('the guest answers', () => answers(host, id))
      const [first] = await emulatorsOf(id)
      const panics = host.toolstack.exec(id, {
        argv: ['/bin/sh', '-c', 'echo c > /proc/sysrq-trigger'],
        timeoutMs: 20_000,
      })
      await assert.rejects(panics, (error: unknown) => error instanceof Fault && error.code === 'failed')
      await until('another emulator runs it', async () => {
        const [now] = await emulatorsOf(id)
        return now !== undefined && now !== first && host.toolstack.get(id)?.state.kind === 'running'
      })
      await until('the guest answers again', () => answers(host, id))
      const dump = host.toolstack.get(id)?.dump
      assert.ok(dump && dump.sizeBytes > mib(16), JSON.stringify(dump))
      assert.deepEqual((await eventsOf(host)).slice(2), [
        'running > crashed (guest-panic)',
        'crashed > crashed (on-crash)', // of which its dump is told
        'crashed > stopped (on-crash)',
        'stopped > running (on-crash)',
      ])

      // The power of the host goes, and with it each of its processes.
      await host.close()
      const pids = await emulatorsOf(id)
      assert.equal(pids.length, 1)
      for (const pid of pids) process.kill(pid, 'SIGKILL')
      await until('it is gone', async () => (await emulatorsOf(id)).length === 0)
      host = await open('a boot of another time')
      await until('it runs again', () => host.toolstack.get(id)?.state.kind === 'running')
      await until('the guest answers after the reboot', () => answers(host, id))
      assert.deepEqual((await eventsOf(host)).slice(6), [
        'running > crashed (unknown)',
        'crashed > stopped (autostart)',
        'stopped > running (autostart)',
      ])
      await host.toolstack.carryOut('destroy', id, { commandId: ids.next() })
    } finally {
      await host.close()
      for (const pid of await emulatorsOf(id)) process.kill(pid, 'SIGKILL')
      await rm(dataDir, { recursive: true, force: true })
    }
  },
)
