import type { BlockDevice } from '@typevisor/base'

/** One disk that clients can open by name. */
export interface NbdExport {
  readonly name: string
  readonly description?: string
  readonly device: BlockDevice
  /** A flush on one connection covers what every connection has been told is written. */
  readonly canMultiConn: boolean
  /** What can be asked of ranges beside `base:allocation`. */
  readonly contexts?: readonly MetaContext[]
  /** Called once, when the connection that opened it has gone: what of it still waits should not be carried out any more. */
  leave?(): void
  /** Called once, when nothing of the connection that opened it is under way any more. */
  release?(): void
}

/** A question about ranges that a client may ask by name, such as `qemu:dirty-bitmap:monday`. */
export interface MetaContext {
  readonly name: string
  /** From `offset` on, without a gap; at most `countMax` and at least one. `status` is what the context's definition says. */
  extents(offset: number, lengthBytes: number, countMax: number): Promise<readonly { lengthBytes: number; status: number }[]>
}

/** What a server offers. Names are what the client sent: anything. */
export interface ExportSource {
  /** Names for LIST. */
  list(): Promise<readonly { name: string; description?: string }[]>
  /** null: there is none of this name. @throws Fault `conflict` or `busy` when it cannot be opened now. */
  open(name: string): Promise<NbdExport | null>
  /** Without opening it, for INFO and LIST_META_CONTEXT. */
  look(name: string): Promise<NbdExport | null>
}

/** A connection, as the server needs it: bytes out, and a say in how fast they come in. */
export interface ByteChannel {
  /** Takes `content` over until `done` is called; it must not change before. */
  write(content: Uint8Array, done: () => void): void
  /** Bytes taken over and not sent yet. */
  readonly queuedBytes: number
  /** Stops and starts the incoming bytes. */
  pause(): void
  resume(): void
  /** Sends what is queued, then ends. */
  end(): void
  /** Ends at once. */
  destroy(): void
  /** Turns the connection into a TLS one, this side being the server; what was written before is sent before. null where TLS is not offered. */
  readonly startTls: (() => void) | null
}
