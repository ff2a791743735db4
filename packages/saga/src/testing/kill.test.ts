import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { seededRng } from '@typevisor/sim'

const SAGA_COUNT = 400
const STEP_COUNT = 4
const KILL_COUNT = 8

const program = fileURLToPath(new URL('./kill-child.ts', import.meta.url))

/** Runs the child; kills it `killAfterMs` after it has work, unless it is null. Answers what it said when it came to its end. */
async function life(folder: string, killAfterMs: number | null): Promise<string | null> {
  const child = spawn(process.execPath, [program, folder, String(SAGA_COUNT)], { stdio: ['ignore', 'pipe', 'inherit'] })
  let said = ''
  let timer: NodeJS.Timeout | undefined
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    said += text
    if (killAfterMs !== null) timer ??= setTimeout(() => child.kill('SIGKILL'), killAfterMs)
  })
  const code = await new Promise((resolve) => child.once('close', resolve))
  clearTimeout(timer)
  return code === 0 ? (said.trim().split('\n').at(-1) ?? '') : null
}

test('sagas of a process that is killed again and again by SIGKILL all end, and the world is as they say', async (t) => {
  const seed = Date.now() % 100_000
  t.diagnostic(`seed ${seed}`)
  const rng = seededRng(seed)
  const folder = await mkdtemp(join(tmpdir(), 'tv-kill-'))
  try {
    await mkdir(join(folder, 'world'))
    let killed = 0
    while (killed < KILL_COUNT && (await life(folder, rng.below(40))) === null) killed += 1
    t.diagnostic(`killed ${killed} times`)
    const said = await life(folder, null)
    assert.ok(said !== null, 'the last life came to its end')
    const ends = JSON.parse(said) as { id: string; kind: string; effects: number }[]
    const files = new Set(await readdir(join(folder, 'world')))
    assert.equal(ends.length, SAGA_COUNT)
    ends.forEach(({ id, kind, effects }, index) => {
      const done = index % 3 !== 0
      assert.equal(kind, done ? 'done' : 'undone', id)
      assert.equal(effects, done ? STEP_COUNT : 0, `effects of ${id}`)
      for (let step = 0; step < STEP_COUNT; step += 1) assert.equal(files.has(`${id}.${step}`), done, `${id}.${step}`)
    })
    assert.ok(killed > 0, 'it was killed at least once')
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
})
