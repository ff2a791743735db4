/**
 * The control plane. It decides (pure planners over database state) and records; agents act. What should be is in PostgreSQL; what is, is
 * asked of the hosts.
 *
 *   HTTP (routes from the API's table) --> handlers --> PostgreSQL: rows, sagas, outbox
 *                                                          |          |
 *                                       saga steps --> AgentRegistry  +--> event stream
 *                                                          |
 *                                       agents (this process, or over WebSocket) --> transitions --> rows, in their order
 *
 * Invariants: a request that was accepted is in the database before it is answered; a long operation is a saga and survives SIGKILL; an
 * event is told if and only if its change was committed; one data directory has one server.
 */
export { startServer, type RunningServer, type ServerOptions } from './server.ts'
