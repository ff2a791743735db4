import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as fc from 'fast-check'
import { z } from 'zod'
import { Fault, type FaultDetail } from '@typevisor/base'
import { detailsOfIssue, describeGot, hostileDetails, joinPath } from '@typevisor/model/check'
import { parseInput } from './validation.ts'

function detailsOf(schema: z.ZodType, value: unknown): FaultDetail[] {
  const result = schema.safeParse(value)
  assert.ok(!result.success)
  return result.error.issues.flatMap((issue) =>
    detailsOfIssue(issue, value, 'body', schema instanceof z.ZodObject ? schema : undefined),
  )
}
const invalid = (work: () => unknown): readonly FaultDetail[] => {
  try {
    work()
  } catch (error) {
    assert.ok(error instanceof Fault && error.code === 'invalid', String(error))
    return error.details
  }
  return assert.fail('it was taken')
}

test('every kind of issue says where, what is wanted and what was found', () => {
  const cases: [z.ZodType, unknown, FaultDetail][] = [
    [z.strictObject({ a: z.int() }), { a: 'x' }, { path: 'body.a', want: 'a number', got: '"x"' }],
    [z.strictObject({ a: z.int() }), { a: 1.5 }, { path: 'body.a', want: 'a whole number', got: '1.5' }],
    [z.strictObject({ a: z.string() }), {}, { path: 'body.a', want: 'a text', got: 'nothing' }],
    [z.strictObject({ a: z.boolean() }), { a: null }, { path: 'body.a', want: 'true or false', got: 'null' }],
    [z.strictObject({ a: z.array(z.int().max(3)) }), { a: [1, 9] }, { path: 'body.a[1]', want: 'at most 3', got: '9' }],
    [z.strictObject({ a: z.string().min(2) }), { a: 'x' }, { path: 'body.a', want: 'at least 2 characters', got: '"x"' }],
    [
      z.strictObject({ a: z.string().max(2) }),
      { a: 'xyz' },
      { path: 'body.a', want: 'at most 2 characters', got: '3 characters' },
    ],
    [z.strictObject({ a: z.array(z.int()).min(1) }), { a: [] }, { path: 'body.a', want: 'at least 1 items', got: 'a list of 0' }],
    [z.strictObject({ a: z.number().gt(1) }), { a: 1 }, { path: 'body.a', want: 'more than 1', got: '1' }],
    [z.strictObject({ a: z.uuid() }), { a: 'x' }, { path: 'body.a', want: 'a UUID', got: '"x"' }],
    [z.strictObject({ a: z.string().regex(/^x$/) }), { a: 'y' }, { path: 'body.a', want: 'text that matches /^x$/', got: '"y"' }],
    [
      z.strictObject({ a: z.string().regex(/^x$/, { error: 'want an x' }) }),
      { a: 'y' },
      { path: 'body.a', want: 'an x', got: '"y"' },
    ],
    [z.strictObject({ a: z.enum(['x', 'y']) }), { a: 'z' }, { path: 'body.a', want: 'one of x, y', got: '"z"' }],
    [z.strictObject({ a: z.literal(1) }), { a: 2 }, { path: 'body.a', want: '1', got: '2' }],
    [z.strictObject({ a: z.int().multipleOf(4) }), { a: 3 }, { path: 'body.a', want: 'a multiple of 4', got: '3' }],
    [z.strictObject({ a: z.int() }), { a: 1, b: 2 }, { path: 'body.b', want: 'one of a', got: '2' }],
    [
      z.strictObject({ a: z.strictObject({}) }),
      { a: { b: [1] } },
      { path: 'body.a.b', want: 'no such field', got: 'a list of 1' },
    ],
    [
      z.strictObject({ a: z.union([z.string(), z.int()]) }),
      { a: true },
      { path: 'body.a', want: 'a text or a number', got: 'true' },
    ],
    [
      z.strictObject({ a: z.record(z.string().regex(/^x$/, { error: 'want an x' }), z.string()) }),
      { a: { y: '' } },
      { path: 'body.a.y', want: 'a key that is an x', got: '"y"' },
    ],
    [
      z.strictObject({ a: z.int().refine(() => false, { error: 'want better' }) }),
      { a: 1 },
      { path: 'body.a', want: 'better', got: '1' },
    ],
  ]
  for (const [schema, value, detail] of cases) assert.deepEqual(detailsOf(schema, value), [detail])
})

test('an instance that is wrong in many places is told all of them at once', () => {
  const body = { name: 'Web 1', forwards: [{ guestPort: 0 }], labels: { 'A B': 'x' }, memoryBytes: 1, nonsense: 1 }
  const paths = invalid(() => parseInput('instance.create', { params: {}, query: { wait: '-1' }, body })).map(
    (detail) => detail.path,
  )
  assert.deepEqual(paths.toSorted(), [
    'body.forwards[0].guestPort',
    'body.labels["A B"]',
    'body.memoryBytes',
    'body.name',
    'body.nonsense',
    'query.wait',
  ])
})

