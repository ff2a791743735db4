import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { breaks, surface, type Surface } from './compatibility.ts'

const recorded = JSON.parse(readFileSync(new URL('../../../docs/api/v1.json', import.meta.url), 'utf8')) as Surface

test('nobody who was written against the recorded API is broken', () => {
  assert.deepEqual(breaks(recorded, surface()), [])
})

test('the record of the API is of today; `npm run generate` writes it', () => {
  assert.deepEqual(surface(), recorded)
})

type Path = readonly (string | number)[]
/** The surface with one place changed; `undefined` takes it away. */
function changed(path: Path, value: unknown): Surface {
  const copy = structuredClone(recorded) as Record<string, never>
  let at: Record<string | number, never> = copy
  for (const key of path.slice(0, -1)) at = at[key] as never
  const last = path.at(-1) as string
  if (value === undefined) delete at[last]
  else at[last] = value as never
  return copy as unknown as Surface
}

const field = (operation: string, part: string, ...rest: Path): Path => [operation, part, 'properties', ...rest]

for (const [what, path, value, told] of [
  ['an operation that is gone', ['instance.start'], undefined, /instance\.start: it is gone/],
  ['another path', ['instance.start', 'path'], '/api/v2/x', /path was/],
  ['a higher role', ['instance.list', 'role'], 'admin', /wants the role admin/],
  ['a body field that is gone', field('instance.create', 'body', 'labels'), undefined, /body\.labels: it is gone/],
  [
    'a body field that must be given',
    ['instance.create', 'body', 'required'],
    ['name', 'image', 'labels'],
    /labels: it must be given/,
  ],
  ['a smaller bound', field('instance.create', 'body', 'vcpuCount', 'maximum'), 1, /vcpuCount: maximum is 1/],
  ['a value that is refused', field('instance.create', 'body', 'diskFull', 'enum'), ['pause'], /"error" is refused/],
  ['a reply field that is gone', field('instance.get', 'reply', 'name'), undefined, /reply\.name: it is gone/],
  ['a reply field of another type', field('instance.get', 'reply', 'vcpuCount', 'type'), 'string', /vcpuCount: its type was/],
  ['a reply field that may be missing', ['instance.get', 'reply', 'required'], ['id'], /reply\.name: it may be missing/],
  [
    'a reply field that may be null',
    field('instance.get', 'reply', 'name'),
    { anyOf: [{ type: 'string' }, { type: 'null' }] },
    /reply\.name: it may be null/,
  ],
] as const) {
  test(`it is noticed: ${what}`, () => {
    const found = breaks(recorded, changed(path, value))
    assert.ok(
      found.some((line) => told.test(line)),
      found.join('\n') || 'nothing was noticed',
    )
  })
}

test('what adds breaks nobody: operations, optional fields, values of an enum, fields of replies, wider bounds', () => {
  const more: Surface = { ...recorded, 'instance.sing': recorded['instance.start'] as Surface[string] }
  assert.deepEqual(breaks(recorded, more), [])
  for (const [path, value] of [
    [field('instance.create', 'body', 'colour'), { type: 'string' }],
    [field('instance.create', 'body', 'diskFull', 'enum'), ['pause', 'error', 'ask']],
    [field('instance.create', 'body', 'vcpuCount', 'maximum'), 4096],
    [field('instance.get', 'reply', 'colour'), { type: 'string' }],
    [['account.list', 'role'], 'viewer'],
  ] as const)
    assert.deepEqual(breaks(recorded, changed(path, value)), [], JSON.stringify(path))
})
