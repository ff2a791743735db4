/** Two hosts in memory, joined by streams in memory, and somebody over both who does what the control plane does. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault, gib, mib, millis, retryable, toFault, type FaultCode } from '@typevisor/base'
import type {
  DomainId,
  DomainName,
  DomainSpec,
  MigrationOffer,
  MigrationParameters,
  SnapshotId,
  SnapshotName,
  VolumeId,
} from '@typevisor/model'
import { createSimDriver, SimHypervisor, streamPair } from '@typevisor/driver-sim'
import { SIM_IMAGE } from '@typevisor/image'
import { stateFile } from '@typevisor/saga'
import { memoryLog, seededRng, sequentialIds, simDisk, virtualClock, type SimDisk, type VirtualClock } from '@typevisor/sim'
import { memoryVolumeStore } from '@typevisor/storage'
import type { MigrationLinks, MigrationStream } from './ports.ts'
import { openToolstack, type Toolstack } from './toolstack.ts'

const ID = '0192f000-0000-7000-8000-00000000aaaa' as DomainId
const SPEC: DomainSpec = {
  name: 'mover' as DomainName,
  vcpuCount: 1,
  memoryBytes: mib(128),
  image: SIM_IMAGE.name,
  rootDiskBytes: gib(1),
  cloudInit: { hostname: 'mover', user: null, sshKeys: [], userData: null },
  forwards: [],
  labels: {},
  hotplugPortCount: 2,
}

interface Host {
  readonly hypervisor: SimHypervisor
  readonly volumes: ReturnType<typeof memoryVolumeStore>
  toolstack: Toolstack
  /** As SIGKILL: its streams end, its disk is as it was synced, it asks and is answered no more. */
  kill(): void
  /** The next process. */
  open(): Promise<void>
  /** Told of each operation of its disk. */
  onOperation: () => void
}

interface World {
  readonly clock: VirtualClock
  readonly source: Host
  readonly target: Host
  /** How many guests ran at once at the most. */
  readonly runningMax: () => number
}

async function world(clock: VirtualClock, seed: number, delayMsMax = 0): Promise<World> {
  const hosts: Host[] = []
  let runningMax = 0
  const look = (): void => {
    const running = hosts.filter(({ hypervisor }) => hypervisor.guests.get(ID)?.state.kind === 'running')
    runningMax = Math.max(runningMax, running.length)
  }
  const listeners = new Map<string, (channel: string, stream: MigrationStream) => void>()
  let portCount = 0

  const host = async (name: string): Promise<Host> => {
    const hypervisor = new SimHypervisor(clock)
    const volumes = memoryVolumeStore()
    const rng = seededRng(seed)
    let disk: SimDisk = simDisk({ rng, onOperation: () => made.onOperation() })
    let end = (): void => {}
    const made = { hypervisor, volumes, onOperation: () => {}, kill: () => end() } as unknown as Host
    made.open = async () => {
      let isDead = false
      const streams = new Set<MigrationStream>()
      const ports: string[] = []
      end = () => {
        isDead = true
        for (const stream of streams) stream.close()
        for (const port of ports) listeners.delete(port)
        disk = disk.crash()
      }
      const never = new Promise<never>(() => {})
      const mortal = <T extends object>(part: T): T =>
        new Proxy(part, {
          get(of, method) {
            const value: unknown = Reflect.get(of, method)
            if (typeof value !== 'function') return value
            if (['events', 'read', 'pathOf'].includes(String(method)))
              return (...args: unknown[]) => value.apply(of, args) as unknown
            return async (...args: unknown[]): Promise<unknown> => {
              if (isDead) return never
              const answer: unknown = await value.apply(of, args)
              look()
              return isDead ? never : answer
            }
          },
        })
      const driver = mortal(createSimDriver({ hypervisor, clock, rng, delayMsMax }))
      const links: MigrationLinks = {
        async listen(take, kept) {
          const port = typeof kept === 'number' ? kept : (portCount += 1)
          const key = `${name} ${port}`
          listeners.set(key, (channel, stream) => {
            streams.add(stream)
            take(channel, stream)
          })
          ports.push(key)
          const offer: MigrationOffer = { address: name, port, fingerprint: 'sim', token: 'sim' }
          return { offer, kept: port, close: async () => void listeners.delete(key) }
        },
        async connect({ address, port }, channel) {
          const take = isDead ? undefined : listeners.get(`${address} ${port}`)
          if (!take) throw new Fault('unavailable', `host ${address}: nobody listens`)
          const [near, far] = streamPair()
          streams.add(near)
          take(channel, far)
          return near
        },
      }
      const log = memoryLog()
      const state = stateFile({ disk, name: 'journal', clock, log })
      const images = { get: async () => SIM_IMAGE }
      const rest = { saves: mortal(hypervisor.saveFolder), links, clock, log, ids: sequentialIds(), owner: name }
      made.toolstack = await openToolstack({ driver, volumes: mortal(volumes), images, state, ...rest })
    }
    await made.open()
    hosts.push(made)
    return made
  }
  return { clock, source: await host('source'), target: await host('target'), runningMax: () => runningMax }
}

