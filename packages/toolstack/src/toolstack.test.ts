import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault, gib, mib, millis, type FaultCode, type IdSource } from '@typevisor/base'
import {
  HAPPENINGS,
  isHostEvent,
  type DomainEvent,
  type DomainId,
  type DomainName,
  type DomainSpec,
  type Happening,
  type ImageName,
} from '@typevisor/model'
import { createSimDriver, SimHypervisor, type SimFaults } from '@typevisor/driver-sim'
import { SIM_IMAGE } from '@typevisor/image'
import { stateFile } from '@typevisor/saga'
import { memoryLog, seededRng, sequentialIds, simDisk, virtualClock, type SimDisk, type VirtualClock } from '@typevisor/sim'
import { memoryVolumeStore } from '@typevisor/storage'
import type { DomainDriver, DriverState } from './ports.ts'
import { openToolstack, type Toolstack, type ToolstackOptions } from './toolstack.ts'
import type { SaveFolder } from './steps.ts'

const ID = '0192f000-0000-7000-8000-00000000aaaa' as DomainId
const NOBODY = '0192f000-0000-7000-8000-00000000dead' as DomainId
const spec = (name: string, changes: Partial<DomainSpec> = {}): DomainSpec => ({
  name: name as DomainName,
  vcpuCount: 1,
  memoryBytes: mib(128),
  image: SIM_IMAGE.name,
  rootDiskBytes: gib(1),
  cloudInit: { hostname: name, user: null, sshKeys: [], userData: null },
  forwards: [],
  labels: {},
  ...changes,
})

interface World {
  readonly clock: VirtualClock
  readonly hypervisor: SimHypervisor
  readonly disk: SimDisk
  readonly volumes: ReturnType<typeof memoryVolumeStore>
  open(options?: {
    faults?: SimFaults
    driver?: DomainDriver
    saves?: SaveFolder
    disk?: SimDisk
    ids?: IdSource
    images?: ToolstackOptions['images']
  }): Promise<Toolstack>
}

function makeWorld(): World {
  const clock = virtualClock()
  const rng = seededRng(7)
  const hypervisor = new SimHypervisor(clock)
  const disk = simDisk({ rng })
  const volumes = memoryVolumeStore()
  return {
    clock,
    hypervisor,
    disk,
    volumes,
    open: ({ faults, driver, saves, disk: other, ids = sequentialIds(), images } = {}) => {
      const log = memoryLog()
      return openToolstack({
        driver: driver ?? createSimDriver({ hypervisor, clock, ...(faults ? { faults } : {}) }),
        volumes,
        images: images ?? { get: async (name) => (name === SIM_IMAGE.name ? SIM_IMAGE : null) },
        state: stateFile({ disk: other ?? disk, name: 'toolstack.journal', clock, log }),
        saves: saves ?? hypervisor.saveFolder,
        clock,
        ids,
        log,
        owner: 'test',
      })
    },
  }
}

const isFault = (code: FaultCode) => (error: unknown) => {
  assert.ok(error instanceof Fault, String(error))
  assert.equal(error.code, code, error.message)
  return true
}

let commands = 0
const command = (fence?: number) => ({ commandId: `command-${(commands += 1)}`, ...(fence === undefined ? {} : { fence }) })

async function eventsOf(toolstack: Toolstack, after = 0): Promise<DomainEvent[]> {
  const last = toolstack.lastSequence()
  const seen: DomainEvent[] = []
  if (last <= after) return seen
  for await (const event of toolstack.events(after)) {
    if (!isHostEvent(event)) seen.push(event)
    if (event.sequence >= last) break
  }
  return seen
}
const told = (events: readonly DomainEvent[]) =>
  events.map((event) => `${event.from}>${event.to} ${event.cause}${event.reconstructed ? ' reconstructed' : ''}`)

