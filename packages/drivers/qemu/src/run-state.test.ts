import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { DriverState } from '@typevisor/toolstack'
import * as fc from 'fast-check'
import { stateOfDisks, stateOfRunState, step, watchFrom, type Watch } from './run-state.ts'

type Told = DriverState | 'reset'

function fold(start: Watch, events: readonly (readonly [string, Record<string, unknown>?])[]): { watch: Watch; told: Told[] } {
  let watch = start
  const told: Told[] = []
  for (const [name, content = {}] of events) {
    const next = step(watch, { name, content })
    watch = next.watch
    if (next.report === 'state') told.push(watch.state)
    if (next.report === 'reset') told.push('reset')
  }
  return { watch, told }
}

const RUNNING = watchFrom({ kind: 'running' })
const DISK_FULL: DriverState = { kind: 'paused', cause: 'disk-full' }

test('a power-off is the guest’s own, or requested when it was asked for and the guest was not reset since', () => {
  const off = [['POWERDOWN'], ['SHUTDOWN', { guest: true, reason: 'guest-shutdown' }], ['STOP']] as const
  assert.deepEqual(fold(RUNNING, off).told, [{ kind: 'powered-off', cause: 'guest' }])
  const asked = { ...RUNNING, shutdownAsked: true }
  assert.deepEqual(fold(asked, off).told, [{ kind: 'powered-off', cause: 'requested' }])
  assert.deepEqual(fold(asked, [['RESET', { guest: true }], ...off]).told, ['reset', { kind: 'powered-off', cause: 'guest' }])
})

test('a panic, a full disk and a watchdog are the causes of the stop that follows', () => {
  assert.deepEqual(fold(RUNNING, [['GUEST_PANICKED', { action: 'pause' }], ['STOP']]).told, [
    { kind: 'crashed', cause: 'guest-panic', detail: 'the guest told pvpanic' },
  ])
  assert.deepEqual(fold(RUNNING, [['BLOCK_IO_ERROR', { action: 'stop' }], ['STOP']]).told, [
    { kind: 'paused', cause: 'io-error' },
  ])
  assert.deepEqual(fold(RUNNING, [['BLOCK_IO_ERROR', { action: 'report', nospace: true }]]).told, [])
  const [full, failed] = [
    ['BLOCK_IO_ERROR', { action: 'stop', nospace: true }],
    ['BLOCK_IO_ERROR', { action: 'stop', nospace: false }],
  ] as const
  assert.deepEqual(fold(RUNNING, [full, full, ['STOP'], full]).told, [DISK_FULL])
  for (const both of [
    [full, failed],
    [failed, full],
  ])
    assert.deepEqual(fold(RUNNING, [...both, ['STOP']]).told, [{ kind: 'paused', cause: 'io-error' }], 'the worse one')
  assert.deepEqual(fold(RUNNING, [['WATCHDOG', { action: 'pause' }], ['STOP']]).told, [{ kind: 'paused', cause: 'watchdog' }])
})

test('a guest that tries whether there is room is told to run only when it does', () => {
  const trying = { ...watchFrom(DISK_FULL), trying: true }
  const full = ['BLOCK_IO_ERROR', { action: 'stop', nospace: true }] as const
  const again = fold(trying, [['RESUME'], full, full, ['STOP']])
  assert.deepEqual([again.told, again.watch.state, again.watch.trying], [[], DISK_FULL, false])
  const otherwise: readonly (readonly [readonly [string, Record<string, unknown>], DriverState])[] = [
    [['BLOCK_IO_ERROR', { action: 'stop', nospace: false }], { kind: 'paused', cause: 'io-error' }],
    [['SHUTDOWN', { reason: 'guest-shutdown' }], { kind: 'powered-off', cause: 'guest' }],
    [['GUEST_PANICKED', {}], { kind: 'crashed', cause: 'guest-panic', detail: 'the guest told pvpanic' }],
  ]
  for (const [event, state] of otherwise)
    assert.deepEqual(fold(trying, [['RESUME'], event, ['STOP']]).told, [{ kind: 'running' }, state])
})

test('of the disks of a guest that stands still, one that failed is the worse reason', () => {
  const disks = (...statuses: string[]) => stateOfDisks(statuses.map((status) => ({ 'io-status': status })))
  assert.deepEqual(disks('ok', 'nospace'), DISK_FULL)
  for (const other of [disks('nospace', 'failed'), disks('failed'), disks('ok'), stateOfDisks(null), stateOfDisks([7, {}])])
    assert.deepEqual(other, { kind: 'paused', cause: 'io-error' })
})

test('a stop that nobody announced has an unknown cause', () => {
  assert.deepEqual(fold(RUNNING, [['STOP'], ['RESUME']]).told, [{ kind: 'paused', cause: 'unknown' }, { kind: 'running' }])
})

test('the stop and resume of a save are no transitions, but a power-off during it is', () => {
  const saving = { ...RUNNING, saving: true }
  assert.deepEqual(fold(saving, [['STOP'], ['RESUME']]).told, [])
  assert.deepEqual(fold(saving, [['SHUTDOWN', { reason: 'guest-shutdown' }], ['STOP']]).told, [
    { kind: 'powered-off', cause: 'guest' },
  ])
})

test('a guest that sleeps is paused by itself and wakes to running', () => {
  assert.deepEqual(fold(RUNNING, [['SUSPEND'], ['WAKEUP']]).told, [{ kind: 'paused', cause: 'guest' }, { kind: 'running' }])
})

test('whatever QEMU says, a state is told only when it differs from the last one told', () => {
  const names = [
    'STOP',
    'RESUME',
    'SHUTDOWN',
    'GUEST_PANICKED',
    'BLOCK_IO_ERROR',
    'SUSPEND',
    'WAKEUP',
    'RESET',
    'WATCHDOG',
    'NONSENSE',
    '__proto__',
  ]
  const event = fc.tuple(
    fc.constantFrom(...names),
    fc.dictionary(
      fc.constantFrom('reason', 'action', 'nospace', 'guest', 'info'),
      fc.oneof(fc.constantFrom('stop', true), fc.anything()),
    ),
  )
  fc.assert(
    fc.property(fc.array(event), fc.boolean(), (events, trying) => {
      const start = trying ? { ...watchFrom(DISK_FULL), trying } : RUNNING
      const states = fold(start, events).told.filter((one) => one !== 'reset')
      let last: DriverState = start.state
      for (const state of states) {
        assert.notDeepEqual([state.kind, 'cause' in state && state.cause], [last.kind, 'cause' in last && last.cause])
        last = state
      }
    }),
  )
})

test('what is asked takes its cause from what was known, where both agree', () => {
  const known: DriverState = { kind: 'powered-off', cause: 'guest' }
  assert.deepEqual(stateOfRunState('shutdown', known), known)
  assert.deepEqual(stateOfRunState('paused', { kind: 'paused', cause: 'requested' }, { kind: 'running' }), {
    kind: 'paused',
    cause: 'requested',
  })
  assert.deepEqual(stateOfRunState('shutdown', { kind: 'running' }), { kind: 'powered-off', cause: 'unknown' })
  assert.deepEqual(stateOfRunState('io-error', { kind: 'paused', cause: 'requested' }), { kind: 'paused', cause: 'io-error' })
  assert.deepEqual(stateOfRunState('guest-panicked', null).kind, 'crashed')
  assert.deepEqual(stateOfRunState('no such state', null), { kind: 'paused', cause: 'unknown' })
})
