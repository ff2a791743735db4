import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Fault } from '@typevisor/base'
import { formatNbdUri, parseNbdUri } from './uri.ts'

test('URIs are read as the specification has them', () => {
  assert.deepEqual(parseNbdUri('nbd://host/name'), { address: { host: 'host', port: 10_809 }, exportName: 'name', tls: false })
  assert.deepEqual(parseNbdUri('nbds://[::1]:1/a%20b'), { address: { host: '::1', port: 1 }, exportName: 'a b', tls: true })
  assert.deepEqual(parseNbdUri('nbd+unix:///x?socket=/s+t'), { address: { socketPath: '/s+t' }, exportName: 'x', tls: false })
  for (const wrong of ['', 'http://x', 'nbd+unix:///x', 'nbd:///x', 'nbd://x/%ff'])
    assert.throws(
      () => parseNbdUri(wrong),
      (error) => error instanceof Fault && error.code === 'invalid',
      wrong,
    )
})

test('URIs are written so that other programs read the same', () => {
  assert.equal(formatNbdUri({ host: '::1', port: 10_809 }, { exportName: 'web@monday' }), 'nbd://[::1]:10809/web@monday')
  assert.equal(formatNbdUri({ host: '127.0.0.1', port: 7 }, { tls: true }), 'nbds://127.0.0.1:7')
  assert.equal(
    formatNbdUri({ socketPath: '/a b/c&d' }, { exportName: 'x y', tls: true }),
    'nbds+unix:///x%20y?socket=/a%20b/c%26d',
  )
})

test('what is written is read again', () => {
  const name = fc.string({ unit: 'grapheme' }).filter((text) => !text.startsWith('/') && !/(^|\/)\.\.?(\/|$)/.test(text))
  const address = fc.oneof(
    fc.string({ unit: 'grapheme', minLength: 1 }).map((path) => ({ socketPath: `/${path}` })),
    fc.record({
      host: fc.oneof(fc.ipV4(), fc.constant('::1'), fc.constant('host.example')),
      port: fc.integer({ min: 1, max: 65_535 }),
    }),
  )
  fc.assert(
    fc.property(address, name, fc.boolean(), (where, exportName, tls) => {
      assert.deepEqual(parseNbdUri(formatNbdUri(where, { exportName, tls })), { address: { ...where }, exportName, tls })
    }),
  )
})
