/**
 * The API as one table (`table.ts`): operation, schemas, faults, roles. From it come the server's routes, OpenAPI, the typed client
 * and the CLI's verbs, so that none of them can differ from another.
 *
 *   table.ts --> routes (apps/server)   openapi.ts --> /api/v1/openapi.json
 *            \-> client.ts (portal, CLI, users)    \-> verbs (apps/cli)
 */
export * as schemas from './schemas.ts'
export {
  OPERATION_NAMES,
  OPERATIONS,
  type Body,
  type Method,
  type OperationDefinition,
  type OperationName,
  type Params,
  type ParsedBody,
  type ParsedQuery,
  type Query,
  type Reply,
  type RoleName,
} from './table.ts'
export { openApiDocument, type OpenApiOptions } from './openapi.ts'
export { parseInput, type ParsedInput, type RawInput } from './validation.ts'
