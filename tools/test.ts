/**
 * `npm test [-- PATTERN ...]`: unit, property, conformance, API and browser tests; `npm run test:long` runs the `*.long.test.ts` too. A
 * pattern is a part of a file's path. Real parts (QEMU, PostgreSQL, Chromium) are started by the tests that need them.
 */
import { spawnSync } from 'node:child_process'
import { globSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'

const root = join(import.meta.dirname, '..')
const words = process.argv.slice(2)
const long = words.includes('--long')
const patterns = words.filter((word) => !word.startsWith('--'))

const files = globSync(
  ['ARCHITECTURE.test.ts', 'docs/**/*.test.ts', 'tools/**/*.test.ts', 'packages/**/*.test.ts', 'apps/**/*.test.ts'],
  {
    cwd: root,
    exclude: (name) => name.includes('node_modules') || name.includes('dist'),
  },
)
  .filter((file) => long || !file.endsWith('.long.test.ts'))
  .filter((file) => patterns.length === 0 || patterns.some((pattern) => file.includes(pattern)))
  .toSorted()

if (files.length === 0) {
  process.stderr.write(`no test file has ${patterns.join(' or ')} in its path\n`)
  process.exit(1)
}
const { status } = spawnSync(
  process.execPath,
  [
    '--test',
    `--test-concurrency=${Math.max(1, Math.min(2, availableParallelism()))}`,
    `--test-reporter=${join(root, 'tools/test-reporter.ts')}`,
    '--test-reporter-destination=stdout',
    ...files,
  ],
  { cwd: root, stdio: 'inherit', env: { ...process.env, NODE_NO_WARNINGS: '1' } },
)
process.exit(status ?? 1)
