import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { ROLES } from '@typevisor/identity'
import { generatedSources } from './generate.ts'
import { Role } from './schemas.ts'
import { OPERATION_NAMES, OPERATIONS, type OperationDefinition } from './table.ts'
import { VERB_DATA, type VerbField } from './verbs.ts'

test('the generated files are what the table says now; `node packages/api/src/generate.ts` writes them', () => {
  for (const [file, source] of Object.entries(generatedSources()))
    assert.equal(readFileSync(new URL(`./generated/${file}`, import.meta.url), 'utf8'), source, file)
})

test('fields whose names end in Bytes are sizes, and every field has a type that the command line knows', () => {
  const known = new Set(['string', 'integer', 'number', 'boolean', 'size', 'base64', 'array', 'map', 'object'])
  const visit = (field: VerbField): void => {
    assert.ok(known.has(field.type), field.name)
    if (field.name.endsWith('Bytes')) assert.equal(field.type, 'size')
    for (const inner of [...(field.fields ?? []), ...(field.items?.fields ?? [])]) visit(inner)
  }
  for (const verb of Object.values(VERB_DATA)) for (const field of [...verb.params, ...verb.query, ...verb.body]) visit(field)
  const { body } = VERB_DATA['instance.create']
  assert.equal(body.find((field) => field.name === 'memoryBytes')?.type, 'size')
  assert.equal(body.find((field) => field.name === 'labels')?.type, 'map')
  assert.deepEqual(
    body.find((field) => field.name === 'forwards')?.items?.fields?.map((field) => field.name),
    ['protocol', 'hostPort', 'guestPort'],
  )
})

test('neither the verbs nor the client loads a schema library, and the client not the words of the command line', () => {
  for (const [file, generated] of [
    ['verbs.ts', 'verbs'],
    ['routes.ts', 'routes'],
    ['client.ts', 'routes'],
  ]) {
    const url = new URL(file ?? '', import.meta.url).href
    const loaded = execFileSync(process.execPath, [
      '--input-type=module',
      '-e',
      `import { registerHooks } from 'node:module'
       const seen = []
       registerHooks({ load: (url, context, next) => (seen.push(url), next(url, context)) })
       await import(${JSON.stringify(url)})
       console.log(seen.join('\\n'))`,
    ]).toString()
    assert.deepEqual(loaded.match(/(?<=generated\/)\w+/g), [generated])
    assert.doesNotMatch(loaded, /zod|schemas\.ts|table\.ts|node:/)
  }
})

test('roles of the table are the roles of identity', () => {
  assert.deepEqual(Role.options, [...ROLES])
})

test('each operation has a path of its own, names every parameter in it, and reads or writes as its method says', () => {
  const places = new Set<string>()
  for (const name of OPERATION_NAMES) {
    const operation: OperationDefinition = OPERATIONS[name]
    const place = `${operation.method} ${operation.path.replaceAll(/:\w+/g, ':')}`
    assert.ok(!places.has(place), place)
    places.add(place)
    const inPath = [...operation.path.matchAll(/:(\w+)/g)].map((match) => match[1])
    assert.deepEqual(inPath, Object.keys(operation.params?.shape ?? {}), name)
    if (operation.method !== 'GET') assert.match(operation.scope, /:write$/, name)
    if (operation.method === 'GET') assert.equal(operation.body, undefined, name)
    const noun = name.split('.')[0]
    assert.equal(operation.scope.split(':')[0], noun, name)
    for (const positional of operation.cli?.positional ?? []) {
      const fields = [...VERB_DATA[name].params, ...VERB_DATA[name].query, ...VERB_DATA[name].body].map((field) => field.name)
      assert.ok(fields.includes(positional), `${name}: ${positional}`)
    }
  }
})