async function guest({ source: { toolstack } }: World): Promise<void> {
  await toolstack.define(ID, SPEC, { commandId: 'define' })
  await toolstack.carryOut('start', ID, { commandId: 'start' })
  assert.equal(await counted(toolstack), 1)
}

async function counted(toolstack: Toolstack): Promise<number> {
  return Number(new TextDecoder().decode((await toolstack.exec(ID, { argv: ['count'], timeoutMs: 1000 })).stdout))
}

const isFault = (code: FaultCode) => (error: unknown) => error instanceof Fault && error.code === code

/** What holds the domain now is waited for, as a saga's step does. */
async function patient<T>({ clock }: Pick<World, 'clock'>, work: () => Promise<T>): Promise<T> {
  while (true) {
    try {
      return await work()
    } catch (error) {
      if (!retryable(error)) throw error
      await clock.sleep(millis(50))
    }
  }
}

/** As the control plane does it: whatever fails, each side is asked until it is known who has the guest. Answers who. */
async function migrate(world: World, run: string, parameters: MigrationParameters = {}): Promise<'source' | 'target'> {
  const { source, target } = world
  const request = await source.toolstack.migrationRequest(ID, parameters)
  const command = (step: string) => ({ commandId: `${run}.${step}` })
  try {
    const offer = await target.toolstack.receive(ID, request, { postCopy: parameters.postCopy, ...command('receive') })
    await source.toolstack.migrate(ID, offer, { ...parameters, ...command('migrate') })
    await target.toolstack.takeOverReceived(ID, command('take-over'))
  } catch {
    return await resolved(world)
  }
  if (source.toolstack.get(ID)) await source.toolstack.carryOut('destroy', ID, command('release'))
  return 'target'
}

/** One host has the guest, running and with its memory; the other has nothing of it. */
async function assertOn(world: World, side: 'source' | 'target', what: string): Promise<void> {
  const [here, there] = side === 'source' ? [world.source, world.target] : [world.target, world.source]
  assert.equal(here.toolstack.get(ID)?.state.kind, 'running', what)
  assert.equal(here.toolstack.get(ID)?.migration, undefined, what)
  assert.equal(await counted(here.toolstack), 2, what)
  assert.deepEqual(there.toolstack.list(), [], what)
  assert.deepEqual([there.hypervisor.guests.size, await there.volumes.list()], [0, []], what)
  assert.equal((await here.volumes.list()).length, 2, what)
  // What follows it is there soon, and its source is not gone before.
  for (let looks = 0; looks < 100 && here.hypervisor.guests.get(ID)?.lacks; looks += 1) await world.clock.sleep(millis(50))
  assert.equal(here.hypervisor.guests.get(ID)?.lacks, undefined, `${what}: it lacks memory`)
  assert.ok(world.runningMax() <= 1, `${what}: it ran on both`)
}

const scene = (title: string, body: (world: World, clock: VirtualClock) => Promise<void>) =>
  test(title, () => {
    const clock = virtualClock()
    return clock.run(async () => {
      const made = await world(clock, 1)
      await guest(made)
      await body(made, clock)
      for (const { toolstack } of [made.source, made.target]) await toolstack.close()
    })
  })