test('a life: every transition is told once, with its cause', async () => {
  const world = makeWorld()
  await world.clock.run(async () => {
    const toolstack = await world.open()
    await toolstack.define(ID, spec('life'), command())
    for (const verb of ['start', 'pause', 'unpause', 'save', 'restore', 'shutdown', 'start', 'poweroff'] as const) {
      await toolstack.carryOut(verb, ID, command())
    }
    assert.equal(await toolstack.carryOut('destroy', ID, command()), null)
    const states = told(await eventsOf(toolstack)).filter(
      (line) => !line.startsWith('stopped>paused') && !line.startsWith('saved>paused'),
    )
    assert.deepEqual(
      states.map((line) =>
        line.replace('paused>running', '*>running').replace('stopped>running', '*>running').replace('saved>running', '*>running'),
      ),
      [
        'null>stopped requested',
        '*>running requested',
        'running>paused requested',
        '*>running requested',
        'running>saved requested',
        '*>running requested',
        'running>stopped requested',
        '*>running requested',
        'running>stopped requested',
        'stopped>null requested',
      ],
    )
    assert.deepEqual(await world.volumes.list(), [])
    assert.equal(world.hypervisor.guests.size, 0)
    assert.equal(world.hypervisor.saves.size, 0)
    await toolstack.close()
  })
})

test('a command given twice is done once, also after a restart', async () => {
  const world = makeWorld()
  await world.clock.run(async () => {
    let toolstack = await world.open()
    await toolstack.define(ID, spec('twice'), { commandId: 'define-1' })
    await toolstack.define(ID, spec('twice'), { commandId: 'define-1' })
    await toolstack.carryOut('start', ID, { commandId: 'start-1' })
    await toolstack.carryOut('pause', ID, { commandId: 'pause-1' })
    await toolstack.carryOut('start', ID, { commandId: 'start-1' })
    assert.equal(toolstack.get(ID)?.state.kind, 'paused')
    await toolstack.close()
    toolstack = await world.open()
    await toolstack.carryOut('start', ID, { commandId: 'start-1' })
    assert.equal(toolstack.get(ID)?.state.kind, 'paused')
    await toolstack.close()
  })
})

test('a command with a lower fence than the highest seen is refused, also after a restart and after the domain is gone', async () => {
  const world = makeWorld()
  await world.clock.run(async () => {
    let toolstack = await world.open()
    await toolstack.define(ID, spec('fenced'), command(5))
    await assert.rejects(toolstack.carryOut('start', ID, command(4)), isFault('stale_fence'))
    await toolstack.carryOut('start', ID, command(7))
    await toolstack.close()
    toolstack = await world.open()
    await assert.rejects(toolstack.carryOut('pause', ID, command(6)), isFault('stale_fence'))
    await toolstack.carryOut('destroy', ID, command(8))
    await assert.rejects(toolstack.define(ID, spec('fenced'), command(7)), isFault('stale_fence'))
    await toolstack.close()
  })
})

test('a verb from the wrong state is a conflict and changes nothing', async () => {
  const world = makeWorld()
  await world.clock.run(async () => {
    const toolstack = await world.open()
    await toolstack.define(ID, spec('wrong'), command())
    for (const verb of ['pause', 'unpause', 'shutdown', 'reboot', 'save', 'restore', 'poweroff'] as const) {
      await assert.rejects(toolstack.carryOut(verb, ID, command()), isFault('conflict'), verb)
    }
    assert.equal(toolstack.get(ID)?.state.kind, 'stopped')
    await assert.rejects(toolstack.exec(ID, { argv: ['/bin/true'], timeoutMs: 1000 }), isFault('conflict'))
    await assert.rejects(toolstack.carryOut('start', NOBODY, command()), isFault('not_found'))
    await toolstack.close()
  })
})

test('a guest that powers itself off is stopped with that cause, and its process is let go', async () => {
  const world = makeWorld()
  await world.clock.run(async () => {
    const toolstack = await world.open()
    await toolstack.define(ID, spec('off'), command())
    await toolstack.carryOut('start', ID, command())
    world.hypervisor.guest.powerOff(ID)
    await world.clock.advance(10)
    assert.deepEqual(toolstack.get(ID)?.state, { kind: 'stopped', cause: 'guest', detail: null })
    assert.equal(world.hypervisor.guests.size, 0)
    await toolstack.close()
  })
})

test('a panic leaves the domain crashed with its memory; poweroff lets it go', async () => {
  const world = makeWorld()
  await world.clock.run(async () => {
    const toolstack = await world.open()
    await toolstack.define(ID, spec('panic'), command())
    await toolstack.carryOut('start', ID, command())
    world.hypervisor.guest.panic(ID)
    await world.clock.advance(10)
    assert.equal(toolstack.get(ID)?.state.kind, 'crashed')
    assert.equal(world.hypervisor.guests.size, 1)
    await toolstack.carryOut('poweroff', ID, command())
    assert.equal(world.hypervisor.guests.size, 0)
    await toolstack.close()
  })
})

