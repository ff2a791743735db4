/**
 * Input of a caller is parsed once, at the edge, from `unknown` by a schema. What is wrong becomes one Fault `invalid` whose details name each
 * field (`spec.forwards[0].guestPort`), what was wanted and what was found, bounded in number and length, and never a secret.
 *
 * Before the schemas: what no field may hold, since PostgreSQL, a file name or JavaScript itself would trip over it: NUL characters,
 * lone surrogates, keys that name a prototype, and nesting deeper than anything that there is.
 */
import { Fault, type FaultDetail } from '@typevisor/base'
import type { z } from 'zod'

export const DETAIL_COUNT_MAX = 20
const GOT_LENGTH_MAX = 120
const KEY_LENGTH_MAX = 80
const DEPTH_MAX = 16
/** Fields whose content is not repeated in an answer, since answers are logged and shown. */
const SECRET_FIELDS = new Set(['password', 'currentPassword', 'secret', 'token', 'userData'])

/** @throws Fault `invalid` with a detail for each field of `value` that is wrong. */
export function checked<S extends z.ZodObject>(what: string, schema: S, value: unknown): z.output<S> {
  const hostile = hostileDetails(value, '')
  if (hostile.length > 0) throw invalidInput(what, hostile)
  const result = schema.safeParse(value)
  if (result.success) return result.data
  throw invalidInput(
    what,
    result.error.issues.flatMap((issue) => detailsOfIssue(issue, value, '', schema)),
  )
}

export function invalidInput(what: string, details: readonly FaultDetail[]): Fault {
  const [first] = details
  const more = details.length > 1 ? ` (and ${details.length - 1} more)` : ''
  const message = first ? `${what}: ${first.path}: got ${first.got}, want ${first.want}${more}` : what
  return new Fault('invalid', message, { details: details.slice(0, DETAIL_COUNT_MAX) })
}

export const isPlainObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const textFault = (text: string): string | null =>
  text.includes('\0') ? 'text without NUL characters' : text.isWellFormed() ? null : 'text without lone surrogates'

/** What may be in no field of any operation. Looks no deeper than `DEPTH_MAX`, so it cannot exhaust the stack. */
export function hostileDetails(value: unknown, root: string): FaultDetail[] {
  const details: FaultDetail[] = []
  const report = (path: readonly PropertyKey[], want: string, got: string): void => {
    if (details.length < DETAIL_COUNT_MAX) details.push({ path: joinPath(root, path), want, got })
  }
  const visit = (node: unknown, path: readonly PropertyKey[]): void => {
    if (details.length >= DETAIL_COUNT_MAX) return
    if (typeof node === 'string') {
      const want = textFault(node)
      if (want) report(path, want, describeGot(node, path.at(-1)))
    } else if (typeof node === 'object' && node !== null) {
      if (path.length >= DEPTH_MAX) return report(path, `at most ${DEPTH_MAX} levels of nesting`, 'more')
      if (Array.isArray(node)) {
        for (const [index, item] of node.entries()) visit(item, [...path, index])
        return
      }
      for (const key of Object.keys(node)) {
        const want = key === '__proto__' ? 'no field of this name' : textFault(key)
        if (want) report([...path, key], want, JSON.stringify(key).slice(0, GOT_LENGTH_MAX))
        else visit((node as Record<string, unknown>)[key], [...path, key])
      }
    }
  }
  visit(value, [])
  return details
}

/** `body.forwards[0].guestPort`; keys that are no plain words are quoted, long ones cut. */
export function joinPath(root: string, path: readonly PropertyKey[]): string {
  return path.reduce<string>((text, key) => {
    if (typeof key === 'number') return `${text}[${key}]`
    const name = String(key)
    return /^[A-Za-z_][A-Za-z0-9_]*$/.test(name) && name.length <= KEY_LENGTH_MAX
      ? `${text}${text === '' ? '' : '.'}${name}`
      : `${text}[${JSON.stringify(name.toWellFormed().slice(0, KEY_LENGTH_MAX))}]`
  }, root)
}

/** What was found, in at most `GOT_LENGTH_MAX` characters. */
export function describeGot(value: unknown, field?: PropertyKey): string {
  if (value === undefined) return 'nothing'
  if (field !== undefined && SECRET_FIELDS.has(String(field))) {
    return typeof value === 'string' ? `${value.length} characters (not shown)` : `${typeof value} (not shown)`
  }
  if (Array.isArray(value)) return `a list of ${value.length}`
  if (isPlainObject(value)) return 'an object'
  const text = typeof value === 'string' ? JSON.stringify(value.slice(0, GOT_LENGTH_MAX).toWellFormed()) : String(value)
  return text.length > GOT_LENGTH_MAX ? `${text.slice(0, GOT_LENGTH_MAX)}… (${String(value).length} characters)` : text
}

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>(
    (node, key) =>
      typeof node === 'object' && node !== null && Object.hasOwn(node, key)
        ? (node as Record<PropertyKey, unknown>)[key]
        : undefined,
    value,
  )
}

