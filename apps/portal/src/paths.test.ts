import assert from 'node:assert/strict'
import { test } from 'node:test'
import { path, PATHS, safeReturn } from './paths.ts'

test('after signing in one returns to the page asked for', () => {
  assert.equal(safeReturn('/instances/web-1/console?x=1'), '/instances/web-1/console?x=1')
})

test('a return address of another site is not followed', () => {
  for (const hostile of [
    '//evil.example',
    '/\\evil.example',
    'https://evil.example',
    'javascript:alert(1)',
    '/a\nb',
    '',
    null,
    7,
    '/\t/evil',
  ]) {
    assert.equal(safeReturn(hostile), PATHS.instances, String(hostile))
  }
})

test('signing in never returns to the sign-in page', () => {
  assert.equal(safeReturn('/sign-in?return=/sign-in'), PATHS.instances)
})

test('a path carries the instance it is about', () => {
  assert.deepEqual(path.console('web-1'), { to: '/instances/$instance/console', params: { instance: 'web-1' } })
})
