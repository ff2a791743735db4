/** Promises about devices that come and go: a guest that runs sees each, and loses it again. */
import assert from 'node:assert/strict'
import { mib } from '@typevisor/base'
import type { DeviceRequest, VolumeId } from '@typevisor/model'
import type { ConformanceRunner } from './conformance-report.ts'
import { isFault, type Suite } from './conformance.ts'
import type { DriverDomain, VolumeAttachment } from './ports.ts'

const PORTS = { hotplugPortCount: 8 } as const
const PATIENT = { timeoutMs: 20_000, force: false } as const
const FORCED = { timeoutMs: 0, force: true } as const

export function deviceConformance(test: ConformanceRunner['test'], suite: () => Suite): void {
  /** The domain with the device of the request, and the devices that are new. */
  const planned = async (domain: DriverDomain, request: DeviceRequest, sizeBytes = mib(16)) => {
    const { driver, world } = suite()
    const hasVolume =
      request.kind === 'disk' ||
      (request.kind === 'usb' && request.model === 'storage') ||
      (request.kind === 'cd' && request.medium !== undefined)
    const made = hasVolume ? await world.volume(domain.id, request.name, sizeBytes) : null
    const devices = await driver.planDevice(domain, request, made?.volume ?? null)
    const next: DriverDomain = {
      ...domain,
      hardware: { ...domain.hardware, devices: [...domain.hardware.devices, ...devices] },
      volumes: made === null ? domain.volumes : { ...domain.volumes, [made.volume]: made.source },
    }
    return { next, devices }
  }
  const attach = async (domain: DriverDomain, request: DeviceRequest): Promise<DriverDomain> => {
    const { next, devices } = await planned(domain, request)
    for (const device of devices) await suite().driver.attach(next, device)
    return next
  }
  const without = (domain: DriverDomain, name: string): DriverDomain => ({
    ...domain,
    hardware: { ...domain.hardware, devices: domain.hardware.devices.filter((device) => device.name !== name) },
  })
  const isCounted = async ({ id }: DriverDomain, name: string): Promise<boolean> =>
    (await suite().driver.statistics(id)).disks.some((disk) => disk.name === name)
  const data = { kind: 'disk', name: 'data' } as const

  test('a disk that is attached is there for the guest, which writes it; twice is once; detached it is gone, and comes again', async (t) => {
    const { driver, world, can, running, until, gone } = suite()
    if (!can.hotplug.can) {
      const domain = await running()
      await assert.rejects(driver.planDevice(domain, data, null), isFault('unsupported'))
      return gone(domain)
    }
    const domain = await running(PORTS)
    await world.untilBooted(driver, domain.id)
    const { next, devices } = await planned(domain, data)
    const [device] = devices
    assert.ok(device)
    await driver.attach(next, device)
    await driver.attach(next, device)
    assert.deepEqual(await driver.attachedDevices(domain.id), ['data'])
    if ('cannot' in world.eyes) t.diagnostic(world.eyes.cannot)
    else {
      const { disks, writes } = world.eyes
      const before = (await disks(driver, domain.id)).length
      await until('the guest sees it', async () => (await disks(driver, domain.id)).includes('data'))
      await writes(driver, domain.id, 'data')
      assert.ok(before <= 2)
    }
    await driver.detach(domain.id, 'data', PATIENT)
    await driver.detach(domain.id, 'data', PATIENT)
    assert.deepEqual(await driver.attachedDevices(domain.id), [])
    if (!('cannot' in world.eyes)) {
      const { disks } = world.eyes
      await until('the guest sees it no more', async () => !(await disks(driver, domain.id)).includes('data'))
    }
    await driver.attach(next, device)
    assert.deepEqual(await driver.attachedDevices(domain.id), ['data'])
    await gone(domain)
  })

  test('a NIC comes with a MAC of its own, and goes', async () => {
    const { driver, world, can, running, until, gone } = suite()
    if (!can.hotplug.can) return
    const domain = await running(PORTS)
    await world.untilBooted(driver, domain.id)
    const forwards = [{ protocol: 'tcp', hostPort: 0, guestPort: 8080 }] as const
    const one = await attach(domain, { kind: 'nic', name: 'lan', forwards })
    const two = await attach(one, { kind: 'nic', name: 'wan', mac: '52:54:00:12:34:56' })
    const macs = two.hardware.devices.flatMap((device) => (device.kind === 'nic' ? [device.mac] : []))
    assert.equal(new Set(macs).size, 3)
    assert.ok((await driver.forwards(domain.id)).some(({ guestPort, hostPort }) => guestPort === 8080 && hostPort > 0))
    if (!('cannot' in world.eyes)) {
      const { macs: seen } = world.eyes
      await until('the guest sees both', async () => {
        const now = await seen(driver, domain.id)
        return macs.every((mac) => now.includes(mac))
      })
    }
    await driver.detach(domain.id, 'lan', PATIENT)
    assert.deepEqual(await driver.attachedDevices(domain.id), ['wan'])
    assert.deepEqual(await driver.forwards(domain.id), [])
    await gone(domain)
  })

  test('all of sixteen ports take a device, which the guest sees, and give it back', async () => {
    const { driver, world, can, running, until, gone } = suite()
    if (!can.hotplug.can) return
    const domain = await running({ hotplugPortCount: 16 })
    await world.untilBooted(driver, domain.id)
    let full = domain
    for (let index = 0; index < 16; index += 1) full = await attach(full, { kind: 'nic', name: `nic-${index}` })
    assert.equal((await driver.attachedDevices(domain.id)).length, 16)
    if (!('cannot' in world.eyes)) {
      const { macs } = world.eyes
      const wanted = full.hardware.devices.flatMap((device) => (device.kind === 'nic' ? [device.mac] : []))
      await until('the guest sees all', async () => {
        const seen = await macs(driver, domain.id)
        return wanted.every((mac) => seen.includes(mac))
      })
    }
    for (let index = 0; index < 16; index += 1) await driver.detach(domain.id, `nic-${index}`, PATIENT)
    assert.deepEqual(await driver.attachedDevices(domain.id), [])
    await gone(domain)
  })

  test('a device without a place is refused: no ports, all taken, a MAC twice', async () => {
    const { driver, can, define } = suite()
    if (!can.hotplug.can) return
    const none = await define()
    await assert.rejects(driver.planDevice(none, data, null), isFault('unsupported'))
    let domain = await define(suite().world.guest, { hotplugPortCount: 1 })
    const [nic] = await driver.planDevice(domain, { kind: 'nic', name: 'lan' }, null)
    assert.ok(nic?.kind === 'nic')
    await assert.rejects(driver.attach(domain, nic), isFault('conflict'), 'it is not there')
    await assert.rejects(driver.attachedDevices(domain.id), isFault('conflict'))
    await driver.detach(domain.id, 'lan', PATIENT)
    domain = { ...domain, hardware: { ...domain.hardware, devices: [...domain.hardware.devices, nic] } }
    await assert.rejects(driver.planDevice(domain, data, null), isFault('exhausted'))
    const two = await define(suite().world.guest, { hotplugPortCount: 2 })
    const [first] = two.hardware.devices.flatMap((device) => (device.kind === 'nic' ? [device.mac] : []))
    assert.ok(first)
    await assert.rejects(driver.planDevice(two, { kind: 'nic', name: 'lan', mac: first }, null), isFault('conflict'))
  })

  test('another driver adopts a domain with what was attached, and detaches it; the next start has what stayed', async () => {
    const { driver, world, can, running, gone, reopen } = suite()
    if (!can.hotplug.can) return
    const domain = await running(PORTS)
    await world.untilBooted(driver, domain.id)
    const both = await attach(await attach(domain, data), { kind: 'disk', name: 'more' })
    const next = await reopen()
    assert.equal((await next.adopt([both])).get(domain.id)?.kind, 'running')
    assert.deepEqual((await next.attachedDevices(domain.id)).toSorted(), ['data', 'more'])
    await next.detach(domain.id, 'data', PATIENT)
    assert.deepEqual(await next.attachedDevices(domain.id), ['more'])
    await next.destroy(domain.id)
    await next.create(without(both, 'data'))
    assert.deepEqual(await next.attachedDevices(domain.id), ['more'])
    await gone(domain)
  })

  test('a save has what was attached; what does not have it does not take the save', async () => {
    const { driver, world, can, running, gone } = suite()
    if (!can.hotplug.can || !can.save.can) return
    const domain = await running(PORTS)
    await world.untilBooted(driver, domain.id)
    const next = await attach(await attach(await attach(domain, { kind: 'nic', name: 'lan' }), data), {
      kind: 'disk',
      name: 'more',
    })
    // Another one came and went, so that no number is as at the start.
    await driver.detach(domain.id, 'lan', PATIENT)
    const kept = without(next, 'lan')
    const path = world.savePath(domain.id)
    await driver.save(domain.id, path)
    await assert.rejects(driver.checkSave(domain, path), isFault('failed'))
    await driver.restore(kept, path)
    await driver.unpause(domain.id)
    assert.deepEqual((await driver.attachedDevices(domain.id)).toSorted(), ['data', 'more'])
    if (!('cannot' in world.eyes)) await world.eyes.writes(driver, domain.id, 'data')
    await driver.detach(domain.id, 'data', PATIENT)
    assert.deepEqual(await driver.attachedDevices(domain.id), ['more'])
    await gone(domain)
  })

  test('a guest that does not let go keeps its device until it is taken by force, or lets go later', async () => {
    const { driver, world, can, running, until, gone } = suite()
    if (!can.hotplug.can) return
    const domain = await running(PORTS)
    await world.untilBooted(driver, domain.id)
    await attach(await attach(domain, data), { kind: 'disk', name: 'more' })
    if (!('cannot' in world.eyes)) {
      // Asked to let go of what it has not taken up yet, a guest may forget it.
      const { disks } = world.eyes
      await until('the guest sees both', async () => {
        const seen = await disks(driver, domain.id)
        return ['data', 'more'].every((name) => seen.includes(name))
      })
    }
    await driver.pause(domain.id)
    for (const name of ['data', 'more']) {
      let isOver = false
      const asked = assert.rejects(driver.detach(domain.id, name, { timeoutMs: 300, force: false }), isFault('timeout'))
      void asked.finally(() => (isOver = true)).catch(() => {})
      while (!isOver) await world.pause(50)
      await asked
    }
    assert.deepEqual((await driver.attachedDevices(domain.id)).toSorted(), ['data', 'more'])
    await driver.detach(domain.id, 'data', FORCED)
    assert.deepEqual(await driver.attachedDevices(domain.id), ['more'])
    await driver.unpause(domain.id)
    await until('the guest lets go of the other', async () => (await driver.attachedDevices(domain.id)).length === 0)
    await driver.detach(domain.id, 'more', FORCED)
    await gone(domain)
  })

  test('USB devices bring their controller, which takes a port, and go at once', async () => {
    const { driver, world, can, running, gone } = suite()
    if (!can.hotplug.can) return
    const domain = await running(PORTS)
    const one = await attach(domain, { kind: 'usb', name: 'pointer', model: 'tablet' })
    await attach(one, { kind: 'usb', name: 'stick', model: 'storage' })
    assert.deepEqual((await driver.attachedDevices(domain.id)).toSorted(), ['pointer', 'stick', 'usb'])
    assert.ok(await isCounted(domain, 'stick'))
    await driver.pause(domain.id)
    for (const name of ['pointer', 'stick']) await driver.detach(domain.id, name, PATIENT)
    assert.deepEqual(await driver.attachedDevices(domain.id), ['usb'])
    await gone(domain)
    const planned = await running({ ...PORTS, usb: true })
    assert.equal((await driver.planDevice(planned, { kind: 'usb', name: 'stick', model: 'tablet' }, null)).length, 1)
    await world.pause(10)
    await gone(planned)
  })

  test('a CD drive takes and gives its medium, which the guest sees', async () => {
    const { driver, world, can, running, until, gone } = suite()
    if (!can.hotplug.can) return
    const domain = await running(PORTS)
    await world.untilBooted(driver, domain.id)
    const empty = await attach(domain, { kind: 'cd', name: 'cd' })
    const seen = async (): Promise<string | null> => ('cannot' in world.eyes ? 'unseen' : world.eyes.medium(driver, domain.id))
    const { volume, source } = await world.volume(domain.id, 'cd', mib(1))
    const full = withMedium(empty, 'cd', volume, source)
    for (let again = 0; again < 2; again += 1) {
      await driver.changeMedium(full, 'cd')
      await driver.changeMedium(full, 'cd')
      await until('the guest sees the medium', async () => (await seen()) !== null)
      assert.ok(await isCounted(domain, 'cd'))
      await driver.changeMedium(empty, 'cd')
      if (!('cannot' in world.eyes)) await until('the guest sees that it went', async () => (await seen()) === null)
    }
    assert.equal(await isCounted(domain, 'cd'), false)
    await driver.detach(domain.id, 'cd', PATIENT)
    assert.deepEqual(await driver.attachedDevices(domain.id), [])
    await gone(domain)
  })

  test('a disk grows under its guest, also a paused one', async () => {
    const { driver, world, can, running, until, gone } = suite()
    if (!can.hotplug.can) return
    const domain = await running(PORTS)
    await world.untilBooted(driver, domain.id)
    const next = await attach(domain, data)
    const grow = async (): Promise<void> => {}
    await driver.resizeDisk(next, 'data', mib(32), grow)
    await driver.resizeDisk(next, 'data', mib(32), grow)
    const { eyes } = world
    if (!('cannot' in eyes))
      await until('the guest sees the size', async () => (await eyes.sizeBytes(driver, domain.id, 'data')) === mib(32))
    await driver.pause(domain.id)
    await driver.resizeDisk(next, 'data', mib(48), grow)
    await driver.unpause(domain.id)
    if (!('cannot' in eyes))
      await until('the guest sees the next size', async () => (await eyes.sizeBytes(driver, domain.id, 'data')) === mib(48))
    await gone(domain)
  })
}

function withMedium(domain: DriverDomain, name: string, volume: VolumeId, source: VolumeAttachment): DriverDomain {
  const devices = domain.hardware.devices.map((device) =>
    device.kind === 'cd' && device.name === name ? { ...device, medium: 'test.iso', volume } : device,
  )
  return { ...domain, hardware: { ...domain.hardware, devices }, volumes: { ...domain.volumes, [volume]: source } }
}
