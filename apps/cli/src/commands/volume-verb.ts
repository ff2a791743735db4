/** What stands behind `volume` and `snapshot`. */
import type { CommandCaller } from '@typevisor/storage'
import type { Terminal } from '../terminal.ts'

export interface VolumeVerb {
  readonly usage: string
  readonly words: readonly [least: number, most: number]
  /** Those that it takes beside `--dir`. */
  readonly flags?: readonly string[]
  /** It makes the folder when there is none; unless it has one of these switches. */
  readonly makes?: true | { readonly unless: readonly string[] }
  /** Nothing else may work on the volumes meanwhile, unless they are served. */
  readonly checks?: boolean
  /** It reads or writes volumes: the folder is served while it works. */
  readonly transfers?: boolean
  /** Why it makes sense only where somebody serves the folder. */
  readonly wantsServer?: string
  /** The first call opens the folder, or makes it: words that are wrong are refused before that. @returns the exit code, where it is another than 0. */
  run(
    call: CommandCaller,
    words: readonly string[],
    flags: Readonly<Record<string, string | undefined>>,
    terminal: Terminal,
    json: boolean,
    more: { readonly dir: string; readonly switches: ReadonlySet<string> },
  ): Promise<number | void>
}
