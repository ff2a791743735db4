/**
 * From words to what an operation takes, by the table's own data: flags, positional words and how each is written.
 *
 *   memoryBytes --memory 512M    vcpuCountMax --vcpus-max 4    cpuCapPercent --cpu-cap 50    timeoutMs --timeout 30s    sshKeys --ssh-key KEY (again for more; @FILE reads)
 *   labels --label k=v           forwards --forward tcp:2222:22                    userData --user-data @FILE
 */
import { readFileSync } from 'node:fs'
import { Fault, parseBytes, toFault } from '@typevisor/base'
import type { VerbData, VerbField } from '@typevisor/api/verbs'
import { ownFlagsOf } from './own-flags.ts'
import { isSecret } from './secret-fields.ts'
import { didYouMean } from './suggest.ts'

export interface Flag {
  readonly name: string
  readonly field: VerbField
  readonly part: 'query' | 'body'
  /** What stands behind it in help: `SIZE`, `N`, `K=V`. */
  readonly value: string | null
}

export interface Parsed {
  readonly params: Record<string, unknown>
  readonly query: Record<string, unknown>
  readonly body: Record<string, unknown>
  /** Words behind `--`. */
  readonly rest: readonly string[]
  /** Where each value came from, by its path as the server names it: `body.memoryBytes`, `body.sshKeys[1]`, `body.labels["tier"]`. */
  readonly sources: ReadonlyMap<string, Source>
}
export interface Source {
  /** `--memory`, or `NAME` for a word. */
  readonly word: string
  /** As the user wrote it. */
  readonly raw: string
}

const kebab = (name: string): string => name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)

/** What a path calls otherwise than its fields. */
const OTHER_NAMES: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  '/api/v1/instances/:instance/migrate': { host: 'to', channelCount: 'channels' },
}

/** `vcpuCount` -> `vcpus`, `memoryBytes` -> `memory`, `sshKeys` -> `ssh-key`. */
export function flagName(field: VerbField, { path }: Pick<VerbData, 'path'>): string {
  const other = OTHER_NAMES[path]?.[field.name]
  if (other !== undefined) return other
  return field.type === 'array' || field.type === 'map' ? ofSeveral(field.name) : ofOne(field.name)
}

const ofSeveral = (name: string): string => kebab(name).replace(/s$/, '')
const ofOne = (name: string): string =>
  kebab(name)
    .replace(/-count(-max)?$/, 's$1')
    .replace(/-(?:bytes|ms|base64|percent)(-max)?$/, '$1')

const isPointInTime = (field: VerbField): boolean => field.type === 'integer' && field.name.endsWith('At')
/** A query has only texts: there a switch is one of the texts `true` and `false`. */
export const isSwitch = (field: VerbField): boolean =>
  field.type === 'boolean' || (field.values?.length === 2 && field.values.includes('true') && field.values.includes('false'))

const WORD_COUNT_SHOWN = 3

function valueName(field: VerbField): string | null {
  if (isSwitch(field)) return null
  if (isSecret(field)) return '-|@FILE'
  if (field.values) return field.values.join('|')
  const names: Record<VerbField['type'], string | null> = {
    string: 'TEXT',
    integer: field.name.endsWith('Ms') || isPointInTime(field) ? 'TIME' : 'N',
    number: 'N',
    boolean: null,
    size: 'SIZE',
    base64: 'TEXT|@FILE|@-',
    array:
      ARRAYS[field.name]?.value ??
      (field.items?.values ? `${field.items.values.slice(0, WORD_COUNT_SHOWN).join('|')},...` : 'TEXT'),
    map: 'KEY=VALUE',
    object: 'JSON',
  }
  return names[field.type]
}

/** Asked of sessions only, and the command line comes with a token. */
const NOT_FOR_TOKENS = new Set(['currentPassword'])

export function flagsOf(verb: VerbData): Flag[] {
  const positional = new Set(verb.cli?.positional ?? [])
  const make = (part: 'query' | 'body') => (field: VerbField) => ({
    name: flagName(field, verb),
    field,
    part,
    value: valueName(field),
  })
  // How long to wait for an operation is the command line's own affair (`--wait`, `--no-wait`).
  const query = verb.query.filter((field) => !(verb.saga && field.name === 'wait'))
  return [...query.map(make('query')), ...verb.body.map(make('body'))].filter(
    (flag) => !positional.has(flag.field.name) && !NOT_FOR_TOKENS.has(flag.field.name),
  )
}

