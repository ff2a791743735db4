import assert from 'node:assert/strict'
import { test } from 'node:test'
import { VERB_DATA } from '@typevisor/api/verbs'
import type { Parsed } from './options.ts'
import { questionOf } from './confirm.ts'

const parsed = (target: string, query: Record<string, unknown> = {}): Parsed => ({
  params: { instance: target },
  query,
  body: {},
  rest: [],
  sources: new Map(),
})

test('every verb that destroys says what is lost', () => {
  for (const [name, verb] of Object.entries(VERB_DATA)) {
    if (!verb.cli?.confirms) continue
    const { loses } = questionOf(name, parsed('web-1'))
    assert.ok(loses.includes('web-1') && loses.length > `${name} web-1.`.length + 5, `${name}: ${loses}`)
  }
})

test('a name is typed again to go on, an id is not', () => {
  assert.equal(questionOf('instance.destroy', parsed('web-1')).answer, 'web-1')
  assert.equal(questionOf('operation.abandon', parsed('01890b5a-7c3d-7abc-8def-0123456789ab')).answer, 'yes')
})

test('destroying names how many snapshots go too', () => {
  const loses = (count: number | null) => questionOf('instance.destroy', parsed('web-1'), count).loses
  assert.equal(loses(0), 'web-1 is removed with its disks.')
  assert.equal(loses(1), 'web-1 is removed with its disks and its snapshot.')
  assert.equal(loses(3), 'web-1 is removed with its disks and its 3 snapshots.')
  assert.equal(loses(null), 'web-1 is removed with its disks and snapshots.')
})

test('with --force it says what else goes', () => {
  assert.match(questionOf('instance.destroy', parsed('web-1', { force: 'true' })).loses, /whether its host answers or not/)
  assert.match(questionOf('host.delete', parsed('rack-2', { force: 'true' })).loses, /its instances with it/)
  assert.doesNotMatch(questionOf('host.delete', parsed('rack-2', { force: 'false' })).loses, /instances/)
})
