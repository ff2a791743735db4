/**
 * Flags of the commands that are no operation of the API, as data: what is parsed, what help shows and what a shell completes are the same.
 */
import { Fault, formatBytes, parseBytes, type Bytes } from '@typevisor/base'
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

/** `--flag VALUE` or `--flag=VALUE`. @throws Fault `invalid` naming the flag, and the one that was meant where one is near. */
export function parseFlags<const T extends FlagTable>(command: string, table: T, words: readonly string[]): FlagValues<T> {
  const known = Object.keys(table).map((name) => `--${name}`)
  const refuse = (problem: string): never => {
    throw new Fault('invalid', `${command}: ${problem}`)
  }
  const values: Record<string, string | string[] | boolean> = {}
  for (let index = 0; index < words.length; index += 1) {
    const word = words[index] as string // it is within
    const equals = word.indexOf('=')
    const name = (equals === -1 ? word : word.slice(0, equals)).slice(2)
    if (!word.startsWith('-')) refuse(`unexpected ${JSON.stringify(word)}; flags come last`)
    const flag = word.startsWith('--') && Object.hasOwn(table, name) ? table[name] : undefined
    if (!flag) return refuse(`unknown flag ${word}${didYouMean(word, known)}; known: ${known.join(' ')}`)
    if (values[name] !== undefined && flag.many !== true) refuse(`--${name}: given twice`)
    if (flag.value === undefined) {
      if (equals !== -1) refuse(`--${name}: got ${JSON.stringify(word.slice(equals + 1))}, want no value`)
      values[name] = true
      continue
    }
    // A value may begin with one dash, as a number below 0 does: what is wrong with it its reader says.
    const next = equals === -1 ? words[(index += 1)] : word.slice(equals + 1)
    if (next === undefined || next === '' || (equals === -1 && next.startsWith('--')))
      return refuse(`--${name}: got nothing, want ${flag.value}`)
    values[name] = flag.many === true ? [...((values[name] as string[] | undefined) ?? []), next] : next
  }
  return values as FlagValues<T> // they are of the same table
}

/** A size as people write it. @throws Fault `invalid` naming the flag. */
export function sizeOf(
  flag: string,
  text: string,
  { least = 1, most, multipleOf = 1 }: { least?: number; most: number; multipleOf?: number },
): Bytes {
  let size: Bytes | null = null
  try {
    size = parseBytes(text)
  } catch {
    // What is wanted is said below.
  }
  if (size !== null && size >= least && size <= most && size % multipleOf === 0) return size
  const multiple = multipleOf === 1 ? '' : `, a multiple of ${formatBytes(multipleOf)}`
  throw new Fault(
    'invalid',
    `${flag}: got ${JSON.stringify(text)}, want a size such as 512MiB from ${formatBytes(least)} to ${formatBytes(most)}${multiple}`,
  )
}

/** What was given, where it is one of `words`. @throws Fault `invalid` naming the flag and all of them. */
export function oneOf<const W extends string>(flag: string, got: string, words: readonly W[]): W {
  const found = words.find((word) => word === got)
  if (found !== undefined) return found
  const known = [...words.slice(0, -2), words.slice(-2).join(' or ')].join(', ')
  throw new Fault('invalid', `${flag}: got ${JSON.stringify(got)}, want ${known}`)
}
