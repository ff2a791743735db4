/** Completion scripts. They ask `typevisor` for nothing: the words are in the script, made from the same table. */
import { Fault } from '@typevisor/base'
import type { OperationName } from '@typevisor/api'
import { VERB_DATA } from '@typevisor/api/verbs'
import { COMMANDS } from '../commands.ts'
import type { Command } from '../terminal.ts'
import { flagsOf } from '../options.ts'
import { verbsOf } from '../verb.ts'

const nouns = (): string[] =>
  [...new Set(Object.keys(VERB_DATA).map((name) => name.split('.')[0] as string))].filter((noun) => verbsOf(noun).length > 0)
const flags = (noun: string, verb: string): string =>
  ['--json', '--help', ...flagsOf(VERB_DATA[`${noun}.${verb}` as OperationName]).map((flag) => `--${flag.name}`)].join(' ')

function bash(): string {
  const verbCases = nouns().map((noun) => `    ${noun}) words="${verbsOf(noun).join(' ')}";;`)
  const flagCases = nouns().flatMap((noun) =>
    verbsOf(noun).map((verb) => `    "${noun} ${verb}") words="${flags(noun, verb)}";;`),
  )
  return `# bash completion for typevisor: source <(typevisor completion bash)
_typevisor() {
  local words="" current="\${COMP_WORDS[COMP_CWORD]}"
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="${[...nouns(), ...Object.keys(COMMANDS), 'help'].join(' ')}"
  elif [ "$COMP_CWORD" -eq 2 ]; then
    case "\${COMP_WORDS[1]}" in
${verbCases.join('\n')}
    esac
  else
    case "\${COMP_WORDS[1]} \${COMP_WORDS[2]}" in
${flagCases.join('\n')}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -F _typevisor typevisor ./typevisor`
}

const zsh = (): string => `# zsh completion for typevisor: source <(typevisor completion zsh)
autoload -U +X bashcompinit && bashcompinit
${bash()}`

function fish(): string {
  const top = [...nouns(), ...Object.keys(COMMANDS)]
  return [
    '# fish completion for typevisor: typevisor completion fish | source',
    `complete -c typevisor -f -n __fish_use_subcommand -a '${top.join(' ')}'`,
    ...nouns().map((noun) => `complete -c typevisor -f -n '__fish_seen_subcommand_from ${noun}' -a '${verbsOf(noun).join(' ')}'`),
  ].join('\n')
}

const SHELLS: Readonly<Record<string, () => string>> = { bash, zsh, fish }

export const completion: Command = {
  summary: 'Print the completion script of a shell',
  usage: 'typevisor completion bash|zsh|fish',
  async run([shell], terminal) {
    const script = shell !== undefined && Object.hasOwn(SHELLS, shell) ? SHELLS[shell] : undefined
    if (!script) throw new Fault('invalid', `completion: got ${JSON.stringify(shell)}, want ${Object.keys(SHELLS).join(', ')}`)
    terminal.out(script())
    return 0
  },
}
