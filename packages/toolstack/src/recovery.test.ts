/** Domains that start with their host, and what is done with those that crash; agents that are killed meanwhile are toolstacks that close. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault, gib, mib } from '@typevisor/base'
import { createSimDriver, SimHypervisor } from '@typevisor/driver-sim'
import { SIM_IMAGE } from '@typevisor/image'
import type { CrashAction, DomainEvent, DomainId, DomainName, DomainSpec } from '@typevisor/model'
import { stateFile } from '@typevisor/saga'
import { memoryLog, seededRng, sequentialIds, simDisk, virtualClock } from '@typevisor/sim'
import { memoryVolumeStore } from '@typevisor/storage'
import { RESTART_WINDOW_MS, RESTARTS_MAX } from './recovery.ts'
import { openToolstack, type Toolstack } from './toolstack.ts'

const idOf = (index: number): DomainId => `0192f000-0000-7000-8000-00000000000${index}` as DomainId
const ID = idOf(1)
const specOf = (name: string, more: Partial<DomainSpec>): DomainSpec => ({
  name: name as DomainName,
  vcpuCount: 1,
  memoryBytes: mib(128),
  image: SIM_IMAGE.name,
  rootDiskBytes: gib(1),
  cloudInit: { hostname: name, user: null, sshKeys: [], userData: null },
  forwards: [],
  labels: {},
  ...more,
})

interface World {
  readonly hypervisor: SimHypervisor
  readonly clock: ReturnType<typeof virtualClock>
  /** Operations of the driver that are refused. */
  readonly refused: Set<string>
  /** Called by each operation of the driver. */
  operation: (name: string) => void
  open(bootId?: string): Promise<Toolstack>
  command(): { commandId: string }
  until(what: string, holds: () => boolean): Promise<void>
}

function scene(title: string, body: (world: World) => Promise<void>): void {
  test(title, async () => {
    const clock = virtualClock()
    await clock.run(async () => {
      const hypervisor = new SimHypervisor(clock)
      const [volumes, disk, log, ids] = [memoryVolumeStore(), simDisk({ rng: seededRng(1) }), memoryLog(), sequentialIds()]
      let commands = 0
      const opened = new Set<Toolstack>()
      const world: World = {
        hypervisor,
        clock,
        refused: new Set(),
        operation: () => {},
        async open(bootId = 'boot-1') {
          const faults = (operation: string): void => {
            world.operation(operation)
            if (world.refused.has(operation)) throw new Fault('failed', `sim: ${operation} is refused`)
          }
          const toolstack = await openToolstack({
            driver: createSimDriver({ hypervisor, clock, faults }),
            volumes,
            images: { get: async () => SIM_IMAGE },
            state: stateFile({ disk, name: 'toolstack.journal', clock, log }),
            saves: hypervisor.saveFolder,
            clock,
            ids,
            log,
            owner: 'test',
            bootId,
          })
          opened.add(toolstack)
          return toolstack
        },
        command: () => ({ commandId: `command-${(commands += 1)}` }),
        async until(what, holds) {
          for (let turn = 0; !holds(); turn += 1) {
            assert.ok(turn < 2000, `it never came: ${what}`)
            await clock.sleep(10 as never) // milliseconds
          }
        },
      }
      await body(world)
      for (const toolstack of opened) await toolstack.close()
    })
  })
}

async function eventsOf(toolstack: Toolstack, clock: World['clock']): Promise<string[]> {
  const reading = new AbortController()
  const told: string[] = []
  const reader = (async () => {
    for await (const event of toolstack.events(0, { signal: reading.signal })) {
      const { name, from, to, cause } = event as DomainEvent
      told.push(`${name}: ${from} > ${to} (${cause})`)
    }
  })()
  await clock.sleep(10 as never) // milliseconds
  reading.abort()
  await reader
  return told
}

/** The power of the host goes: processes end, and nobody is told. */
const hostEnds = ({ hypervisor }: World): void => hypervisor.guests.clear()

scene('what ran and is to start with its host does, by order and name; the rest is crashed', async (world) => {
  const { clock, command, until } = world
  const before = await world.open()
  const specs: [string, Partial<DomainSpec>][] = [
    ['web', { autostart: true }],
    ['database', { autostart: true, autostartOrder: 1 }],
    ['cache', { autostart: true }],
    ['by-hand', { onCrash: 'reboot' }],
    ['off', { autostart: true }],
    ['paused', { autostart: true }],
  ]
  for (const [index, [name, more]] of specs.entries()) {
    await before.define(idOf(index + 1), specOf(name, more), command())
    if (name !== 'off') await before.carryOut('start', idOf(index + 1), command())
    if (name === 'paused') await before.carryOut('pause', idOf(index + 1), command())
  }
  await before.acknowledge(before.lastSequence())
  const told = before.lastSequence()
  await before.close()
  hostEnds(world)
  const started: string[] = []
  world.operation = (operation) => void (operation === 'create' && started.push(operation))
  const after = await world.open('boot-2')
  await until('three are started', () => after.list().filter(({ state }) => state.kind === 'running').length === 3)
  const states = Object.fromEntries(after.list().map(({ name, state }) => [name, state.kind]))
  const running = { web: 'running', database: 'running', cache: 'running' }
  assert.deepEqual(states, { ...running, 'by-hand': 'crashed', off: 'stopped', paused: 'crashed' })
  assert.equal(started.length, 3)
  const events = (await eventsOf(after, clock)).slice(told)
  const mine = events.filter((event) => event.includes('autostart'))
  assert.deepEqual(
    mine.filter((event) => event.includes('running')),
    ['database', 'cache', 'web'].map((name) => `${name}: stopped > running (autostart)`),
  )
  assert.ok(mine.includes('web: crashed > stopped (autostart)'), events.join('\n'))
})

