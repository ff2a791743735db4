import assert from 'node:assert/strict'
import { test } from 'node:test'
import { consoleLog } from './log.ts'

const sink = (isTTY: boolean) => {
  const texts: string[] = []
  return { texts, isTTY, write: (text: string) => texts.push(text) }
}
const now = () => new Date(Date.UTC(2026, 0, 2, 3, 4, 5, 6))

test('a machine gets one JSON object a line, with the fields of the log it came from', () => {
  const out = sink(false)
  const log = consoleLog({ out, now }).with({ host: 'a' })
  log.debug('too.quiet')
  log.info('saga.resumed', { saga: 'x', attempt: 2 })
  assert.deepEqual(out.texts, [
    '{"time":"2026-01-02T03:04:05.006Z","level":"info","event":"saga.resumed","host":"a","saga":"x","attempt":2}\n',
  ])
})

test('a person gets a line to read, and no field can move the cursor', () => {
  const out = sink(true)
  consoleLog({ out, now, level: 'debug' }).warn('guest.renamed', { name: '\x1b[2Jevil', title: 'two words', nothing: undefined })
  const plain = out.texts.join('').replaceAll(/\x1b\[\d+m/g, '')
  assert.equal(plain, '03:04:05.006 warn  guest.renamed name="\\u001b[2Jevil" title="two words"\n')
})