scene('a running domain goes to another host, and a paused one stays paused', async (both) => {
  assert.equal(await migrate(both, 'first'), 'target')
  await assertOn(both, 'target', 'there')
  const back = { ...both, source: both.target, target: both.source }
  await back.source.toolstack.carryOut('pause', ID, { commandId: 'pause' })
  assert.equal(await migrate(back, 'second'), 'target')
  assert.equal(both.source.toolstack.get(ID)?.state.kind, 'paused')
  await both.source.toolstack.carryOut('unpause', ID, { commandId: 'unpause' })
  assert.equal(await counted(both.source.toolstack), 3)
})

scene('what is on its way is left alone, and what does not fit is refused before anything begins', async (both) => {
  const { source, target } = both
  const request = await source.toolstack.migrationRequest(ID)
  for (const changes of [{ driver: 'other' }, { accelerator: 'kvm' as const }, { imageDigest: 'sha256:other' }]) {
    const received = target.toolstack.receive(ID, { ...request, ...changes }, { commandId: JSON.stringify(changes) })
    await assert.rejects(received, isFault('conflict'), JSON.stringify(changes))
  }
  assert.deepEqual([target.toolstack.list(), await target.volumes.list()], [[], []])
  await target.toolstack.receive(ID, request, { commandId: 'receive' })
  for (const verb of ['start', 'poweroff'] as const)
    await assert.rejects(target.toolstack.carryOut(verb, ID, { commandId: `expected ${verb}` }), isFault('conflict'))
  await target.toolstack.carryOut('destroy', ID, { commandId: 'destroy' })
  assert.equal(target.hypervisor.guests.size, 0)
  const other = { id: '0192f000-0000-7000-8000-00000000bbbb' as DomainId, commandId: 'other' }
  await target.toolstack.define(other.id, SPEC, other)
  await assert.rejects(target.toolstack.receive(ID, request, { commandId: 'again' }), isFault('conflict'), 'the name is taken')
})

scene('one with snapshots goes only without them', async (both) => {
  const snapshot = { snapshot: ID as unknown as SnapshotId, name: 'first' as SnapshotName }
  const request = { ...snapshot, memory: false, quiesce: 'no' as const, timeoutMs: 1 }
  await both.source.toolstack.snapshot(ID, request, { commandId: 'snapshot' })
  await assert.rejects(both.source.toolstack.migrationRequest(ID), isFault('conflict'))
  assert.equal(await migrate(both, 'move', { dropSnapshots: true }), 'target')
  await assertOn(both, 'target', 'without them')
})

scene('one that nobody brings is given up', async (both, clock) => {
  const { source, target } = both
  const request = await source.toolstack.migrationRequest(ID)
  await target.toolstack.receive(ID, request, { commandId: 'receive' })
  await clock.advance(120_000)
  assert.deepEqual([target.toolstack.list(), target.hypervisor.guests.size], [[], 0])
  await assert.rejects(target.toolstack.takeOverReceived(ID, { commandId: 'late' }), isFault('conflict'), 'it never will be here')
})

scene('one that was cancelled goes on where it was', async (both) => {
  const { source, target } = both
  const request = await source.toolstack.migrationRequest(ID)
  const offer = await target.toolstack.receive(ID, request, { commandId: 'receive' })
  const moving = source.toolstack.migrate(ID, offer, { commandId: 'migrate', onProgress: () => void cancelled.resolve() })
  const cancelled = Promise.withResolvers<void>()
  await cancelled.promise
  const where = source.toolstack.cancelMigration(ID)
  await assert.rejects(moving, isFault('failed'))
  assert.equal(await where, 'here')
  await assertOn(both, 'source', 'cancelled')
})

for (const parameters of [{}, { postCopy: true }]) {
  const how = parameters.postCopy ? 'by post-copy, ' : ''
  for (const victim of ['source', 'target'] as const) {
    test(`${how}the ${victim} is killed at each operation of its disk: one of the two has the guest, and it never runs on both`, async () => {
      const ends = { source: 0, target: 0 }
      for (let killAt = 1; ; killAt += 1) {
        const clock = virtualClock()
        const isOver = await clock.run(async () => {
          const both = await world(clock, killAt, killAt % 2 === 0 ? 5 : 0)
          await guest(both)
          return await killedAt(both, both[victim], killAt, ends, `killed at operation ${killAt}`, parameters)
        })
        if (isOver) break
        assert.ok(killAt < 200)
      }
      assert.ok(ends.source > 0 && ends.target > 0, JSON.stringify(ends))
    })
  }
}

