/** Input of the API, parsed by the table's schemas; `@typevisor/model/check` says what is refused, and how. */
import type { FaultDetail } from '@typevisor/base'
import {
  describeGot,
  DETAIL_COUNT_MAX,
  detailsOfIssue,
  hostileDetails,
  invalidInput,
  isPlainObject,
  joinPath,
} from '@typevisor/model/check'
import type { z } from 'zod'
import {
  OPERATIONS,
  type OperationDefinition,
  type OperationName,
  type Params,
  type ParsedBody,
  type ParsedQuery,
} from './table.ts'

export interface RawInput {
  readonly params: unknown
  readonly query: unknown
  /** undefined: nothing was sent, which is read as `{}`. */
  readonly body: unknown
}

export interface ParsedInput<N extends OperationName> {
  readonly params: Params<N>
  readonly query: ParsedQuery<N>
  readonly body: ParsedBody<N>
}

/** @throws Fault `invalid` with a detail for each field that is wrong. */
export function parseInput<N extends OperationName>(name: N, raw: RawInput): ParsedInput<N> {
  const operation: OperationDefinition = OPERATIONS[name]
  const details: FaultDetail[] = []
  const parsed = {
    params: parsePart('params', operation.params, raw.params, details),
    query: parsePart('query', operation.query, raw.query, details),
    body: parsePart('body', operation.body, raw.body, details),
  }
  if (details.length > 0) throw invalidInput(name, details)
  return parsed as ParsedInput<N> // the schemas parsed are the ones the type is made of
}

function parsePart(
  root: 'params' | 'query' | 'body',
  schema: z.ZodObject | undefined,
  raw: unknown,
  details: FaultDetail[],
): unknown {
  const value = raw === undefined || (root !== 'body' && raw === null) ? {} : raw
  const found = hostileDetails(value, root)
  if (!schema) {
    if (found.length === 0 && isPlainObject(value)) {
      for (const key of Object.keys(value).slice(0, DETAIL_COUNT_MAX)) {
        found.push({ path: joinPath(root, [key]), want: 'nothing: there is no such field', got: describeGot(value[key], key) })
      }
    } else if (found.length === 0) found.push({ path: root, want: 'nothing', got: describeGot(value) })
    details.push(...found)
    return undefined
  }
  if (found.length === 0 && root === 'query') found.push(...queryDetails(schema, value))
  if (found.length > 0) {
    details.push(...found)
    return undefined
  }
  const result = schema.safeParse(value)
  if (result.success) return result.data
  details.push(...result.error.issues.flatMap((issue) => detailsOfIssue(issue, value, root, schema)))
  return undefined
}

/** A query holds text only: one value a field, and numbers as people write them (`Number` would also take '', ' 1' and '0x10'). */
function queryDetails(schema: z.ZodObject, value: unknown): FaultDetail[] {
  if (!isPlainObject(value)) return []
  return Object.entries(value).flatMap(([key, text]): FaultDetail[] => {
    const path = joinPath('query', [key])
    const field = schema.shape[key]
    if (Array.isArray(text)) return [{ path, want: 'one value', got: `${text.length} values` }]
    if (field && typeof text === 'string' && baseType(field) === 'number' && !/^-?\d{1,15}(?:\.\d{1,9})?$/.test(text)) {
      return [{ path, want: 'a number in decimal digits', got: describeGot(text) }]
    }
    return []
  })
}

/** The type under `default` and `optional`. */
function baseType(schema: z.core.$ZodType): string {
  const definition = schema._zod.def as { type: string; innerType?: z.core.$ZodType }
  return definition.innerType ? baseType(definition.innerType) : definition.type
}
