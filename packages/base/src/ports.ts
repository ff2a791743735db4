/** Ports that every package may ask for. `runtime-node` has the real ones, `sim` the seeded ones. */
import type { EpochMillis, Millis } from './units.ts'

export interface Clock {
  /** Wall time; may jump. */
  now(): EpochMillis
  /** Milliseconds since an arbitrary start, with fractions; never goes back. */
  monotonic(): number
  /** Resolves after `duration`; rejects with the signal's reason when aborted. */
  sleep(duration: Millis, options?: { signal?: AbortSignal | undefined }): Promise<void>
}

export interface Rng {
  /** A whole number in [0, bound). */
  below(bound: number): number
  /** `count` random bytes. */
  bytes(count: number): Uint8Array
}

/** Gives ids that sort by time and never repeat (UUIDv7, RFC 9562 section 5.7). */
export interface IdSource {
  next(): string
}

export type LogFields = Readonly<Record<string, string | number | boolean | null | undefined>>

/** `event` is a constant name such as `saga.resumed`; what varies goes into `fields`. An error is logged once, where it is handled. */
export interface Log {
  debug(event: string, fields?: LogFields): void
  info(event: string, fields?: LogFields): void
  warn(event: string, fields?: LogFields): void
  error(event: string, fields?: LogFields): void
  with(fields: LogFields): Log
}

/**
 * Files as a journal needs them: a folder of named files, appended and synced. A name has no path separator. What was
 * appended is safe only after `sync`; a `replace` is atomic and safe when it resolves (file and folder both synced).
 */
export interface Disk {
  /** The whole file, or null where there is none. */
  read(name: string): Promise<Uint8Array | null>
  /** Opens for appending, made when missing. */
  open(name: string): Promise<AppendFile>
  replace(name: string, content: Uint8Array): Promise<void>
  remove(name: string): Promise<void>
  list(): Promise<string[]>
}

export interface AppendFile {
  readonly sizeBytes: number
  append(content: Uint8Array): Promise<void>
  /** Resolves when everything appended before the call will survive a power cut (fdatasync). */
  sync(): Promise<void>
  /** Cuts the file to `sizeBytes`: what a torn write left behind. */
  truncate(sizeBytes: number): Promise<void>
  close(): Promise<void>
}