test('many runs in which either side, or both, are killed at any moment', async () => {
  for (let seed = 1; seed <= 600; seed += 1) {
    const clock = virtualClock()
    await clock.run(async () => {
      const rng = seededRng(seed)
      const both = await world(clock, seed, 20)
      await guest(both)
      const first = rng.below(2) === 0 ? both.source : both.target
      const second = first === both.source ? both.target : both.source
      // At a moment of its own, which is none of the disk's.
      if (rng.below(3) === 0) {
        const delayMs = rng.below(150)
        void clock.sleep(millis(delayMs)).then(() => second.kill())
      } else if (rng.below(2) === 0) {
        const killAt = 1 + rng.below(12)
        let count = 0
        second.onOperation = () => {
          count += 1
          if (count === killAt) second.kill()
        }
      }
      const parameters = seed % 2 === 0 ? { postCopy: true } : {}
      await killedAt(both, first, 1 + rng.below(12), { source: 0, target: 0 }, `seed ${seed}`, parameters)
    })
  }
})

scene('by post-copy it goes to another host, and is one as any other there', async (both) => {
  assert.equal(await migrate(both, 'first', { postCopy: true }), 'target')
  await assertOn(both, 'target', 'there')
  const back = { ...both, source: both.target, target: both.source }
  assert.equal(await migrate(back, 'second', { postCopy: true }), 'target')
})

scene('by post-copy, a host that lost it before it ran says so when it is back', async (both) => {
  const { source, target } = both
  const request = await source.toolstack.migrationRequest(ID)
  const offer = await target.toolstack.receive(ID, request, { commandId: 'receive', postCopy: true })
  const lost = Promise.withResolvers<void>()
  const moving = source.toolstack.migrate(ID, offer, {
    commandId: 'migrate',
    postCopy: true,
    onProgress({ phase }) {
      if (phase !== 'fetched') return
      target.hypervisor.guests.delete(ID)
      target.kill()
      lost.resolve()
    },
  })
  const refused = assert.rejects(moving, isFault('failed'))
  await lost.promise
  await target.open()
  await refused
  await patient(both, () => target.toolstack.abandonReceived(ID, { commandId: 'abandon' }))
  await assertOn(both, 'source', 'lost there')
})

scene('by post-copy it is refused where the other host does not expect it so', async ({ source, target }) => {
  const request = await source.toolstack.migrationRequest(ID)
  const offer = await target.toolstack.receive(ID, request, { commandId: 'receive' })
  const moved = source.toolstack.migrate(ID, offer, { commandId: 'migrate', postCopy: true })
  await assert.rejects(moved, isFault('unsupported'))
  await target.toolstack.abandonReceived(ID, { commandId: 'abandon' })
  const several = target.toolstack.receive(ID, request, { commandId: 'several', postCopy: true, channelCount: 2 })
  await assert.rejects(several, isFault('invalid'))
})

/** true: it was over before it came to that. */
async function killedAt(
  both: World,
  victim: Host,
  killAt: number,
  ends: Record<'source' | 'target', number>,
  what = `killed at operation ${killAt}`,
  parameters: MigrationParameters = {},
  assertWhole = assertOn,
): Promise<boolean> {
  let count = 0
  let isOverNow = false
  const dead = Promise.withResolvers<null>()
  const hosts = [both.source, both.target]
  const kills = hosts.map((host) => {
    const kill = host.kill.bind(host)
    let isDead = false
    host.kill = () => {
      if (isOverNow) return
      isDead = true
      host.onOperation = () => {}
      kill()
      dead.resolve(null)
    }
    return () => isDead
  })
  victim.onOperation = () => {
    count += 1
    if (count === killAt) victim.kill()
  }
  let side = await Promise.race([migrate(both, 'run', parameters).catch(() => null), dead.promise])
  const isOver = side !== null
  isOverNow = true
  victim.onOperation = () => {}
  for (const host of hosts) host.onOperation = () => {}
  for (const [index, host] of hosts.entries()) if (kills[index]?.()) await host.open()
  side ??= await resolved(both)
  ends[side] += 1
  await assertWhole(both, side, what)
  for (const { toolstack } of hosts) await toolstack.close()
  return isOver
}

