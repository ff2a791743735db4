import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault, mib } from '@typevisor/base'
import { parseDomainId, parseDomainName, parseImageName, type VolumeId } from '@typevisor/model'
import { createSimDriver, SimHypervisor } from '@typevisor/driver-sim'
import { memoryLog, seededRng, virtualClock } from '@typevisor/sim'
import type { DomainDriver, DriverDomain } from '@typevisor/toolstack'
import { attachedDriver, type AttachedDriverOptions } from './attached-driver.ts'

const ID = parseDomainId('01890000-0000-7000-8000-000000000001')
const ROOT = `${ID}.root` as VolumeId
const SEED = `${ID}.seed` as VolumeId

async function world(changes: Partial<DomainDriver> = {}) {
  const clock = virtualClock()
  const hypervisor = new SimHypervisor(clock, { bootMs: 0 })
  const sim = createSimDriver({ hypervisor, clock, rng: seededRng('attached'), delayMsMax: 0 })
  const happened: string[] = []
  let refuses: Fault | null = null
  let epoch = 0
  const held = new Set<string>()
  const others = new Set<string>()
  const inner = new Proxy(sim, {
    get: (target, key) => {
      const found: unknown = Reflect.get(changes, key) ?? Reflect.get(target, key)
      if (typeof found !== 'function') return found
      return (...args: unknown[]) => {
        if (key === 'create') happened.push(`create with ${JSON.stringify((args[0] as DriverDomain).volumes[ROOT])}`)
        else if (['destroy', 'adopt', 'attach', 'detach', 'changeMedium', 'resizeDisk'].includes(String(key)))
          happened.push(String(key))
        return found.apply(target, args)
      }
    },
  })
  const log = memoryLog()
  const parts: AttachedDriverOptions = {
    driver: inner,
    volumes: {
      async attach(volume, path) {
        happened.push(`attach ${volume} ${path}`)
        if (refuses) throw refuses
        return held.has(volume) ? `${volume}:${epoch}` : volume
      },
      async detach(path) {
        happened.push(`detach ${path}`)
        if (refuses) throw refuses
      },
    },
    leases: {
      async take(volume) {
        happened.push(`take ${volume}`)
        if (others.has(volume)) throw new Fault('conflict', `${volume}: leased`)
        if (!held.has(volume)) epoch += 1
        held.add(volume)
        return epoch
      },
      async release(volume) {
        happened.push(`release ${volume}`)
        held.delete(volume)
      },
    },
    socketPathOf: (volume) => `/now/${volume}`,
    log,
  }
  const driver = attachedDriver(parts)
  const spec = {
    name: parseDomainName('web'),
    vcpuCount: 1,
    memoryBytes: mib(64),
    image: parseImageName('micro'),
    rootDiskBytes: mib(64),
    cloudInit: { hostname: 'web', user: null, sshKeys: [], userData: null },
    forwards: [],
    labels: {},
    hotplugPortCount: 2,
  }
  const domain: DriverDomain = {
    id: ID,
    name: spec.name,
    spec,
    hardware: await driver.planHardware(ID, spec, [{ name: 'root', volume: ROOT, readOnly: false }]),
    boot: { kind: 'disk' },
    volumes: {
      [ROOT]: { kind: 'nbd', socketPath: '/of another boot', exportName: ROOT },
      [SEED]: { kind: 'file', path: '/seed', format: 'raw' },
    },
  }
  return {
    driver,
    again: () => attachedDriver(parts),
    domain,
    happened,
    held,
    others,
    log,
    refuse: (fault: Fault | null) => (refuses = fault),
  }
}
const at = `/now/${ROOT}`
const made = (exportName: string): string => `create with ${JSON.stringify({ kind: 'nbd', socketPath: at, exportName })}`
const [attached, detached] = [`attach ${ROOT} ${at}`, `detach ${at}`]
const [taken, released] = [`take ${ROOT}`, `release ${ROOT}`]