test('what happened while nobody watched is told as reconstructed', async () => {
  const world = makeWorld()
  const ids = ['b', 'c', 'd', 'e'].map((letter) => ID.replace(/.$/, letter) as DomainId) as [
    DomainId,
    DomainId,
    DomainId,
    DomainId,
  ]
  await world.clock.run(async () => {
    let toolstack = await world.open()
    for (const [index, id] of ids.entries()) {
      await toolstack.define(id, spec(`nobody-${index}`), command())
      await toolstack.carryOut('start', id, command())
    }
    const before = toolstack.lastSequence()
    await toolstack.close()
    world.hypervisor.guest.kill(ids[0])
    world.hypervisor.guest.powerOff(ids[1])
    world.hypervisor.guest.ioError(ids[2])
    toolstack = await world.open()
    await world.clock.advance(10)
    assert.deepEqual(told(await eventsOf(toolstack, before)), [
      'running>crashed unknown reconstructed',
      'running>stopped guest reconstructed',
      'running>paused io-error reconstructed',
    ])
    assert.deepEqual(
      ids.map((id) => toolstack.get(id)?.state.kind),
      ['crashed', 'stopped', 'paused', 'running'],
    )
    await toolstack.close()
  })
})

test('a guest whose disk is full is paused for that reason and goes on with nobody’s help; who wants the error is not paused', async () => {
  const world = makeWorld()
  await world.clock.run(async () => {
    const toolstack = await world.open()
    await toolstack.define(ID, spec('waits'), command())
    const other = '0192f000-0000-7000-8000-00000000ffff' as DomainId
    await toolstack.define(other, { ...spec('fails'), diskFull: 'error' }, command())
    for (const id of [ID, other]) await toolstack.carryOut('start', id, command())
    const before = toolstack.lastSequence()
    for (const id of [ID, other]) world.hypervisor.guest.fillDisk(id)
    await world.clock.advance(10)
    assert.deepEqual(toolstack.get(ID)?.state, { kind: 'paused', cause: 'disk-full' })
    assert.deepEqual(toolstack.get(other)?.state, { kind: 'running' })
    // One that asks too early hears of it again.
    await toolstack.carryOut('unpause', ID, command())
    await world.clock.advance(10)
    assert.deepEqual(toolstack.get(ID)?.state, { kind: 'paused', cause: 'disk-full' })
    world.hypervisor.guest.makeRoom(ID)
    await world.clock.advance(10)
    assert.deepEqual(told(await eventsOf(toolstack, before)), [
      'running>paused disk-full',
      'paused>running requested',
      'running>paused disk-full',
      'paused>running guest',
    ])
    await toolstack.close()
  })
})

test('one that waits for room can be paused: it stays when there is room, and goes on when it is let', async () => {
  const world = makeWorld()
  await world.clock.run(async () => {
    let toolstack = await world.open()
    await toolstack.define(ID, spec('held'), command())
    await toolstack.carryOut('start', ID, command())
    const before = toolstack.lastSequence()
    world.hypervisor.guest.fillDisk(ID)
    await world.clock.advance(10)
    const paused = { kind: 'paused', cause: 'requested' } as const
    assert.deepEqual((await toolstack.carryOut('pause', ID, command()))?.state, paused)
    await assert.rejects(toolstack.carryOut('pause', ID, command()), isFault('conflict'))
    world.hypervisor.guest.makeRoom(ID)
    await world.clock.advance(10)
    await toolstack.close()
    toolstack = await world.open()
    assert.deepEqual(toolstack.get(ID)?.state, paused)
    await toolstack.carryOut('unpause', ID, command())
    assert.deepEqual(told(await eventsOf(toolstack, before)), [
      'running>paused disk-full',
      'paused>paused requested',
      'paused>running requested',
    ])
    await toolstack.close()
  })
})

test('a shutdown that the guest does not hear ends in time, and the domain still runs', async () => {
  const world = makeWorld()
  await world.clock.run(async () => {
    const toolstack = await world.open()
    await toolstack.define(ID, spec('deaf'), command())
    await toolstack.carryOut('start', ID, command())
    world.hypervisor.need(ID).bootedAt = null
    await assert.rejects(toolstack.carryOut('shutdown', ID, { ...command(), timeoutMs: 2000 }), isFault('timeout'))
    assert.equal(toolstack.get(ID)?.state.kind, 'running')
    await toolstack.close()
  })
})

