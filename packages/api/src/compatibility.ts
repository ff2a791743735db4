/**
 * What the API promises to whoever was written against it, as data: `docs/api/v1.json`. What comes may only add to it.
 *
 *   requests   what was taken is taken: no new field that must be there, no value, type or bound that is refused now
 *   replies    what was there is there: no field gone or optional, no other type. New fields and new values of an enum may come.
 *   the rest   method, path, status and transport stay; nobody needs a higher role than before
 */
import { z } from 'zod'
import { OPERATIONS, type OperationDefinition, type RoleName } from './table.ts'

type JsonSchema = { readonly [key: string]: unknown }

export interface Surface {
  readonly [operation: string]: {
    readonly method: string
    readonly path: string
    readonly status: number
    readonly transport: string
    readonly role: RoleName | 'none'
    readonly scope: string
    readonly params: JsonSchema | null
    readonly query: JsonSchema | null
    readonly body: JsonSchema | null
    readonly reply: JsonSchema
  }
}

/** Words may change. */
const WORDS = new Set(['$schema', 'description', 'title'])

function withoutWords(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutWords)
  if (typeof value !== 'object' || value === null) return value
  const isOfFields = 'properties' in value
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, inner]) => {
      if (key === 'properties' && isOfFields)
        return [[key, Object.fromEntries(Object.entries(inner as object).map(([name, field]) => [name, withoutWords(field)]))]]
      return WORDS.has(key) ? [] : [[key, withoutWords(inner)]]
    }),
  )
}

const jsonOf = (schema: z.ZodType, io: 'input' | 'output'): JsonSchema =>
  withoutWords(z.toJSONSchema(schema, { io, unrepresentable: 'any', reused: 'inline' })) as JsonSchema

export function surface(): Surface {
  return Object.fromEntries(
    Object.entries<OperationDefinition>(OPERATIONS).map(([name, operation]) => {
      const { method, path, status, transport = 'http', role, scope, params, query, body, reply } = operation
      const input = (schema: z.ZodObject | undefined): JsonSchema | null => (schema ? jsonOf(schema, 'input') : null)
      const shapes = { params: input(params), query: input(query), body: input(body), reply: jsonOf(reply, 'output') }
      return [name, { method, path, status, transport, role, scope, ...shapes }]
    }),
  )
}

const RANKS: readonly (RoleName | 'none')[] = ['none', 'viewer', 'operator', 'admin']
const EMPTY: JsonSchema = { type: 'object', properties: {} }

/** What somebody who was written against `before` would notice, each with its place; empty: nothing. */
export function breaks(before: Surface, now: Surface): string[] {
  return Object.entries(before).flatMap(([name, was]) => {
    const is = now[name]
    if (!is) return [`${name}: it is gone`]
    const same = (['method', 'path', 'status', 'transport', 'scope'] as const).flatMap((key) =>
      was[key] === is[key] ? [] : [`${name}: ${key} was ${was[key]}, is ${is[key]}`],
    )
    const role =
      RANKS.indexOf(is.role) > RANKS.indexOf(was.role) ? [`${name}: it wants the role ${is.role}, not ${was.role}`] : []
    const asked = (['params', 'query', 'body'] as const).flatMap((part) =>
      narrowed(`${name}.${part}`, was[part] ?? EMPTY, is[part] ?? EMPTY, 'input'),
    )
    return [...same, ...role, ...asked, ...narrowed(`${name}.reply`, was.reply, is.reply, 'output')]
  })
}

const namesIn = (schema: JsonSchema, key: 'required' | 'enum'): readonly unknown[] => (schema[key] as unknown[] | undefined) ?? []
const fieldsIn = (schema: JsonSchema): Readonly<Record<string, JsonSchema>> =>
  (schema['properties'] as Record<string, JsonSchema> | undefined) ?? {}
const variantsIn = (schema: JsonSchema): readonly JsonSchema[] =>
  (schema['anyOf'] ?? schema['oneOf'] ?? [schema]) as readonly JsonSchema[]
