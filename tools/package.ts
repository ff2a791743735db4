/**
 * `npm run package [-- DIR]`: the published package, in dist/package: the same tree with its types stripped, since Node strips none below
 * `node_modules`. Lines and columns stay where they were; imports of siblings become relative. Nothing is bundled. What programs import
 * (`LIBRARIES`, docs/library.md) has its declarations beside it, made by tsc.
 *
 *   x.ts --stripTypeScriptTypes--> x.js      '@typevisor/base' --> '../../base/src/index.js'      './y.ts' --> './y.js'
 *   x.ts --tsc --declaration--> x.d.ts       the same
 */
import { execFileSync } from 'node:child_process'
import { cpSync, globSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { stripTypeScriptTypes } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join, posix, relative, resolve } from 'node:path'

const root = join(import.meta.dirname, '..')
const out = resolve(root, process.argv[2] ?? 'dist/package')

/** What programs may import of the published package, and what each name stands for in the tree. */
const LIBRARIES = {
  './client': '@typevisor/api/client',
  './host': '@typevisor/agent/host',
  './toolstack': '@typevisor/toolstack',
  './driver-qemu': '@typevisor/driver-qemu',
  './driver-sim': '@typevisor/driver-sim',
  './saga': '@typevisor/saga',
  './storage': '@typevisor/storage',
  './nbd': '@typevisor/nbd',
  './image': '@typevisor/image',
  './base': '@typevisor/base',
  './model': '@typevisor/model',
  './runtime-node': '@typevisor/runtime-node',
} as const

interface Manifest {
  readonly name: string
  readonly exports: Readonly<Record<string, string>>
}
const readJson = <T>(path: string): T => JSON.parse(readFileSync(join(root, path), 'utf8')) as T

/** `@typevisor/api/client` -> `packages/api/src/client.ts` */
const entries = new Map<string, string>()
for (const file of globSync(['packages/*/package.json', 'packages/drivers/*/package.json', 'apps/*/package.json'], {
  cwd: root,
})) {
  const { name, exports } = readJson<Manifest>(file)
  for (const [key, target] of Object.entries(exports)) entries.set(posix.join(name, key), posix.join(dirname(file), target))
}

const SPECIFIER = /((?:\bfrom|\bimport)\s*\(?\s*)(['"])([^'"]+)\2/g

function rewrite(code: string, path: string): string {
  return code.replaceAll(SPECIFIER, (whole, before: string, quote: string, specifier: string) => {
    if (specifier.startsWith('.') && specifier.endsWith('.ts'))
      return `${before}${quote}${specifier.replace(/\.ts$/, '.js')}${quote}`
    const entry = entries.get(specifier)
    if (entry === undefined) return whole
    const to = relative(dirname(path), entry).replace(/\.ts$/, '.js')
    return `${before}${quote}${to.startsWith('.') ? to : `./${to}`}${quote}`
  })
}

const entryOf = (name: string): string => {
  const entry = entries.get(name)
  if (entry === undefined) throw new Error(`package: nothing exports ${name}`)
  return entry
}

/** Declarations of the libraries and of all that they import. */
function writeDeclarations(): number {
  const folder = mkdtempSync(join(tmpdir(), 'typevisor-declarations-'))
  try {
    const compilerOptions = {
      noEmit: false,
      declaration: true,
      emitDeclarationOnly: true,
      rootDir: root,
      outDir: folder,
      typeRoots: [join(root, 'node_modules/@types')],
      // By their paths: what is found by way of node_modules is somebody else's to tsc, and it declares nothing of it.
      paths: Object.fromEntries([...entries].map(([name, path]) => [name, [join(root, path)]])),
    }
    const files = Object.values(LIBRARIES).map((name) => join(root, entryOf(name)))
    const project = join(folder, 'tsconfig.json')
    writeFileSync(project, JSON.stringify({ extends: join(root, 'tsconfig.json'), compilerOptions, include: [], files }))
    execFileSync(join(root, 'node_modules/.bin/tsc'), ['-p', project], { stdio: 'inherit' })
    const declarations = globSync('**/*.d.ts', { cwd: folder })
    for (const path of declarations) {
      const target = join(out, path)
      mkdirSync(dirname(target), { recursive: true })
      writeFileSync(target, rewrite(readFileSync(join(folder, path), 'utf8'), path))
    }
    return declarations.length
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

rmSync(out, { recursive: true, force: true })
const sources = globSync(['packages/**/*.ts', 'apps/{agent,cli,server}/**/*.ts'], {
  cwd: root,
  exclude: (name) => name.includes('node_modules'),
}).filter((path) => !/\.(test|bench|fuzz)\.ts$|\/(testing|e2e)(\/|\.ts$)|\.d\.ts$/.test(path))
for (const path of sources) {
  const target = join(out, path.replace(/\.ts$/, '.js'))
  mkdirSync(dirname(target), { recursive: true })
  writeFileSync(target, rewrite(stripTypeScriptTypes(readFileSync(join(root, path), 'utf8')), path))
}
const declarationCount = writeDeclarations()
for (const path of [
  'README.md',
  'LICENSE',
  'CHANGELOG.md',
  'typevisor',
  'tools/debian-packages.json',
  'packages/image/guest',
  'apps/portal/dist',
]) {
  cpSync(join(root, path), join(out, path), { recursive: true })
}
const { name, version, description, license, type, bin, dependencies } = readJson<Record<string, unknown>>('package.json')
const { allowScripts } = readJson<Record<string, unknown>>('package.json')
const manifest = {
  name,
  version,
  description,
  license,
  type,
  bin,
  exports: {
    ...Object.fromEntries(
      Object.entries(LIBRARIES).map(([key, name]) => {
        const path = `./${entryOf(name).replace(/\.ts$/, '')}`
        return [key, { types: `${path}.d.ts`, default: `${path}.js` }]
      }),
    ),
    './package.json': './package.json',
  },
  os: ['linux'],
  cpu: ['x64'],
  engines: { node: '>=20' },
  dependencies,
  allowScripts,
}
writeFileSync(join(out, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`)
process.stdout.write(`${out}: ${sources.length} modules, ${declarationCount} declarations\n`)