test('a definition that fails leaves nothing behind', async () => {
  const world = makeWorld()
  await world.clock.run(async () => {
    const toolstack = await world.open()
    await assert.rejects(toolstack.define(ID, spec('none', { image: 'nothing' as ImageName }), command()), isFault('not_found'))
    await assert.rejects(toolstack.define(ID, spec('small', { memoryBytes: mib(1) }), command()), isFault('invalid'))
    assert.deepEqual([toolstack.list(), await world.volumes.list(), toolstack.lastSequence()], [[], [], 0])
    await toolstack.define(ID, spec('name'), command())
    const other = ID.replace(/.$/, 'f') as DomainId
    await assert.rejects(toolstack.define(other, spec('name'), command()), isFault('conflict'))
    assert.equal((await world.volumes.list()).length, 2)
    await toolstack.close()
  })
})

test('a start that fails in the driver is undone: no process, stopped', async () => {
  const world = makeWorld()
  await world.clock.run(async () => {
    let toolstack = await world.open()
    await toolstack.define(ID, spec('bad-start'), command())
    await toolstack.close()
    toolstack = await world.open({
      faults: (operation) => {
        if (operation === 'unpause') throw new Fault('failed', 'injected')
      },
    })
    await assert.rejects(toolstack.carryOut('start', ID, command()), isFault('failed'))
    assert.equal(toolstack.get(ID)?.state.kind, 'stopped')
    assert.equal(world.hypervisor.guests.size, 0)
    await toolstack.close()
  })
})

test('events go on after the last one that a reader has, without a gap', async () => {
  const world = makeWorld()
  await world.clock.run(async () => {
    let toolstack = await world.open()
    await toolstack.define(ID, spec('reader'), command())
    const first = await eventsOf(toolstack)
    await toolstack.acknowledge(first.at(-1)?.sequence ?? 0)
    await toolstack.carryOut('start', ID, command())
    await toolstack.close()
    toolstack = await world.open()
    const rest = await eventsOf(toolstack, first.at(-1)?.sequence)
    assert.equal(rest.at(-1)?.to, 'running')
    const sequences = [...first, ...rest].map((event) => event.sequence)
    assert.deepEqual(
      sequences,
      sequences.map((_, index) => index + 1),
    )
    await toolstack.close()
  })
})

test('a slow reader of events misses none', async () => {
  const world = makeWorld()
  await world.clock.run(async () => {
    const toolstack = await world.open()
    await toolstack.define(ID, spec('busy'), command())
    await toolstack.carryOut('start', ID, command())
    const reboot = async (count: number): Promise<void> => {
      for (let n = 0; n < count; n += 1) {
        world.hypervisor.guest.reboot(ID)
        if (n % 100 === 0) await world.clock.advance(1)
      }
      await world.clock.advance(100)
    }
    const slow = toolstack.events(0)[Symbol.asyncIterator]()
    const seen: number[] = [(await slow.next()).value?.sequence ?? 0]
    await reboot(5000)
    const read = async (last: number): Promise<void> => {
      while ((seen.at(-1) ?? 0) < last) {
        const { value, done } = await slow.next()
        assert.ok(!done)
        seen.push(value.sequence)
      }
    }
    await read(toolstack.lastSequence())
    assert.deepEqual(
      seen,
      Array.from({ length: toolstack.lastSequence() }, (_, index) => index + 1),
    )
    assert.ok(toolstack.lastSequence() > 5000)
    await toolstack.close()
  })
})

test('the newest sequence that is told is on the disk: a crash never gives it to another transition', async () => {
  const world = makeWorld()
  await world.clock.run(async () => {
    const toolstack = await world.open()
    await toolstack.define(ID, spec('safe'), command())
    await toolstack.carryOut('start', ID, command())
    const before = toolstack.lastSequence()
    world.hypervisor.guest.panic(ID)
    const isSeen = () => toolstack.get(ID)?.state.kind === 'crashed'
    // In memory at once, on the disk a moment later.
    for (let turn = 0; turn < 100 && !isSeen(); turn += 1) await null
    assert.ok(isSeen())
    assert.equal(toolstack.lastSequence(), before)
    await world.clock.advance(100)
    assert.equal(toolstack.lastSequence(), before + 1)
    await toolstack.close()
  })
})

