import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault, mib } from '@typevisor/base'
import { parseDomainId, parseDomainName, parseImageName, type VolumeId } from '@typevisor/model'
import { createSimDriver, SimHypervisor } from '@typevisor/driver-sim'
import { memoryLog, seededRng, virtualClock } from '@typevisor/sim'
import type { DomainDriver, DriverDomain } from '@typevisor/toolstack'
import { attachedDriver } from './attached-driver.ts'

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
        else if (key === 'destroy' || key === 'adopt') happened.push(key)
        return found.apply(target, args)
      }
    },
  })
  const log = memoryLog()
  const driver = attachedDriver({
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
  })
  const spec = {
    name: parseDomainName('web'),
    vcpuCount: 1,
    memoryBytes: mib(64),
    image: parseImageName('micro'),
    rootDiskBytes: mib(64),
    cloudInit: { hostname: 'web', user: null, sshKeys: [], userData: null },
    forwards: [],
    labels: {},
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
  return { driver, domain, happened, held, others, log, refuse: (fault: Fault | null) => (refuses = fault) }
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