const isNull = ({ type }: JsonSchema): boolean => type === 'null'

/** Of what is asked (`input`) nothing may be refused that was taken; of what is answered (`output`) nothing may be missing or new in kind. */
function narrowed(path: string, was: JsonSchema, is: JsonSchema, side: 'input' | 'output'): string[] {
  const [before, now] = [variantsIn(was), variantsIn(is)]
  if (before.length > 1 || now.length > 1) {
    // Each of the variants that must go on being understood has one of the others that is no narrower.
    const [kept, among] = side === 'input' ? [before, now] : [now, before]
    return kept.flatMap((one) => {
      const found = among.map((other) => {
        if (isNull(one) !== isNull(other)) return ['another type']
        return side === 'input' ? narrowed(path, one, other, side) : narrowed(path, other, one, side)
      })
      if (found.some((each) => each.length === 0)) return []
      const [nearest = [`${path}: a variant is gone`]] = found.toSorted((a, b) => a.length - b.length)
      return nearest.map((line) =>
        line === 'another type' ? `${path}: ${side === 'input' ? 'null is refused' : 'it may be null'}` : line,
      )
    })
  }
  const found: string[] = []
  if (
    JSON.stringify(was['type']) !== JSON.stringify(is['type']) &&
    !(side === 'output' ? is : was)['const'] &&
    !isWider(was, is, side)
  )
    found.push(`${path}: its type was ${JSON.stringify(was['type'])}, is ${JSON.stringify(is['type'])}`)
  const [required, requiredNow] = [namesIn(was, 'required'), namesIn(is, 'required')]
  const fieldsNow = fieldsIn(is)
  for (const [name, field] of Object.entries(fieldsIn(was))) {
    const fieldNow = fieldsNow[name]
    if (fieldNow) found.push(...narrowed(`${path}.${name}`, field, fieldNow, side))
    else found.push(`${path}.${name}: it is gone`)
  }
  if (side === 'input') {
    found.push(
      ...requiredNow.filter((name) => !required.includes(name)).map((name) => `${path}.${String(name)}: it must be given now`),
    )
    if (is['enum']) {
      const values = namesIn(was, 'enum').filter((value) => !namesIn(is, 'enum').includes(value))
      found.push(...values.map((value) => `${path}: ${JSON.stringify(value)} is refused`))
      if (!was['enum']) found.push(`${path}: only some values are taken`)
    }
    found.push(...tighter(path, was, is))
    if (is['pattern'] !== undefined && is['pattern'] !== was['pattern'])
      found.push(`${path}: its pattern was ${String(was['pattern'])}`)
  } else {
    const gone = required.filter((name) => !requiredNow.includes(name) && fieldsNow[String(name)])
    found.push(...gone.map((name) => `${path}.${String(name)}: it may be missing`))
  }
  if (was['items'] && is['items'])
    found.push(...narrowed(`${path}[]`, was['items'] as JsonSchema, is['items'] as JsonSchema, side))
  return found
}

/** An integer is a number: of what is asked a number may be taken where an integer was, and of what is answered the other way round. */
const isWider = (was: JsonSchema, is: JsonSchema, side: 'input' | 'output'): boolean => {
  const [narrow, wide] = side === 'input' ? [was, is] : [is, was]
  return narrow['type'] === 'integer' && wide['type'] === 'number'
}

const LEAST = ['minimum', 'exclusiveMinimum', 'minLength', 'minItems']
const MOST = ['maximum', 'exclusiveMaximum', 'maxLength', 'maxItems']

function tighter(path: string, was: JsonSchema, is: JsonSchema): string[] {
  const bound = (schema: JsonSchema, key: string, open: number): number => (typeof schema[key] === 'number' ? schema[key] : open)
  return [
    ...LEAST.filter((key) => bound(is, key, -Infinity) > bound(was, key, -Infinity)),
    ...MOST.filter((key) => bound(is, key, Infinity) < bound(was, key, Infinity)),
  ].map((key) => `${path}: ${key} is ${String(is[key])}, was ${String(was[key] ?? 'none')}`)
}
