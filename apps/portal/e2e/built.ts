/** The portal as it is served: built when there is no build, or when a source is newer than it. */
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const run = promisify(execFile)
export const PORTAL = fileURLToPath(new URL('..', import.meta.url))
export const DIST = join(PORTAL, 'dist')
const VITE = fileURLToPath(new URL('../../../node_modules/vite/bin/vite.js', import.meta.url))

export async function build(outDir: string): Promise<void> {
  await run(process.execPath, [VITE, 'build', '--outDir', outDir, '--emptyOutDir'], { cwd: PORTAL })
}

async function newestMs(folder: string): Promise<number> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  const times = await Promise.all(
    entries.filter((entry) => entry.isFile()).map(async (entry) => (await stat(join(entry.parentPath, entry.name))).mtimeMs),
  )
  return Math.max(0, ...times)
}

export async function ensureBuilt(): Promise<void> {
  const page = join(DIST, 'index.html')
  const sources = Math.max(
    await newestMs(join(PORTAL, 'src')),
    await newestMs(join(PORTAL, 'public')),
    await newestMs(join(PORTAL, 'build')),
    (await stat(join(PORTAL, 'vite.config.ts'))).mtimeMs,
  )
  if (existsSync(page) && (await stat(page)).mtimeMs > sources) return
  await build(DIST)
}