test('memory and disk are whole mebibytes, and the field that is not is named', () => {
  const sizes = { memoryBytes: 256 * 1024 ** 2 + 1, rootDiskBytes: 1024 ** 3 - 512 }
  const want = 'a multiple of 1 MiB'
  assert.deepEqual(
    invalid(() => parseInput('instance.create', { params: {}, query: {}, body: { name: 'web', ...sizes } })),
    [
      { path: 'body.memoryBytes', want, got: '268435457' },
      { path: 'body.rootDiskBytes', want, got: '1073741312' },
    ],
  )
  const whole = { memoryBytes: 65 * 1024 ** 2, rootDiskBytes: 64 * 1024 ** 4 }
  assert.equal(
    parseInput('instance.create', { params: {}, query: {}, body: { name: 'web', ...whole } }).body.memoryBytes,
    whole.memoryBytes,
  )
})

const found = (value: unknown) => hostileDetails(value, 'body').map((detail) => `${detail.path}: ${detail.want}`)

test('what no field may hold is refused before any schema: NUL, lone surrogates, prototypes, depth', () => {
  assert.deepEqual(found({ a: ['x', 'y\0'] }), ['body.a[1]: text without NUL characters'])
  assert.deepEqual(found({ 'a\0': 1 }), ['body["a\\u0000"]: text without NUL characters'])
  assert.deepEqual(found('\uDC00'), ['body: text without lone surrogates'])
  assert.deepEqual(found(JSON.parse('{"a":{"__proto__":{}}}')), ['body.a.__proto__: no field of this name'])
  assert.deepEqual(found({ constructor: 'a label may be called so' }), [])
  assert.equal(found(JSON.parse(`${'['.repeat(100_000)}${']'.repeat(100_000)}`)).length, 1)
  assert.equal(found(Array.from({ length: 10_000 }, () => '\0')).length, 20)
})

const queryDetails = (query: Record<string, unknown>) =>
  invalid(() => parseInput('instance.list', { params: {}, query, body: undefined }))

test('a query is text with one value a field and numbers in decimal digits', () => {
  for (const limit of ['', ' 1', '0x10', '1e2', 'NaN', '1_0', '٣'])
    assert.equal(queryDetails({ limit })[0]?.path, 'query.limit', limit)
  assert.deepEqual(queryDetails({ search: ['a', 'b'] }), [{ path: 'query.search', want: 'one value', got: '2 values' }])
  assert.equal(parseInput('instance.list', { params: {}, query: { limit: '7' }, body: undefined }).query.limit, 7)
})

test('a body that is missing is an empty one, and one that nobody asked for is refused', () => {
  assert.deepEqual(parseInput('platform.stop', { params: {}, query: {}, body: undefined }).body, { guests: false })
  assert.deepEqual(
    invalid(() => parseInput('session.create', { params: {}, query: {}, body: undefined })).map((detail) => detail.path),
    ['body.account', 'body.password'],
  )
  parseInput('instance.start', { params: { instance: 'web' }, query: {}, body: {} })
  const unasked = invalid(() => parseInput('instance.start', { params: { instance: 'web' }, query: {}, body: { force: true } }))
  assert.deepEqual(unasked, [{ path: 'body.force', want: 'nothing: there is no such field', got: 'true' }])
  assert.deepEqual(
    invalid(() => parseInput('instance.start', { params: { instance: 'web' }, query: {}, body: 'x' })),
    [{ path: 'body', want: 'nothing', got: '"x"' }],
  )
})

test('whatever is sent, the answer is bounded: in details, in paths, in what it repeats', () => {
  fc.assert(
    fc.property(fc.anything({ withNullPrototype: true }), fc.dictionary(fc.string(), fc.anything()), (one, many) => {
      for (const body of [one, many, { name: one, ...many }]) {
        try {
          parseInput('instance.create', { params: {}, query: {}, body })
        } catch (error) {
          assert.ok(error instanceof Fault && error.code === 'invalid', String(error))
          assert.ok(error.details.length >= 1 && error.details.length <= 20)
          assert.ok(JSON.stringify(error.toJSON()).length < 20_000)
        }
      }
    }),
  )
  assert.ok(describeGot('x'.repeat(1e6)).length < 200)
  assert.ok(joinPath('body', ['x'.repeat(1e6)]).length < 200)
  assert.ok(JSON.stringify(describeGot('\uD800'.repeat(500))).length < 400)
})

test('passwords, tokens and user data are never repeated', () => {
  const details = invalid(() => parseInput('account.create', { params: {}, query: {}, body: { name: 'x', password: 'short' } }))
  assert.deepEqual(details, [{ path: 'body.password', want: 'at least 10 characters', got: '5 characters (not shown)' }])
  const hostile = invalid(() =>
    parseInput('account.create', { params: {}, query: {}, body: { name: 'x', password: 'secret\0' } }),
  )
  assert.equal(hostile[0]?.got, '7 characters (not shown)')
})
