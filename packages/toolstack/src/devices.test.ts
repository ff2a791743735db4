/** What attaching, detaching, growing and changing media do and refuse, and what snapshots make of it; kills are `verbs.crash.test.ts`. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault, gib, mib, type FaultCode } from '@typevisor/base'
import { createSimDriver, SimHypervisor } from '@typevisor/driver-sim'
import { SIM_IMAGE } from '@typevisor/image'
import type {
  DeviceRequest,
  DomainDevice,
  DomainId,
  DomainName,
  DomainSpec,
  PortForward,
  SnapshotId,
  SnapshotName,
  VolumeId,
} from '@typevisor/model'
import { stateFile } from '@typevisor/saga'
import { memoryLog, seededRng, sequentialIds, simDisk, virtualClock } from '@typevisor/sim'
import { memoryVolumeStore, type MemoryVolumeStore } from '@typevisor/storage'
import { describeDevices } from './devices.ts'
import type { StoredDomain } from './stored-domain.ts'
import { openToolstack, type Toolstack } from './toolstack.ts'

const ID = '0192f000-0000-7000-8000-00000000aaaa' as DomainId
const CLONE = '0192f000-0000-7000-8000-00000000bbbb' as DomainId
const [ROOT, DATA] = [`${ID}.root` as VolumeId, `${ID}.data` as VolumeId]
const specOf = (name: string, more: Partial<DomainSpec> = {}): DomainSpec => ({
  name: name as DomainName,
  vcpuCount: 1,
  memoryBytes: mib(128),
  image: SIM_IMAGE.name,
  rootDiskBytes: gib(1),
  cloudInit: { hostname: name, user: null, sshKeys: [], userData: null },
  forwards: [],
  labels: {},
  hotplugPortCount: 3,
  ...more,
})
const isFault = (code: FaultCode, words: RegExp, path?: string) => (error: unknown) => {
  assert.ok(error instanceof Fault, String(error))
  assert.equal(error.code, code, error.message)
  assert.match(error.message, words)
  if (path !== undefined) assert.equal(error.details[0]?.path, path)
  return true
}

let commands = 0
const command = () => ({ commandId: `command-${(commands += 1)}` })

interface World {
  readonly hypervisor: SimHypervisor
  readonly volumes: MemoryVolumeStore
  readonly toolstack: Toolstack
  readonly operations: string[]
  attach(device: DeviceRequest): Promise<unknown>
  /** What the guest has, by name. */
  inGuest(id?: DomainId): string[]
  recorded(id?: DomainId): string[]
  write(volume: VolumeId, text: string): void
  text(volume: VolumeId): string
  snapshot(name: string, memory?: boolean): Promise<SnapshotId>
}

const isComing = (name: string): boolean => !['net0', 'root', 'seed', 'port0', 'port1', 'port2'].includes(name)

/** A running domain. */
function scene(title: string, body: (world: World) => Promise<void>, spec: Partial<DomainSpec> = {}): void {
  test(title, async () => {
    const clock = virtualClock()
    await clock.run(async () => {
      const hypervisor = new SimHypervisor(clock)
      const volumes = memoryVolumeStore()
      const log = memoryLog()
      const operations: string[] = []
      const toolstack = await openToolstack({
        driver: createSimDriver({ hypervisor, clock, faults: (operation) => void operations.push(operation) }),
        volumes,
        images: { get: async () => SIM_IMAGE },
        state: stateFile({ disk: simDisk({ rng: seededRng(1) }), name: 'toolstack.journal', clock, log }),
        saves: hypervisor.saveFolder,
        media: {
          find: async (name) => (name.endsWith('.iso') ? { path: `/media/${name}`, sizeBytes: 5000 } : null),
          list: async () => ['debian.iso'],
        },
        clock,
        ids: sequentialIds(),
        log,
        owner: 'test',
      })
      await toolstack.define(ID, specOf('web', spec), command())
      await toolstack.carryOut('start', ID, command())
      const names = (devices: readonly { name: string }[] = []) => devices.map(({ name }) => name).filter(isComing)
      let taken = 0
      await body({
        hypervisor,
        volumes,
        toolstack,
        operations,
        attach: (device) => toolstack.attach(ID, device, command()),
        inGuest: (id = ID) => names(hypervisor.guests.get(id)?.domain.hardware.devices),
        recorded: (id = ID) => names(toolstack.get(id)?.hardware.devices),
        write: (volume, text) => volumes.write(volume, new TextEncoder().encode(text)),
        text: (volume) => new TextDecoder().decode(volumes.content(volume) ?? new Uint8Array()),
        async snapshot(name, memory = false) {
          taken += 1
          const snapshot = `0192f000-0000-7000-8000-${String(taken).padStart(12, '0')}` as SnapshotId
          await toolstack.snapshot(
            ID,
            { snapshot, name: name as SnapshotName, memory, quiesce: 'no', timeoutMs: 1000 },
            command(),
          )
          return snapshot
        },
      })
      await toolstack.close()
    })
  })
}

