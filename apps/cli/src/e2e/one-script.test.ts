/** The script on the command line: the lines of docs/one-script.md as a shell takes them, on a server and the agents of two hosts with real guests. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { clientEyes, STEPS, walk, whyNoScript, type StepName } from '@typevisor/agent/testing'
import { twoHosts } from './two-hosts.ts'

const ROOT = join(import.meta.dirname, '../../../..')
const sh = promisify(execFile)

interface Line {
  readonly step: string
  readonly line: string
}

/** Each ends in the name of its step. */
function documented(): Line[] {
  const page = readFileSync(join(ROOT, 'docs/one-script.md'), 'utf8')
  const [, block = ''] = /```\n([\s\S]*?)```/.exec(page) ?? []
  return block
    .trim()
    .split('\n')
    .map((text) => {
      const [, line = '', step = ''] = /^(.*?)\s+# ([a-z-]+)$/.exec(text) ?? []
      return { line, step }
    })
}

test('the lines of the docs do what they say, on two hosts', { skip: whyNoScript(), timeout: 600_000 }, async (t) => {
  const lines = documented()
  assert.deepEqual(
    lines.map(({ step }) => step),
    STEPS,
  )
  await using world = await twoHosts()
  const [{ dataDir: left }, { dataDir: right }] = world.hosts
  await using script = walk(clientEyes(world.life.client, { left, right }), (what) => t.diagnostic(what))
  const env = { ...process.env, TYPEVISOR_DATA: world.server.dataDir }
  for (const { line, step } of lines) {
    await t.test(line, async () => {
      await sh('/bin/sh', ['-c', line], { cwd: ROOT, env })
      await script.done(step as StepName) // they are those of the list
    })
  }
  script.over()
})
