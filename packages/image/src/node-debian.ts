/**
 * The edge to Debian: names of packages in, their unpacked files out, by the machine's own apt and dpkg-deb.
 *
 *   <cache>/archives/<package>_<version>_<arch>.deb    each checked against the SHA256 of apt's signed lists
 *   <cache>/unpacked/<sha256>/                         dpkg-deb -x; made under another name and renamed, so it is whole or not there
 *   <cache>/apt/                                       lists of our own, only where the machine has none (or old ones)
 *   <cache>/apt-<arch>-<suite>/                      the same for another architecture: the machine's mirror, and no more of the machine
 *   <cache>/resolved-<digest>.json                     the last answer of apt to a question, for a machine that has lost lists and network since
 *
 * Nothing is installed on the machine, no package script is run, and no root is needed.
 */
import { createHash, randomUUID } from 'node:crypto'
import { chmod, mkdir, mkdtemp, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { Fault } from '@typevisor/base'
import { runChecked, type CommandRunner } from '@typevisor/storage'
import type { MicroInput } from './micro.ts'

export interface DebianPackage {
  readonly name: string
  readonly version: string
  readonly fileName: string
  readonly sizeBytes: number
  readonly sha256: string
}

export interface DebianOptions {
  readonly runner: CommandRunner
  /** Absolute; made when missing. */
  readonly cacheFolder: string
  /** Packages of another architecture than the machine's, by Debian's name for it, which the machine need not know of. */
  readonly foreign?: { readonly architecture: string; readonly suite: string }
  readonly signal?: AbortSignal | undefined
  readonly progress?: (fraction: number, message: string) => void
}

const DEPENDS = [
  'depends',
  '--no-recommends',
  '--no-suggests',
  '--no-conflicts',
  '--no-breaks',
  '--no-replaces',
  '--no-enhances',
] as const
/** Which dependencies are followed: libraries, and the kernel behind its meta package. The rest (perl, dpkg) serves package scripts only. */
const FOLLOWED = /^(?:lib|zlib1g|linux-image-\d)/

/** @throws Fault `unavailable` when apt cannot reach its archive, `exhausted` without space, `failed` for a damaged package. */
export async function fetchPackages(
  roots: readonly string[],
  options: DebianOptions,
): Promise<{ folders: string[]; packages: DebianPackage[] }> {
  const { cacheFolder, runner, signal } = options
  await mkdir(join(cacheFolder, 'archives'), { recursive: true })
  await mkdir(join(cacheFolder, 'unpacked'), { recursive: true })
  options.progress?.(0, 'asking apt for package versions')
  const packages = await resolve(roots, options)
  const folders: string[] = []
  for (const [index, each] of packages.entries()) {
    signal?.throwIfAborted()
    options.progress?.(0.1 + (0.9 * index) / packages.length, `${each.name} ${each.version}`)
    const folder = join(cacheFolder, 'unpacked', each.sha256)
    if (!(await isThere(folder))) await unpack(each, folder, options, runner)
    folders.push(folder)
  }
  return { folders, packages }
}

async function resolve(roots: readonly string[], options: DebianOptions): Promise<DebianPackage[]> {
  const question = createHash('sha256')
    .update([...roots, ...(options.foreign ? [options.foreign.architecture, options.foreign.suite] : [])].join())
    .digest('hex')
    .slice(0, 12)
  const memory = join(options.cacheFolder, `resolved-${question}.json`)
  try {
    const packages = await resolveWithApt(roots, options)
    // Others may ask the same at the same time.
    const fresh = `${memory}.${randomUUID()}`
    await writeFile(fresh, JSON.stringify({ roots, packages }))
    await rename(fresh, memory)
    return packages
  } catch (error) {
    if (!(error instanceof Fault) || error.code !== 'unavailable') throw error
    const known = JSON.parse(await readFile(memory, 'utf8').catch(() => '{}')) as { roots?: string[]; packages?: DebianPackage[] }
    if (known.packages === undefined || known.roots?.join() !== roots.join()) throw error
    options.progress?.(0, `apt does not answer; taking the versions of the last build (${error.message})`)
    return known.packages
  }
}

async function resolveWithApt(roots: readonly string[], options: DebianOptions): Promise<DebianPackage[]> {
  const own = await privateApt(options)
  const first = options.foreign ? 'the machine has no packages of another architecture' : await tryResolve(roots, [], options)
  if (Array.isArray(first)) return first
  const second = await tryResolve(roots, own, options)
  if (Array.isArray(second) && (await lastUpdated(options)) > Date.now() - 86_400_000) return second
  options.progress?.(0.02, 'fetching package lists')
  const update = await options.runner.run(['apt-get', '-q', ...own, 'update'], { signal: options.signal })
  const third = await tryResolve(roots, own, options)
  if (Array.isArray(third)) return third
  const words = lastLine(update.stderr) ?? third
  throw new Fault(/No space left/.test(update.stderr) ? 'exhausted' : 'unavailable', `fetch package lists with apt: ${words}`)
}

/** Packages sorted by name, or why not. */
async function tryResolve(
  roots: readonly string[],
  apt: readonly string[],
  options: DebianOptions,
): Promise<DebianPackage[] | string> {
  const wanted = new Set(roots)
  for (let level = [...roots]; level.length > 0;) {
    const answer = await options.runner.run(['apt-cache', ...apt, ...DEPENDS, '--', ...level], { signal: options.signal })
    if (answer.exitCode !== 0) return lastLine(answer.stderr) ?? 'apt-cache failed'
    const found = new TextDecoder()
      .decode(answer.stdout)
      .matchAll(/^ +\|?(?:Pre)?Depends: ([a-z0-9][a-z0-9.+-]*)(?::[a-z0-9]+)?$/gm)
    level = [...new Set([...found].map((match) => match[1] as string))].filter((name) => FOLLOWED.test(name) && !wanted.has(name)) // the group is not optional
    for (const name of level) wanted.add(name)
  }
  const answer = await options.runner.run(['apt-get', ...apt, 'download', '--print-uris', '--', ...[...wanted].sort()], {
    signal: options.signal,
  })
  if (answer.exitCode !== 0) return lastLine(answer.stderr) ?? 'apt-get failed'
  const lines = [
    ...new TextDecoder()
      .decode(answer.stdout)
      .matchAll(/^'[^']+' (([a-z0-9.+-]+)_([^_ /]+)_[^ /]+\.deb) (\d+) SHA256:([0-9a-f]{64})$/gm),
  ]
  const packages = lines.map(([, fileName, name, version, size, sha256]) => ({
    name: name ?? '',
    version: decodeURIComponent(version ?? ''),
    fileName: fileName ?? '',
    sizeBytes: Number(size),
    sha256: sha256 ?? '',
  }))
  const lacking = [...wanted].filter((name) => !packages.some((each) => each.name === name))
  return lacking.length > 0 ? `no download for ${lacking.join(', ')}` : packages.sort((a, b) => (a.name < b.name ? -1 : 1))
}

async function unpack(each: DebianPackage, folder: string, options: DebianOptions, runner: CommandRunner): Promise<void> {
  const archive = await obtain(each, options)
  const temporary = await mkdtemp(join(options.cacheFolder, 'unpacked', 'new-'))
  try {
    await runChecked(runner, ['dpkg-deb', '-x', archive, temporary], { signal: options.signal })
    await chmod(temporary, 0o755)
    await rename(temporary, folder).catch(async (error: unknown) => {
      if (!(await isThere(folder))) throw error // another build was first, which is as good
    })
  } finally {
    await rm(temporary, { recursive: true, force: true })
  }
}

async function obtain(each: DebianPackage, options: DebianOptions): Promise<string> {
  const archives = join(options.cacheFolder, 'archives')
  const path = join(archives, each.fileName)
  if ((await digestOf(path)) === each.sha256) return path
  const temporary = await mkdtemp(join(archives, 'new-'))
  try {
    let words = ''
    const own = await privateApt(options)
    for (const apt of options.foreign ? [own] : [[], own]) {
      const argv = [
        'apt-get',
        '-q',
        '-o',
        'APT::Sandbox::User=root',
        ...apt,
        'download',
        '--',
        `${each.name}=${each.version}`,
      ] as const
      const answer = await options.runner.run([...argv] as [string, ...string[]], { folder: temporary, signal: options.signal })
      if (/No space left/.test(answer.stderr)) throw new Fault('exhausted', `download ${each.name}: ${lastLine(answer.stderr)}`)
      const got = join(temporary, each.fileName)
      const digest = await digestOf(got)
      if (digest === each.sha256) {
        await rename(got, path)
        return path
      }
      words =
        digest === null ? (lastLine(answer.stderr) ?? `exit code ${answer.exitCode}`) : `SHA256 is ${digest}, want ${each.sha256}`
    }
    throw new Fault('unavailable', `download ${each.name} ${each.version} with apt: ${words}`)
  } finally {
    await rm(temporary, { recursive: true, force: true })
  }
}

/** Options that give apt its own state and cache beside the machine's sources and keys. */
async function privateApt(options: DebianOptions): Promise<string[]> {
  const folder = aptFolder(options)
  await mkdir(join(folder, 'lists', 'partial'), { recursive: true })
  await mkdir(join(folder, 'archives', 'partial'), { recursive: true })
  const status = join(folder, 'status')
  await writeFile(status, '', { flag: 'a' })
  const set = {
    'Dir::State': folder,
    'Dir::State::lists': join(folder, 'lists'),
    'Dir::State::status': status,
    'Dir::Cache': folder,
    'APT::Sandbox::User': 'root',
  }
  const { foreign } = options
  const other = foreign
    ? {
        'Dir::Etc::sourcelist': await foreignSources(folder, foreign.suite, options),
        'Dir::Etc::sourceparts': '-',
        'APT::Architecture': foreign.architecture,
        'APT::Architectures': foreign.architecture,
      }
    : {}
  return Object.entries({ ...set, ...other }).flatMap(([key, value]) => ['-o', `${key}=${value}`])
}

const aptFolder = ({ cacheFolder, foreign }: DebianOptions): string =>
  join(cacheFolder, foreign ? `apt-${foreign.architecture}-${foreign.suite}` : 'apt')

/** The machine's own mirror. @throws Fault `unavailable` when apt knows none. */
async function foreignSources(folder: string, suite: string, { runner, signal }: DebianOptions): Promise<string> {
  const path = join(folder, 'sources.list')
  if (await isThere(path)) return path
  const answer = await runner.run(['apt-get', 'indextargets', '--format', '$(COMPONENT) $(SUITE) $(REPO_URI)'], { signal })
  const mirrors = [...new TextDecoder().decode(answer.stdout).matchAll(/^main (\S+) (\S+)$/gm)]
  const mirror = (mirrors.find(([, of]) => !/security|updates|backports/.test(of ?? '')) ?? mirrors[0])?.[2]
  if (mirror === undefined) throw new Fault('unavailable', 'apt: it knows no mirror of Debian')
  await writeFile(path, `deb ${mirror} ${suite} main\n`)
  return path
}

const lastUpdated = async (options: DebianOptions): Promise<number> =>
  (await stat(join(aptFolder(options), 'lists')).catch(() => null))?.mtimeMs ?? 0
const isThere = async (path: string): Promise<boolean> => (await stat(path).catch(() => null)) !== null
const lastLine = (text: string): string | undefined =>
  text
    .trim()
    .split('\n')
    .filter((line) => /^[EW]: |error/i.test(line))
    .at(-1) ??
  text
    .trim()
    .split('\n')
    .filter((line) => line !== '')
    .at(-1)

async function digestOf(path: string): Promise<string | null> {
  const content = await readFile(path).catch(() => null)
  return content === null ? null : createHash('sha256').update(content).digest('hex')
}

/** All files of unpacked packages, by path; contents are read when asked for. */
export function readFolders(folders: readonly string[]): MicroInput['files'] {
  const files = new Map<string, { kind: 'file'; mode: number; content: () => Uint8Array } | { kind: 'link'; target: string }>()
  for (const folder of folders) {
    for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
      const path = join(entry.parentPath, entry.name)
      const name = path.slice(folder.length + 1)
      if (entry.isSymbolicLink()) files.set(name, { kind: 'link', target: readlinkSync(path) })
      else if (entry.isFile())
        files.set(name, { kind: 'file', mode: statSync(path).mode & 0o7777, content: () => readFileSync(path) })
    }
  }
  return files
}