type Issue = z.core.$ZodIssue
type IssueOf<C extends Issue['code']> = Extract<Issue, { code: C }>

const TYPES: Readonly<Record<string, string>> = {
  string: 'a text',
  number: 'a number',
  int: 'a whole number',
  boolean: 'true or false',
  array: 'a list',
  object: 'an object',
  record: 'an object of texts',
  null: 'null',
}
const FORMATS: Readonly<Record<string, string>> = {
  uuid: 'a UUID',
  base64: 'base64',
  guid: 'a UUID',
  email: 'an e-mail address',
  url: 'a URL',
}

const UNITS: Readonly<Record<string, string>> = {
  string: ' characters',
  array: ' items',
  set: ' items',
  map: ' entries',
  object: ' fields',
  file: ' bytes',
}

/** What would be right, for each kind of issue that zod knows: a new kind fails to compile. */
const WANT: { readonly [C in Issue['code']]: (issue: IssueOf<C>) => string } = {
  invalid_type: (issue) => TYPES[issue.expected] ?? issue.expected,
  invalid_value: (issue) =>
    issue.values.length === 1 ? String(issue.values[0]) : `one of ${issue.values.map(String).join(', ')}`,
  invalid_format: (issue) =>
    ownWords(issue) ?? FORMATS[issue.format] ?? (issue.pattern ? `text that matches ${issue.pattern}` : issue.format),
  too_small: (issue) =>
    ownWords(issue) ?? `${issue.inclusive === false ? 'more than' : 'at least'} ${issue.minimum}${UNITS[issue.origin] ?? ''}`,
  too_big: (issue) =>
    ownWords(issue) ?? `${issue.inclusive === false ? 'less than' : 'at most'} ${issue.maximum}${UNITS[issue.origin] ?? ''}`,
  not_multiple_of: (issue) => ownWords(issue) ?? `a multiple of ${issue.divisor}`,
  unrecognized_keys: () => 'no such field',
  invalid_union: (issue) => {
    const wants = issue.errors.flatMap((branch) => branch.slice(0, 1).map((inner) => wantOf(inner)))
    return [...new Set(wants)].join(' or ') || 'another form'
  },
  invalid_key: (issue) => `a key that is ${issue.issues.map((inner) => wantOf(inner)).join(' and ')}`,
  invalid_element: (issue) => `an item that is ${issue.issues.map((inner) => wantOf(inner)).join(' and ')}`,
  custom: (issue) => ownWords(issue) ?? issue.message,
}

/** A schema's own error text begins with `want`. */
const ownWords = (issue: { message: string }): string | undefined =>
  issue.message.startsWith('want ') ? issue.message.slice(5) : undefined

function wantOf(issue: Issue): string {
  const describe = WANT[issue.code] as ((issue: Issue) => string) | undefined // the table is indexed by the issue's own code
  return describe ? describe(issue) : issue.message
}

export function detailsOfIssue(issue: Issue, value: unknown, root: string, schema?: z.ZodObject): FaultDetail[] {
  if (issue.code === 'unrecognized_keys') {
    const known = issue.path.length === 0 && schema ? `one of ${Object.keys(schema.shape).join(', ')}` : 'no such field'
    return issue.keys.slice(0, DETAIL_COUNT_MAX).map((key) => ({
      path: joinPath(root, [...issue.path, key]),
      want: known === 'one of ' ? 'no field' : known,
      got: describeGot(valueAt(value, [...issue.path, key]), key),
    }))
  }
  const got =
    issue.code === 'invalid_key'
      ? JSON.stringify(String(issue.path.at(-1)).slice(0, GOT_LENGTH_MAX))
      : describeGot(valueAt(value, issue.path), issue.path.at(-1))
  return [{ path: joinPath(root, issue.path), want: wantOf(issue), got: tooLong(issue, value) ?? got }]
}

/** Of a text that is too long its length is told, not its beginning. */
function tooLong(issue: Issue, value: unknown): string | undefined {
  if (issue.code !== 'too_big' || issue.origin !== 'string') return undefined
  const text = valueAt(value, issue.path)
  return typeof text === 'string' ? `${text.length} characters` : undefined
}
