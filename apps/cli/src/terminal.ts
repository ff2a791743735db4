import type { FlagTable } from './flags.ts'

/** What a command gets of the world. */
export interface Terminal {
  readonly env: NodeJS.ProcessEnv
  readonly out: (text: string) => void
  readonly say: (text: string) => void
  readonly width: number
  readonly interactive: boolean
}

export interface Command {
  readonly summary: string
  readonly usage: string
  /** The first word behind it is one of them. */
  readonly verbs?: readonly string[]
  readonly flags?: FlagTable
  /** Of each verb, where they differ. */
  readonly helpOf?: Readonly<Record<string, { readonly usage: string; readonly flags: FlagTable }>>
  /** It knows `--json`. */
  readonly json?: true
  readonly run: (words: readonly string[], terminal: Terminal, json: boolean) => Promise<number>
}