/** What the control plane does when it has lost the answer: it is undone, or what was handed over is seen to its end. */
async function resolved(both: World): Promise<'source' | 'target'> {
  const { source, target } = both
  const where = await source.toolstack.cancelMigration(ID)
  if (where !== 'here') {
    try {
      await patient(both, () => target.toolstack.takeOverReceived(ID, { commandId: 'run.undo' }))
      if (source.toolstack.get(ID)) await source.toolstack.carryOut('destroy', ID, { commandId: 'run.release' })
      return 'target'
    } catch (error) {
      assert.ok(['failed', 'conflict'].includes(toFault(error).code), String(error))
      assert.equal(where, 'handed-over')
    }
    await source.toolstack.takeBackMigrated(ID, { commandId: 'run.take-back' })
  }
  await patient(both, () => target.toolstack.abandonReceived(ID, { commandId: 'run.abandon' }))
  return 'source'
}

type ColdKind = 'saved' | 'stopped'
const CONTENT = new Uint8Array(300_000).map((_, index) => index % 253)
const [ROOT, DATA, KEPT] = ['root', 'data', 'kept'].map((name) => `${ID}.${name}` as VolumeId) as [VolumeId, VolumeId, VolumeId]

/** Saved or stopped, with a disk that was attached, one that was detached and is kept, and something on each. */
async function coldGuest(both: World, kind: ColdKind): Promise<void> {
  const { toolstack, volumes } = both.source
  await guest(both)
  for (const name of ['data', 'kept'])
    await toolstack.attach(ID, { kind: 'disk', name, sizeBytes: mib(8) }, { commandId: `attach ${name}` })
  await toolstack.detach(ID, 'kept', { commandId: 'detach' })
  await toolstack.carryOut(kind === 'saved' ? 'save' : 'shutdown', ID, { commandId: kind })
  for (const [index, id] of [ROOT, DATA, KEPT].entries())
    volumes.write(
      id,
      CONTENT.map((byte) => byte ^ index),
    )
}

/** It is on one host as it was, and the other has nothing of it. */
async function assertColdOn(both: World, side: 'source' | 'target', what: string, kind: ColdKind): Promise<void> {
  const [here, there] = side === 'source' ? [both.source, both.target] : [both.target, both.source]
  assert.deepEqual(there.toolstack.list(), [], what)
  assert.deepEqual([there.hypervisor.guests.size, there.hypervisor.saves.size, await there.volumes.list()], [0, 0, []], what)
  const record = here.toolstack.get(ID)
  assert.deepEqual([record?.state.kind, record?.migration], [kind, undefined], what)
  assert.equal(here.hypervisor.saves.size, kind === 'saved' ? 1 : 0, what)
  assert.deepEqual(
    (await here.volumes.list()).map(({ id }) => id),
    [DATA, KEPT, ROOT, `${ID}.seed`],
    what,
  )
  for (const [index, id] of [ROOT, DATA, KEPT].entries())
    assert.deepEqual(
      here.volumes.content(id),
      CONTENT.map((byte) => byte ^ index),
      `${what}: ${id}`,
    )
  // Whoever stood over both may have asked for something that comes to nothing behind our back.
  await patient(both, () => here.toolstack.carryOut(kind === 'saved' ? 'restore' : 'start', ID, { commandId: `${what} on` }))
  assert.equal(await counted(here.toolstack), kind === 'saved' ? 2 : 1, what)
  assert.deepEqual(
    (await here.toolstack.devices(ID)).filter(({ name }) => ['data', 'kept'].includes(name)).map(({ state }) => state),
    ['attached', 'kept'],
  )
  assert.ok(both.runningMax() <= 1, what)
}

const coldScene = (title: string, kind: ColdKind, body: (world: World, clock: VirtualClock) => Promise<void>) =>
  test(title, () => {
    const clock = virtualClock()
    return clock.run(async () => {
      const made = await world(clock, 1)
      await coldGuest(made, kind)
      await body(made, clock)
      for (const { toolstack } of [made.source, made.target]) await toolstack.close()
    })
  })

