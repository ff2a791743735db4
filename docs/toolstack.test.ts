import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { generated } from '../tools/docs.ts'
import { transitions } from '@typevisor/model'

const text = readFileSync(new URL('toolstack.md', import.meta.url), 'utf8')

test('pictures and tables of the toolstack are those of the code; `npm run generate` writes them', () => {
  assert.equal(generated(text), text)
})

test("the diagram's arrows are the transitions of the code's own tables", () => {
  const state = (name: string): string | null => (name === '[*]' ? null : name)
  const drawn = [...text.matchAll(/^ {4}(\S+) --> (\S+) : (.+)$/gm)].flatMap(([, from, to, labels]) =>
    (labels as string).split(/, (?![^(]*\))/).map((label) => ({
      from: state(from as string),
      to: state(to as string),
      by: label.replace(/^\((.*)\)$/, '$1'),
      asked: !label.startsWith('('),
    })),
  )
  const order = (list: readonly object[]): string[] => list.map((each) => JSON.stringify(each)).toSorted()
  assert.deepEqual(order(drawn), order(transitions()))
})