/** A host on which no save can be removed. */
function hoarding(world: World): World {
  const open: World['open'] = (options = {}) =>
    world.open({
      ...options,
      saves: {
        ...world.hypervisor.saveFolder,
        keepOnly: () => Promise.reject(new Fault('failed', 'remove: input/output error')),
      },
    })
  return { ...world, open }
}

test('an old save that cannot be removed is never taken for a new one', async () => {
  const world = hoarding(makeWorld())
  await world.clock.run(async () => {
    let isToDie = false
    const toolstack = await world.open({
      faults: (operation) => {
        if (isToDie && operation === 'save') world.hypervisor.guest.kill(ID)
      },
    })
    await toolstack.define(ID, spec('hoarder'), command())
    for (const verb of ['start', 'save', 'restore'] as const) await toolstack.carryOut(verb, ID, command())
    assert.equal(world.hypervisor.saves.size, 1, 'the old one is still there')
    isToDie = true
    await assert.rejects(toolstack.carryOut('save', ID, command()), isFault('conflict'))
    await world.clock.advance(10)
    assert.equal(toolstack.get(ID)?.state.kind, 'crashed')
    await assert.rejects(toolstack.carryOut('restore', ID, command()), isFault('conflict'))
    await toolstack.close()
  })
})

test('each save is restored from its own file, however many old ones are left', async () => {
  const world = hoarding(makeWorld())
  await world.clock.run(async () => {
    const toolstack = await world.open()
    await toolstack.define(ID, spec('own'), command())
    await toolstack.carryOut('start', ID, command())
    for (let count = 1; count <= 3; count += 1) {
      await toolstack.exec(ID, { argv: ['count'], timeoutMs: 1000 })
      await toolstack.carryOut('save', ID, command())
      await toolstack.carryOut('restore', ID, command())
      assert.equal(world.hypervisor.need(ID).memory, count)
    }
    assert.equal(world.hypervisor.saves.size, 3)
    await toolstack.close()
  })
})

test('a guest that went on after its restore and died with the toolstack is crashed: its save is spent', async () => {
  const world = makeWorld()
  await world.clock.run(async () => {
    let toolstack = await world.open()
    await toolstack.define(ID, spec('spent'), command())
    for (const verb of ['start', 'save'] as const) await toolstack.carryOut(verb, ID, command())
    await toolstack.close()
    // The guest goes on; nobody is left to write that down.
    const went = Promise.withResolvers<void>()
    const dying = createSimDriver({ hypervisor: world.hypervisor, clock: world.clock })
    const unpause = dying.unpause.bind(dying)
    dying.unpause = async (id) => {
      await unpause(id)
      went.resolve()
      await new Promise(() => {})
    }
    const first = await world.open({ driver: dying })
    first.carryOut('restore', ID, { commandId: 'restore' }).catch(() => {})
    await went.promise
    const disk = world.disk.crash()
    world.hypervisor.guest.kill(ID)
    toolstack = await world.open({ disk })
    await assert.rejects(toolstack.carryOut('restore', ID, { commandId: 'restore' }), isFault('conflict'))
    await world.clock.advance(10)
    assert.equal(toolstack.get(ID)?.state.kind, 'crashed')
    await assert.rejects(toolstack.carryOut('restore', ID, command()), isFault('conflict'))
    await toolstack.close()
  })
})

test('a restore whose guest does not go on leaves it paused, with all that it had', async () => {
  const world = makeWorld()
  await world.clock.run(async () => {
    let isHung = false
    const toolstack = await world.open({
      faults: (operation) => {
        if (isHung && operation === 'unpause') throw new Fault('failed', 'injected')
      },
    })
    await toolstack.define(ID, spec('halfway'), command())
    await toolstack.carryOut('start', ID, command())
    await toolstack.exec(ID, { argv: ['count'], timeoutMs: 1000 })
    await toolstack.carryOut('save', ID, command())
    isHung = true
    await assert.rejects(toolstack.carryOut('restore', ID, command()), isFault('failed'))
    assert.equal(toolstack.get(ID)?.state.kind, 'paused')
    isHung = false
    await toolstack.carryOut('unpause', ID, command())
    assert.equal(world.hypervisor.need(ID).memory, 1)
    await toolstack.close()
  })
})

const OTHER = ID.replace(/.$/, 'b') as DomainId

