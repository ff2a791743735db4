/** The scripts in the shells that they are for; bash, and names asked of a server, have their test in `e2e/completion.test.ts`. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdir, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { temporaryFolder } from '@typevisor/runtime-node/testing'

const execute = promisify(execFile)
const SHIM = join(import.meta.dirname, '../../../../typevisor')

/** Runs a script where `typevisor` is on the PATH and no server is near. */
async function inShell(argv: readonly string[]): Promise<{ stdout: string; stderr: string }> {
  await using folder = await temporaryFolder()
  const bin = join(folder.path, 'bin')
  await mkdir(bin)
  await symlink(SHIM, join(bin, 'typevisor'))
  const [shell = '', ...rest] = argv
  const env = { ...process.env, HOME: folder.path, TYPEVISOR_DATA: folder.path, PATH: `${bin}:${process.env['PATH']}` }
  return await execute(shell, rest, { env, timeout: 60_000 })
}

const LINES: Readonly<Record<string, readonly string[]>> = {
  'typevisor instan': ['instance'],
  'typevisor instance sta': ['start', 'statistics'],
  'typevisor instance create x --me': ['--memory', '--memory-max'],
  'typevisor instance create x --wait a': ['agent'],
  'typevisor instance list --state sa': ['saved'],
  'typevisor help im': ['image'],
  'typevisor completion ': ['bash', 'fish', 'zsh'],
  'typevisor start --driver ': ['qemu', 'sim'],
  'typevisor volume li': ['limit', 'list'],
  'typevisor volume limit web --io': ['--iops'],
  'typevisor agent --ser': ['--server'],
  // What is named like a noun is none; the command in a guest, and what follows the last word, are not ours.
  'typevisor host list ins': [],
  'typevisor instance exec hello -- ': [],
  'typevisor instance start web-1 ': [],
  'typevisor start --data /etc/debian_v': ['/etc/debian_version'],
}

test('fish offers verbs, flags and values where they belong', async () => {
  const ask = Object.keys(LINES).map((line) => `complete -C "${line}" | string replace -r '\\t.*' ''; echo ==`)
  const script = ['typevisor completion fish | source', ...ask].join('\n')
  const { stdout, stderr } = await inShell(['fish', '--no-config', '-c', script])
  assert.equal(stderr, '')
  const answers = stdout.split('==\n').map((part) => part.split('\n').filter((word) => word !== ''))
  assert.deepEqual(Object.fromEntries(Object.keys(LINES).map((line, index) => [line, answers[index]])), LINES)
})

test('zsh completes what is typed, with nothing set up before', async () => {
  const script = String.raw`
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z 'PS1="> "; source <(typevisor completion zsh); echo re""ady'
zpty -r z out '*ready*'
for line expected in 'typevisor instan' '*instance*' 'typevisor instance unp' '*unpause*' 'typevisor instance list --state sav' '*saved*'; do
  zpty -w -n z "$line"$'\t'
  zpty -r z out "$expected"
  zpty -w -n z $'\025'
done
zpty -w z exit
echo completed; print -r -- $out`
  const { stdout, stderr } = await inShell(['zsh', '-f', '-c', script])
  assert.match(stdout, /^completed/)
  assert.equal(stderr, '')
})
