/**
 * `npm run package [-- DIR]`: the published package, in dist/package: the same tree with its types stripped, since Node strips none below
 * `node_modules`. Lines and columns stay where they were; imports of siblings become relative. Nothing is bundled.
 *
 *   x.ts --stripTypeScriptTypes--> x.js      '@typevisor/base' --> '../../base/src/index.js'      './y.ts' --> './y.js'
 */
import { cpSync, globSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { stripTypeScriptTypes } from 'node:module'
import { dirname, join, posix, relative, resolve } from 'node:path'

const root = join(import.meta.dirname, '..')
const out = resolve(root, process.argv[2] ?? 'dist/package')

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
  exports: { './client': './packages/api/src/client.js', './package.json': './package.json' },
  os: ['linux'],
  cpu: ['x64'],
  engines: { node: '>=20' },
  dependencies,
  allowScripts,
}
writeFileSync(join(out, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`)
process.stdout.write(`${out}: ${sources.length} modules\n`)
