import assert from 'node:assert/strict'
import { setImmediate as turn } from 'node:timers/promises'
import { test } from 'node:test'
import { closingOf, ScreenSession, type ScreenHandlers, type ScreenStatus } from './screen-session.ts'

function rig() {
  const statuses: ScreenStatus[] = []
  const connections: (ScreenHandlers & { closed: boolean })[] = []
  const waits: number[] = []
  const machine = { live: true }
  const session = new ScreenSession({
    connect(handlers) {
      const connection = { ...handlers, closed: false }
      connections.push(connection)
      return {
        close() {
          connection.closed = true
          handlers.onClose('')
        },
      }
    },
    status: (status) => statuses.push(status),
    live: () => machine.live,
    wait: async (ms) => void waits.push(ms),
    random: () => 0.5,
  })
  const last = () => connections.at(-1) ?? assert.fail('nothing was connected')
  return { session, statuses, connections, waits, machine, last, kinds: () => statuses.map((status) => status.kind) }
}

test('a lost connection is made anew, after pauses that grow until one holds', async () => {
  const { session, waits, connections, last, kinds } = rig()
  void session.run()
  for (const count of [1, 2, 3]) {
    last().onClose('unavailable: host rack-2: its agent is not connected')
    await turn()
    assert.equal(connections.length, count + 1)
  }
  assert.deepEqual(waits, [500, 1000, 2000])
  last().onOpen()
  last().onClose('')
  await turn()
  assert.equal(waits.at(-1), 500)
  assert.deepEqual(kinds().slice(-4), ['connecting', 'open', 'waiting', 'connecting'])
  session.close()
})

test('a machine that is off is said to be, and nothing is connected until it runs', async () => {
  const { session, machine, connections, last, kinds } = rig()
  const run = session.run()
  last().onOpen()
  machine.live = false
  last().onClose('')
  await run
  assert.deepEqual(kinds(), ['connecting', 'open', 'ended'])
  machine.live = true
  void session.run()
  assert.equal(connections.length, 2)
  session.close()
})

test('a screen that there is not is asked for once', async () => {
  const { session, statuses, connections, last } = rig()
  const run = session.run()
  last().onClose('unsupported: vnc: domains in memory have no screen')
  await run
  assert.equal(connections.length, 1)
  assert.deepEqual(statuses.at(-1), { kind: 'refused', reason: 'vnc: domains in memory have no screen' })
})

test('leaving the page closes the connection', async () => {
  const { session, last } = rig()
  const run = session.run()
  session.close()
  await run
  assert.equal(last().closed, true)
})

test('a reason is read as the server writes it', () => {
  assert.deepEqual(closingOf('conflict: vnc web-1: it is stopped'), { code: 'conflict', message: 'vnc web-1: it is stopped' })
  assert.deepEqual(closingOf('constructor: x'), { code: null, message: 'constructor: x' })
  assert.deepEqual(closingOf(''), { code: null, message: 'The connection is lost.' })
})
