/**
 * Completion scripts. Verbs, flags and their values are in the script, made from the tables that are parsed by; names of instances, their
 * snapshots, images and hosts are asked of the server while one types (`completion names KIND [OF]`): shortly, and in silence when it is away.
 */
import { Fault } from '@typevisor/base'
import type { OperationName } from '@typevisor/api'
import type { Client } from '@typevisor/api/client'
import { VERB_DATA, type VerbData } from '@typevisor/api/verbs'
import { COMMANDS } from '../commands.ts'
import type { Command, Terminal } from '../terminal.ts'
import { flagsOf } from '../options.ts'
import { ownFlagsOf } from '../own-flags.ts'
import { clientOf, verbsOf } from '../verb.ts'

const NAMES_LIMIT_MS = 800
const NAMES_COUNT_MAX = 500
/** What stands behind them is a file or a folder. */
const FILE_FLAGS: readonly string[] = ['--data', '--tls-cert', '--tls-key', '--dir', '--socket']

const nouns = (): string[] =>
  [...new Set(Object.keys(VERB_DATA).map((name) => name.split('.')[0] as string))].filter((noun) => verbsOf(noun).length > 0)
const verbOf = (noun: string, verb: string): VerbData => VERB_DATA[`${noun}.${verb}` as OperationName]
const flagWords = (noun: string, verb: string): string[] => {
  const data = verbOf(noun, verb)
  return [...flagsOf(data).map((flag) => `--${flag.name}`), ...ownFlagsOf(data)]
}

/** How names are found, by what they name; `of`: the word before, where it names whose they are. */
const NAMES: Readonly<Record<string, (client: Client, signal: AbortSignal, of: string | undefined) => Promise<string[]>>> = {
  instance: async (client, signal) =>
    (await client.call('instance.list', { query: { limit: NAMES_COUNT_MAX } }, { signal })).items.map((item) => item.name),
  snapshot: async (client, signal, of = '') =>
    (await client.call('instance.snapshots', { params: { instance: of } }, { signal })).items.map((item) => item.name),
  image: async (client, signal) => [
    ...new Set((await client.call('image.list', {}, { signal })).items.map((item) => item.name)),
    'micro',
  ],
  host: async (client, signal) => (await client.call('host.list', {}, { signal })).items.map((item) => item.name),
  account: async (client, signal) => (await client.call('account.list', {}, { signal })).items.map((item) => item.name),
  token: async (client, signal) => (await client.call('token.list', {}, { signal })).items.map((item) => item.id),
  operation: async (client, signal) =>
    (await client.call('operation.list', { query: { limit: 50 } }, { signal })).items.map((item) => item.id),
}

/** Never an error: the line that is being typed must not be written over. */
async function printNames(kind: string, of: string | undefined, terminal: Terminal): Promise<void> {
  const find = Object.hasOwn(NAMES, kind) ? NAMES[kind] : undefined
  try {
    const names = await find?.(clientOf(terminal), AbortSignal.timeout(NAMES_LIMIT_MS), of)
    if (names && names.length > 0) terminal.out([...new Set(names)].join('\n'))
  } catch {
    // The server is away, or says no: nothing is completed.
  }
}

/** What the first words behind a verb name, where names of it are known. */
const kindsOf = (noun: string, verb: string): [string, string] => {
  const [first = '', second = ''] = verbOf(noun, verb).params.map(({ name }) => (Object.hasOwn(NAMES, name) ? name : ''))
  return [first, second]
}

interface ValueWords {
  readonly flag: string
  /** Words, or what names are asked for. */
  readonly words?: readonly string[]
  readonly names?: string
}