coldScene(
  'a saved domain goes to another host with its memory and disks, goes on there, and goes back stopped',
  'saved',
  async (both) => {
    assert.equal(await migrate(both, 'first'), 'target')
    await assertColdOn(both, 'target', 'there', 'saved')
    await both.target.toolstack.carryOut('shutdown', ID, { commandId: 'shutdown' })
    const back = { ...both, source: both.target, target: both.source }
    assert.equal(await migrate(back, 'second'), 'target')
    await assertColdOn(both, 'source', 'back', 'stopped')
  },
)

coldScene('it is told how far it is, goes no faster than allowed, and holes are not sent', 'saved', async (both, clock) => {
  const { source, target } = both
  const request = await source.toolstack.migrationRequest(ID)
  const offer = await target.toolstack.receive(ID, request, { commandId: 'receive' })
  const told: number[] = []
  const began = clock.monotonic()
  const { statistics } = await source.toolstack.migrate(ID, offer, {
    commandId: 'migrate',
    bandwidthBytes: 100_000,
    onProgress: ({ diskBytes, diskRemainingBytes }) => void told.push(diskBytes / (diskBytes + diskRemainingBytes)),
  })
  assert.deepEqual([statistics.diskBytes, statistics.memoryBytes, statistics.downtimeMs], [900_000, 1024, 0])
  assert.ok(clock.monotonic() - began > 8900)
  assert.ok(told.length > 3 && told.every((now, index) => now >= (told[index - 1] ?? 0)) && told.at(-1) === 1)
  await target.toolstack.takeOverReceived(ID, { commandId: 'over' })
  await assertColdOn(both, 'target', 'there', 'saved')
})

coldScene('what does not fit is refused before anything is sent, and nothing is left of it', 'saved', async (both) => {
  const { source, target } = both
  const request = await source.toolstack.migrationRequest(ID)
  for (const changes of [{ driver: 'other' }, { accelerator: 'kvm' as const }, { imageDigest: 'sha256:other' }]) {
    const received = target.toolstack.receive(ID, { ...request, ...changes }, { commandId: JSON.stringify(changes) })
    await assert.rejects(received, isFault('conflict'), JSON.stringify(changes))
  }
  target.hypervisor.freeBytes = 1000
  await assert.rejects(target.toolstack.receive(ID, request, { commandId: 'no room' }), isFault('exhausted'))
  target.hypervisor.freeBytes = Infinity
  assert.deepEqual([target.toolstack.list(), await target.volumes.list()], [[], []])
  // What is not in anybody's memory may go on by another processor.
  const stopped = { ...request, accelerator: 'kvm', cold: { savedBytes: null } }
  await target.toolstack.receive(ID, stopped, { commandId: 'stopped' })
  await target.toolstack.abandonReceived(ID, { commandId: 'abandon' })
  assert.deepEqual([target.toolstack.list(), target.hypervisor.saves.size, await target.volumes.list()], [[], 0, []])
  const snapshot = { snapshot: ID as unknown as SnapshotId, name: 'first' as SnapshotName }
  await source.toolstack.carryOut('restore', ID, { commandId: 'restore' })
  await source.toolstack.snapshot(ID, { ...snapshot, memory: true, quiesce: 'no', timeoutMs: 1 }, { commandId: 'snapshot' })
  await source.toolstack.carryOut('save', ID, { commandId: 'save again' })
  await assert.rejects(source.toolstack.migrationRequest(ID), isFault('conflict'))
  assert.equal(await migrate(both, 'move', { dropSnapshots: true }), 'target')
  await assertColdOn(both, 'target', 'without its snapshots', 'saved')
})

coldScene(
  'a live move with a volume that is in no device is refused, since nobody would carry it',
  'saved',
  async ({ source }) => {
    await source.toolstack.carryOut('restore', ID, { commandId: 'restore' })
    await assert.rejects(source.toolstack.migrationRequest(ID), (error: unknown) => {
      assert.ok(error instanceof Fault && error.code === 'conflict')
      return error.details[0]?.path === 'devices.kept'
    })
  },
)

coldScene('what cannot be taken in is told in the words of who takes it in, and it is where it was', 'saved', async (both) => {
  const { source, target } = both
  const request = await source.toolstack.migrationRequest(ID)
  const offer = await target.toolstack.receive(ID, request, { commandId: 'receive' })
  for (const save of source.hypervisor.saves.values()) save.whole = false
  await assert.rejects(source.toolstack.migrate(ID, offer, { commandId: 'migrate' }), /is no save of this domain/)
  for (const save of source.hypervisor.saves.values()) save.whole = true
  await patient(both, () => target.toolstack.abandonReceived(ID, { commandId: 'abandon' }))
  await assertColdOn(both, 'source', 'damaged', 'saved')
})