test('a disk is leased and served before its domain is made, by the path of now, and until it is gone', async () => {
  const { driver, domain, happened } = await world()
  await driver.create(domain)
  await driver.destroy(ID)
  await driver.destroy(ID)
  assert.deepEqual(happened, [detached, taken, attached, made(`${ROOT}:1`), 'destroy', detached, released, 'destroy'])
  happened.length = 0
  await driver.create(domain)
  assert.deepEqual(happened, [detached, taken, attached, made(`${ROOT}:2`)])
})

test('a domain that is there keeps what it was started with: its epoch, or none', async () => {
  const { driver, domain, happened, held } = await world()
  await driver.create(domain)
  happened.length = 0
  await driver.create(domain)
  assert.deepEqual(happened, [attached, made(`${ROOT}:1`)])
  // As an agent of before has made it.
  held.clear()
  happened.length = 0
  await driver.create(domain)
  assert.deepEqual(happened, [attached, made(ROOT)])
})

test('a disk that another has leased: no domain is made, and nothing is released', async () => {
  const { driver, domain, happened, others, held } = await world()
  others.add(ROOT)
  await assert.rejects(driver.create(domain), /leased/)
  assert.equal(
    happened.some((what) => what.startsWith('create') || what.startsWith('attach')),
    false,
  )
  assert.equal(held.size, 0)
  others.clear()
  await driver.create(domain)
  assert.ok(happened.includes(made(`${ROOT}:1`)))
})

test('a domain that does not come to be has no disk leased or served', async () => {
  const { driver, domain, happened, held } = await world({ create: () => Promise.reject(new Fault('failed', 'it died')) })
  await assert.rejects(driver.create(domain), /it died/)
  assert.deepEqual(happened, [detached, taken, attached, made(`${ROOT}:1`), detached, released])
  assert.equal(held.size, 0)
})

test('a disk that cannot be served: no domain is made', async () => {
  const { driver, domain, happened, refuse } = await world()
  refuse(new Fault('not_found', 'no such volume'))
  await assert.rejects(driver.create(domain), /no such volume/)
  assert.equal(
    happened.some((what) => what.startsWith('create')),
    false,
  )
})

test('adoption serves the disks of all before it asks, and ends those of domains that are gone', async () => {
  const { driver, domain, happened } = await world()
  const gone = parseDomainId('01890000-0000-7000-8000-000000000002')
  const other = `${gone}.root` as VolumeId
  await driver.create(domain)
  happened.length = 0
  const volumes = { [other]: { kind: 'nbd' as const, socketPath: '', exportName: other } }
  const states = await driver.adopt([domain, { ...domain, id: gone, volumes }])
  assert.deepEqual([states.get(ID)?.kind, states.get(gone)?.kind], ['paused', 'gone'])
  assert.deepEqual(happened, [attached, `attach ${other} /now/${other}`, 'adopt', `detach /now/${other}`, `release ${other}`])
})

test('a volume server that is away keeps no domain from being adopted or destroyed', async () => {
  const { driver, domain, refuse, log } = await world()
  await driver.create(domain)
  refuse(new Fault('unavailable', 'it is away'))
  assert.equal((await driver.adopt([domain])).get(ID)?.kind, 'paused')
  await driver.destroy(ID)
  assert.equal((await driver.state(ID)).kind, 'gone')
  assert.ok(log.has('volumes.not_attached') && log.has('volumes.not_detached'))
})

const DATA = `${ID}.data` as VolumeId
const served = { kind: 'nbd' as const, socketPath: '', exportName: DATA }

/** The domain with a disk that comes later. */
async function withData(driver: DomainDriver, domain: DriverDomain) {
  const [device] = await driver.planDevice(domain, { kind: 'disk', name: 'data' }, DATA)
  assert.ok(device)
  const hardware = { ...domain.hardware, devices: [...domain.hardware.devices, device] }
  return { device, next: { ...domain, hardware, volumes: { ...domain.volumes, [DATA]: served } } }
}
const dataSocket = `/now/${DATA}`

