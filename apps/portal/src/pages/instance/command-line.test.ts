import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseCommandLine } from './command-line.ts'

test('blanks part words; quotes and backslashes keep them together', () => {
  assert.deepEqual(parseCommandLine(`  sh -c 'echo "a  b"' "it's" one\\ word "" `), {
    ok: true,
    argv: ['sh', '-c', 'echo "a  b"', "it's", 'one word', ''],
  })
})

test('what a shell would do is left to a shell', () => {
  assert.deepEqual(parseCommandLine('echo $HOME | wc > x; ls *'), {
    ok: true,
    argv: ['echo', '$HOME', '|', 'wc', '>', 'x;', 'ls', '*'],
  })
})

test('an open quote, a last backslash and nothing at all are said to be wrong', () => {
  for (const text of ['echo "a', "echo 'a", 'echo \\', '', '   ']) assert.equal(parseCommandLine(text).ok, false, text)
})
