/** `npm run bench -- AREA [ARG ...]`: runs the benchmarks of an area. Each prints what it measured beside its budget, and fails when it missed it. */
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'

const AREAS: Readonly<Record<string, readonly string[]>> = {
  platform: ['apps/cli/src/platform.bench.ts'],
  saga: ['packages/saga/src/saga.bench.ts'],
  boot: ['packages/image/src/boot.bench.ts'],
  toolstack: ['apps/cli/src/toolstack.bench.ts', 'apps/server/src/agents/events.bench.ts'],
  migration: ['apps/agent/src/migration/migration.bench.ts'],
  volumes: ['packages/storage/src/volumes.bench.ts'],
}

const [area, ...argv] = process.argv.slice(2)
const files = area === undefined ? undefined : AREAS[area]
if (!files) {
  process.stderr.write(`bench: got ${JSON.stringify(area)}, want ${Object.keys(AREAS).join(', ')}\n`)
  process.exit(2)
}
let failed = 0
for (const file of files) {
  const { status } = spawnSync(process.execPath, [join(import.meta.dirname, '..', file), ...argv], {
    stdio: 'inherit',
    env: { ...process.env, NODE_NO_WARNINGS: '1' },
  })
  if (status !== 0) failed += 1
}
process.exit(failed === 0 ? 0 : 1)
