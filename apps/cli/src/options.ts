/**
 * From words to what an operation takes, by the table's own data: flags, positional words and how each is written.
 *
 *   memoryBytes --memory 512M    vcpuCount --vcpus 2    timeoutMs --timeout 30s    sshKeys --ssh-key KEY (again for more; @FILE reads)
 *   labels --label k=v           forwards --forward tcp:2222:22                    userData --user-data @FILE
 */
import { readFileSync } from 'node:fs'
import { Fault, parseBytes } from '@typevisor/base'
import type { VerbData, VerbField } from '@typevisor/api/verbs'

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
}

const kebab = (name: string): string => name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)

/** `vcpuCount` -> `vcpus`, `memoryBytes` -> `memory`, `sshKeys` -> `ssh-key`. */
export function flagName(field: VerbField): string {
  if (field.type === 'array' || field.type === 'map') return kebab(field.name).replace(/s$/, '')
  return kebab(field.name)
    .replace(/-count$/, 's')
    .replace(/-(bytes|ms|base64)$/, '')
}

function valueName(field: VerbField): string | null {
  if (field.values) return field.values.join('|')
  const names: Record<VerbField['type'], string | null> = {
    string: 'TEXT',
    integer: field.name.endsWith('Ms') ? 'TIME' : 'N',
    number: 'N',
    boolean: null,
    size: 'SIZE',
    base64: 'TEXT|@FILE|@-',
    array: field.name === 'forwards' ? '[PROTOCOL:]HOSTPORT:GUESTPORT' : 'TEXT',
    map: 'KEY=VALUE',
    object: 'JSON',
  }
  return names[field.type]
}

export function flagsOf(verb: VerbData): Flag[] {
  const positional = new Set(verb.cli?.positional ?? [])
  const make = (part: 'query' | 'body') => (field: VerbField) => ({ name: flagName(field), field, part, value: valueName(field) })
  // How long to wait for an operation is the command line's own affair (`--wait`, `--no-wait`).
  const query = verb.query.filter((field) => !(verb.saga && field.name === 'wait'))
  return [...query.map(make('query')), ...verb.body.map(make('body'))].filter((flag) => !positional.has(flag.field.name))
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

/** The same, byte for byte. */
function bytesOf(value: string, what: string): Buffer {
  if (!value.startsWith('@') || value.startsWith('@@')) return Buffer.from(value.replace(/^@@/, '@'))
  try {
    return readFileSync(value === '@-' ? 0 : value.slice(1))
  } catch (error) {
    throw usage(`${what}: ${(error as Error).message}`)
  }
}

const DURATION: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, min: 60_000, h: 3_600_000 }

function numberOf(value: string, field: VerbField, what: string): number {
  const duration = field.name.endsWith('Ms') ? /^(\d+(?:\.\d+)?)(ms|s|m|min|h)$/.exec(value) : null
  const number = duration ? Number(duration[1]) * (DURATION[duration[2] ?? ''] ?? 1) : Number(value)
  if (value.trim() === '' || !Number.isFinite(number)) throw usage(`${what}: got ${JSON.stringify(value)}, want a number`)
  return number
}

function forwardOf(value: string, what: string): unknown {
  const match = /^(?:(tcp|udp):)?(\d{1,5}):(\d{1,5})$/.exec(value)
  if (!match)
    throw usage(
      `${what}: got ${JSON.stringify(value)}, want [tcp:|udp:]HOSTPORT:GUESTPORT, such as 2222:22 (HOSTPORT 0: the host chooses)`,
    )
  return { protocol: match[1] ?? 'tcp', hostPort: Number(match[2]), guestPort: Number(match[3]) }
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
      return parseBytes(value)
    case 'integer':
    case 'number':
      return numberOf(value, field, what)
    case 'boolean':
      if (value === 'true' || value === 'false') return value === 'true'
      throw usage(`${what}: got ${JSON.stringify(value)}, want true or false`)
    case 'base64':
      return bytesOf(value, what).toString('base64')
    case 'object':
      return jsonOf(value, what)
    case 'array':
      return field.name === 'forwards' ? forwardOf(value, what) : textOf(value, what)
    case 'map':
    case 'string':
      return textOf(value, what)
  }
}

function put(into: Record<string, unknown>, field: VerbField, raw: string, what: string): void {
  const value = valueOf(raw, field, what)
  if (field.type === 'array') {
    const list = (into[field.name] ??= []) as unknown[]
    list.push(value)
  } else if (field.type === 'map') {
    const [key, ...rest] = String(value).split('=')
    if (!key || rest.length === 0) throw usage(`${what}: got ${JSON.stringify(value)}, want KEY=VALUE`)
    const map = (into[field.name] ??= {}) as Record<string, string>
    map[key] = rest.join('=')
  } else {
    if (field.name in into) throw usage(`${what}: given twice`)
    into[field.name] = value
  }
}

/** @throws Fault `invalid` naming the flag or word. */
export function parseWords(name: string, verb: VerbData, words: readonly string[]): Parsed {
  const flags = new Map(flagsOf(verb).map((flag) => [flag.name, flag]))
  const parsed: Parsed = { params: {}, query: {}, body: {}, rest: [] }
  const positional: string[] = []
  let rest: readonly string[] = []
  for (let index = 0; index < words.length; index += 1) {
    const word = words[index] as string
    if (word === '--') {
      rest = words.slice(index + 1)
      break
    }
    if (!word.startsWith('--')) {
      if (word.startsWith('-') && word !== '-') throw usage(`${name}: unknown flag ${word}; flags are long, such as --json`)
      positional.push(word)
      continue
    }
    const [flagWord, inline] = word.includes('=')
      ? [word.slice(2, word.indexOf('=')), word.slice(word.indexOf('=') + 1)]
      : [word.slice(2), undefined]
    const negated = flagWord.startsWith('no-') && flags.get(flagWord.slice(3))?.field.type === 'boolean'
    const flag = flags.get(negated ? flagWord.slice(3) : flagWord)
    if (!flag)
      throw usage(
        `${name}: unknown flag --${flagWord}; known: ${[...flags.keys()].map((known) => `--${known}`).join(' ') || 'none'}`,
      )
    let value = inline
    if (flag.field.type === 'boolean' && value === undefined) value = negated ? 'false' : 'true'
    if (value === undefined) {
      index += 1
      value = words[index]
    }
    if (value === undefined) throw usage(`${name}: --${flagWord} wants ${flag.value ?? 'a value'} behind it`)
    put(parsed[flag.part], flag.field, value, `--${flagWord}`)
  }
  placePositional(name, verb, positional, rest, parsed)
  return { ...parsed, rest }
}

function placePositional(name: string, verb: VerbData, words: readonly string[], rest: readonly string[], into: Parsed): void {
  const wanted = verb.cli?.positional ?? []
  const waiting = [...words]
  for (const key of wanted) {
    const field = [...verb.params, ...verb.body, ...verb.query].find((candidate) => candidate.name === key)
    const part = verb.params.some((param) => param.name === key) ? into.params : into.body
    if (field?.type === 'array') {
      part[key] = [...waiting.splice(0), ...rest]
      if ((part[key] as unknown[]).length === 0) throw usage(`${name}: want ${key.toUpperCase()} behind --`)
      continue
    }
    const word = waiting.shift()
    if (word === undefined) throw usage(`${name}: want ${wanted.map((each) => each.toUpperCase()).join(' ')}`)
    part[key] = word
  }
  if (waiting.length > 0) throw usage(`${name}: unexpected ${JSON.stringify(waiting[0])}`)
}
