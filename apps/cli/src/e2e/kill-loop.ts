/**
 * The platform killed in a loop while it works: `typevisor start` with real guests under QEMU gets SIGKILL at random moments while
 * instances are made, saved, restored, paused, rebooted, powered off and destroyed, and snapshots of them taken, gone back to, cloned and
 * deleted, settings changed, and disks and network cards attached and detached. The moments and the choices come from one seed.
 *
 * After each restart: every operation that was accepted is known and at its end; every instance is where its last operation left it; the
 * guests on the host are those that the rows say, and one that nobody stopped has the process that it had; volumes, snapshots, memory files
 * and leases are those of the rows, cgroups those of guests, no more and no less (`strays.ts`); two witnesses count on their consoles, through saves, restores and
 * snapshots, and no number is missing. At the end no guest is frozen, all is destroyed, and nothing is left.
 */
import assert from 'node:assert/strict'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Fault, toFault } from '@typevisor/base'
import type { Body } from '@typevisor/api'
import type { Client } from '@typevisor/api/client'
import { canDevice, canSet, canSnapshot, VERBS, type DomainStateKind, type VerbName } from '@typevisor/model'
import { seededRng, type SeededRng } from '@typevisor/sim'
import { guestsOf, machine, runTagOf, until, type Life, type Machine } from './child.ts'
import { cgroupsOf, strays } from './strays.ts'

export interface KillLoopOptions {
  readonly seed: number
  readonly roundCount: number
  readonly say: (text: string) => void
}

type Instance = NonNullable<Awaited<ReturnType<typeof list>>[number]>
type Snapshots = Awaited<ReturnType<typeof snapshotsOf>>
type Accepted = { readonly operation: { readonly id: string; readonly name: string } }

const MIB = 1024 * 1024
const MEMORY_BYTES = 160 * MIB
const WITNESSES = ['witness-1', 'witness-2']
const OTHERS_MAX = 3
/** Of one instance. */
const DEVICES_MAX = 3
const SNAPSHOTS_MAX = 3
/** A guest that is rebooted, reverted or powered off counts no more, or again. */
const WITNESS_VERBS: readonly VerbName[] = ['pause', 'unpause', 'save', 'restore']
const VERBS_USED: readonly VerbName[] = ['pause', 'unpause', 'save', 'restore', 'poweroff', 'start', 'reboot', 'destroy']
/** After these it may be another process. */
const NEW_PROCESS = new Set([
  'instance.create',
  'instance.start',
  'instance.poweroff',
  'instance.save',
  'instance.restore',
  'instance.destroy',
  'instance.revert',
])
/** These leave the instance as it was. */
const KEEPS_STATE = new Set([
  'instance.snapshot',
  'instance.snapshot-delete',
  'instance.set',
  'instance.attach',
  'instance.detach',
])

const list = async (client: Client) => (await client.call('instance.list', { query: { limit: 100 } })).items
const snapshotsOf = async (client: Client, instance: string, options: { signal: AbortSignal }) =>
  (await client.call('instance.snapshots', { params: { instance } }, options)).items

/** A fault that the kill, or the race with another operation, explains. */
const EXPECTED: ReadonlySet<string> = new Set(['unavailable', 'aborted', 'busy', 'conflict', 'not_found'])

