/**
 * Of each operation what a client needs to call it, and who may: all that a browser is sent of the table. The words and fields for a
 * command line are in `verbs.ts`, which is ten times as large.
 */
export { ROUTE_DATA } from './generated/routes.ts'

export interface RouteData {
  readonly method: 'GET' | 'POST' | 'PATCH' | 'DELETE'
  readonly path: string
  readonly role: 'none' | 'viewer' | 'operator' | 'admin'
}