test('a disk that comes later is leased and served before the guest has it, and until it has it no more', async () => {
  const { driver, domain, happened, held } = await world()
  await driver.create(domain)
  await driver.unpause(ID)
  const { device, next } = await withData(driver, domain)
  happened.length = 0
  await driver.attach(next, device)
  await driver.attach(next, device)
  const added = [`take ${DATA}`, `attach ${DATA} ${dataSocket}`, 'attach']
  assert.deepEqual(happened, [`detach ${dataSocket}`, ...added, ...added], 'given again, nobody is cut off')
  happened.length = 0
  await driver.detach(ID, 'data', { timeoutMs: 100, force: false })
  await driver.detach(ID, 'data', { timeoutMs: 100, force: false })
  const ended = ['detach', `detach ${dataSocket}`, `release ${DATA}`]
  assert.deepEqual(happened, [...ended, ...ended])
  assert.deepEqual([...held], [ROOT])
  await driver.attach(next, device)
  happened.length = 0
  await driver.destroy(ID)
  assert.deepEqual(happened.toSorted(), [detached, released, 'destroy', `detach ${dataSocket}`, `release ${DATA}`].toSorted())
})

test('a disk that was served by one that was killed before the record said so is served no more behind its end', async () => {
  const { driver, domain, happened, held, again } = await world()
  await driver.create(domain)
  await driver.unpause(ID)
  const { device, next } = await withData(driver, domain)
  await driver.attach(next, device)
  const later = again()
  await later.adopt([domain])
  happened.length = 0
  await later.detach(ID, 'data', { timeoutMs: 100, force: false })
  assert.deepEqual(happened, ['detach', `detach ${dataSocket}`, `release ${DATA}`])
  assert.deepEqual([...held], [ROOT])
})

test('a disk that does not come to the guest is served to nobody; one that the guest may have stays', async () => {
  const refused = new Fault('failed', 'QEMU refuses')
  const { driver, domain, held, happened } = await world({ attach: () => Promise.reject(refused) })
  await driver.create(domain)
  const { device, next } = await withData(driver, domain)
  await assert.rejects(driver.attach(next, device), /QEMU refuses/)
  assert.deepEqual([...held], [ROOT])
  assert.ok(happened.includes(`release ${DATA}`))
  const silent = await world({
    attach: () => Promise.reject(refused),
    attachedDevices: () => Promise.reject(new Fault('timeout', 'no answer')),
  })
  await silent.driver.create(silent.domain)
  const again = await withData(silent.driver, silent.domain)
  await assert.rejects(silent.driver.attach(again.next, again.device), /QEMU refuses/)
  assert.deepEqual([...silent.held], [ROOT, DATA])
})

test('a disk grows while it is on no socket, and is served again whatever becomes of it', async () => {
  const { driver, domain, happened } = await world()
  await driver.create(domain)
  happened.length = 0
  await driver.resizeDisk(domain, 'root', mib(128), async () => void happened.push('grows'))
  assert.deepEqual(happened, ['resizeDisk', detached, 'grows', attached])
  happened.length = 0
  await assert.rejects(
    driver.resizeDisk(domain, 'root', mib(128), () => Promise.reject(new Fault('exhausted', 'no room'))),
    /no room/,
  )
  assert.deepEqual(happened, ['resizeDisk', detached, attached])
})

test('a medium is leased and served for as long as it is in the drive', async () => {
  const { driver, domain, happened, held } = await world()
  await driver.create(domain)
  const [drive] = await driver.planDevice(domain, { kind: 'cd', name: 'cd' }, null)
  assert.ok(drive?.kind === 'cd')
  const volume = `${ID}.cd` as VolumeId
  const having = (medium: string | null): DriverDomain => ({
    ...domain,
    hardware: {
      ...domain.hardware,
      devices: [...domain.hardware.devices, { ...drive, medium, volume: medium === null ? null : volume }],
    },
    volumes: medium === null ? domain.volumes : { ...domain.volumes, [volume]: { ...served, exportName: volume } },
  })
  await driver.attach(having(null), drive)
  happened.length = 0
  await driver.changeMedium(having('a.iso'), 'cd')
  await driver.changeMedium(having(null), 'cd')
  assert.deepEqual(happened, [
    `detach /now/${volume}`,
    `take ${volume}`,
    `attach ${volume} /now/${volume}`,
    'changeMedium',
    'changeMedium',
    `detach /now/${volume}`,
    `release ${volume}`,
  ])
  assert.deepEqual([...held], [ROOT])
})