scene('another agent on the same boot starts nothing', async (world) => {
  const { command, clock } = world
  const before = await world.open()
  await before.define(ID, specOf('web', { autostart: true }), command())
  await before.carryOut('start', ID, command())
  await before.close()
  hostEnds(world)
  const after = await world.open()
  await clock.sleep(5000 as never) // milliseconds
  assert.equal(after.get(ID)?.state.kind, 'crashed')
})

scene(
  'one that cannot be started tells why and holds up no other; an agent that is killed goes on where it was',
  async (world) => {
    const { command, until, refused, clock } = world
    const before = await world.open()
    for (const [index, name] of ['a', 'b', 'c'].entries()) {
      await before.define(idOf(index + 1), specOf(name, {}), command())
      await before.set(idOf(index + 1), { autostart: true, autostartOrder: index }, command())
      await before.carryOut('start', idOf(index + 1), command())
    }
    await before.close()
    hostEnds(world)
    let created = 0
    refused.add('create')
    world.operation = (operation) => {
      if (operation === 'create') created += 1
      if (created === 2) refused.clear()
    }
    const after = await world.open('boot-2')
    await until('the second runs', () => after.get(idOf(2))?.state.kind === 'running')
    await after.close()
    const last = await world.open('boot-2')
    await until('the third runs', () => last.get(idOf(3))?.state.kind === 'running')
    assert.equal(last.get(idOf(1))?.state.kind, 'stopped')
    const events = await eventsOf(last, clock)
    assert.ok(events.includes('a: stopped > stopped (autostart)'), events.join('\n'))
  },
)

const onCrash = (action: CrashAction) => specOf('web', { onCrash: action })
async function running(world: World, action: CrashAction): Promise<Toolstack> {
  const toolstack = await world.open()
  await toolstack.define(ID, onCrash(action), world.command())
  await toolstack.carryOut('start', ID, world.command())
  return toolstack
}

scene(
  'a guest that panics is started again, a few times and no more, and again when it has been well for long',
  async (world) => {
    const { hypervisor, until, clock } = world
    const toolstack = await running(world, 'reboot')
    const panics = async (): Promise<void> => {
      const old = hypervisor.guests.get(ID)
      hypervisor.guest.panic(ID)
      await until('it runs again', () => hypervisor.guests.get(ID) !== old && toolstack.get(ID)?.state.kind === 'running')
    }
    for (let crash = 0; crash < RESTARTS_MAX; crash += 1) await panics()
    hypervisor.guest.panic(ID)
    await clock.sleep(5000 as never) // milliseconds
    assert.equal(toolstack.get(ID)?.state.kind, 'crashed')
    assert.equal(hypervisor.guests.get(ID)?.state.kind, 'crashed', 'its memory is kept for a look')
    const events = await eventsOf(toolstack, clock)
    assert.equal(events.filter((event) => event === 'web: stopped > running (on-crash)').length, RESTARTS_MAX)
    assert.equal(events.at(-1), 'web: crashed > crashed (on-crash)')
    await clock.sleep(RESTART_WINDOW_MS as never) // milliseconds
    await toolstack.carryOut('poweroff', ID, world.command())
    await toolstack.carryOut('start', ID, world.command())
    await panics()
  },
)

scene('a process that fails is started again; kept, ended and dumped as it is asked for', async (world) => {
  const { hypervisor, until, command } = world
  const toolstack = await running(world, 'dump-reboot')
  hypervisor.guest.kill(ID)
  await until('it runs again', () => hypervisor.guests.get(ID)?.state.kind === 'running')
  assert.equal(toolstack.get(ID)?.dump, undefined, 'there is no memory of what is gone')

  await toolstack.set(ID, { onCrash: 'dump-poweroff' }, command())
  hypervisor.guest.panic(ID)
  await until('it is off', () => toolstack.get(ID)?.state.kind === 'stopped')
  assert.ok(toolstack.get(ID)?.dump)
  assert.deepEqual(toolstack.get(ID)?.state, { kind: 'stopped', cause: 'on-crash', detail: null })

  await toolstack.set(ID, { reset: ['onCrash'] }, command())
  await toolstack.carryOut('start', ID, command())
  hypervisor.guest.panic(ID)
  await until('it is seen', () => toolstack.get(ID)?.state.kind === 'crashed')
  await world.clock.sleep(3000 as never) // milliseconds
  assert.equal(toolstack.get(ID)?.state.kind, 'crashed')
})

scene('a crash that nobody dealt with is dealt with by the next agent; one while no agent was there too', async (world) => {
  const { hypervisor, until } = world
  const first = await running(world, 'reboot')
  await first.close()
  hypervisor.guest.panic(ID)
  // The journal's end: the crash is recorded, and what follows it was cut off.
  world.operation = (operation) => {
    if (operation === 'destroy') throw new Fault('unavailable', 'sim: the agent is killed here')
  }
  const second = await world.open()
  assert.equal(second.get(ID)?.state.kind, 'crashed')
  await second.close()
  world.operation = () => {}
  const third = await world.open()
  await until('it runs again', () => third.get(ID)?.state.kind === 'running')
})

scene('whoever takes the domain in hand meanwhile is obeyed', async (world) => {
  const { hypervisor, clock, command } = world
  const toolstack = await running(world, 'reboot')
  hypervisor.guest.panic(ID)
  await toolstack.carryOut('destroy', ID, command()).catch((error: unknown) => {
    assert.equal(error instanceof Fault && error.code, 'busy')
  })
  await clock.sleep(3000 as never) // milliseconds
  await toolstack.carryOut('destroy', ID, command())
  await clock.sleep(3000 as never) // milliseconds
  assert.deepEqual(toolstack.list(), [])
})
