import assert from 'node:assert/strict'
import { existsSync, globSync, readFileSync } from 'node:fs'
import { join, matchesGlob, relative } from 'node:path'
import { test } from 'node:test'
import { PACKAGES, type PackageRule } from './ARCHITECTURE.ts'

const root = import.meta.dirname
const IMPORT =
  /(?:^|[^.\w])(?:import|export)\s[^'"`;]*?from\s*['"]([^'"]+)['"]|(?:^|[^.\w])import\s*\(\s*['"]([^'"]+)['"]\s*\)|^\s*import\s*['"]([^'"]+)['"]/gm
const TESTS = /\.(test|fuzz|bench)\.tsx?$|\/(testing|e2e)(\/|\.ts$)/

const nameOf = new Map(
  Object.keys(PACKAGES).map((folder) => [
    (JSON.parse(readFileSync(join(root, folder, 'package.json'), 'utf8')) as { name: string }).name,
    folder,
  ]),
)
const importsOf = (path: string): string[] =>
  [...readFileSync(join(root, path), 'utf8').matchAll(IMPORT)].map((match) => match[1] ?? match[2] ?? match[3] ?? '')

const sources = globSync(['packages/**/*.{ts,tsx}', 'apps/**/*.{ts,tsx}'], {
  cwd: root,
  exclude: (name) => name.includes('node_modules') || name.endsWith('/dist'),
})
const packageOf = (path: string): string | undefined =>
  Object.keys(PACKAGES)
    .filter((folder) => path.startsWith(`${folder}/`))
    .toSorted((a, b) => b.length - a.length)[0]

test('every source file belongs to a package of the table', () => {
  assert.ok(sources.length > 50, 'the glob finds the sources')
  assert.deepEqual(
    sources.filter((path) => packageOf(path) === undefined),
    [],
  )
})

test('a package imports only what the table allows', () => {
  const wrong: string[] = []
  for (const path of sources) {
    const folder = packageOf(path)
    if (folder === undefined || TESTS.test(path)) continue
    const rule = PACKAGES[folder] as PackageRule
    const allowed = new Set(['@typevisor/base', '@typevisor/model', ...rule.uses.map((name) => `@typevisor/${name}`)])
    for (const specifier of importsOf(path)) {
      if (!specifier.startsWith('@typevisor/')) continue
      const name = specifier.split('/').slice(0, 2).join('/')
      if (!nameOf.has(name)) wrong.push(`${path}: ${name} is no package`)
      else if (!allowed.has(name) && nameOf.get(name) !== folder) wrong.push(`${path}: may not import ${name}`)
      if (specifier.endsWith('/testing')) wrong.push(`${path}: testing is for tests`)
    }
  }
  assert.deepEqual(wrong, [])
})

test('the table allows nothing that nobody uses', () => {
  const unused: string[] = []
  for (const [folder, rule] of Object.entries(PACKAGES)) {
    const own = sources.filter((path) => packageOf(path) === folder && !TESTS.test(path))
    const used = new Set(own.flatMap(importsOf).map((specifier) => specifier.split('/').slice(0, 2).join('/')))
    for (const name of rule.uses) if (!used.has(`@typevisor/${name}`)) unused.push(`${folder}: ${name}`)
    for (const glob of rule.edgeFiles ?? []) {
      if (!own.some((path) => matchesGlob(relative(join(folder, 'src'), path), glob)))
        unused.push(`${folder}: no file is ${glob}`)
    }
  }
  assert.deepEqual(unused, [])
})

test('imports between packages have no cycle', () => {
  const visit = (folder: string, path: readonly string[]): void => {
    assert.ok(!path.includes(folder), `cycle: ${[...path, folder].join(' -> ')}`)
    for (const used of PACKAGES[folder]?.uses ?? []) visit(nameOf.get(`@typevisor/${used}`) as string, [...path, folder])
  }
  for (const folder of Object.keys(PACKAGES)) visit(folder, [])
})

test('a core package meets the world only in its edge files', () => {
  const wrong: string[] = []
  for (const path of sources) {
    const folder = packageOf(path)
    const rule = folder === undefined ? undefined : PACKAGES[folder]
    if (folder === undefined || rule?.kind !== 'core' || TESTS.test(path)) continue
    const file = relative(join(folder, 'src'), path)
    if (rule.edgeFiles?.some((glob) => matchesGlob(file, glob))) continue
    for (const specifier of importsOf(path)) if (specifier.startsWith('node:')) wrong.push(`${path}: imports ${specifier}`)
    const text = readFileSync(join(root, path), 'utf8')
    for (const call of ['Date.now(', 'new Date()', 'Math.random(', 'performance.now(', 'setTimeout(', 'setInterval(']) {
      if (text.includes(call)) wrong.push(`${path}: calls ${call})`)
    }
  }
  assert.deepEqual(wrong, [])
})

test('inside a package nobody imports its index', () => {
  const wrong = sources.filter(
    (path) =>
      !TESTS.test(path) &&
      importsOf(path).some((specifier) => /^\.{1,2}\/(.*\/)?index\.ts$/.test(specifier) && !specifier.includes('migrations')),
  )
  assert.deepEqual(wrong, [])
})

test('a package declares what it imports of its siblings', () => {
  const wrong: string[] = []
  for (const path of sources) {
    const folder = packageOf(path)
    if (folder === undefined || TESTS.test(path)) continue
    const { name, dependencies = {} } = JSON.parse(readFileSync(join(root, folder, 'package.json'), 'utf8')) as {
      name: string
      dependencies?: Record<string, string>
    }
    for (const specifier of importsOf(path)) {
      const sibling = specifier.startsWith('@typevisor/') ? specifier.split('/').slice(0, 2).join('/') : null
      if (sibling !== null && sibling !== name && !(sibling in dependencies)) wrong.push(`${path}: ${sibling}`)
    }
  }
  assert.deepEqual([...new Set(wrong)], [])
})

test('what a package exports, and what its scripts test, is there', () => {
  const wrong: string[] = []
  for (const folder of Object.keys(PACKAGES)) {
    const { exports, scripts = {} } = JSON.parse(readFileSync(join(root, folder, 'package.json'), 'utf8')) as {
      exports: Record<string, string>
      scripts?: Record<string, string>
    }
    for (const target of Object.values(exports)) {
      if (!existsSync(join(root, folder, target))) wrong.push(`${folder}: exports ${target}`)
    }
    for (const [glob] of Object.values(scripts).flatMap((script) => [...script.matchAll(/(?<=')[^' ]+\.ts(?=')/g)])) {
      if (globSync(glob, { cwd: join(root, folder) }).length === 0) wrong.push(`${folder}: no file is ${glob}`)
    }
  }
  assert.deepEqual(wrong, [])
})
