import type { OperationName } from '@typevisor/api'
import { VERB_DATA } from '@typevisor/api/verbs'
import { COMMANDS } from './commands.ts'
import { flagsOf } from './options.ts'
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
    '`typevisor help NOUN` and `typevisor NOUN VERB --help` say more. TYPEVISOR_DATA, TYPEVISOR_URL and TYPEVISOR_TOKEN say which server.',
  ].join('\n')
}

function nounHelp(noun: string): string {
  const verbs = verbsOf(noun)
  return verbs
    .map((verb) => `  typevisor ${pad(`${noun} ${verb}`, 24)} ${VERB_DATA[`${noun}.${verb}` as OperationName].summary}`)
    .join('\n')
}

function verbHelp(name: OperationName): string {
  const verb = VERB_DATA[name]
  const words = (verb.cli?.positional ?? []).map((word) => (word === 'argv' ? '-- COMMAND [ARG ...]' : word.toUpperCase()))
  const flags = flagsOf(verb).map((flag) => ({
    left: `--${flag.name}${flag.value === null ? '' : ` ${flag.value}`}`,
    right: `${flag.field.description}${flag.field.default === undefined || JSON.stringify(flag.field.default).length > 40 ? '' : ` (default ${JSON.stringify(flag.field.default)})`}`,
  }))
  if (verb.saga) flags.push({ left: '--no-wait', right: 'answer at once; `typevisor operation get` shows how it goes on' })
  if (verb.saga && name.startsWith('instance.'))
    flags.push({ left: '--wait console|agent|done', right: 'wait for the guest itself' })
  if (verb.cli?.confirms) flags.push({ left: '--yes', right: 'do not ask' })
  flags.push({ left: '--json', right: 'the reply as JSON' })
  const width = Math.min(44, Math.max(...flags.map((flag) => flag.left.length)))
  return [
    `${verb.summary}.`,
    '',
    `usage: typevisor ${name.replace('.', ' ')} ${words.join(' ')}`.trimEnd(),
    '',
    ...flags.map((flag) => `  ${pad(flag.left, width)}  ${flag.right}`),
  ].join('\n')
}

export async function help(words: readonly string[]): Promise<string> {
  const [noun, verb] = words
  if (noun === undefined) return overview()
  if (Object.hasOwn(COMMANDS, noun)) {
    const command = await COMMANDS[noun]?.load()
    return command ? `${command.summary}.\n\nusage: ${command.usage}` : overview()
  }
  const name = `${noun}.${verb}`
  if (Object.hasOwn(VERB_DATA, name)) return verbHelp(name as OperationName)
  return verbsOf(noun).length > 0 ? nounHelp(noun) : overview()
}
