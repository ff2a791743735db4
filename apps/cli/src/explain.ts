/**
 * What the server refused, in the words of the command line: `body.memoryBytes` was `--memory 1K`, and bytes and milliseconds are said as
 * people say them.
 */
import { Fault, formatBytes, type FaultDetail } from '@typevisor/base'
import type { VerbData, VerbField } from '@typevisor/api/verbs'
import { durationText } from './format.ts'
import { flagName, wordName, type Parsed, type Source } from './options.ts'
import { isSecret } from './secret-fields.ts'

/** `body.forwards[0].guestPort` -> part, field, the rest. */
const PATH = /^(params|query|body)\.(\w+)(.*)$/s

function sourceOf(path: string, parsed: Parsed): Source | undefined {
  // `body.labels.tier` and `body.labels["tier"]` are the same.
  const quoted = path.replace(/^(body\.\w+)\.(\w+)$/, (_, field: string, key: string) => `${field}[${JSON.stringify(key)}]`)
  for (const [known, source] of parsed.sources) {
    if (path === known || quoted === known || path.startsWith(`${known}.`) || path.startsWith(`${known}[`)) return source
  }
  return undefined
}

const wordOf = (field: VerbField, verb: VerbData): string =>
  verb.cli?.positional.includes(field.name) ? wordName(field.name) : `--${flagName(field, verb)}`

const wantOf = (want: string, field: VerbField): string => {
  const plain = want.replace(/ characters$/, '')
  if (field.type === 'size') return plain.replaceAll(/\b\d{4,16}\b/g, (digits) => formatBytes(Number(digits)))
  if (field.name.endsWith('Ms')) return plain.replaceAll(/\b\d{1,16}\b/g, (digits) => durationText(Number(digits)))
  return want
}

function lineOf(detail: FaultDetail, verb: VerbData, parsed: Parsed): string {
  const [, part, name] = PATH.exec(detail.path) ?? []
  const fields = part === 'params' ? verb.params : part === 'query' ? verb.query : part === 'body' ? verb.body : []
  const field = fields.find((each) => each.name === name)
  if (!field) return `${detail.path}: got ${detail.got}, want ${detail.want}`
  const source = sourceOf(detail.path, parsed)
  const got = source && !isSecret(field) && source.raw.length <= 80 ? JSON.stringify(source.raw) : detail.got
  return `${source?.word ?? wordOf(field, verb)}: got ${got}, want ${wantOf(detail.want, field)}`
}

/** The same fault with a message that names flags; its details stay the server's own. What it does not understand it leaves alone. */
export function explained(error: unknown, name: string, verb: VerbData, parsed: Parsed): unknown {
  if (!(error instanceof Fault) || error.code !== 'invalid' || error.details.length === 0) return error
  const lines = error.details.map((detail) => lineOf(detail, verb, parsed))
  const message = lines.length === 1 ? `${name}: ${lines[0]}` : `${name}:\n  ${lines.join('\n  ')}`
  return new Fault('invalid', message, { details: error.details, cause: error })
}
