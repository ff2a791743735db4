/** Promises about what a guest is begun by: what a driver says that it can is shown on a guest, what it cannot is refused with the reason. */
import assert from 'node:assert/strict'
import { Fault, mib } from '@typevisor/base'
import { ARCHITECTURES, FIRMWARE_KINDS, type DomainSpec, type Firmware } from '@typevisor/model'
import type { ConformanceRunner } from './conformance-report.ts'
import type { Suite } from './conformance.ts'
import type { Capability } from './ports.ts'

/** What refuses, and why, as the driver said beforehand. */
const refuses =
  (path: string, { reason }: Capability & { readonly can: false }) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof Fault, `want a Fault, got ${String(error)}`)
    assert.deepEqual([error.code, error.details?.[0]?.path], ['unsupported', path], error.message)
    assert.ok(error.message.includes(reason), error.message)
    return true
  }

export function guestConformance(test: ConformanceRunner['test'], suite: () => Suite): void {
  const refused = async (more: Partial<DomainSpec>, path: string, capability: Capability): Promise<void> => {
    if (capability.can) return
    assert.ok(capability.reason.length > 0)
    await assert.rejects(suite().define(suite().world.guest, { memoryBytes: mib(256), ...more }), refuses(path, capability))
  }

  test('architectures, firmware, TPM and network boot that it cannot do are refused, with what is missing', async () => {
    const { guests } = suite().can
    assert.ok(guests?.x86_64.runs.can && guests.x86_64.firmware.bios.can, 'what there was before')
    for (const architecture of ARCHITECTURES) {
      const can = guests[architecture]
      await refused({ architecture }, 'architecture', can.runs)
      if (!can.runs.can) continue
      for (const firmware of FIRMWARE_KINDS) await refused({ architecture, firmware }, 'firmware', can.firmware[firmware])
      await refused({ architecture, tpm: true }, 'tpm', can.tpm)
      await refused({ architecture, bootOrder: ['network'] }, 'bootOrder', can.networkBoot)
    }
  })

  test('each firmware that it can do begins a guest, which sees it, and its TPM', async () => {
    const { driver, world, can, running, gone } = suite()
    const guests = can.guests?.x86_64
    for (const firmware of FIRMWARE_KINDS) {
      if (guests?.firmware[firmware].can !== true) continue
      const tpm = guests.tpm.can && firmware !== 'bios'
      const domain = await running({ memoryBytes: mib(256), firmware, ...(tpm ? { tpm } : {}) })
      await world.untilBooted(driver, domain.id)
      const { eyes } = world
      if (!('cannot' in eyes)) assert.deepEqual(await eyes.beginning(driver, domain.id), { firmware, tpm })
      await gone(domain)
    }
  })

  test('what firmware has written down is kept over stop and start and in a save, is put back, and ends with the domain', async () => {
    const { driver, world, can, define, gone } = suite()
    const { id } = await define()
    const path = world.savePath(id)
    const bios = await define()
    assert.equal(await driver.keepFirmware(bios, path), false, 'a guest without such memory')
    const firmware: Firmware = 'uefi'
    if (can.guests?.x86_64.firmware[firmware].can !== true) return
    const domain = await define(world.guest, {
      memoryBytes: mib(256),
      firmware,
      ...(can.guests.x86_64.tpm.can ? { tpm: true } : {}),
    })
    const { eyes } = world
    const begin = async (): Promise<void> => {
      await driver.create(domain)
      await driver.unpause(domain.id)
      await world.untilBooted(driver, domain.id)
    }
    const writes = async (variable: string): Promise<void> => {
      if (!('cannot' in eyes)) await eyes.writeNvram(driver, domain.id, variable)
    }
    const sees = async (...variables: string[]): Promise<void> => {
      if (!('cannot' in eyes)) assert.deepEqual(await eyes.nvram(driver, domain.id), variables)
    }
    await begin()
    await writes('one')
    assert.equal(await driver.keepFirmware(domain, path), true)
    assert.equal(await driver.keepFirmware(domain, path), true, 'twice is once')
    await writes('two')
    await assert.rejects(driver.putFirmwareBack(domain, path), { code: 'conflict' }, 'it is there')
    if (can.save.can) {
      const save = world.savePath(domain.id)
      await driver.save(domain.id, save)
      await driver.restore(domain, save)
      await driver.unpause(domain.id)
      await sees('one', 'two')
    }
    await driver.destroy(domain.id)
    await begin()
    await sees('one', 'two')
    await driver.destroy(domain.id)
    await assert.rejects(driver.putFirmwareBack(domain, `${path}.none`), { code: 'not_found' })
    await driver.putFirmwareBack(domain, path)
    await driver.putFirmwareBack(domain, path)
    await begin()
    await sees('one')
    await gone(domain)
    if (!('cannot' in eyes)) assert.equal(await driver.keepFirmware(domain, path), false, 'nothing is left of it')
  })
}