/** What stands behind a flag, where that is known. Flags of one name mean the same everywhere; where they do not, all is offered. */
function valuesOfFlags(): ValueWords[] {
  const words = new Map<string, Set<string>>([['--wait', new Set(['console', 'agent', 'done'])]])
  for (const noun of nouns()) {
    for (const verb of verbsOf(noun)) {
      for (const { name, field, value } of flagsOf(verbOf(noun, verb))) {
        if (value === null || !field.values) continue
        const known = words.get(`--${name}`) ?? new Set()
        for (const each of field.values) known.add(each)
        words.set(`--${name}`, known)
      }
    }
  }
  words.set('--driver', new Set(['qemu', 'sim']))
  words.set('--log', new Set(['debug', 'info', 'warn', 'error']))
  return [
    ...[...words].map(([flag, values]) => ({ flag, words: [...values] })),
    { flag: '--image', names: 'image' },
    { flag: '--host', names: 'host' },
  ]
}

/** Verbs and flags of the commands that are no operation: flags from their tables, else from their usage. */
async function commandWords(): Promise<Map<string, { verbs: readonly string[]; flags: readonly string[] }>> {
  const entries = Object.entries(COMMANDS).map(async ([name, { load }]) => {
    const { verbs = [], flags, usage } = await load()
    const all = flags ? Object.keys(flags).map((flag) => `--${flag}`) : (usage.match(/--[a-z][a-z-]*/g) ?? [])
    return [name, { verbs, flags: [...new Set([...all, '--help'])] }] as const
  })
  return new Map([...(await Promise.all(entries))])
}

async function bash(): Promise<string> {
  const commands = await commandWords()
  const verbCases = nouns().map((noun) => `      ${noun}) words="${verbsOf(noun).join(' ')}";;`)
  const commandCases = [...commands].map(
    ([name, { verbs, flags }]) =>
      `    ${name}) words="${flags.join(' ')}"; [ "$COMP_CWORD" -eq 2 ] && words="${verbs.join(' ')}${verbs.length === 0 ? flags.join(' ') : ''}"; more=;;`,
  )
  const flagCases = nouns().flatMap((noun) =>
    verbsOf(noun).map((verb) => {
      const [kind, second] = kindsOf(noun, verb)
      return `      "${noun} ${verb}") words="${flagWords(noun, verb).join(' ')}"; kind="${kind}"; second="${second}";;`
    }),
  )
  const valueCases = valuesOfFlags().map(({ flag, words, names }) =>
    names === undefined
      ? `    ${flag}) words="${(words ?? []).join(' ')}"; more=;;`
      : `    ${flag}) words="$("$self" completion names ${names} 2>/dev/null)"; more=;;`,
  )
  return `# bash completion for typevisor: source <(typevisor completion bash)
_typevisor() {
  local words="" kind="" second="" more=1 self="\${COMP_WORDS[0]}" current="\${COMP_WORDS[COMP_CWORD]}" before="\${COMP_WORDS[COMP_CWORD-1]}"
  COMPREPLY=()
  # A command in a guest is that guest's affair.
  local word
  for word in "\${COMP_WORDS[@]:0:$COMP_CWORD}"; do [ "$word" = "--" ] && return; done
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="${[...nouns(), ...commands.keys(), 'help', 'version'].join(' ')}"; more=
  fi
  [ -n "$more" ] && case "$before" in
${valueCases.join('\n')}
    ${FILE_FLAGS.join('|')}) COMPREPLY=($(compgen -f -- "$current")); return;;
  esac
  [ -n "$more" ] && case "\${COMP_WORDS[1]}" in
${commandCases.join('\n')}
    help) [ "$COMP_CWORD" -eq 2 ] && words="${[...nouns(), ...commands.keys()].join(' ')}"; more=;;
  esac
  if [ -n "$more" ]; then
    if [ "$COMP_CWORD" -eq 2 ]; then
      case "\${COMP_WORDS[1]}" in
${verbCases.join('\n')}
      esac
    else
      case "\${COMP_WORDS[1]} \${COMP_WORDS[2]}" in
${flagCases.join('\n')}
      esac
      if [ -n "$kind" ] && [ "$COMP_CWORD" -eq 3 ] && [ "\${current#-}" = "$current" ]; then
        words="$("$self" completion names "$kind" 2>/dev/null)"
      elif [ -n "$second" ] && [ "$COMP_CWORD" -eq 4 ] && [ "\${current#-}" = "$current" ]; then
        words="$("$self" completion names "$second" "$before" 2>/dev/null)"
      fi
    fi
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -F _typevisor typevisor ./typevisor`
}