const data: DeviceRequest = { kind: 'disk', name: 'data', sizeBytes: mib(8) }

scene('a disk is kept when it is detached and attached again by its name, or goes with its volume', async (world) => {
  const { toolstack, attach, inGuest, recorded, volumes, write, text } = world
  await attach(data)
  assert.deepEqual([inGuest(), recorded()], [['data'], ['data']])
  write(DATA, 'mine')
  await toolstack.detach(ID, 'data', command())
  assert.deepEqual([inGuest(), recorded()], [[], []])
  const kept = (await toolstack.devices(ID)).find(({ name }) => name === 'data')
  assert.deepEqual([kept?.state, kept?.sizeBytes], ['kept', mib(8)])
  await assert.rejects(attach({ ...data, sizeBytes: mib(9) }), isFault('conflict', /was kept and has/, 'sizeBytes'))
  await attach({ kind: 'disk', name: 'data' })
  assert.equal(text(DATA), 'mine')
  await toolstack.detach(ID, 'data', { ...command(), deleteVolume: true })
  assert.equal(await volumes.get(DATA), null)
  await attach(data)
  await toolstack.detach(ID, 'data', command())
  await toolstack.detach(ID, 'data', { ...command(), deleteVolume: true })
  assert.equal(await volumes.get(DATA), null)
  await assert.rejects(
    toolstack.detach(ID, 'data', { ...command(), deleteVolume: true }),
    isFault('not_found', /none of this name/),
  )
})

scene('what cannot be is refused, and leaves nothing', async ({ toolstack, attach, recorded, inGuest, volumes }) => {
  const before = await volumes.list()
  for (const name of ['', 'A', 'a,b', '../x', 'x'.repeat(33)])
    await assert.rejects(attach({ ...data, name }), isFault('invalid', /want 1 to 32/, 'device.name'))
  await assert.rejects(attach({ kind: 'disk', name: 'data' }), isFault('invalid', /want a size/, 'sizeBytes'))
  await assert.rejects(attach({ ...data, name: 'root' }), isFault('conflict', /has a device of this name/, 'name'))
  await assert.rejects(attach({ ...data, name: 'port0' }), isFault('conflict', /has a device of this name/, 'name'))
  await assert.rejects(
    attach({ kind: 'nic', name: 'lan', mac: '01:00:5e:00:00:01' }),
    isFault('invalid', /of no group/, 'device.mac'),
  )
  await assert.rejects(
    attach({ kind: 'cd', name: 'cd', medium: '../etc/passwd' }),
    isFault('invalid', /media folder/, 'device.medium'),
  )
  await assert.rejects(attach({ kind: 'cd', name: 'cd', medium: 'none.img' }), isFault('not_found', /no such image/, 'medium'))
  await assert.rejects(toolstack.detach(ID, 'root', command()), isFault('unsupported', /since its definition/))
  await assert.rejects(toolstack.detach(ID, 'port0', command()), isFault('not_found', /none of this name/))
  await assert.rejects(toolstack.changeMedium(ID, 'root', 'debian.iso', command()), isFault('invalid', /want a CD drive/))
  for (const name of ['one', 'two', 'three']) await attach({ kind: 'nic', name })
  await assert.rejects(attach(data), isFault('exhausted', /all 3 hot-plug ports/))
  await toolstack.carryOut('save', ID, command())
  await assert.rejects(attach(data), isFault('conflict', /it is saved/))
  assert.deepEqual([recorded(), inGuest()], [['one', 'two', 'three'], []])
  assert.deepEqual(await volumes.list(), before)
})

scene(
  'a domain of before has no ports, and says so',
  async ({ attach, volumes }) => {
    await assert.rejects(attach(data), isFault('unsupported', /without hot-plug ports/))
    assert.equal(await volumes.get(DATA), null)
  },
  { hotplugPortCount: 0 },
)

