/** What is counted, and what the run ends with: `.ci/run` trusts the closing line and the exit code. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'

const reporter = join(import.meta.dirname, 'test-reporter.ts')

function reported(body: string, ci: boolean): { status: number | null; said: string } {
  const folder = mkdtempSync(join(tmpdir(), 'tv-reporter-'))
  try {
    const file = join(folder, 'some.test.mjs')
    writeFileSync(file, `import { test } from 'node:test'\n${body}`)
    const { NODE_TEST_CONTEXT: _, CI: __, ...env } = process.env
    const argv = ['--test', `--test-reporter=${reporter}`, '--test-reporter-destination=stdout', file]
    const { status, stdout } = spawnSync(process.execPath, argv, {
      cwd: folder,
      encoding: 'utf8',
      env: { ...env, ...(ci ? { CI: '1' } : {}) },
    })
    return { status, said: stdout }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
const SKIPPED = "test('runs', () => {})\ntest('needs a part', { skip: 'no part' }, () => {})"

test('a skipped test is told with its reason, and is neither passed nor failed', () => {
  const { status, said } = reported(SKIPPED, false)
  assert.equal(status, 0)
  assert.match(said, /skipped: needs a part: no part\n/)
  assert.match(said, /\n1 skipped\n[^]*\n1 passed, 0 failed\n$/)
})

test('in CI a skipped test is a failed one', () => {
  const { status, said } = reported(SKIPPED, true)
  assert.equal(status, 1)
  assert.match(said, /in CI no test may be skipped\n[^]*\n1 passed, 1 failed\n$/)
  assert.match(readFileSync(join(import.meta.dirname, '../.ci/run'), 'utf8'), /^CI=1 exec npm test$/m)
})

test('what an error was caused by is told', () => {
  const thrown = "throw new Error('round 3', { cause: new Error('a stray', { cause: new Error('no such file') }) })"
  const { said } = reported(`test('fails', () => { ${thrown} })`, false)
  assert.match(said, /Error: round 3\n[^]*caused by: Error: a stray\n[^]*caused by: Error: no such file\n/)
})

test('a failed test, and a file that dies before its tests, fail the run', () => {
  assert.match(
    reported("test('fails', () => { throw new Error('so') })", false).said,
    /FAILED [^]*fails[^]*\n0 passed, 1 failed\n$/,
  )
  const { status, said } = reported("throw new Error('dies')", false)
  assert.equal(status, 1)
  assert.match(said, /\n0 passed, 1 failed\n$/)
})

test('a seed that fails is told with the command that runs it again', () => {
  const underSeeds = join(import.meta.dirname, '../packages/sim/src/under-seeds.ts')
  const body = `import { underSeeds } from ${JSON.stringify(underSeeds)}
test('holds', () => underSeeds('some.sim', async () => { throw new Error('block 7 is wrong') }, [5]))`
  assert.match(reported(body, false).said, /FAILED [^]*holds\n\s+SEED=5 npm test -- some\.sim\n[^]*block 7 is wrong/)
})
