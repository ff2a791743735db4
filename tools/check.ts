/** `npm run check`: types, lint, format and architecture, in under a minute; every part runs and all complaints are shown. */
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'

const root = join(import.meta.dirname, '..')
const bin = (name: string) => join(root, 'node_modules', '.bin', name)
const parts: readonly (readonly [string, readonly string[]])[] = [
  [bin('tsc'), ['-p', 'tsconfig.json']],
  [bin('tsc'), ['-p', 'apps/portal/tsconfig.json']],
  [bin('oxlint'), ['--deny-warnings']],
  [bin('oxfmt'), ['--check', '.']],
  [process.execPath, ['--test', '--test-reporter=./tools/test-reporter.ts', 'ARCHITECTURE.test.ts']],
]
let failed = 0
for (const [command, argv] of parts) {
  const begin = performance.now()
  const { status } = spawnSync(command, argv, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] })
  const title = `${command.split('/').at(-1)} ${argv.join(' ')}`
  process.stderr.write(`${status === 0 ? 'ok  ' : 'FAIL'} ${title} (${((performance.now() - begin) / 1000).toFixed(1)} s)\n`)
  if (status !== 0) failed += 1
}
process.exit(failed === 0 ? 0 : 1)
