import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault } from '@typevisor/base'
import type { OperationName } from '@typevisor/api'
import { VERB_DATA } from '@typevisor/api/verbs'
import { parseWords } from './options.ts'
import { assertCanWait, takeOwn } from './own-flags.ts'

const ownOf = (name: OperationName, ...words: string[]) => {
  const own = takeOwn(VERB_DATA[name], words)
  assertCanWait(name, own, parseWords(name, VERB_DATA[name], own.words))
  return own
}
const refused = (message: RegExp, name: OperationName, ...words: string[]) =>
  assert.throws(
    () => ownOf(name, ...words),
    (error) => error instanceof Fault && error.code === 'invalid' && message.test(error.message),
  )

test('what is waited for is taken out of the words, up to --', () => {
  const { waitFor, noWait, yes, words } = ownOf('instance.create', 'a', '--wait', 'agent', '--vcpus', '2')
  assert.deepEqual([waitFor, noWait, yes, words], ['agent', false, false, ['a', '--vcpus', '2']])
  assert.deepEqual(takeOwn(VERB_DATA['instance.exec'], ['a', '--', '--yes']).words, ['a', '--', '--yes'])
})

test('a wait that can never end is refused before anything is asked', () => {
  refused(/--wait agent and --no-start contradict/, 'instance.create', 'a', '--no-start', '--wait', 'agent')
  refused(/--wait console and --no-wait contradict/, 'instance.create', 'a', '--no-wait', '--wait=console')
  for (const name of ['instance.save', 'instance.shutdown', 'instance.destroy', 'instance.poweroff', 'instance.pause'] as const)
    refused(/no guest runs after instance/, name, 'a', '--wait', 'agent')
  refused(/no guest runs after image build/, 'image.build', 'micro', '--wait', 'console')
  refused(/--wait: got "guest", want console, agent or done/, 'instance.start', 'a', '--wait', 'guest')
  refused(/--wait: got nothing/, 'instance.start', 'a', '--wait')
})

test('what is not a long operation has no --wait of that kind', () => {
  refused(/unknown flag --wait/, 'instance.list', '--wait', 'console')
  const { words } = ownOf('operation.get', '01890b5a-7c3d-7abc-8def-0123456789ab', '--wait', '20')
  assert.deepEqual(words.slice(1), ['--wait', '20'])
})