scene('attached to a stopped domain it is there from the start, and stays over a save', async (world) => {
  const { toolstack, attach, inGuest } = world
  await toolstack.carryOut('poweroff', ID, command())
  await attach(data)
  await attach({ kind: 'nic', name: 'lan', forwards: [{ protocol: 'tcp', hostPort: 0, guestPort: 80 }] })
  await toolstack.carryOut('start', ID, command())
  assert.deepEqual(inGuest(), ['data', 'lan'])
  assert.ok(toolstack.get(ID)?.forwards.some(({ guestPort }) => guestPort === 80))
  await toolstack.carryOut('save', ID, command())
  await toolstack.carryOut('restore', ID, command())
  assert.deepEqual(inGuest(), ['data', 'lan'])
  await toolstack.detach(ID, 'lan', command())
  assert.deepEqual(toolstack.get(ID)?.forwards, [])
})

scene('a guest that does not let go: timeout, leaving, then gone by itself or by force', async (world) => {
  const { toolstack, attach, inGuest, recorded } = world
  await attach(data)
  await attach({ kind: 'nic', name: 'lan' })
  await toolstack.carryOut('pause', ID, command())
  const soon = { timeoutMs: 100 }
  for (const name of ['data', 'lan'])
    await assert.rejects(toolstack.detach(ID, name, { ...command(), ...soon }), isFault('timeout', /did not let go/))
  const states = async () =>
    (await toolstack.devices(ID)).flatMap(({ name, state }) => (isComing(name) ? [`${name} ${state}`] : []))
  assert.deepEqual(await states(), ['data leaving', 'lan leaving'])
  await toolstack.detach(ID, 'lan', { ...command(), force: true })
  assert.deepEqual([recorded(), inGuest()], [['data'], ['data']])
  await toolstack.carryOut('unpause', ID, command())
  assert.deepEqual([recorded(), inGuest()], [['data'], []])
  // Before the machine is written down the record is settled: else the save would be of another one.
  await toolstack.carryOut('save', ID, command())
  assert.deepEqual(recorded(), [])
  await toolstack.carryOut('restore', ID, command())
  assert.deepEqual(await states(), ['data kept'])
})

scene('a guest that was asked and is started anew has the device, which is not leaving any more', async (world) => {
  const { toolstack, attach, inGuest } = world
  await attach(data)
  await toolstack.carryOut('pause', ID, command())
  await assert.rejects(toolstack.detach(ID, 'data', { ...command(), timeoutMs: 100 }), isFault('timeout', /did not let go/))
  await toolstack.carryOut('poweroff', ID, command())
  await toolstack.carryOut('start', ID, command())
  assert.deepEqual(inGuest(), ['data'])
  assert.equal((await toolstack.devices(ID)).find(({ name }) => name === 'data')?.state, 'attached')
})

scene('disks grow, the root disk with the size that clones have', async ({ toolstack, attach, volumes }) => {
  await attach(data)
  await toolstack.resizeDisk(ID, 'data', mib(16), command())
  assert.equal((await volumes.get(DATA))?.virtualBytes, mib(16))
  await assert.rejects(toolstack.resizeDisk(ID, 'data', mib(8), command()), isFault('invalid', /only grows/, 'sizeBytes'))
  await assert.rejects(toolstack.resizeDisk(ID, 'seed', mib(8), command()), isFault('unsupported', /can be written/))
  await toolstack.carryOut('poweroff', ID, command())
  const { spec } = await toolstack.resizeDisk(ID, 'root', gib(2), command())
  assert.deepEqual([spec.rootDiskBytes, (await volumes.get(ROOT))?.virtualBytes], [gib(2), gib(2)])
})

scene('USB devices bring one controller, which goes when they have gone', async ({ toolstack, attach, recorded }) => {
  await attach({ kind: 'usb', name: 'pointer', model: 'tablet' })
  await attach({ kind: 'usb', name: 'stick', model: 'storage', sizeBytes: mib(1) })
  assert.deepEqual(recorded(), ['usb', 'pointer', 'stick'])
  await assert.rejects(toolstack.detach(ID, 'usb', command()), isFault('conflict', /want them detached first/))
  for (const name of ['pointer', 'stick', 'usb']) await toolstack.detach(ID, name, command())
  assert.deepEqual(recorded(), [])
})

