/**
 * For tests: Prometheus' own judge of a text. Debian's package brings a service that would start at its installation, so the program alone is
 * taken out of it, once for a machine.
 */
import { execFile, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { cacheFolder } from '../cache-folder.ts'

const run = promisify(execFile)
const CACHE = cacheFolder()

async function promtool(): Promise<string> {
  if (spawnSync('promtool', ['--version']).error === undefined) return 'promtool'
  const kept = join(CACHE, 'promtool')
  if (existsSync(kept)) return kept
  await mkdir(CACHE, { recursive: true })
  const folder = await mkdtemp(join(CACHE, 'promtool-'))
  try {
    await run('apt-get', ['download', '-q', 'prometheus'], { cwd: folder })
    const file = (await readdir(folder)).find((name) => name.endsWith('.deb'))
    if (file === undefined) throw new Error('apt-get download prometheus: no file came')
    await run('dpkg-deb', ['-x', file, 'content'], { cwd: folder })
    await rename(join(folder, 'content/usr/bin/promtool'), kept)
    return kept
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/** What `promtool check metrics` has to say of the text; nothing, when all is well. */
export async function promtoolSays(text: string): Promise<string> {
  const { status, stdout, stderr, error } = spawnSync(await promtool(), ['check', 'metrics'], { input: text, encoding: 'utf8' })
  if (error) throw error
  return status === 0 ? '' : `${stdout}${stderr}`
}
