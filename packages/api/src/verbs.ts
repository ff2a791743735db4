/**
 * The table as light data, for the command line, which must start fast: each operation with its fields and the words for them. It is
 * generated from the table (`generate.ts`; a test sees that it is fresh) and pulls in no schema library.
 */
import type { RouteData } from './routes.ts'

export { VERB_DATA } from './generated/verbs.ts'

export type FieldType = 'string' | 'integer' | 'number' | 'boolean' | 'size' | 'base64' | 'array' | 'map' | 'object'

export interface VerbField {
  readonly name: string
  /** `size`: whole bytes, given as `512M`; `map`: texts by text; `array`: of `items`; `base64`: bytes. */
  readonly type: FieldType
  readonly required: boolean
  readonly description: string
  readonly default?: unknown
  /** The only values there are. */
  readonly values?: readonly string[]
  readonly minimum?: number
  readonly maximum?: number
  /** Of an array. `fields` when its items are objects. */
  readonly items?: { readonly type: FieldType; readonly values?: readonly string[]; readonly fields?: readonly VerbField[] }
  /** Of an object. */
  readonly fields?: readonly VerbField[]
}

export interface VerbData extends RouteData {
  readonly summary: string
  readonly scope: string
  readonly transport: 'http' | 'stream' | 'events'
  readonly saga: boolean
  readonly status: number
  readonly faults: readonly string[]
  readonly cli: { readonly positional: readonly string[]; readonly confirms: boolean } | null
  readonly params: readonly VerbField[]
  readonly query: readonly VerbField[]
  readonly body: readonly VerbField[]
}