scene('a snapshot has all disks of one moment, and a revert brings back the machine of then', async (world) => {
  const { toolstack, attach, volumes, write, text, inGuest, recorded, snapshot, operations } = world
  await attach(data)
  write(ROOT, 'root then')
  write(DATA, 'data then')
  operations.length = 0
  const id = await snapshot('both')
  assert.deepEqual(
    operations.filter((operation) => operation === 'pause' || operation === 'unpause'),
    ['pause', 'unpause'],
    'nothing is written between the two',
  )
  assert.equal(toolstack.get(ID)?.state.kind, 'running')
  write(ROOT, 'root now')
  await toolstack.detach(ID, 'data', { ...command(), deleteVolume: true })
  await attach({ kind: 'disk', name: 'later', sizeBytes: mib(8) })
  await toolstack.revert(ID, id, { ...command(), start: true })
  assert.deepEqual([text(ROOT), text(DATA)], ['root then', 'data then'])
  assert.deepEqual([recorded(), inGuest()], [['data'], ['data']])
  assert.equal((await toolstack.devices(ID)).find(({ name }) => name === 'later')?.state, 'kept')
  await toolstack.detach(ID, 'data', { ...command(), deleteVolume: true })
  await toolstack.carryOut('destroy', ID, command())
  assert.deepEqual(await volumes.list(), [])
  for (const volume of [ROOT, DATA]) assert.deepEqual(await volumes.snapshots.list(volume), [])
})

scene('with memory the guest goes on with the devices and the medium that it had', async (world) => {
  const { toolstack, attach, inGuest, snapshot } = world
  await attach({ kind: 'cd', name: 'cd', medium: 'debian.iso' })
  await attach(data)
  const id = await snapshot('live', true)
  await toolstack.changeMedium(ID, 'cd', null, command())
  await toolstack.detach(ID, 'data', command())
  await attach({ kind: 'nic', name: 'lan' })
  await toolstack.revert(ID, id, command())
  assert.deepEqual(inGuest(), ['cd', 'data'])
  assert.equal((await toolstack.devices(ID)).find(({ name }) => name === 'cd')?.medium, 'debian.iso')
})

scene('a clone has disks and cards like those of the snapshot, with addresses of its own', async (world) => {
  const { toolstack, attach, write, text, inGuest, snapshot, volumes } = world
  await attach(data)
  await attach({ kind: 'nic', name: 'lan' })
  write(DATA, 'data then')
  const id = await snapshot('both')
  write(DATA, 'data now')
  await toolstack.clone(CLONE, specOf('copy'), { domain: ID, snapshot: id }, command())
  await toolstack.carryOut('start', CLONE, command())
  assert.deepEqual(inGuest(CLONE), ['data', 'lan'])
  assert.equal(text(`${CLONE}.data` as VolumeId), 'data then')
  const macs = [ID, CLONE].flatMap((each) =>
    (toolstack.get(each)?.hardware.devices ?? []).flatMap((device) => (device.kind === 'nic' ? [device.mac] : [])),
  )
  assert.equal(new Set(macs).size, 4)
  await toolstack.carryOut('destroy', ID, command())
  assert.equal(text(`${CLONE}.data` as VolumeId), 'data then')
  await toolstack.carryOut('destroy', CLONE, command())
  assert.deepEqual(await volumes.list(), [])
})

test('a card is told of with the ports that the host chose for it, where these can be told apart', async () => {
  const tcp = (hostPort: number, guestPort: number): PortForward => ({ protocol: 'tcp', hostPort, guestPort })
  const card = (name: string, ...forwards: PortForward[]): DomainDevice => ({
    kind: 'nic',
    name,
    mac: '52:54:00:00:00:01',
    address: '3.0',
    forwards,
  })
  const told = async (devices: readonly DomainDevice[], forwards: readonly PortForward[]) => {
    const domain = { id: ID, state: { kind: 'running' }, hardware: { devices }, forwards } as unknown as StoredDomain // what is read of it
    const found = await describeDevices({ volumes: memoryVolumeStore() }, domain)
    return found.map((device) => device.forwards.map(({ hostPort }) => hostPort))
  }
  const both = [card('net0', tcp(0, 22), tcp(8080, 80)), card('lan', tcp(0, 80), { ...tcp(0, 22), protocol: 'udp' })]
  const bound = [tcp(8080, 80), tcp(40_001, 80), tcp(40_002, 22), { ...tcp(40_003, 22), protocol: 'udp' } as const]
  assert.deepEqual(await told(both, bound), [
    [40_002, 8080],
    [40_001, 40_003],
  ])
  assert.deepEqual(await told(both, []), [
    [0, 8080],
    [0, 0],
  ])
  assert.deepEqual(await told([card('net0', tcp(0, 22)), card('lan', tcp(0, 22))], [tcp(1, 22), tcp(2, 22)]), [[0], [0]])
})
