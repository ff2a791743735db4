/**
 * Flags of the command line itself, beside those of the table: `--yes`, and for what takes long `--no-wait` and `--wait`. What could never
 * come true is refused before anything is asked of the server.
 */
import { Fault } from '@typevisor/base'
import type { VerbData } from '@typevisor/api/verbs'
import type { Parsed } from './options.ts'

export type WaitFor = 'console' | 'agent' | 'done'
export interface Own {
  readonly yes: boolean
  readonly noWait: boolean
  readonly waitFor: WaitFor | null
  /** What is left for the table's own flags and words. */
  readonly words: readonly string[]
}

const WAITS: readonly string[] = ['console', 'agent', 'done'] satisfies WaitFor[]
/** After these a guest runs; after any other verb nobody's console or agent would ever answer. */
export const GUEST_RUNS_AFTER: ReadonlySet<string> = new Set([
  'instance.create',
  'instance.clone',
  'instance.copy',
  'instance.start',
  'instance.unpause',
  'instance.reboot',
  'instance.restore',
])

/** The names of those that a verb has, with their dashes. */
export const ownFlagsOf = (verb: VerbData): string[] => [
  ...(verb.saga ? ['--wait', '--no-wait'] : []),
  ...(verb.cli?.confirms ? ['--yes'] : []),
  '--json',
  '--help',
]

/** @throws Fault `invalid` naming the flag. */
export function takeOwn(verb: VerbData, words: readonly string[]): Own {
  let [yes, noWait] = [false, false]
  let waitFor: WaitFor | null = null
  const rest: string[] = []
  for (let index = 0; index < words.length; index += 1) {
    const word = words[index] as string
    if (word === '--') {
      rest.push(...words.slice(index))
      break
    }
    if (word === '--yes') yes = true
    else if (verb.saga && word === '--no-wait') noWait = true
    else if (verb.saga && (word === '--wait' || word.startsWith('--wait='))) {
      const value = word === '--wait' ? words[(index += 1)] : word.slice('--wait='.length)
      if (value === undefined || !WAITS.includes(value)) {
        const got = value === undefined ? 'nothing' : JSON.stringify(value)
        throw new Fault('invalid', `--wait: got ${got}, want console, agent or done`)
      }
      waitFor = value as WaitFor // one of WAITS
    } else rest.push(word)
  }
  return { yes, noWait, waitFor, words: rest }
}

/** @throws Fault `invalid` for what contradicts itself: nothing would ever answer, or nobody would wait for it. */
export function assertCanWait(name: string, own: Own, parsed: Parsed): void {
  if (own.waitFor === null) return
  const flag = `--wait ${own.waitFor}`
  if (own.noWait) throw new Fault('invalid', `${flag} and --no-wait contradict each other`)
  if (own.waitFor === 'done') return
  if (!GUEST_RUNS_AFTER.has(name))
    throw new Fault('invalid', `${flag}: no guest runs after ${name.replace('.', ' ')}; --wait done is what it does anyway`)
  if (parsed.body['start'] === false) throw new Fault('invalid', `${flag} and --no-start contradict each other: nothing boots`)
}
