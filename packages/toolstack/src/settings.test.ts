import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault, gib, mib, type FaultCode } from '@typevisor/base'
import { createSimDriver, SimHypervisor, type SimFaults } from '@typevisor/driver-sim'
import { SIM_IMAGE } from '@typevisor/image'
import {
  DRIVER_SETTING_NAMES,
  type DomainId,
  type DomainName,
  type DomainSpec,
  type SettingsPatch,
  type SnapshotId,
  type SnapshotName,
} from '@typevisor/model'
import { stateFile } from '@typevisor/saga'
import { memoryLog, seededRng, sequentialIds, simDisk, virtualClock } from '@typevisor/sim'
import { memoryVolumeStore } from '@typevisor/storage'
import type { DriverCapabilities } from './ports.ts'
import { openToolstack, type Toolstack } from './toolstack.ts'

const ID = '0192f000-0000-7000-8000-00000000aaaa' as DomainId
const SPEC: DomainSpec = {
  name: 'web' as DomainName,
  vcpuCount: 1,
  vcpuCountMax: 4,
  memoryBytes: mib(128),
  memoryBytesMax: mib(512),
  image: SIM_IMAGE.name,
  rootDiskBytes: gib(1),
  cloudInit: { hostname: 'web', user: null, sshKeys: [], userData: null },
  forwards: [],
  labels: {},
}

interface Scene {
  readonly toolstack: Toolstack
  readonly hypervisor: SimHypervisor
  set(patch: SettingsPatch): ReturnType<Toolstack['set']>
  carryOut(...verbs: Parameters<Toolstack['carryOut']>[0][]): Promise<void>
  /** Another toolstack on the same journal. */
  again(): Promise<void>
}

async function scene(
  options: { faults?: SimFaults; settings?: DriverCapabilities['settings'] },
  body: (scene: Scene) => Promise<void>,
): Promise<void> {
  const clock = virtualClock()
  await clock.run(async () => {
    const hypervisor = new SimHypervisor(clock)
    const [disk, volumes, log] = [simDisk({ rng: seededRng(1) }), memoryVolumeStore(), memoryLog()]
    const open = () =>
      openToolstack({
        driver: createSimDriver({ hypervisor, clock, ...options }),
        volumes,
        images: { get: async (name) => (name === SIM_IMAGE.name ? SIM_IMAGE : null) },
        state: stateFile({ disk, name: 'toolstack.journal', clock, log }),
        saves: hypervisor.saveFolder,
        clock,
        ids: sequentialIds(),
        log,
        owner: 'test',
      })
    let toolstack = await open()
    let commands = 0
    const command = () => ({ commandId: `command-${(commands += 1)}` })
    await toolstack.define(ID, SPEC, command())
    await body({
      get toolstack() {
        return toolstack
      },
      hypervisor,
      set: (patch) => toolstack.set(ID, patch, command()),
      carryOut: async (...verbs) => {
        for (const verb of verbs) await toolstack.carryOut(verb, ID, command())
      },
      again: async () => {
        await toolstack.close()
        toolstack = await open()
      },
    })
    await toolstack.close()
  })
}

const isFault = (code: FaultCode, words: RegExp) => (error: unknown) => {
  assert.ok(error instanceof Fault && error.code === code, String(error))
  assert.match(error.message, words)
  return true
}

test('what is set is in force at once and at each start, over saves and another toolstack', () =>
  scene({}, async (world) => {
    const { hypervisor, set, carryOut } = world
    const inForce = () => hypervisor.guests.get(ID)?.settings
    assert.deepEqual((await set({ vcpuCount: 2 })).settings, { vcpuCount: 2 })
    await carryOut('start')
    assert.deepEqual(inForce(), { vcpuCount: 2 })
    const settings = { vcpuCount: 3, memoryBytes: mib(256), cpuWeight: 50 }
    await set({ vcpuCount: 3, memoryBytes: mib(256), cpuWeight: 50 })
    assert.deepEqual(inForce(), settings)
    await carryOut('save', 'restore')
    assert.deepEqual(inForce(), settings)
    await world.again()
    assert.deepEqual(world.toolstack.get(ID)?.settings, settings)
    await carryOut('poweroff', 'start')
    assert.deepEqual(inForce(), settings)
    await set({ reset: ['vcpuCount', 'memoryBytes', 'cpuWeight'] })
    assert.deepEqual([inForce(), world.toolstack.get(ID)?.settings], [{}, undefined])
  }))