/** A driver whose queue of events is soon full, and whose `name` takes a while, each time, once it has done what it does. */
function slowDriver(world: World, name: 'adopt' | 'reset' | 'destroy', isSlow: (id: unknown) => boolean = () => true) {
  const driver = createSimDriver({ hypervisor: world.hypervisor, clock: world.clock, eventCountMax: 4 })
  const quick = driver[name].bind(driver) as (...call: unknown[]) => Promise<unknown>
  const slow = async (...call: unknown[]): Promise<unknown> => {
    const answer = await quick(...call)
    if (isSlow(call[0])) await world.clock.sleep(millis(10_000))
    return answer
  }
  return Object.assign(driver, { [name]: slow })
}

function loseEvents(world: World, id: DomainId): void {
  for (let count = 0; count < 6; count += 1) world.hypervisor.guest.reboot(id)
}

test('events are lost, and a verb comes and goes while the driver is asked how all are: its state stands', async () => {
  const world = makeWorld()
  await world.clock.run(async () => {
    const toolstack = await world.open({ driver: slowDriver(world, 'adopt') })
    for (const [id, name] of [
      [ID, 'one'],
      [OTHER, 'two'],
    ] as const) {
      await toolstack.define(id, spec(name), command())
      await toolstack.carryOut('start', id, command())
    }
    await world.clock.advance(10)
    loseEvents(world, OTHER)
    world.hypervisor.guest.panic(OTHER)
    await world.clock.advance(10)
    await toolstack.carryOut('pause', ID, command())
    assert.equal(toolstack.get(OTHER)?.state.kind, 'running', 'the driver is still being asked')
    await world.clock.advance(30_000)
    assert.deepEqual([toolstack.get(ID)?.state.kind, toolstack.get(OTHER)?.state.kind], ['paused', 'crashed'])
    const lines = told(await eventsOf(toolstack))
    assert.equal(lines.filter((line) => line.startsWith('paused>')).length, 0, lines.join('\n'))
    await toolstack.close()
  })
})

test('what happens to a domain while events are lost and a verb is at work on it is seen when the verb has ended', async () => {
  const world = makeWorld()
  await world.clock.run(async () => {
    const toolstack = await world.open({ driver: slowDriver(world, 'reset') })
    await toolstack.define(ID, spec('lost'), command())
    await toolstack.carryOut('start', ID, command())
    await world.clock.advance(10)
    const rebooting = toolstack.carryOut('reboot', ID, command())
    await world.clock.advance(10)
    loseEvents(world, ID)
    world.hypervisor.guest.powerOff(ID)
    await world.clock.advance(10)
    await rebooting
    await world.clock.advance(30_000)
    assert.deepEqual(toolstack.get(ID)?.state, { kind: 'stopped', cause: 'guest', detail: null })
    await toolstack.close()
  })
})

test('an event that is read late changes nothing that a verb has done since', async () => {
  const world = makeWorld()
  await world.clock.run(async () => {
    const driver = createSimDriver({ hypervisor: world.hypervisor, clock: world.clock })
    let gate = Promise.resolve()
    const events = driver.events.bind(driver)
    driver.events = async function* gated(options) {
      for await (const event of events(options)) {
        await gate
        yield event
      }
    }
    const toolstack = await world.open({ driver })
    await toolstack.define(ID, spec('late'), command())
    await toolstack.carryOut('start', ID, command())
    await world.clock.advance(10)
    const { promise, resolve: open } = Promise.withResolvers<void>()
    gate = promise
    world.hypervisor.guest.ioError(ID)
    world.hypervisor.enter(ID, { kind: 'running' })
    await toolstack.carryOut('pause', ID, command())
    await toolstack.carryOut('unpause', ID, command())
    open()
    const before = toolstack.lastSequence()
    await world.clock.advance(30_000)
    assert.equal(toolstack.get(ID)?.state.kind, 'running')
    assert.deepEqual(told(await eventsOf(toolstack, before)), [])
    await toolstack.close()
  })
})

test('a journal has an id for life, and another one has another', async () => {
  const world = makeWorld()
  await world.clock.run(async () => {
    let toolstack = await world.open()
    const id = toolstack.journalId()
    await toolstack.close()
    toolstack = await world.open({ ids: sequentialIds(7) })
    assert.equal(toolstack.journalId(), id)
    await toolstack.close()
    toolstack = await world.open({ ids: sequentialIds(7), disk: simDisk({ rng: seededRng(1) }) })
    assert.notEqual(toolstack.journalId(), id)
    await toolstack.close()
  })
})