const zsh = async (): Promise<string> => `# zsh completion for typevisor: source <(typevisor completion zsh)
(( $+functions[compdef] )) || { autoload -U +X compinit && compinit }
autoload -U +X bashcompinit && bashcompinit
${await bash()}`

/** Where the cursor is, in fish: how many words stand before it, and which the first ones are. After `--` nothing is ours. */
const FISH_PLACE = `function __typevisor_at
  set -l words (commandline -opc)
  contains -- -- $words; and return 1
  set -l count $argv[1]
  set -l first $argv[2..-1]
  test "$count" = any; or test (count $words) -eq "$count"; or return 1
  test (count $first) -eq 0; and return 0
  test (count $words) -gt (count $first); or return 1
  set -l last (math 1 + (count $first))
  test "$words[2..$last]" = "$first"
end
function __typevisor_names
  set -l words (commandline -opc)
  $words[1] completion names $argv $words[4] 2>/dev/null
end`

async function fish(): Promise<string> {
  const commands = await commandWords()
  const values = new Map(valuesOfFlags().map((each) => [each.flag, each]))
  const complete = (place: string, rest: string): string => `complete -c typevisor -n '__typevisor_at ${place}' ${rest}`
  const flagRest = (flag: string): string => {
    const known = values.get(flag)
    const name = `-l ${flag.slice(2)}`
    if (FILE_FLAGS.includes(flag)) return `${name} -r -F`
    if (!known) return name
    return `${name} -x -a '${known.names === undefined ? (known.words ?? []).join(' ') : `(__typevisor_names ${known.names})`}'`
  }
  const top = [...nouns(), ...commands.keys()]
  const verbs = nouns().flatMap((noun) => [
    complete(`2 ${noun}`, `-a '${verbsOf(noun).join(' ')}'`),
    ...verbsOf(noun).flatMap((verb) => {
      const kinds = kindsOf(noun, verb)
      return [
        ...kinds.flatMap((kind, index) =>
          kind === '' ? [] : [complete(`${index + 3} ${noun} ${verb}`, `-a '(__typevisor_names ${kind})'`)],
        ),
        ...flagWords(noun, verb).map((flag) => complete(`any ${noun} ${verb}`, flagRest(flag))),
      ]
    }),
  ])
  const own = [...commands].flatMap(([name, { verbs: words, flags }]) => [
    ...(words.length === 0 ? [] : [complete(`2 ${name}`, `-a '${words.join(' ')}'`)]),
    ...flags.map((flag) => complete(`any ${name}`, flagRest(flag))),
  ])
  return [
    '# fish completion for typevisor: typevisor completion fish | source',
    FISH_PLACE,
    'complete -c typevisor -f',
    complete('1', `-a '${[...top, 'help', 'version'].join(' ')}'`),
    complete('2 help', `-a '${top.join(' ')}'`),
    ...verbs,
    ...own,
  ].join('\n')
}

const SHELLS: Readonly<Record<string, () => Promise<string>>> = { bash, zsh, fish }

export const completion: Command = {
  summary: 'Print the completion script of a shell',
  usage: 'typevisor completion bash|zsh|fish',
  verbs: ['bash', 'zsh', 'fish'],
  async run([shell, kind, of], terminal) {
    if (shell === 'names' && kind !== undefined) {
      await printNames(kind, of, terminal)
      return 0
    }
    const script = shell !== undefined && Object.hasOwn(SHELLS, shell) ? SHELLS[shell] : undefined
    if (!script) {
      const got = shell === undefined ? 'nothing' : JSON.stringify(shell)
      throw new Fault('invalid', `completion: got ${got}, want ${Object.keys(SHELLS).join(', ')}`)
    }
    terminal.out(await script())
    return 0
  },
}
