/**
 * Programs of a newer Debian than the machine's own, beside it: packages are fetched by a private apt (its own state, the machine's own
 * mirror) and unpacked into a folder; programs run with the loader and the libraries in it.
 */
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'

/** Kept from run to run. */
const CACHE = join(import.meta.dirname, '../../../../node_modules/.cache/typevisor-debian')
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg'

function must(program: string, words: readonly string[]): string {
  const { status, stdout, stderr, error } = spawnSync(program, words, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${program} ${words.join(' ')}: ${error?.message ?? stderr}`)
  return stdout
}

/** @returns the words with which a program of the unpacked packages is run. */
export async function newerDebian(
  suite: string,
  packages: readonly string[],
): Promise<(program: string) => [string, ...string[]]> {
  const root = join(CACHE, `${suite}-${packages.join('-')}`)
  if (!existsSync(root)) await unpack(suite, packages, root)
  const library = join(root, 'usr/lib/x86_64-linux-gnu')
  return (program) => [join(library, 'ld-linux-x86-64.so.2'), '--library-path', library, join(root, 'usr/bin', program)]
}

async function unpack(suite: string, packages: readonly string[], root: string): Promise<void> {
  const making = `${root}.${process.pid}`
  const apt = join(making, 'apt')
  for (const folder of ['state/lists/partial', 'cache/archives/partial']) await mkdir(join(apt, folder), { recursive: true })
  const mirror = must('apt-get', ['indextargets', '--format', '$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)'])
    .split('\n')
    .map((line) => line.split('|'))
    .find(([origin, label, component]) => origin === 'Debian' && label === 'Debian' && component === 'main')?.[3]
  if (mirror === undefined) throw new Error("apt-get indextargets: none of this machine's sources is Debian's main")
  await writeFile(join(apt, 'sources.list'), `deb [signed-by=${KEYRING}] ${mirror} ${suite} main\n`)
  await writeFile(join(apt, 'status'), '')
  const options = {
    'Dir::State': join(apt, 'state'),
    'Dir::State::status': join(apt, 'status'),
    'Dir::Cache': join(apt, 'cache'),
    'Dir::Etc::sourcelist': join(apt, 'sources.list'),
    'Dir::Etc::sourceparts': '/dev/null',
    'APT::Install-Recommends': 'false',
    'APT::Sandbox::User': 'root',
  }
  const set = Object.entries(options).flatMap(([name, value]) => ['-o', `${name}=${value}`])
  must('apt-get', [...set, 'update', '-qq'])
  must('apt-get', [...set, '--download-only', '-y', '-qq', 'install', ...packages])
  const archives = join(apt, 'cache/archives')
  for (const name of await readdir(archives)) if (name.endsWith('.deb')) must('dpkg', ['-x', join(archives, name), making])
  await rm(apt, { recursive: true })
  await mkdir(dirname(root), { recursive: true })
  // Two at once: whoever comes first is right.
  await rename(making, root).catch(() => rm(making, { recursive: true }))
}
