import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault, type FaultCode } from '@typevisor/base'
import { chooseHost, type HostOffer } from './placement.ts'

const offer = (name: string, changes: Partial<HostOffer> = {}): HostOffer => ({
  name,
  connected: true,
  memoryBytes: 1000,
  committedBytes: 0,
  images: ['micro'],
  ...changes,
})
const wish = { image: 'micro', memoryBytes: 100, host: undefined }
const isFault = (code: FaultCode) => (error: unknown) => error instanceof Fault && error.code === code

test('the host with the most memory left is chosen, the first by name among equals', () => {
  assert.equal(chooseHost([offer('b', { committedBytes: 500 }), offer('a', { committedBytes: 600 })], wish), 'b')
  assert.equal(chooseHost([offer('b'), offer('a')], wish), 'a')
})

test('a host that is asked for is taken, or refused with the reason', () => {
  const offers = [offer('a'), offer('b', { committedBytes: 500 }), offer('away', { connected: false })]
  assert.equal(chooseHost(offers, { ...wish, host: 'b' }), 'b')
  assert.throws(() => chooseHost(offers, { ...wish, host: 'nobody' }), isFault('not_found'))
  assert.throws(() => chooseHost(offers, { ...wish, host: 'away' }), isFault('unavailable'))
})

test('no host, no image and no memory are told apart', () => {
  assert.throws(() => chooseHost([], wish), isFault('unavailable'))
  assert.throws(() => chooseHost([offer('a', { connected: false })], wish), isFault('unavailable'))
  assert.throws(() => chooseHost([offer('a', { images: [] })], wish), isFault('not_found'))
  assert.throws(() => chooseHost([offer('a', { committedBytes: 950 })], wish), isFault('exhausted'))
})
