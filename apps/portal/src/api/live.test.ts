import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isStale, reconnectAfterMs, type PlatformEvent, type QueryKey } from './live.ts'

const event = (kind: string, resource: string | null = 'id-1', name: string | null = 'web-1'): PlatformEvent => ({
  sequence: '1',
  at: 0,
  kind,
  resource,
  name,
  data: {},
})
const about = (instance: string): QueryKey => ['instance.get', { params: { instance } }]

test('a change of one instance leaves the pages of the others alone', () => {
  assert.equal(isStale(about('web-1'), event('instance.state')), true)
  assert.equal(isStale(about('id-1'), event('instance.state')), true)
  assert.equal(isStale(about('web-2'), event('instance.state')), false)
})

test('a change of an instance makes every list of instances stale', () => {
  assert.equal(isStale(['instance.list', { query: { search: 'x' } }], event('instance.created')), true)
  assert.equal(isStale(['token.list', {}], event('instance.created')), false)
})

test('the history of one thing is stale only by its own events', () => {
  const history: QueryKey = ['event.list', { query: { resource: 'id-1' } }]
  assert.equal(isStale(history, event('instance.state', 'id-1')), true)
  assert.equal(isStale(history, event('instance.state', 'id-2', 'web-2')), false)
  assert.equal(isStale(['event.list', {}], event('instance.state', 'id-2')), true)
})

test('what happens to a host makes stale what is shown of it, and nothing of another', () => {
  const about = (host: string): QueryKey => ['host.get', { params: { host } }]
  assert.equal(isStale(about('rack-1'), event('host.volume-server', 'rack-1', 'rack-1')), true)
  assert.equal(isStale(about('rack-2'), event('host.space', 'rack-1', 'rack-1')), false)
  assert.equal(isStale(about('rack-2'), event('instance.created')), true)
  assert.equal(isStale(['host.list', {}], event('host.space', 'rack-1', 'rack-1')), true)
})

test('an event of an unknown kind makes nothing stale but the histories', () => {
  assert.equal(isStale(['instance.list', {}], event('weather.rain')), false)
})

test('after a gap in the stream everything shown is asked for again', () => {
  assert.equal(isStale(['token.list', {}], event('event.gap', null, null)), true)
  assert.equal(isStale(['session.get', {}], event('event.gap', null, null)), false)
})

test('waits grow and stay bounded', () => {
  assert.equal(reconnectAfterMs(0, 0.5), 500)
  assert.equal(reconnectAfterMs(3, 0.5), 4000)
  assert.equal(reconnectAfterMs(60, 0.5), 10_000)
})