export async function killLoop({ seed, roundCount, say }: KillLoopOptions): Promise<void> {
  const rng = seededRng(`kill-loop/${seed}`)
  await using host = await machine()
  const agentDir = join(host.dataDir, 'agent')
  let life = await host.start()
  const built = await life.client.call('image.build', { params: { image: 'micro' }, body: {}, query: { wait: 60 } })
  assert.equal(built.operation.state, 'done', JSON.stringify(built.operation.fault))
  for (const name of WITNESSES) await makeWitness(life.client, name)

  const loop = new Loop(agentDir, rng)
  await loop.settle(life)
  for (let round = 1; round <= roundCount; round += 1) {
    const stop = new AbortController()
    const working = Promise.all([loop.work(life.client, stop.signal), loop.work(life.client, stop.signal)])
    await sleep(100 + rng.below(2400))
    await life.child.kill('SIGKILL')
    stop.abort()
    await working
    // Now and then it is killed again while it starts.
    if (rng.chance(0.25)) await startAndKill(host, rng)
    life = await host.start()
    try {
      await loop.settle(life)
    } catch (error) {
      throw new Error(`round ${round}, seed ${seed}; the platform said: ${life.child.said()}`, { cause: error })
    }
  }
  say(`${roundCount} kills, ${loop.operations.size} operations, of which ${loop.undoneCount} were undone`)
  say(loop.tally())

  for (const name of WITNESSES) {
    const row = (await list(life.client)).find((each) => each.name === name)
    assert.ok(row)
    if (row.state.kind === 'saved') await done(life.client, 'restore', name)
    if (row.state.kind === 'paused') await done(life.client, 'unpause', name)
    const before = await counted(life.client, name)
    await until(`${name} counts on`, async () => (await counted(life.client, name)) > before + 5)
    say(`${name} counted to ${await counted(life.client, name)}`)
    // A guest whose file systems are frozen would refuse, or hang.
    const argv = ['/bin/sh', '-c', 'echo here > /root/here && sync']
    const { exitCode } = await life.client.call('instance.exec', {
      params: { instance: name },
      body: { argv, timeoutMs: 30_000 },
    })
    assert.equal(exitCode, 0, `${name} writes`)
  }

  for (const { name } of await list(life.client)) await done(life.client, 'destroy', name)
  assert.deepEqual(await list(life.client), [])
  assert.equal(guestsOf(agentDir).size, 0, 'no QEMU is left')
  assert.deepEqual(await strays(life.client, agentDir), [])
  await until('no cgroup is left', async () => (await cgroupsOf(loop.seen)).length === 0)
  const runFolder = join('/run/typevisor', runTagOf(agentDir))
  if (process.geteuid?.() === 0) {
    assert.deepEqual(await readdir(runFolder), ['nbd'], 'no folder of a guest is left')
    assert.deepEqual(await readdir(join(runFolder, 'nbd')), [], 'no disk is served')
  }
  await life.child.kill('SIGTERM')
}

async function startAndKill(host: Machine, rng: SeededRng): Promise<void> {
  const starting = host.start().then(
    (life) => life.child.kill('SIGKILL'),
    () => {},
  )
  await sleep(rng.below(900))
  host.killAll()
  await starting
}

async function done(client: Client, verb: VerbName, instance: string): Promise<void> {
  const { operation } = await client.call(`instance.${verb}`, { params: { instance }, query: { wait: 60 } })
  assert.equal(operation.state, 'done', `${verb} ${instance}: ${JSON.stringify(operation.fault)}`)
}

async function makeWitness(client: Client, name: string): Promise<void> {
  const { operation } = await client.call('instance.create', {
    body: { name, image: 'micro', memoryBytes: MEMORY_BYTES, vcpuCountMax: 2 },
    query: { wait: 60 },
  })
  assert.equal(operation.state, 'done', JSON.stringify(operation.fault))
  const argv = ['/bin/sh', '-c', '(i=0; while :; do i=$((i+1)); echo "tick $i;"; sleep 0.05; done) >/dev/ttyS0 2>&1 </dev/null &']
  await until(`the agent of ${name}`, () =>
    client.call('instance.exec', { params: { instance: name }, body: { argv, timeoutMs: 10_000 } }).then(
      ({ exitCode }) => exitCode === 0,
      (error: unknown) => {
        if (error instanceof Fault && error.code === 'unavailable') return false
        throw error
      },
    ),
  )
}

