import assert from 'node:assert/strict'
import { test } from 'node:test'
import { DISK_FULL, isLabel } from '@typevisor/model'
import { schemas } from '@typevisor/api'
import { BOOT_ORDERS, inSizes, newDraft, SIZE_NAMES, sizeOf, suggestName, toBody, withSize } from './instance-draft.ts'

const seeded = (seed: number) => () => {
  seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648
  return seed / 2_147_483_648
}

test('the draft as it opens is a body that the server takes', () => {
  const made = toBody(newDraft('calm-otter'))
  assert.equal(made.ok, true)
  if (made.ok) schemas.CreateInstance.parse(made.body)
})

test('every suggested name is a name that the server takes', () => {
  const random = seeded(7)
  for (let count = 0; count < 500; count += 1) assert.equal(isLabel(suggestName(random)), true)
})

test('a suggested name is none that is taken', () => {
  const first = suggestName(seeded(3))
  assert.notEqual(suggestName(seeded(3), new Set([first])), first)
})

test('every size of the cards is a size that the server takes', () => {
  for (const size of SIZE_NAMES) {
    const draft = withSize(newDraft('a'), size)
    assert.equal(sizeOf(draft), size)
    const made = toBody(draft)
    if (made.ok) schemas.CreateInstance.parse(made.body)
    assert.equal(made.ok, true)
  }
})

test('an amount typed by hand is a size of its own', () => {
  assert.equal(sizeOf({ ...newDraft('a'), memory: '300M' }), 'custom')
  assert.equal(sizeOf({ ...newDraft('a'), memory: '256M' }), 'tiny')
})

test('keys, labels and forwards are read as people type them', () => {
  const made = toBody({
    ...newDraft('web-1'),
    sshKeys: 'ssh-ed25519 AAAA me\n\n ssh-rsa BBBB you \r\n',
    labels: 'team=core\nurl=a=b',
    forwards: [
      { protocol: 'tcp', hostPort: '', guestPort: '22' },
      { protocol: 'udp', hostPort: '5353', guestPort: '53' },
    ],
  })
  assert.equal(made.ok, true)
  if (!made.ok) return
  assert.deepEqual(made.body.sshKeys, ['ssh-ed25519 AAAA me', 'ssh-rsa BBBB you'])
  assert.deepEqual(made.body.labels, { team: 'core', url: 'a=b' })
  assert.deepEqual(made.body.forwards, [
    { protocol: 'tcp', hostPort: 0, guestPort: 22 },
    { protocol: 'udp', hostPort: 5353, guestPort: 53 },
  ])
})

test('a size with a fraction is sent as the whole mebibytes that the server takes', () => {
  const made = toBody({ ...newDraft('a'), memory: '1.3 GiB', disk: '10.7G' })
  assert.ok(made.ok)
  assert.deepEqual([made.body.memoryBytes, made.body.rootDiskBytes], [1331 * 1024 ** 2, 10_957 * 1024 ** 2])
})

test('what has no meaning is refused at its field', () => {
  const made = toBody({
    ...newDraft('a'),
    memory: 'lots',
    vcpuCount: '',
    labels: 'alone',
    forwards: [{ protocol: 'tcp', hostPort: 'x', guestPort: '' }],
  })
  assert.equal(made.ok, false)
  if (!made.ok)
    assert.deepEqual(
      made.details.map((detail) => detail.path),
      ['labels', 'forwards[0].hostPort', 'forwards[0].guestPort', 'vcpuCount', 'memoryBytes'],
    )
})

test('the advanced part sends what was asked for alone, and the server takes it', () => {
  const plain = toBody(newDraft('a'))
  assert.ok(plain.ok)
  for (const field of ['firmware', 'tpm', 'vcpuCountMax', 'memoryBytesMax', 'hugePages', 'onCrash', 'autostart'] as const)
    assert.ok(!(field in plain.body), field)
  const draft = { ...newDraft('a'), tpm: true, vcpuCountMax: ' 4 ', memoryMax: '1.5 GiB', autostartOrder: '7' }
  const made = toBody({ ...draft, firmware: 'uefi', hugePages: true, onCrash: 'dump-keep', autostart: true })
  assert.ok(made.ok)
  const { firmware, tpm, vcpuCountMax, memoryBytesMax, hugePages, onCrash, autostart, autostartOrder } =
    schemas.CreateInstance.parse(made.body)
  assert.deepEqual([firmware, tpm, vcpuCountMax, memoryBytesMax, hugePages], ['uefi', true, 4, 1536 * 1024 ** 2, true])
  assert.deepEqual([onCrash, autostart, autostartOrder], ['dump-keep', true, 7])
  const bios = toBody(draft)
  assert.ok(bios.ok)
  assert.deepEqual([bios.body.tpm, bios.body.autostartOrder], [undefined, undefined], 'what has no meaning is left out')
  const wrong = toBody({ ...draft, vcpuCountMax: 'many', memoryMax: 'more' })
  assert.deepEqual(wrong.ok ? [] : wrong.details.map(({ path }) => path), ['vcpuCountMax', 'memoryBytesMax'])
})

test('sizes that the server counts in bytes are told as people type them', () => {
  assert.equal(inSizes('want at least 67108864, got 1048576'), 'want at least 64 MiB, got 1 MiB')
})

test('each choice for a full disk is one that the server takes', () => {
  for (const diskFull of DISK_FULL) {
    const made = toBody({ ...newDraft('a'), diskFull })
    assert.ok(made.ok)
    assert.equal(schemas.CreateInstance.parse(made.body).diskFull, diskFull)
  }
})

test('what it boots from is sent in its order, and its disk alone is not said', () => {
  for (const [bootOrder, { order }] of Object.entries(BOOT_ORDERS)) {
    const made = toBody({ ...newDraft('a'), bootOrder })
    assert.ok(made.ok)
    schemas.CreateInstance.parse(made.body)
    assert.deepEqual(made.body.bootOrder, bootOrder === 'disk' ? undefined : order)
    assert.equal(order.join(' '), bootOrder)
  }
})
