import type { OperationName, Params, ParsedBody, ParsedQuery, Reply } from '@typevisor/api'
import type { Caller, EntryOf } from '@typevisor/identity'

export type { Caller }

/** A request after routing, authentication and parsing: nothing in it needs another check of its shape. */
export interface Call<N extends OperationName> {
  readonly operation: N
  readonly params: Params<N>
  readonly query: ParsedQuery<N>
  readonly body: ParsedBody<N>
  /** null only where the operation's role is `none`. */
  readonly caller: Caller | null
  readonly address: string
  readonly requestId: string
  /** Aborted when the client goes away or the server stops. */
  readonly signal: AbortSignal
  /** Names what a refusal is about, in the audit log: its id, and its name if it has one. */
  audit(resource: string, name: string | null): void
  /** The audit entry of the change: to be written in its transaction (`db/audit.ts`). A handler that changes something and takes none is a defect. */
  readonly entry: EntryOf
  /** Writes the entry of what changes nothing in the database, before it begins; its outcome is added when the handler ends. */
  begin(resource: string, name: string | null): Promise<void>
  /** Sets the session cookie of the answer; null takes it away. */
  setSession(session: { readonly secret: string; readonly expiresAt: number } | null): void
}

export type Handler<N extends OperationName> = (call: Call<N>) => Promise<Reply<N>>

/** A WebSocket of bytes, as the stream handlers see it. */
export interface ByteSocket {
  readonly incoming: AsyncIterable<Uint8Array>
  /** Resolves when the client may take more (backpressure). */
  send(content: Uint8Array): Promise<void>
  /** `fault`: told to the client before the close. */
  close(fault?: { code: string; message: string }): void
}

export type StreamHandler<N extends OperationName> = (call: Call<N>, socket: ByteSocket) => Promise<void>

export type StreamName = 'instance.console' | 'instance.vnc'
export type EventName = 'event.stream'
export type HttpName = Exclude<OperationName, StreamName | EventName>

/** One handler for each operation of the table: a missing one fails to compile. */
export type Handlers = { readonly [N in HttpName]: Handler<N> } & { readonly [N in StreamName]: StreamHandler<N> }

/** The caller of an operation whose role is not `none`: the route has seen to it. */
export function callerOf<N extends OperationName>(call: Call<N>): Caller {
  if (!call.caller) throw new Error(`${call.operation}: called without a caller`)
  return call.caller
}
