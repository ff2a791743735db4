/** What `help` and `--help` print: all of it from the tables that are parsed by. */
import { formatBytes } from '@typevisor/base'
import type { OperationName } from '@typevisor/api'
import { VERB_DATA, type VerbField } from '@typevisor/api/verbs'
import { COMMANDS } from './commands.ts'
import { durationText } from './format.ts'
import { flagsOf, isSwitch, usageOf, type Flag } from './options.ts'
import { GUEST_RUNS_AFTER } from './own-flags.ts'
import { isSecret } from './secret-fields.ts'
import { unknownNoun, unknownVerb } from './unknown.ts'
import { verbsOf } from './verb.ts'

const pad = (text: string, width: number): string => text.padEnd(width)

function overview(): string {
  const nouns = [
    ...new Set(Object.entries(VERB_DATA).flatMap(([name, verb]) => (verb.cli ? [name.split('.')[0] as string] : []))),
  ]
  return [
    'typevisor: a small cloud on this machine',
    '',
    'usage: typevisor NOUN VERB [WORD ...] [--flag VALUE ...] [--json]',
    '',
    ...nouns.map((noun) => `  ${pad(noun, 12)} ${verbsOf(noun).join(' ')}`),
    '',
    ...Object.entries(COMMANDS).map(([name, command]) => `  ${pad(name, 12)} ${command.summary}`),
    '',
    '`typevisor help NOUN` and `typevisor NOUN VERB --help` say more, `typevisor --version` which one this is. TYPEVISOR_DATA, TYPEVISOR_URL and',
    'TYPEVISOR_TOKEN say which server.',
  ].join('\n')
}

function nounHelp(noun: string): string {
  const verbs = verbsOf(noun)
  return verbs
    .map((verb) => `  typevisor ${pad(`${noun} ${verb}`, 24)} ${VERB_DATA[`${noun}.${verb}` as OperationName].summary}`)
    .join('\n')
}

interface Line {
  readonly left: string
  readonly right: string
}
const JSON_LINE: Line = { left: '--json', right: 'the reply as JSON' }
const aligned = (lines: readonly Line[]): string[] => {
  const width = Math.min(44, Math.max(...lines.map((line) => line.left.length)))
  return lines.map((line) => `  ${pad(line.left, width)}  ${line.right}`)
}

/** A default as people write it; nothing for what is empty. */
function defaultText({ name, type, description, default: value }: VerbField): string {
  if (value === undefined || (typeof value === 'object' && Object.keys(value ?? {}).length === 0)) return ''
  if (typeof value === 'number' && (type === 'size' || description.endsWith(' bytes'))) return formatBytes(value)
  if (typeof value === 'number' && name.endsWith('Ms')) return durationText(value)
  if (typeof value === 'boolean') return value ? 'yes' : 'no'
  return typeof value === 'string' ? value : JSON.stringify(value)
}

function flagLine(flag: Flag): Line {
  const value = defaultText(flag.field)
  // What is on unless told otherwise is shown by what turns it off.
  const name = isSwitch(flag.field) && flag.field.default === true ? `[no-]${flag.name}` : flag.name
  const shown = value === '' || (isSwitch(flag.field) && flag.field.default !== true) ? '' : ` (default ${value})`
  const again = flag.field.type === 'array' || flag.field.type === 'map' ? '; again for more' : ''
  const asked = isSecret(flag.field) ? 'password, from standard input or a file; left out: it is asked for' : ''
  return {
    left: `--${name}${flag.value === null ? '' : ` ${flag.value}`}`,
    right: `${asked || flag.field.description}${again}${shown}`,
  }
}

function verbHelp(name: OperationName): string {
  const verb = VERB_DATA[name]
  const lines = flagsOf(verb).map(flagLine)
  if (verb.saga) lines.push({ left: '--no-wait', right: 'answer at once; `typevisor operation get` shows how it goes on' })
  if (verb.saga && GUEST_RUNS_AFTER.has(name))
    lines.push({ left: '--wait console|agent|done', right: 'wait for the guest itself (default done)' })
  if (verb.cli?.confirms) lines.push({ left: '--yes', right: 'do not ask' })
  lines.push(JSON_LINE)
  return [`${verb.summary}.`, '', `usage: ${usageOf(name.replace('.', ' '), verb)}`, '', ...aligned(lines)].join('\n')
}

async function commandHelp(name: string, verb: string | undefined): Promise<string> {
  const command = await COMMANDS[name]?.load()
  if (!command) return overview()
  const { summary, helpOf } = command
  if (verb !== undefined && helpOf && !Object.hasOwn(helpOf, verb)) throw unknownVerb(name, verb, Object.keys(helpOf))
  const { usage, flags } = (verb === undefined ? undefined : helpOf?.[verb]) ?? command
  const lines = Object.entries(flags ?? {}).map(([flag, { value, text }]) => ({
    left: `--${flag}${value === undefined ? '' : ` ${value}`}`,
    right: text,
  }))
  if (command.json) lines.push(JSON_LINE)
  return [
    ...(usage === command.usage ? [`${summary}.`, ''] : []),
    `usage: ${usage.replaceAll('\n', '\n       ')}`,
    ...(lines.length > 0 ? ['', ...aligned(lines)] : []),
  ].join('\n')
}

/** @throws Fault `invalid` for what there is no help on, with what was meant. */
export async function help(words: readonly string[]): Promise<string> {
  const [noun, verb] = words
  if (noun === undefined || noun === 'help' || noun === 'version') return overview()
  if (Object.hasOwn(COMMANDS, noun)) return commandHelp(noun, verb)
  if (verbsOf(noun).length === 0) throw unknownNoun(noun)
  if (verb === undefined) return nounHelp(noun)
  const name = `${noun}.${verb}`
  if (!verbsOf(noun).includes(verb)) throw unknownVerb(noun, verb)
  return verbHelp(name as OperationName) // verbsOf knows it
}