coldScene('one that was cancelled while it is sent is where it was', 'stopped', async (both) => {
  const { source, target } = both
  const request = await source.toolstack.migrationRequest(ID)
  const offer = await target.toolstack.receive(ID, request, { commandId: 'receive' })
  const begun = Promise.withResolvers<void>()
  const options = { commandId: 'migrate', bandwidthBytes: 64 * 1024, onProgress: () => begun.resolve() }
  const moving = source.toolstack.migrate(ID, offer, options)
  await begun.promise
  const where = source.toolstack.cancelMigration(ID)
  await assert.rejects(moving, isFault('failed'))
  assert.equal(await where, 'here')
  await patient(both, () => target.toolstack.abandonReceived(ID, { commandId: 'abandon' }))
  await assertColdOn(both, 'source', 'cancelled', 'stopped')
})

coldScene('a target that is killed before it is told to go keeps what has come whole', 'saved', async (both) => {
  const { source, target } = both
  const request = await source.toolstack.migrationRequest(ID)
  const offer = await target.toolstack.receive(ID, request, { commandId: 'receive' })
  // Of its record that all has come: the append and its sync. The next one is for `go`.
  let count = 0
  target.onOperation = () => {
    if (target.toolstack.get(ID)?.migration?.arrives) count += 1
    if (count === 3) target.kill()
  }
  const { confirmed } = await source.toolstack.migrate(ID, offer, { commandId: 'migrate' })
  target.onOperation = () => {}
  assert.equal(confirmed, false)
  assert.deepEqual([source.toolstack.get(ID)?.state.kind, source.toolstack.get(ID)?.migration?.role], ['saved', 'handed-over'])
  await assert.rejects(source.toolstack.carryOut('restore', ID, { commandId: 'restore' }), isFault('conflict'))
  await target.open()
  await both.clock.sleep(millis(1000))
  assert.equal(await resolved(both), 'target')
  await assertColdOn(both, 'target', 'kept', 'saved')
})

for (const kind of ['saved', 'stopped'] as const) {
  const assertWhole = (both: World, side: 'source' | 'target', what: string) => assertColdOn(both, side, what, kind)
  for (const victim of ['source', 'target'] as const) {
    test(`of a ${kind} one the ${victim} is killed at each operation of its disk: one of the two has it whole, the other nothing`, async () => {
      const ends = { source: 0, target: 0 }
      for (let killAt = 1; ; killAt += 1) {
        const clock = virtualClock()
        const isOver = await clock.run(async () => {
          const both = await world(clock, killAt, killAt % 2 === 0 ? 5 : 0)
          await coldGuest(both, kind)
          return await killedAt(both, both[victim], killAt, ends, `${kind}, ${killAt}`, {}, assertWhole)
        })
        if (isOver) break
        assert.ok(killAt < 200)
      }
      assert.ok(ends.source > 0 && ends.target > 0, JSON.stringify(ends))
    })
  }
}

test('many cold moves in which either side, or both, are killed at any moment', async () => {
  const ends = { source: 0, target: 0 }
  for (let seed = 1; seed <= 150; seed += 1) {
    const clock = virtualClock()
    await clock.run(async () => {
      const rng = seededRng(seed)
      const kind = rng.below(2) === 0 ? 'saved' : 'stopped'
      const both = await world(clock, seed, 20)
      await coldGuest(both, kind)
      const [first, second] = rng.below(2) === 0 ? [both.source, both.target] : [both.target, both.source]
      // It takes a second: most of these are in the middle of a disk.
      const delayMs = rng.below(1500)
      void clock.sleep(millis(delayMs)).then(() => second.kill())
      const assertWhole = (of: World, side: 'source' | 'target', what: string) => assertColdOn(of, side, what, kind)
      await killedAt(both, first, 1 + rng.below(40), ends, `seed ${seed}`, { bandwidthBytes: 900_000 }, assertWhole)
    })
  }
  assert.ok(ends.source > 0 && ends.target > 0, JSON.stringify(ends))
})
