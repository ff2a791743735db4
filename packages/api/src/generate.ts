/**
 * Writes what is made of tables: `generated/verbs.ts`, `generated/routes.ts` and the record of the API (`docs/api/v1.json`). Tests compare, so that it cannot be
 * forgotten. A change of the API that would break its users is refused; `--break` writes it all the same, with a word in the changelog.
 */
import { z } from 'zod'
import { OPERATIONS, type OperationDefinition } from './table.ts'
import type { RouteData } from './routes.ts'
import type { FieldType, VerbData, VerbField } from './verbs.ts'

type JsonSchema = { readonly [key: string]: unknown }

function typeOf(name: string, schema: JsonSchema): FieldType {
  const type = schema['type']
  if (type === 'integer') return /Bytes(?:Max)?$/.test(name) ? 'size' : 'integer'
  if (type === 'number' || type === 'boolean' || type === 'array') return type
  if (type === 'object') return schema['properties'] === undefined ? 'map' : 'object'
  if (type === 'string') return schema['contentEncoding'] === 'base64' || schema['format'] === 'base64' ? 'base64' : 'string'
  throw new Error(`field ${name}: ${JSON.stringify(schema)} has no form on the command line`)
}

const bound = (value: unknown): number | undefined =>
  typeof value === 'number' && Number.isFinite(value) && Math.abs(value) < Number.MAX_SAFE_INTEGER ? value : undefined

function fieldOf(name: string, schema: JsonSchema, required: boolean): VerbField {
  const type = typeOf(name, schema)
  const items = schema['items'] as JsonSchema | undefined
  const [minimum, maximum] = [bound(schema['minimum']), bound(schema['maximum'])]
  return {
    name,
    type,
    required,
    description: typeof schema['description'] === 'string' ? schema['description'] : '',
    ...(schema['default'] === undefined ? {} : { default: schema['default'] }),
    ...(Array.isArray(schema['enum']) ? { values: schema['enum'] as string[] } : {}),
    ...(minimum === undefined ? {} : { minimum }),
    ...(maximum === undefined ? {} : { maximum }),
    ...(items ? { items: itemOf(name, items) } : {}),
    ...(type === 'object' ? { fields: fieldsOfJson(schema) } : {}),
  }
}

function itemOf(name: string, schema: JsonSchema): NonNullable<VerbField['items']> {
  const type = typeOf(name, schema)
  return {
    type,
    ...(Array.isArray(schema['enum']) ? { values: schema['enum'] as string[] } : {}),
    ...(type === 'object' ? { fields: fieldsOfJson(schema) } : {}),
  }
}

function fieldsOfJson(schema: JsonSchema): VerbField[] {
  const required = new Set(schema['required'] as string[] | undefined)
  return Object.entries((schema['properties'] ?? {}) as Record<string, JsonSchema>).map(([name, field]) =>
    fieldOf(name, field, required.has(name)),
  )
}

const fieldsOf = (schema: z.ZodObject | undefined): VerbField[] =>
  schema ? fieldsOfJson(z.toJSONSchema(schema, { io: 'input' }) as JsonSchema) : []

export function verbData(): Record<string, VerbData> {
  return Object.fromEntries(
    Object.entries<OperationDefinition>(OPERATIONS).map(([name, operation]) => [
      name,
      {
        method: operation.method,
        path: operation.path,
        summary: operation.summary,
        role: operation.role,
        scope: operation.scope,
        transport: operation.transport ?? 'http',
        saga: operation.saga ?? false,
        status: operation.status,
        faults: operation.faults,
        cli: operation.cli && { positional: operation.cli.positional, confirms: operation.cli.confirms ?? false },
        params: fieldsOf(operation.params),
        query: fieldsOf(operation.query),
        body: fieldsOf(operation.body),
      },
    ]),
  )
}

export const routeData = (): Record<string, RouteData> =>
  Object.fromEntries(
    Object.entries<OperationDefinition>(OPERATIONS).map(([name, { method, path, role }]) => [name, { method, path, role }]),
  )

/** TypeScript as people write it: bare keys, single quotes, short things on one line. */
function print(value: unknown, indent: string): string {
  if (typeof value === 'string') return `'${JSON.stringify(value).slice(1, -1).replaceAll('\\"', '"').replaceAll("'", "\\'")}'`
  if (typeof value !== 'object' || value === null) return String(value)
  const inner = `${indent}  `
  const parts = Array.isArray(value)
    ? value.map((item) => print(item, inner))
    : Object.entries(value).map(([key, item]) => `${/^[a-zA-Z_]\w*$/.test(key) ? key : `'${key}'`}: ${print(item, inner)}`)
  const [open, close] = Array.isArray(value) ? ['[', ']'] : ['{', '}']
  if (parts.length === 0) return `${open}${close}`
  const line = Array.isArray(value) ? `[${parts.join(', ')}]` : `{ ${parts.join(', ')} }`
  if (line.length + indent.length <= 130 && !line.includes('\n')) return line
  return `${open}\n${parts.map((part) => `${inner}${part},\n`).join('')}${indent}${close}`
}

const sourceOf = (from: string, type: string, name: string, value: unknown): string =>
  [
    '/** Generated from table.ts by generate.ts; not edited by hand. */',
    "import type { OperationName } from '../table.ts'",
    `import type { ${type} } from '../${from}.ts'`,
    '',
    '// oxfmt-ignore',
    `export const ${name}: Readonly<Record<OperationName, ${type}>> = ${print(value, '')}`,
    '',
  ].join('\n')

/** Files of `generated/` by their names. */
export const generatedSources = (): Readonly<Record<string, string>> => ({
  'verbs.ts': sourceOf('verbs', 'VerbData', 'VERB_DATA', verbData()),
  'routes.ts': sourceOf('routes', 'RouteData', 'ROUTE_DATA', routeData()),
})

if (import.meta.main) {
  const { readFileSync, writeFileSync } = await import('node:fs')
  const { breaks, surface } = await import('./compatibility.ts')
  const at = (path: string): URL => new URL(path, import.meta.url)
  const record = at('../../../docs/api/v1.json')
  const broken = breaks(JSON.parse(readFileSync(record, 'utf8')), surface())
  if (broken.length > 0 && !process.argv.includes('--break')) {
    process.stderr.write(`this breaks whoever uses the API:\n${broken.map((line) => `  ${line}\n`).join('')}`)
    process.exit(1)
  }
  writeFileSync(record, `${JSON.stringify(surface(), null, 1)}\n`)
  for (const [file, source] of Object.entries(generatedSources())) writeFileSync(at(`./generated/${file}`), source)
}
