/** OpenAPI 3.1 from the table: https://spec.openapis.org/oas/v3.1.1.html */
import { z } from 'zod'
import * as schemas from './schemas.ts'
import { OPERATIONS, type OperationDefinition } from './table.ts'

type JsonObject = { [key: string]: unknown }

/** Schemas of replies by their export's name, so that documents and generated code say `Instance` rather than repeat it. */
function replyRegistry(): z.core.$ZodRegistry<{ id: string }> {
  const registry = z.registry<{ id: string }>()
  for (const [id, schema] of Object.entries(schemas)) if (schema instanceof z.ZodObject) registry.add(schema, { id })
  return registry
}

const inputSchema = (schema: z.ZodType): JsonObject => {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' }) as JsonObject
  return rest
}

function parametersOf(schema: z.ZodObject | undefined, place: 'path' | 'query'): JsonObject[] {
  if (!schema) return []
  const json = inputSchema(schema)
  const required = new Set((json['required'] as string[] | undefined) ?? [])
  return Object.entries((json['properties'] as Record<string, JsonObject> | undefined) ?? {}).map(([name, field]) => {
    const { description, ...rest } = field
    return Object.assign(
      { name, in: place, required: place === 'path' || required.has(name), schema: rest },
      description ? { description } : {},
    )
  })
}

export interface OpenApiOptions {
  readonly version: string
  /** HTTP status of a fault code: the server's table. */
  readonly statusOf: (code: string) => number
}

export function openApiDocument({ version, statusOf }: OpenApiOptions): JsonObject {
  const registry = replyRegistry()
  const components = z.toJSONSchema(registry, { io: 'output', unrepresentable: 'any', uri: (id) => `#/components/schemas/${id}` })
    .schemas as Record<string, JsonObject>
  for (const component of Object.values(components)) {
    delete component['$schema']
    delete component['$id']
  }
  const refOf = (schema: z.ZodType): JsonObject => {
    const known = registry.get(schema)
    if (known) return { $ref: `#/components/schemas/${known.id}` }
    const { $schema: _, ...rest } = z.toJSONSchema(schema, {
      io: 'output',
      unrepresentable: 'any',
      metadata: registry,
    }) as JsonObject
    return pointAtComponents(rest) as JsonObject
  }
  const errorReply = (description: string): JsonObject => ({
    description,
    content: { 'application/json': { schema: refOf(schemas.ErrorBody) } },
  })

  const paths: Record<string, JsonObject> = {}
  for (const [name, operation] of Object.entries(OPERATIONS) as [string, OperationDefinition][]) {
    const codes = new Set<string>(['invalid', 'unauthenticated', 'forbidden', 'busy', 'internal', ...operation.faults])
    const byStatus = Map.groupBy(codes, statusOf)
    const path = operation.path.replaceAll(/:(\w+)/g, '{$1}')
    const transport = operation.transport ?? 'http'
    paths[path] = {
      ...paths[path],
      [operation.method.toLowerCase()]: {
        operationId: name,
        summary: operation.summary,
        tags: [name.split('.')[0]],
        description: `Role: ${operation.role}. Scope: ${operation.scope}.${transport === 'stream' ? ' A WebSocket of bytes.' : ''}`,
        parameters: [...parametersOf(operation.params, 'path'), ...parametersOf(operation.query, 'query')],
        ...(operation.body
          ? { requestBody: { required: true, content: { 'application/json': { schema: inputSchema(operation.body) } } } }
          : {}),
        responses: {
          ...(transport === 'stream'
            ? { 101: { description: 'Switching to WebSocket' } }
            : {
                [operation.status]: {
                  description: 'Done',
                  content: {
                    [transport === 'events' ? 'text/event-stream' : 'application/json']: { schema: refOf(operation.reply) },
                  },
                },
              }),
          ...Object.fromEntries(
            [...byStatus].sort(([a], [b]) => a - b).map(([status, group]) => [status, errorReply(group.join(', '))]),
          ),
        },
        security: operation.role === 'none' ? [] : [{ bearer: [] }, { cookie: [] }],
        'x-role': operation.role,
        'x-scope': operation.scope,
      },
    }
  }
  return {
    openapi: '3.1.1',
    info: { title: 'Typevisor', version, license: { name: 'Apache-2.0', identifier: 'Apache-2.0' } },
    paths,
    components: {
      schemas: components,
      securitySchemes: {
        bearer: { type: 'http', scheme: 'bearer', description: 'An API token, tv_...' },
        cookie: {
          type: 'apiKey',
          in: 'cookie',
          name: 'typevisor_session',
          description: 'A session; every change also needs the header x-csrf-token',
        },
      },
    },
  }
}

/** Schemas that are made apart from the components name them by their id alone, or carry them along under `$defs`. */
function pointAtComponents(node: unknown): unknown {
  if (Array.isArray(node)) return node.map(pointAtComponents)
  if (typeof node !== 'object' || node === null) return node
  return Object.fromEntries(
    Object.entries(node)
      .filter(([key]) => key !== '$defs')
      .map(([key, value]) => [
        key,
        key === '$ref' && typeof value === 'string'
          ? value.replace('#/$defs/', '#/components/schemas/')
          : pointAtComponents(value),
      ]),
  )
}
