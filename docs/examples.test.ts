/** The commands of the README are run, in their order, on a real platform with a real guest. */
import assert from 'node:assert/strict'
import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { chmod, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Writable } from 'node:stream'
import { test } from 'node:test'
import { createClient } from '@typevisor/api/client'
import { VERB_DATA } from '@typevisor/api/verbs'
import { COMMANDS } from '../apps/cli/src/commands.ts'

const root = join(import.meta.dirname, '..')
const read = (path: string): string => readFileSync(join(root, path), 'utf8')
const sectionOf = (path: string, heading: string): string =>
  read(path)
    .split('\n## ')
    .find((section) => section.startsWith(`${heading}\n`)) ?? ''
/** Lines of code blocks that call the command line, without their comments. */
const commandsOf = (text: string): string[] =>
  [...text.matchAll(/```\n([\s\S]*?)```/g)]
    .flatMap((block) => (block[1] as string).split('\n'))
    .filter((line) => line.startsWith('./typevisor '))
    .map((line) => line.replace(/\s+#.*$/, ''))

interface Ended {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

async function run(words: readonly string[], dataDir: string, stdin = ''): Promise<Ended> {
  const child = spawn(join(root, 'typevisor'), words, {
    env: { ...process.env, TYPEVISOR_DATA: dataDir },
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  let [stdout, stderr] = ['', '']
  child.stdout.on('data', (part: Buffer) => (stdout += part.toString()))
  child.stderr.on('data', (part: Buffer) => (stderr += part.toString()))
  child.stdin.end(stdin)
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve))
  return { code, stdout, stderr }
}

test('the commands of the README do what it says', { timeout: 240_000 }, async () => {
  const dataDir = await mkdtemp(join(tmpdir(), 'typevisor-docs-'))
  await chmod(dataDir, 0o711)
  const platform = spawn(join(root, 'typevisor'), ['start', '--empty', '--port', '0', '--data', dataDir], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const exited = new Promise((resolve) => platform.once('exit', resolve))
  try {
    await new Promise<void>((resolve, reject) => {
      platform.stdout.on('data', (part: Buffer) => part.toString().includes('portal:') && resolve())
      void exited.then(() => reject(new Error('the platform ended')))
    })
    const built = await run(['image', 'build', 'micro'], dataDir)
    assert.equal(built.code, 0, built.stderr)
    const commands = commandsOf(read('README.md'))
    assert.ok(commands.length >= 8, commands.join('\n'))
    for (const line of commands) {
      // Any port of the host may be taken on the machine that runs this.
      const words = line.replace('8080:80', '0:80').split(/\s+/).slice(1)
      const ended = await run(words, dataDir, line.includes(' console ') ? 'echo the-answer-is-$((6*7))\n' : '')
      assert.equal(ended.code, 0, `${line}\n${ended.stdout}\n${ended.stderr}`)
      if (line.includes(' exec ')) assert.match(ended.stdout, /^Linux web-1 /)
      if (line.includes(' console ')) assert.match(ended.stdout, /the-answer-is-42/)
      if (line.includes('--json'))
        assert.equal((JSON.parse(ended.stdout) as { items: { state: { kind: string } }[] }).items[0]?.state.kind, 'running')
    }
    await exited
  } finally {
    if (platform.exitCode === null && platform.signalCode === null) {
      const { url, token } = JSON.parse(readFileSync(join(dataDir, 'credentials.json'), 'utf8')) as { url: string; token: string }
      await createClient({ baseUrl: url, token }).call('platform.stop', { body: { guests: true } })
      await exited
    }
    await rm(dataDir, { recursive: true, force: true })
  }
})

/** As its block has it, in a folder of its own, with what it names made before. */
test('the commands of docs/volumes.md do what it says', { timeout: 240_000 }, async () => {
  const dir = await mkdtemp(join(tmpdir(), 'typevisor-docs-'))
  const device = process.getuid?.() === 0 ? await loopDevice(join(dir, 'device')) : null
  const started: ChildProcess[] = []
  try {
    for (const name of ['key', 'key2']) await writeFile(join(dir, name), randomBytes(32))
    execFileSync('qemu-img', ['create', '-q', '-f', 'vmdk', join(dir, 'windows.vmdk'), '8M'])
    const begin = (line: string): ChildProcess => {
      const words = line
        .replace('/dev/sdb', device?.path ?? '')
        .split(/\s+/)
        .slice(1)
      return spawn(join(root, 'typevisor'), words, { cwd: dir, stdio: 'pipe' })
    }
    const said: string[] = []
    const commands = commandsOf(sectionOf('docs/volumes.md', 'From the command line')).filter(
      (line) => device !== null || !line.includes('--device'),
    )
    assert.ok(commands.length >= 25, commands.join('\n'))
    for (const line of commands) {
      const [first = '', second] = line.split(' | ssh elsewhere ')
      const child = begin(first)
      let [stdout, stderr] = ['', '']
      child.stderr?.on('data', (part: Buffer) => (stderr += part.toString()))
      if (first.includes(' nbd serve ')) {
        started.push(child)
        await new Promise<void>((resolve, reject) => {
          child.stdout?.on('data', (part: Buffer) => part.toString().includes('serving') && resolve())
          child.once('exit', () => reject(new Error(`${line}\n${stderr}`)))
        })
        continue
      }
      const ended = [exitOf(child)]
      if (second === undefined) child.stdout?.on('data', (part: Buffer) => (stdout += part.toString()))
      else {
        const there = begin(`./${second.replace('./disks', './elsewhere')}`)
        child.stdout?.pipe(there.stdin as Writable) // it is a pipe
        there.stderr?.on('data', (part: Buffer) => (stderr += part.toString()))
        ended.push(exitOf(there))
      }
      assert.deepEqual(new Set(await Promise.all(ended)), new Set([0]), `${line}\n${stdout}\n${stderr}`)
      said.push(stdout)
    }
    const list = begin('./typevisor volume list --json --dir ./elsewhere')
    let listed = ''
    list.stdout?.on('data', (part: Buffer) => (listed += part.toString()))
    await exitOf(list)
    const names = (JSON.parse(listed) as { items: { name: string }[] }).items.map(({ name }) => name)
    assert.deepEqual(names.toSorted(), ['web', 'web@monday', 'web@tuesday'])
    assert.match(said.join(''), /sound: /)
  } finally {
    for (const child of started) {
      child.kill('SIGINT')
      await exitOf(child)
    }
    device?.free()
    await rm(dir, { recursive: true, force: true })
  }
})

const exitOf = (child: ChildProcess): Promise<number | null> =>
  child.exitCode !== null || child.signalCode !== null
    ? Promise.resolve(child.exitCode)
    : new Promise((resolve) => child.once('close', resolve))

async function loopDevice(file: string): Promise<{ readonly path: string; free(): void }> {
  await writeFile(file, '')
  await truncate(file, 512 * 1024 * 1024)
  const path = execFileSync('losetup', ['--find', '--show', file], { encoding: 'utf8' }).trim()
  return { path, free: () => void execFileSync('losetup', ['--detach', path]) }
}

test('every command that the docs name is one that there is', () => {
  const nouns = new Set(Object.keys(VERB_DATA).map((name) => name.split('.')[0]))
  const own = new Set([...Object.keys(COMMANDS), 'help', 'version'])
  const unknown: string[] = []
  for (const path of [
    'README.md',
    'docs/install.md',
    'docs/cli.md',
    'docs/portal.md',
    'docs/volumes.md',
    'docs/one-script.md',
    'docs/architecture.md',
    'CONTRIBUTING.md',
  ]) {
    for (const [, noun, verb] of read(path).matchAll(/(?:\.\/|`)typevisor ([a-z-]+)(?: ([a-z-]+))?/g)) {
      if (own.has(noun as string)) continue
      if (!nouns.has(noun as string) || (verb !== undefined && !Object.hasOwn(VERB_DATA, `${noun}.${verb}`)))
        unknown.push(`${path}: ${noun} ${verb}`)
    }
  }
  assert.deepEqual(unknown, [])
})

test('every file that the docs link to is there', () => {
  const missing: string[] = []
  for (const path of [
    'README.md',
    'docs/architecture.md',
    'docs/library.md',
    'docs/volumes.md',
    'docs/cli.md',
    'docs/toolstack.md',
    'docs/one-script.md',
    'docs/portal.md',
    'CONTRIBUTING.md',
  ]) {
    for (const [, target] of read(path).matchAll(/\]\((?!https?:|#)([^)#]+)/g)) {
      try {
        readFileSync(join(root, path, '..', target as string))
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EISDIR') missing.push(`${path}: ${target}`)
      }
    }
  }
  assert.deepEqual(missing, [])
})

test('every dependency is told of with its reason, and none that is not there', () => {
  const { dependencies, devDependencies } = JSON.parse(read('package.json')) as Record<string, Record<string, string>>
  const told = [...read('docs/dependencies.md').matchAll(/^\| ([^|]+) \|/gm)]
    .flatMap(([, cell]) => (cell as string).split(', '))
    .filter((name) => name !== 'package' && name !== '---')
  assert.deepEqual(told.toSorted(), Object.keys({ ...dependencies, ...devDependencies }).toSorted())
})
