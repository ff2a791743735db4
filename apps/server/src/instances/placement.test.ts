import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault, type FaultCode } from '@typevisor/base'
import { chooseHost, type HostOffer, type PlacementWish } from './placement.ts'

const micro = new Map([['micro', { minimumMemoryBytes: 50, minimumDiskBytes: 60 }]])
const offer = (name: string, changes: Partial<HostOffer> = {}): HostOffer => ({
  name,
  connected: true,
  memoryBytes: 1000,
  committedBytes: 0,
  images: micro,
  takenPorts: new Map(),
  ...changes,
})
const wish: PlacementWish = { image: 'micro', memoryBytes: 100, rootDiskBytes: 100, forwards: [], host: undefined }

/** Refused with this code, in these words, naming this field; null: none is to blame. */
function refuses(offers: readonly HostOffer[], asked: PlacementWish, code: FaultCode, path: string | null, words = /./): void {
  assert.throws(
    () => chooseHost(offers, asked),
    (error: unknown) => {
      assert.ok(error instanceof Fault)
      assert.deepEqual([error.code, error.details[0]?.path ?? null], [code, path])
      assert.match(error.message, words)
      return true
    },
  )
}

test('the host with the most memory left is chosen, the first by name among equals', () => {
  assert.equal(chooseHost([offer('b', { committedBytes: 500 }), offer('a', { committedBytes: 600 })], wish), 'b')
  assert.equal(chooseHost([offer('b'), offer('a')], wish), 'a')
})

test('a host that is asked for is taken, or refused with the reason', () => {
  const offers = [offer('a'), offer('b', { committedBytes: 500 }), offer('away', { connected: false })]
  assert.equal(chooseHost(offers, { ...wish, host: 'b' }), 'b')
  refuses(offers, { ...wish, host: 'nobody' }, 'not_found', 'body.host')
  refuses(offers, { ...wish, host: 'away' }, 'conflict', 'body.host', /not connected/)
})

test('no host, no image and no memory are told apart', () => {
  refuses([], wish, 'unavailable', null)
  refuses([offer('a', { connected: false })], wish, 'unavailable', null)
  refuses([offer('a', { images: new Map() })], wish, 'not_found', 'body.image', /no connected host has it;/)
  refuses([offer('a', { committedBytes: 950 })], wish, 'exhausted', 'body.memoryBytes', /emptiest host \(a\) has 50 left/)
})

test('more memory than any host has, connected or away, is a wrong wish and no lack of room', () => {
  const offers = [offer('a', { committedBytes: 900 }), offer('big', { memoryBytes: 5000, connected: false })]
  refuses(offers, { ...wish, memoryBytes: 5001 }, 'invalid', 'body.memoryBytes', /got 5001, the largest host \(big\) has 5000/)
  refuses(offers, { ...wish, memoryBytes: 5000 }, 'exhausted', 'body.memoryBytes', /emptiest host \(a\) has 100 left/)
  refuses(offers, { ...wish, memoryBytes: 1001, host: 'a' }, 'invalid', 'body.memoryBytes', /host a has 1000 in all/)
})

test('an image that is elsewhere only is said to be there, and how to make it here', () => {
  const offers = [offer('a', { images: new Map() }), offer('b'), offer('away', { connected: false })]
  refuses(offers, { ...wish, host: 'a' }, 'not_found', 'body.image', /host a does not have it \(b, away have it\); .* --host a`/)
  refuses(
    [offer('a', { images: new Map() }), offer('away', { connected: false })],
    wish,
    'not_found',
    'body.image',
    /no connected host has it \(away has it\)/,
  )
})

test('memory and disk below what the image wants are refused by name', () => {
  refuses([offer('a')], { ...wish, memoryBytes: 49 }, 'invalid', 'body.memoryBytes', /at least 50/)
  refuses([offer('a')], { ...wish, rootDiskBytes: 59 }, 'invalid', 'body.rootDiskBytes', /at least 60/)
})

test('a host whose port is taken is passed over; where no other is left the port and its holder are named', () => {
  const taken = offer('a', { takenPorts: new Map([['tcp 8080', 'web-1']]) })
  const forwards = [
    { protocol: 'tcp', hostPort: 0 },
    { protocol: 'tcp', hostPort: 8080 },
  ]
  assert.equal(chooseHost([taken, offer('b', { committedBytes: 800 })], { ...wish, forwards }), 'b')
  refuses([taken], { ...wish, forwards }, 'conflict', 'body.forwards[1].hostPort', /forwarded to web-1/)
  assert.equal(chooseHost([taken], { ...wish, forwards: [{ protocol: 'udp', hostPort: 8080 }] }), 'a')
})

test('a host that cannot begin such a guest is not chosen; where none can, its reason is told', () => {
  const CAN = { can: true } as const
  const none = { can: false, reason: 'this host has no swtpm' } as const
  const guest = { runs: CAN, firmware: { bios: CAN, uefi: CAN, 'uefi-secure': none }, tpm: none, networkBoot: none }
  const guests = { x86_64: guest, aarch64: { ...guest, runs: none }, riscv64: { ...guest, runs: none } }
  const withTpm = { ...guests, x86_64: { ...guest, tpm: CAN } }
  const memoryBytes = 256 * 1024 * 1024
  const [large, uefi] = [{ memoryBytes: 4 * memoryBytes }, { ...wish, memoryBytes, firmware: 'uefi' } as const]
  const offers = [offer('a', { ...large, guests }), offer('b', { memoryBytes: 2 * memoryBytes, guests: withTpm })]
  assert.equal(chooseHost(offers, uefi), 'a')
  assert.equal(chooseHost(offers, { ...uefi, tpm: true }), 'b')
  refuses(offers.slice(1), { ...wish, tpm: true }, 'invalid', 'body.tpm', /uefi/)
  refuses(offers, { ...wish, firmware: 'uefi' }, 'invalid', 'body.memoryBytes')
  refuses(offers, { ...uefi, firmware: 'uefi-secure' }, 'unsupported', 'body.firmware', /this host has no swtpm/)
  refuses(offers, { ...wish, architecture: 'aarch64' }, 'unsupported', 'body.architecture')
  refuses(offers, { ...wish, bootOrder: [] }, 'invalid', 'body.bootOrder')
  const older = [offer('a')]
  assert.equal(chooseHost(older, wish), 'a')
  refuses(older, { ...wish, memoryBytes, firmware: 'uefi' }, 'unsupported', 'body.firmware')
})
