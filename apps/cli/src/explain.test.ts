import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault } from '@typevisor/base'
import { parseInput, type OperationName } from '@typevisor/api'
import { VERB_DATA } from '@typevisor/api/verbs'
import { explained } from './explain.ts'
import { parseWords } from './options.ts'

/** What the server's own validation says of these words, as the command line tells it. */
function told(name: OperationName, ...words: string[]): string {
  const title = name.replace('.', ' ')
  const parsed = parseWords(title, VERB_DATA[name], words)
  try {
    parseInput(name, {
      params: parsed.params,
      query: parsed.query,
      body: VERB_DATA[name].body.length > 0 ? parsed.body : undefined,
    })
  } catch (error) {
    const fault = explained(error, title, VERB_DATA[name], parsed)
    assert.ok(fault instanceof Fault && fault.code === 'invalid' && fault.details.length > 0)
    return fault.message
  }
  return ''
}

test('what is wrong is told by the flag or word that it came from, as it was written', () => {
  assert.equal(told('instance.create', 'x', '--memory', '1K'), 'instance create: --memory: got "1K", want at least 64 MiB')
  assert.match(told('instance.create', 'Bad_Name'), /^instance create: NAME: got "Bad_Name", want 1 to 63 of a-z/)
  assert.equal(told('instance.list', '--limit=0'), 'instance list: --limit: got "0", want at least 1')
  assert.match(told('operation.get', 'x'), /^operation get: OPERATION: got "x", want a UUID/)
  assert.match(told('instance.exec', 'a', '--timeout', '1h', '--', 'ls'), /--timeout: got "1h", want at most 10 min/)
})

test('of a flag given more than once the wrong one is told', () => {
  const said = told(
    'instance.create',
    'x',
    '--forward',
    '80:80',
    '--forward',
    '99999:22',
    '--label',
    'ok=1',
    '--label',
    'Bad Key=x',
  )
  assert.match(said, /^instance create:\n/)
  assert.match(said, /\n {2}--forward: got "99999:22", want at most 65535/)
  assert.match(said, /\n {2}--label: got "Bad Key=x"/)
})

test('a password is told by its length alone', () => {
  const said = told('account.create', 'bob', '--password', 'hunter2')
  assert.match(said, /^account create: --password: got 7 characters \(not shown\), want at least 10 characters/)
  assert.doesNotMatch(said, /hunter2/)
})

test('no field of the API has a name on the command line that its own table does not know', () => {
  for (const [name, verb] of Object.entries(VERB_DATA)) {
    for (const [part, fields] of [
      ['params', verb.params],
      ['query', verb.query],
      ['body', verb.body],
    ] as const) {
      for (const field of fields) {
        const fault = new Fault('invalid', 'x', { details: [{ path: `${part}.${field.name}`, want: 'w', got: 'g' }] })
        const parsed = { params: {}, query: {}, body: {}, rest: [], sources: new Map() }
        const message = (explained(fault, name, verb, parsed) as Fault).message
        assert.doesNotMatch(message, /params\.|query\.|body\./, message)
      }
    }
  }
})