/** The last number on the console; each is one more than the one before. */
async function counted(client: Client, instance: string): Promise<number> {
  let text = ''
  for (let from = 0; ;) {
    const slice = await client.call('instance.log', { params: { instance }, query: { from } })
    text += Buffer.from(slice.contentBase64, 'base64').toString('latin1')
    if (slice.endOffset === from) break
    assert.equal(slice.startOffset, from, 'the console is whole from its first byte')
    from = slice.endOffset
  }
  const numbers = [...text.matchAll(/tick (\d+);/g)].map((match) => Number(match[1]))
  for (const [at, number] of numbers.entries()) assert.equal(number, at + 1, `${instance}: no number is missing or there twice`)
  return numbers.length
}

class Loop {
  /** Operations that the server has accepted. */
  readonly operations = new Map<string, string>()
  undoneCount = 0
  /** Every instance that there ever was. */
  readonly seen = new Set<string>()
  readonly #agentDir: string
  readonly #rng: SeededRng
  #names = 0
  /** What an instance is when it has gone back, by operation. */
  readonly #reverted = new Map<string, DomainStateKind>()
  /** Process of each guest when all was quiet, and the newest operation then. */
  #quiet = new Map<string, { pid: number; operations: number }>()

  constructor(agentDir: string, rng: SeededRng) {
    this.#agentDir = agentDir
    this.#rng = rng
  }

  /** Gives commands one after the other until it is told to stop. */
  async work(client: Client, signal: AbortSignal): Promise<void> {
    const rng = this.#rng
    while (!signal.aborted) {
      try {
        const rows = await list(client)
        for (const { id } of rows) this.seen.add(id)
        const hasRoom = rows.length - WITNESSES.length < OTHERS_MAX
        if (hasRoom && rng.chance(0.25))
          this.#accepted(
            await client.call(
              'instance.create',
              { body: { name: this.#newName(), image: 'micro', memoryBytes: MEMORY_BYTES, vcpuCountMax: 2 } },
              { signal },
            ),
          )
        else await this.#change(client, rng.pick(rows), hasRoom, signal)
      } catch (error) {
        if (!EXPECTED.has(toFault(error).code)) throw error
      }
      await sleep(rng.below(150), undefined, { signal }).catch(() => {})
    }
  }

  /** One of what can be done to an instance; nothing where another operation holds it. */
  async #change(client: Client, row: Instance, hasRoom: boolean, signal: AbortSignal): Promise<void> {
    const rng = this.#rng
    if (row.operation !== null) return
    const params = { instance: row.id }
    const verbs = (WITNESSES.includes(row.name) ? WITNESS_VERBS : VERBS_USED).filter((verb) => possible(verb, row))
    const snapshots = await snapshotsOf(client, row.id, { signal })
    const ways = this.#snapshotWays(client, row, snapshots, hasRoom, signal)
    const plugs = rng.chance(0.4) ? await this.#deviceWays(client, row, signal) : []
    if (plugs.length > 0) this.#accepted(await rng.pick(plugs)())
    else if (rng.chance(0.3) && canSet(row.state.kind as DomainStateKind)) {
      const query = { wait: rng.below(2) }
      this.#accepted(await client.call('instance.set', { params, query, body: this.#settings() }, { signal }))
    } else if (ways.length > 0 && rng.chance(0.5)) this.#accepted(await rng.pick(ways)())
    else if (verbs.length > 0)
      this.#accepted(await client.call(`instance.${rng.pick(verbs)}`, { params, query: { wait: rng.below(2) } }, { signal }))
  }