test('an image’s version is held by what boots from it, by overlays of it, and by whatever is being defined', async () => {
  const world = makeWorld()
  await world.clock.run(async () => {
    const kernel = { kind: 'kernel', kernelPath: '/sim/v1/kernel', initrdPath: null, commandLine: '' } as const
    const at = (version: string) => ({
      ...SIM_IMAGE,
      boot: { ...kernel, kernelPath: `/sim/${version}/kernel` },
      rootDisk: { ...SIM_IMAGE.rootDisk, path: `/sim/${version}/root` },
    })
    let image = at('v1')
    let whileSeeding: () => Promise<void> = async () => {}
    const put = world.volumes.put.bind(world.volumes)
    world.volumes.put = async (...call) => {
      await whileSeeding()
      return await put(...call)
    }
    const toolstack = await world.open({ images: { get: async () => image } })
    assert.equal(await toolstack.holdsFiles('/sim/v1'), false)
    let heldMeanwhile = false
    whileSeeding = async () => {
      heldMeanwhile = await toolstack.holdsFiles('/sim/v0')
      image = at('v2')
    }
    await toolstack.define(ID, spec('holder'), command())
    assert.equal(heldMeanwhile, true)
    const { boot } = toolstack.get(ID) ?? {}
    assert.equal(boot?.kind === 'kernel' && boot.kernelPath, '/sim/v1/kernel', 'of the version that its disk is of')
    await world.clock.advance(10)
    assert.deepEqual(await Promise.all(['v0', 'v1', 'v2'].map((version) => toolstack.holdsFiles(`/sim/${version}`))), [
      false,
      true,
      false,
    ])
    await toolstack.carryOut('destroy', ID, command())
    assert.equal(await toolstack.holdsFiles('/sim/v1'), false)
    await toolstack.close()
  })
})

for (const [name, { from, to, cause }] of Object.entries<Happening>(HAPPENINGS))
  for (const kind of from)
    test(`what happens by itself: ${name}, from ${kind}`, async () => {
      const world = makeWorld()
      await world.clock.run(async () => {
        const toolstack = await world.open()
        await toolstack.define(ID, spec('happens'), command())
        await toolstack.carryOut('start', ID, command())
        if (kind === 'paused') await toolstack.carryOut('pause', ID, command())
        const before = toolstack.lastSequence()
        const seen: Record<Happening['to'], DriverState> = {
          stopped: { kind: 'powered-off', cause },
          running: { kind: 'running' },
          paused: { kind: 'paused', cause },
          crashed:
            cause === 'process-failed' ? { kind: 'gone', cause, detail: 'sim' } : { kind: 'crashed', cause, detail: 'sim' },
          saved: { kind: 'gone', cause, detail: null },
        }
        world.hypervisor.enter(ID, seen[to])
        await world.clock.advance(10)
        assert.equal(toolstack.get(ID)?.state.kind, to)
        assert.deepEqual(told(await eventsOf(toolstack, before)), [`${kind}>${to} ${cause}`])
        await toolstack.close()
      })
    })

test('a domain that is renamed keeps the name over a restart, and leaves the old one to others', async () => {
  const world = makeWorld()
  const other = '0192f000-0000-7000-8000-00000000bbbb' as DomainId
  await world.clock.run(async () => {
    const before = await world.open()
    await before.define(ID, spec('web'), command())
    await before.carryOut('start', ID, command())
    await before.rename(ID, 'shop' as DomainName, command())
    assert.equal(world.hypervisor.guests.get(ID)?.domain.name, 'shop')
    await before.define(other, spec('web'), command())
    await assert.rejects(before.rename(other, 'shop' as DomainName, command()), isFault('conflict'))
    // The later holder of a name keeps it when the earlier one goes.
    await before.rename(ID, 'market' as DomainName, command())
    await before.rename(other, 'shop' as DomainName, command())
    await before.carryOut('destroy', ID, command())
    await before.close()
    const after = await world.open()
    assert.deepEqual(
      after.list().map(({ id, name, spec: { name: inSpec } }) => [id, name, inSpec]),
      [[other, 'shop', 'shop']],
    )
    await assert.rejects(after.define(ID, spec('shop'), command()), isFault('conflict'))
    await after.close()
  })
})