const usage = (message: string): Fault => new Fault('invalid', message)

/** `@FILE` reads a file, `@-` standard input; `@@x` is the text `@x`. */
function textOf(value: string, what: string): string {
  if (!value.startsWith('@')) return value
  if (value.startsWith('@@')) return value.slice(1)
  try {
    return readFileSync(value === '@-' ? 0 : value.slice(1), 'utf8').trimEnd()
  } catch (error) {
    throw usage(`${what}: ${(error as Error).message}`)
  }
}

/** A password: `-`, `@-` and `@FILE` are read, without the line's end. */
function secretOf(value: string, what: string): string {
  if (value === '-' || (value.startsWith('@') && !value.startsWith('@@')))
    return bytesOf(value === '-' ? '@-' : value, what)
      .toString()
      .replace(/\r?\n$/, '')
  return value.replace(/^@@/, '@')
}

/** The same, byte for byte. */
function bytesOf(value: string, what: string): Buffer {
  if (!value.startsWith('@') || value.startsWith('@@')) return Buffer.from(value.replace(/^@@/, '@'))
  try {
    return readFileSync(value === '@-' ? 0 : value.slice(1))
  } catch (error) {
    throw usage(`${what}: ${(error as Error).message}`)
  }
}

const DURATION: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, min: 60_000, h: 3_600_000, d: 86_400_000 }

function numberOf(value: string, field: VerbField, what: string): number {
  const duration = field.name.endsWith('Ms') ? /^(\d+(?:\.\d+)?)(ms|s|m|min|h|d)$/.exec(value) : null
  const number = duration ? Number(duration[1]) * (DURATION[duration[2] ?? ''] ?? 1) : Number(value)
  if (value.trim() === '' || !Number.isFinite(number)) throw usage(`${what}: got ${JSON.stringify(value)}, want a number`)
  return number
}

/** A point in time: `30d` and the like from now, a date as ISO 8601 writes it, or milliseconds since 1970. */
function timeOf(value: string, what: string): number {
  const duration = /^(\d+(?:\.\d+)?)(s|m|min|h|d)$/.exec(value)
  if (duration) return Math.round(Date.now() + Number(duration[1]) * (DURATION[duration[2] ?? ''] ?? 1))
  const at = /^\d{13}$/.test(value) ? Number(value) : /^\d{4}-\d{2}-\d{2}/.test(value) ? Date.parse(value) : Number.NaN
  if (Number.isNaN(at)) throw usage(`${what}: got ${JSON.stringify(value)}, want a time, such as 30d (from now) or 2027-01-31`)
  return at
}

function sizeOf(value: string, what: string): number {
  try {
    return parseBytes(value)
  } catch (error) {
    throw new Fault('invalid', `${what}: ${toFault(error).message.replace(/^size: /, '')}`, { cause: error })
  }
}

function forwardOf(value: string, what: string): unknown {
  const match = /^(?:(tcp|udp):)?(\d{1,5}):(\d{1,5})$/.exec(value)
  if (!match)
    throw usage(
      `${what}: got ${JSON.stringify(value)}, want [tcp:|udp:]HOSTPORT:GUESTPORT, such as 2222:22 (HOSTPORT 0: the host chooses)`,
    )
  return { protocol: match[1] ?? 'tcp', hostPort: Number(match[2]), guestPort: Number(match[3]) }
}