  /** One that slows nobody down. */
  #settings(): NonNullable<Body<'instance.set'>> {
    const rng = this.#rng
    return rng.pick<NonNullable<Body<'instance.set'>>>([
      { vcpuCount: 1 + rng.below(2), timeoutMs: 5000 },
      { memoryTargetBytes: MEMORY_BYTES - rng.below(32) * MIB },
      ...(process.geteuid?.() === 0 ? [{ cpuWeight: 50 + rng.below(100), cpuCapPercent: 200 + rng.below(100) }] : []),
      { affinityHard: ['0'] },
      { reset: ['memoryTargetBytes', 'cpuWeight', 'cpuCapPercent', 'affinityHard', 'diskLimits'] },
      { diskLimits: [{ disk: 'root', bytesPerSecond: (50 + rng.below(50)) * MIB }] },
    ])
  }

  /** What can be done with its devices. */
  async #deviceWays(
    client: Client,
    { id: instance, state: { kind } }: Instance,
    signal: AbortSignal,
  ): Promise<(() => Promise<Accepted>)[]> {
    const rng = this.#rng
    if (!canDevice('attach', kind as DomainStateKind)) return []
    const query = { wait: rng.below(2) }
    const { items } = await client.call('instance.devices', { params: { instance } }, { signal })
    const attach = (body: Parameters<typeof client.call<'instance.attach'>>[1]['body']) => () =>
      client.call('instance.attach', { params: { instance }, query, body }, { signal })
    const ways: (() => Promise<Accepted>)[] = []
    const coming = items.filter(({ detachable }) => detachable)
    if (coming.length < DEVICES_MAX) {
      const number = (this.#names += 1)
      ways.push(attach({ kind: 'disk', device: `disk-${number}`, sizeBytes: 8 * 1024 * 1024 }))
      ways.push(attach({ kind: 'nic', device: `nic-${number}` }))
    }
    for (const { name: device, state } of items.filter((item) => item.detachable || item.state === 'kept')) {
      if (state === 'kept') ways.push(attach({ kind: 'disk', device }))
      const how = {
        force: rng.chance(0.3) ? 'true' : 'false',
        delete: rng.chance(0.5) || state === 'kept' ? 'true' : 'false',
      } as const
      const request = { params: { instance, device }, query: { ...query, ...how, timeoutMs: 2000 } }
      ways.push(() => client.call('instance.detach', request, { signal }))
    }
    return ways
  }

  /** What can be done with its snapshots. */
  #snapshotWays(
    client: Client,
    { id: instance, name, state: { kind } }: Instance,
    snapshots: Snapshots,
    hasRoom: boolean,
    signal: AbortSignal,
  ): (() => Promise<Accepted>)[] {
    const rng = this.#rng
    const query = { wait: rng.below(2) }
    const options = { signal }
    const ways: (() => Promise<Accepted>)[] = []
    if (canSnapshot('snapshot', kind as DomainStateKind) && snapshots.length < SNAPSHOTS_MAX) {
      const memory = kind !== 'stopped' && rng.chance(0.5)
      const quiesce = rng.pick(['try', 'no'] as const)
      const body = { name: `at-${(this.#names += 1)}`, memory, quiesce, timeoutMs: 2000 }
      ways.push(() => client.call('instance.snapshot', { params: { instance }, query, body }, options))
      const copy = { name: this.#newName(), quiesce, timeoutMs: 2000 }
      if (hasRoom) ways.push(() => client.call('instance.copy', { params: { instance }, query, body: copy }, options))
    }
    if (snapshots.length === 0) return ways
    const { name: snapshot, memoryBytes, state } = rng.pick(snapshots)
    const params = { instance, snapshot }
    ways.push(() => client.call('instance.snapshot-delete', { params, query }, options))
    if (hasRoom) ways.push(() => client.call('instance.clone', { params, query, body: { name: this.#newName() } }, options))
    if (!WITNESSES.includes(name) && canSnapshot('revert', kind as DomainStateKind))
      ways.push(async () => {
        const start = rng.chance(0.5)
        const accepted = await client.call('instance.revert', { params, query, body: { start } }, options)
        this.#reverted.set(accepted.operation.id, memoryBytes !== null ? state : start ? 'running' : 'stopped')
        return accepted
      })
    return ways
  }

  /** How many of each were accepted. */
  tally(): string {
    const counts = Map.groupBy(this.operations.values(), (name) => name.replace('instance.', ''))
    return [...counts].map(([verb, all]) => `${all.length} ${verb}`).join(', ')
  }

  #newName(): string {
    return `other-${(this.#names += 1)}`
  }

  #accepted({ operation }: Accepted): void {
    this.operations.set(operation.id, operation.name)
  }

  /** Everything that must be so once nothing is under way. */
  async settle({ client }: Life): Promise<void> {
    await until(
      'every operation ends',
      async () => (await client.call('operation.list', { query: { unfinished: 'true' } })).items.length === 0,
      120_000,
    )
    for (const [id, name] of this.operations) {
      const operation = await client.call('operation.get', { params: { operation: id } })
      assert.ok(operation.state === 'done' || operation.state === 'undone', `${name} ${id}: ${operation.state}`)
      assert.notEqual(operation.fault?.code, 'internal', `${name} ${id}: ${operation.fault?.message}`)
    }
    // What the host tells of the last moments may be a moment behind.
    await until('rows and guests agree', async () => {
      const guests = guestsOf(this.#agentDir)
      const rows = await list(client)
      const live = rows.filter((row) => row.state.kind === 'running' || row.state.kind === 'paused')
      return live.length === guests.size && live.every((row) => guests.has(row.id))
    }).catch(async (error: unknown) => {
      throw new Error(
        `rows ${JSON.stringify((await list(client)).map(({ id, name, state }) => [id, name, state]))}, guests ${JSON.stringify([...guestsOf(this.#agentDir)])}`,
        { cause: error },
      )
    })
    const guests = guestsOf(this.#agentDir)
    const rows = await list(client)
    for (const { id } of rows) this.seen.add(id)
    await until('cgroups are of guests', async () => (await cgroupsOf(this.seen)).every((id) => guests.has(id)))
    const quiet = new Map<string, { pid: number; operations: number }>()
    this.undoneCount = 0
    for (const row of rows) {
      assert.equal(row.hostConnected, true)
      assert.equal(row.operation, null, `${row.name} is held by nothing`)
      const { items } = await client.call('operation.list', { query: { resource: row.id, limit: 500 } })
      const newest = items.find(({ name }) => !KEEPS_STATE.has(name))
      assert.ok(newest)
      assert.ok(
        isWhere(row, newest, this.#reverted.get(newest.id)),
        `${row.name} is ${row.state.kind} (${row.state.detail}) after ${newest.name} ${newest.state} ${JSON.stringify(newest.fault)}`,
      )
      this.undoneCount += items.filter((item) => item.state === 'undone').length
      const pid = guests.get(row.id)
      if (pid === undefined) continue
      const before = this.#quiet.get(row.id)
      const since = items.slice(0, items.length - (before?.operations ?? 0))
      if (before && !since.some((item) => NEW_PROCESS.has(item.name)))
        assert.equal(pid, before.pid, `${row.name} has the process that it had`)
      quiet.set(row.id, { pid, operations: items.length })
    }
    let wrong: string[] = []
    await until(
      'what is kept is what rows say',
      async () => (wrong = await strays(client, this.#agentDir)).length === 0,
      20_000,
    ).catch((error: unknown) => {
      throw new Error(wrong.join('; '), { cause: error })
    })
    for (const name of WITNESSES) await counted(client, name)
    this.#quiet = quiet
  }
}

const possible = (verb: VerbName, row: Instance): boolean =>
  row.operation === null &&
  ((VERBS[verb].from as readonly string[]).includes(row.state.kind) || (verb === 'destroy' && row.state.kind === 'failed'))

/** Whether the row is where its newest operation leaves it: at the verb's end, or where it was before. `reverted`: what it goes back to, if known. */
function isWhere(
  row: Instance,
  newest: { readonly name: string; readonly state: string },
  reverted: DomainStateKind | undefined,
): boolean {
  const verb = newest.name.replace('instance.', '')
  const kind = row.state.kind as DomainStateKind
  if (['create', 'clone', 'copy'].includes(verb)) return row.state.kind === (newest.state === 'done' ? 'running' : 'failed')
  if (verb === 'revert')
    return newest.state === 'done' && reverted !== undefined ? kind === reverted : canSnapshot('revert', kind)
  const { from, to } = VERBS[verb as VerbName]
  if (newest.state === 'done') return kind === to
  return (from as readonly DomainStateKind[]).includes(kind) || kind === to
}
