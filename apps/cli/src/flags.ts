/**
 * Flags of the commands that are no operation of the API, as data: what is parsed, what help shows and what a shell completes are the same.
 */
import { parseArgs, type ParseArgsOptionsConfig } from 'node:util'
import { Fault } from '@typevisor/base'
import { didYouMean } from './suggest.ts'

export interface CommandFlag {
  readonly text: string
  /** What stands behind it, `PORT` or `qemu|sim`; left out: it is a switch. */
  readonly value?: string
  /** It may be given again. */
  readonly many?: boolean
}
export type FlagTable = Readonly<Record<string, CommandFlag>>

type ValueOf<F extends CommandFlag> = F extends { value: string } ? (F extends { many: true } ? string[] : string) : boolean
export type FlagValues<T extends FlagTable> = { readonly [K in keyof T]?: ValueOf<T[K]> }

/** @throws Fault `invalid` naming the flag, and the one that was meant where one is near. */
export function parseFlags<const T extends FlagTable>(command: string, table: T, words: readonly string[]): FlagValues<T> {
  const options: ParseArgsOptionsConfig = {}
  for (const [name, flag] of Object.entries(table))
    options[name] = flag.value === undefined ? { type: 'boolean' } : { type: 'string', multiple: flag.many === true }
  const known = Object.keys(table).map((name) => `--${name}`)
  for (const word of words) {
    const flag = word.split('=')[0] as string
    if (word.startsWith('-') && !known.includes(flag))
      throw new Fault('invalid', `${command}: unknown flag ${flag}${didYouMean(flag, known)}; known: ${known.join(' ')}`)
  }
  try {
    return parseArgs({ args: [...words], options }).values as FlagValues<T> // the options are made of the same table
  } catch (error) {
    throw new Fault('invalid', `${command}: ${(error as Error).message}`, { cause: error })
  }
}

/** What was given, where it is one of `words`. @throws Fault `invalid` naming the flag and all of them. */
export function oneOf<const W extends string>(flag: string, got: string, words: readonly W[]): W {
  const found = words.find((word) => word === got)
  if (found !== undefined) return found
  const known = [...words.slice(0, -2), words.slice(-2).join(' or ')].join(', ')
  throw new Fault('invalid', `${flag}: got ${JSON.stringify(got)}, want ${known}`)
}