/** `root:bytes=10M,operations=200` */
function diskLimitOf(value: string, what: string): unknown {
  const [, disk, parts] = /^([a-z0-9-]+):(.+)$/.exec(value) ?? []
  const limit = new Map<string, number>()
  for (const part of (parts ?? '').split(',')) {
    const [, name, amount = ''] = /^(bytes|operations)=(.+)$/.exec(part) ?? []
    if (disk === undefined || name === undefined || limit.has(name))
      throw usage(
        `${what}: got ${JSON.stringify(value)}, want DISK:bytes=SIZE,operations=N, such as root:bytes=10M (0: no limit)`,
      )
    limit.set(name, name === 'bytes' ? sizeOf(amount, what) : Number(amount))
  }
  const [bytesPerSecond, operationsPerSecond] = [limit.get('bytes'), limit.get('operations')]
  return {
    disk,
    ...(bytesPerSecond === undefined ? {} : { bytesPerSecond }),
    ...(operationsPerSecond === undefined ? {} : { operationsPerSecond }),
  }
}

/** Arrays of objects, one word each. */
const ARRAYS: Readonly<Record<string, { readonly value: string; readonly parse: (value: string, what: string) => unknown }>> = {
  forwards: { value: '[PROTOCOL:]HOSTPORT:GUESTPORT', parse: forwardOf },
  diskLimits: { value: 'DISK:bytes=SIZE,operations=N', parse: diskLimitOf },
}

function jsonOf(value: string, what: string): unknown {
  try {
    return JSON.parse(value)
  } catch (error) {
    throw usage(`${what}: got ${JSON.stringify(value.slice(0, 40))}, want JSON (${(error as Error).message})`)
  }
}

/** One value as written. Enumerations and bounds are left to the server, which says what it wants. */
export function valueOf(value: string, field: VerbField, what: string): unknown {
  switch (field.type) {
    case 'size':
      return sizeOf(value, what)
    case 'integer':
    case 'number':
      return isPointInTime(field) ? timeOf(value, what) : numberOf(value, field, what)
    case 'boolean':
      if (value === 'true' || value === 'false') return value === 'true'
      throw usage(`${what}: got ${JSON.stringify(value)}, want true or false`)
    case 'base64':
      return bytesOf(value, what).toString('base64')
    case 'object':
      return jsonOf(value, what)
    case 'array':
      return ARRAYS[field.name]?.parse(value, what) ?? textOf(value, what)
    case 'map':
    case 'string':
      return isSecret(field) ? secretOf(value, what) : textOf(value, what)
  }
}

/** Words of a list may be said as the flags of their names are: `cpu-weight` for `cpuWeight`. The server refuses what is none. */
const wordMeant = (said: string, words: readonly string[]): string =>
  words.find((word) => [word, ofOne(word), ofSeveral(word)].includes(said)) ?? said

/** Puts the value where the request has it; answers its path there. */
function put(into: Record<string, unknown>, field: VerbField, raw: string, what: string): string {
  if (field.type === 'array') {
    const list = (into[field.name] ??= []) as unknown[]
    const words = field.items?.values
    const values = words ? raw.split(',').map((part) => wordMeant(part.trim(), words)) : [valueOf(raw, field, what)]
    list.push(...values)
    return values.length > 1 ? field.name : `${field.name}[${list.length - 1}]`
  }
  const value = valueOf(raw, field, what)
  if (field.type === 'map') {
    const [key, ...rest] = String(value).split('=')
    if (!key || rest.length === 0) throw usage(`${what}: got ${JSON.stringify(value)}, want KEY=VALUE`)
    const map = (into[field.name] ??= {}) as Record<string, string>
    map[key] = rest.join('=')
    return `${field.name}[${JSON.stringify(key)}]`
  }
  if (field.name in into) throw usage(`${what}: given twice`)
  into[field.name] = value
  return field.name
}

interface Reading {
  readonly name: string
  readonly verb: VerbData
  readonly flags: ReadonlyMap<string, Flag>
  readonly parsed: Omit<Parsed, 'sources'> & { readonly sources: Map<string, Source> }
}

/** @throws Fault `invalid` naming the flag or word. */
export function parseWords(name: string, verb: VerbData, words: readonly string[]): Parsed {
  const flags = new Map(flagsOf(verb).map((flag) => [flag.name, flag]))
  const reading: Reading = { name, verb, flags, parsed: { params: {}, query: {}, body: {}, rest: [], sources: new Map() } }
  const positional: string[] = []
  let rest: readonly string[] = []
  for (let index = 0; index < words.length; index += 1) {
    const word = words[index] as string
    if (word === '--') {
      rest = words.slice(index + 1)
      break
    }
    if (word.startsWith('--')) index += takeFlag(reading, word, words[index + 1])
    else if (word.startsWith('-') && word !== '-') throw usage(`${name}: unknown flag ${word}; flags are long, such as --json`)
    else positional.push(word)
  }
  placePositional(reading, positional, rest)
  return { ...reading.parsed, rest }
}

