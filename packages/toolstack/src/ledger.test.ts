import assert from 'node:assert/strict'
import { test } from 'node:test'
import { bytes, type Json } from '@typevisor/base'
import type { DomainEvent, DomainId } from '@typevisor/model'
import type { StateFile } from '@typevisor/saga'
import { virtualClock } from '@typevisor/sim'
import { Ledger } from './ledger.ts'
import type { StoredDomain } from './stored-domain.ts'

const ID = '0192f000-0000-7000-8000-00000000aaaa' as DomainId
const domain = {
  id: ID,
  name: 'told',
  state: { kind: 'stopped', cause: 'requested', detail: null },
  forwards: [],
} as unknown as StoredDomain

test('no reader is told of a transition before it is on disk, and none misses it or gets it twice', async () => {
  const appends: (() => void)[] = []
  const state = {
    section: () => (_records: readonly Json[]) => new Promise<void>((resolve) => appends.push(resolve)),
  } as unknown as StateFile // of which the ledger asks nothing else here
  const ledger = new Ledger(state, virtualClock())
  const seen: DomainEvent[] = []
  const stop = new AbortController()
  const defining = ledger.define(domain)
  const reading = (async () => {
    for await (const event of ledger.events(0, stop.signal)) seen.push(event)
  })()
  await new Promise((resolve) => setImmediate(resolve))
  assert.deepEqual([seen.length, ledger.lastSequence], [0, 0])
  appends.shift()?.()
  await defining
  const entering = ledger.enter(ID, { kind: 'saved', savePath: '/x', sizeBytes: bytes(1) }, { cause: 'requested' })
  appends.shift()?.()
  await entering
  await new Promise((resolve) => setImmediate(resolve))
  assert.deepEqual(
    seen.map((event) => [event.sequence, event.to]),
    [
      [1, 'stopped'],
      [2, 'saved'],
    ],
  )
  stop.abort()
  await reading
})