test('what cannot be is refused, and nothing is changed', () => {
  const none = { can: false, reason: 'there is no such scheduler' } as const
  const can = { can: true } as const
  const all = Object.fromEntries(DRIVER_SETTING_NAMES.map((name) => [name, name === 'cpuWeight' ? none : can]))
  return scene({ settings: all as DriverCapabilities['settings'] }, async ({ set, carryOut, toolstack, hypervisor }) => {
    await assert.rejects(set({ vcpuCount: 5 }), isFault('invalid', /vcpuCount: got 5, want 1 to 4/))
    await assert.rejects(set({ diskLimits: [{ disk: 'x', bytesPerSecond: 1 }] }), isFault('invalid', /a disk of it: root, seed/))
    await assert.rejects(
      set({ vcpuCount: 2, cpuWeight: 50 }),
      isFault('unsupported', /set web: cpuWeight: there is no such scheduler/),
    )
    await carryOut('start')
    await assert.rejects(set({ vcpuCount: 2, cpuWeight: 50 }), isFault('unsupported', /cpuWeight/))
    assert.deepEqual([toolstack.get(ID)?.settings, hypervisor.guests.get(ID)?.settings], [undefined, {}])
    await carryOut('pause')
    await assert.rejects(set({ vcpuCount: 2 }), isFault('conflict', /it is paused, want stopped or running/))
    await carryOut('unpause', 'save')
    await assert.rejects(
      set({ memoryTargetBytes: mib(64) }),
      isFault('conflict', /it is saved, want stopped or running or paused/),
    )
  })
})

test('what a paused guest has not taken up is noted until it goes on, or is started anew', () =>
  scene({}, async ({ set, carryOut, toolstack }) => {
    await carryOut('start', 'pause')
    const { settingsNotes } = await set({ memoryBytes: mib(256) })
    assert.deepEqual(settingsNotes, ['it is paused: the guest takes it up when it goes on'])
    await carryOut('unpause')
    assert.equal(toolstack.get(ID)?.settingsNotes, undefined)
    await carryOut('pause')
    await set({ memoryBytes: mib(128) })
    assert.equal(toolstack.get(ID)?.settingsNotes?.length, 1)
    await carryOut('poweroff', 'start')
    assert.equal(toolstack.get(ID)?.settingsNotes, undefined)
  }))

test('a change that fails is taken back; what the guest does not give back is noted and holds nothing', () => {
  let applied = 0
  const faults: SimFaults = (operation) => {
    if (operation !== 'applySettings') return
    applied += 1
    if (applied === 1) throw new Fault('timeout', 'the guest is asleep')
    if (applied === 2) throw new Fault('unsupported', 'no way back')
  }
  return scene({ faults }, async ({ set, carryOut, toolstack, hypervisor }) => {
    await carryOut('start')
    await assert.rejects(set({ vcpuCount: 2, cpuWeight: 50 }), isFault('timeout', /asleep/))
    const record = toolstack.get(ID)
    assert.deepEqual([record?.settings, record?.settingsNotes], [undefined, ['vcpuCount was not taken back: no way back']])
    await carryOut('pause', 'unpause')
    assert.equal(toolstack.get(ID)?.settingsNotes?.length, 1, 'it is not taken up by going on')
    assert.equal(applied, 3, 'each setting is taken back by itself')
    assert.deepEqual(hypervisor.guests.get(ID)?.settings, {})
    await set({ vcpuCount: 3 })
    assert.deepEqual([toolstack.get(ID)?.settings, toolstack.get(ID)?.settingsNotes], [{ vcpuCount: 3 }, undefined])
  })
})

test('a snapshot with memory brings its machine back, and one of disks leaves the settings', () =>
  scene({}, async ({ set, carryOut, toolstack }) => {
    await carryOut('start')
    await set({ vcpuCount: 2, cpuWeight: 50 })
    const take = async (end: string, memory: boolean) => {
      const snapshot = `0192f000-0000-7000-8000-00000000000${end}` as SnapshotId
      const request = { snapshot, name: `s-${end}` as SnapshotName, memory, quiesce: 'no', timeoutMs: 1000 } as const
      await toolstack.snapshot(ID, request, { commandId: `take-${end}` })
      return snapshot
    }
    const [whole, disks] = [await take('a', true), await take('b', false)]
    await set({ vcpuCount: 4, cpuWeight: 70, memoryBytes: mib(256) })
    await toolstack.revert(ID, whole, { commandId: 'revert-a' })
    assert.deepEqual(toolstack.get(ID)?.settings, { vcpuCount: 2, cpuWeight: 70 })
    await set({ vcpuCount: 3 })
    await toolstack.revert(ID, disks, { commandId: 'revert-b', start: true })
    assert.deepEqual(toolstack.get(ID)?.settings, { vcpuCount: 3, cpuWeight: 70 })
  }))