/** Answers how many of the words behind it belong to it. */
function takeFlag({ name, verb, flags, parsed }: Reading, word: string, next: string | undefined): 0 | 1 {
  const equals = word.indexOf('=')
  const flagWord = equals === -1 ? word.slice(2) : word.slice(2, equals)
  const inline = equals === -1 ? undefined : word.slice(equals + 1)
  const positive = flags.get(flagWord.slice(3))
  const negated = flagWord.startsWith('no-') && positive !== undefined && isSwitch(positive.field)
  const flag = negated ? positive : flags.get(flagWord)
  if (!flag) throw unknownFlag(name, verb, flagWord, [...flags.keys()])
  let raw = inline
  let taken: 0 | 1 = 0
  if (isSwitch(flag.field) && raw === undefined) {
    // Where no word can stand, `--unfinished true` can mean one thing only.
    const spelled = !negated && verb.cli?.positional.length === 0 && (next === 'true' || next === 'false')
    raw = spelled ? next : negated ? 'false' : 'true'
    taken = spelled ? 1 : 0
  } else if (raw === undefined) {
    raw = next
    taken = 1
  }
  if (raw === undefined) throw usage(`${name}: --${flagWord} wants ${flag.value ?? 'a value'} behind it`)
  const path = put(parsed[flag.part], flag.field, raw, `--${flagWord}`)
  parsed.sources.set(`${flag.part}.${path}`, { word: `--${flagWord}`, raw })
  return taken
}

function unknownFlag(name: string, verb: VerbData, flag: string, flags: readonly string[]): Fault {
  const known = [...flags.map((each) => `--${each}`), ...ownFlagsOf(verb)]
  return usage(`${name}: unknown flag --${flag}${didYouMean(`--${flag}`, known)}; known: ${known.join(' ')}`)
}

/** `NAME`; for what stands behind `--`, `COMMAND`. */
export const wordName = (key: string): string => (key === 'argv' ? '-- COMMAND [ARG ...]' : key.toUpperCase())

/** A field that stands without a flag, and where it is sent. */
function standing(
  verb: VerbData,
  key: string,
): { readonly root: 'params' | 'query' | 'body'; readonly field: VerbField | undefined } {
  for (const root of ['params', 'query', 'body'] as const) {
    const field = verb[root].find(({ name }) => name === key)
    if (field) return { root, field }
  }
  return { root: 'body', field: undefined }
}

export function usageOf(name: string, verb: VerbData): string {
  const word = (key: string): string => {
    const { field } = standing(verb, key)
    return field?.type === 'array' && !field.required ? `[${wordName(key)} ...]` : wordName(key)
  }
  return ['typevisor', name, ...(verb.cli?.positional ?? []).map(word)].join(' ')
}

function placePositional({ name, verb, parsed }: Reading, words: readonly string[], rest: readonly string[]): void {
  const wanted = verb.cli?.positional ?? []
  const waiting = [...words]
  for (const key of wanted) {
    const { root, field } = standing(verb, key)
    if (field?.type === 'array') {
      const all = [...waiting.splice(0), ...rest]
      if (all.length > 0) parsed[root][key] = all
      else if (field.required) throw usage(`${name}: want a command behind --; usage: ${usageOf(name, verb)}`)
      continue
    }
    const raw = waiting.shift()
    if (raw === undefined) throw usage(`${name}: want ${wordName(key)}; usage: ${usageOf(name, verb)}`)
    parsed[root][key] = raw
    parsed.sources.set(`${root}.${key}`, { word: wordName(key), raw })
  }
  if (waiting.length > 0)
    throw usage(`${name}: unexpected ${JSON.stringify(waiting[0])}; usage: ${usageOf(name, verb)} [--flag VALUE ...]`)
}
