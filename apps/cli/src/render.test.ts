import assert from 'node:assert/strict'
import { test } from 'node:test'
import { durationText, localTime } from './format.ts'
import { renderReply } from './render.ts'

const NOW = Date.UTC(2026, 10, 27, 12, 0, 0)
const page = (...items: object[]) => ({ items, total: items.length, nextCursor: null })
const id = '01890b5a-7c3d-7abc-8def-0123456789ab'
const operation = {
  id,
  name: 'instance.create',
  resource: id,
  resourceName: 'web-1',
  state: 'stuck',
  step: null,
  progress: null,
  fault: { code: 'failed', message: 'no' },
  createdAt: NOW - 60_000,
  updatedAt: NOW,
}

test('times are local and ISO 8601, durations in the unit that fits', () => {
  assert.match(localTime(NOW), /^2026-11-2[678]T\d\d:\d\d:00[+-]\d\d:\d\d$/)
  assert.equal(Date.parse(localTime(NOW)), NOW)
  assert.deepEqual([0, 250, 60_000, 600_000, 9_000_000].map(durationText), ['0 ms', '250 ms', '60 s', '10 min', '2.5 h'])
})

test('no table shows milliseconds since 1970, nor raw bytes', () => {
  const account = { id, name: 'ada', role: 'admin', createdAt: NOW - 7_200_000, disabled: false }
  assert.equal(
    renderReply('account.list', page(account), NOW, 200),
    'NAME  ROLE   MAY SIGN IN  AGE\nada   admin  yes          2 h',
  )
  const token = { id, name: 't', account: 'ada', scopes: ['*'], createdAt: NOW, expiresAt: NOW, lastUsedAt: NOW - 5000 }
  const audit = {
    id: '1',
    at: NOW,
    account: 'ada',
    via: 'token',
    operation: 'instance.create',
    resource: id,
    resourceName: 'web-1',
    outcome: 'ok',
    address: null,
  }
  const shown = [
    renderReply('token.list', page(token), NOW, 500),
    renderReply('audit.list', page(audit), NOW, 500),
    renderReply('operation.get', operation, NOW, 500),
    renderReply(
      'instance.statistics',
      { at: NOW, cpuTimeNs: 1_500_000, residentBytes: 268_435_456, disks: [{ name: 'root', readBytes: 4096 }] },
      NOW,
      500,
    ),
  ].join('\n')
  assert.doesNotMatch(shown, new RegExp(String(NOW)))
  assert.match(shown, /resident +256 MiB/)
  assert.match(shown, /cpu time +1.5 ms/)
  assert.match(shown, /root +4 KiB/)
  assert.match(shown, /5 s ago/)
})

test('an operation is shown by the name of what it is about, by its id only where a server does not say', () => {
  assert.match(
    renderReply('operation.list', page(operation), NOW, 500),
    /instance.create +web-1 +stuck +60 s +no\n`typevisor operation retry ID`/,
  )
  const { resourceName: _, ...old } = operation
  assert.match(renderReply('operation.list', page({ ...old, state: 'done', fault: null }), NOW, 500), new RegExp(`${id} +done`))
})

test('an operation that waits says for what', () => {
  const waits = { ...operation, state: 'running', progress: 0, fault: null, waitsFor: 'host rack, which is not connected' }
  assert.match(
    renderReply('operation.list', page(waits), NOW, 500),
    /web-1 +waiting +60 s +waits for host rack, which is not connected/,
  )
})

test('what was done to an operation is a sentence', () => {
  assert.match(
    renderReply('operation.retry', { ...operation, state: 'undoing' }, NOW, 500),
    /^instance create of web-1: tried again \(undoing\); `typevisor operation get/,
  )
  assert.equal(
    renderReply('operation.abandon', { ...operation, state: 'undone' }, NOW, 500),
    'instance create of web-1: let go as it is (undone)',
  )
})

test('nothing that a guest or a user named moves the cursor', () => {
  assert.doesNotMatch(renderReply('instance.get', { name: 'a\x1b[2J', labels: { a: '\x07' } }, NOW, 80), /[\x1b\x07]/)
})

test("a host's volumes are counted in words, its times are local", () => {
  const volumeServer = { state: 'serving', since: NOW, startedAt: NOW, attachedCount: 0 }
  const shown = renderReply('host.get', { name: 'a', instanceCount: 2, volumeServer }, NOW, 80)
  assert.match(shown, /^instances +2$/m)
  assert.match(shown, /^ +attached +0$/m)
  for (const name of ['since', 'started']) assert.ok(new RegExp(`^ +${name} +(.*)$`, 'm').exec(shown)?.[1] === localTime(NOW))
})
