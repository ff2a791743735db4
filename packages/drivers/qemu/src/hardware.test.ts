import assert from 'node:assert/strict'
import { test } from 'node:test'
import { mib } from '@typevisor/base'
import { parseDomainId, type VolumeId } from '@typevisor/model'
import * as fc from 'fast-check'
import { macOf, planHardware, serialOf } from './hardware.ts'
import { testDomain, testId } from './testing.ts'

const { spec } = testDomain()

test('a MAC is of one host, locally administered, the same each time and of its id', () => {
  fc.assert(
    fc.property(fc.uuid({ version: 7 }), fc.uuid({ version: 7 }), (a, b) => {
      const mac = macOf(parseDomainId(a), 0)
      assert.match(mac, /^52(:[0-9a-f]{2}){5}$/)
      assert.equal(macOf(parseDomainId(a), 0), mac)
      assert.notEqual(macOf(parseDomainId(a), 1), mac)
      if (a.slice(-10) !== b.slice(-10)) assert.notEqual(macOf(parseDomainId(b), 0), mac)
    }),
  )
})

test('no two devices share an address, serials fit virtio-blk and tell the disks of a domain apart', () => {
  const id = parseDomainId(testId())
  const volumes = Array.from({ length: 23 }, (_, at) => ({
    name: `disk-${at}`,
    volume: `${id}.${at}` as VolumeId,
    readOnly: false,
  }))
  const { devices } = planHardware(id, spec, volumes)
  assert.equal(new Set(devices.map((device) => device.address)).size, devices.length)
  const serials = devices.flatMap((device) => (device.kind === 'disk' ? [device.serial] : []))
  assert.equal(new Set(serials).size, 23)
  assert.ok(serials.every((serial) => serial.length <= 20))
  assert.throws(
    () => planHardware(id, spec, [...volumes, { name: 'more', volume: volumes[0]?.volume as VolumeId, readOnly: false }]),
    {
      code: 'invalid',
      message: /got 24, want at most 23/,
    },
  )
})

test('memory that is plugged later has the last address, and a disk less fits beside it', () => {
  const id = parseDomainId(testId())
  const volumes = (count: number) =>
    Array.from({ length: count }, (_, at) => ({ name: `disk-${at}`, volume: `${id}.${at}` as VolumeId, readOnly: false }))
  const grows = { ...spec, memoryBytesMax: mib(64) }
  const { devices } = planHardware(id, grows, volumes(22))
  assert.deepEqual(devices.at(-1), { kind: 'memory', name: 'memory', address: '1e.0', sizeBytes: mib(32) })
  assert.equal(new Set(devices.map((device) => device.address)).size, devices.length)
  assert.throws(() => planHardware(id, grows, volumes(23)), { code: 'invalid', message: /want at most 22/ })
  assert.deepEqual(planHardware(id, { ...spec, memoryBytesMax: spec.memoryBytes }, []), planHardware(id, spec, []))
})

test('a volume name that is no label, or there twice, is refused', () => {
  const volume = `${testId()}` as VolumeId
  const plan = (...names: string[]) =>
    planHardware(
      parseDomainId(testId()),
      spec,
      names.map((name) => ({ name, volume, readOnly: false })),
    )
  for (const bad of ['a,if=none', '-x', '', '../x', 'A']) assert.throws(() => plan(bad), { code: 'invalid' })
  assert.throws(() => plan('root', 'root'), { code: 'invalid', message: /twice/ })
})

test('serials keep the name’s beginning', () => {
  assert.equal(serialOf('root', '0192f000-0000-7000-8000-0123456789ab.root' as VolumeId), 'root-0123456789ab')
})
