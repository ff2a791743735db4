/**
 * What the driver needs of its host, and nothing more. The core files of this package import no `node:*`: `node-host.ts` is the one
 * real implementation; tests put doubles here.
 */
import type { Millis } from '@typevisor/base'

/** A process that cannot be mistaken for a later one with the same number: pid, its start in clock ticks since boot, and the boot. */
export interface ProcessIdentity {
  readonly pid: number
  readonly startTimeTicks: number
  readonly bootId: string
}

export interface ProcessUser {
  readonly uid: number
  readonly gid: number
}

export interface SpawnRequest {
  readonly command: string
  readonly argv: readonly string[]
  readonly environment: Readonly<Record<string, string>>
  /** Standard error is appended to this file; standard input and output are /dev/null. */
  readonly stderrPath: string
  readonly user: ProcessUser | null
  /** Open descriptors that become 3, 4, ... in the child. */
  readonly inherit: readonly number[]
}

export interface RunResult {
  readonly exitCode: number | null
  readonly stdout: string
  readonly stderr: string
}

export interface HostProcesses {
  bootId(): Promise<string>
  /** A process of its own session that outlives the caller. @throws Fault `failed` when the program cannot be executed. */
  spawnDetached(request: SpawnRequest): Promise<ProcessIdentity>
  /** null: no such process, or only its zombie is left. */
  identity(pid: number): Promise<ProcessIdentity | null>
  /** Live processes that have these strings among their arguments, side by side. */
  findByArguments(sequence: readonly string[]): Promise<readonly ProcessIdentity[]>
  /** Live processes, but for the caller, that can write to this file by a descriptor that they have: also one that has not become its program yet. */
  findByWriting(path: string): Promise<readonly ProcessIdentity[]>
  /** Resolves when the process has ended; at once when it is not there. */
  waitExit(identity: ProcessIdentity, options: { signal: AbortSignal }): Promise<void>
  /** Never reaches a later process with the same number. False: it is not there any more. */
  signal(identity: ProcessIdentity, name: 'SIGTERM' | 'SIGKILL'): Promise<boolean>
  usage(identity: ProcessIdentity): Promise<{ readonly cpuTimeNs: number; readonly residentBytes: number } | null>
  /** Of one thread of the process; null: it is not there. */
  threadUsage(identity: ProcessIdentity, tid: number): { readonly cpuTimeNs: number; readonly waitTimeNs: number } | null
  /** Why `setThreadAffinity` cannot be called here; null: it can. */
  whyNoAffinity(): string | null
  /** The CPUs that the thread may run on. One that has ended is left out. @throws Fault `invalid` when it may run on none of them, `forbidden`. */
  setThreadAffinity(tid: number, cpus: readonly number[]): void
  /** Runs a short program to its end; it is killed after `limit`, and `exitCode` is null then. Output is cut at 64 KiB. */
  run(command: string, argv: readonly string[], options: { limit: Millis; signal?: AbortSignal | undefined }): Promise<RunResult>
}

/** A connected stream socket. `readable` ends when the other side closes; a read error ends it too. */
export interface ByteSocket {
  readonly readable: AsyncIterable<Uint8Array>
  /** Resolves when the content is with the kernel or in a bounded buffer. @throws Fault `unavailable` when the other side has gone. */
  write(content: Uint8Array): Promise<void>
  /**
   * The same, with a copy of an open file beside its first byte (SCM_RIGHTS); the descriptor stays the caller's. Behind all that was written.
   * Absent: this socket cannot. @throws Fault `unsupported`, `unavailable`.
   */
  writeWith?(content: Uint8Array, descriptor: number): Promise<void>
  /** Nothing more is written; resolves when what was written is with the kernel. */
  end(): Promise<void>
  close(): void
}

export interface SocketListener {
  /** The next connection. @throws the signal's reason when aborted. */
  accept(options: { signal: AbortSignal }): Promise<ByteSocket>
  close(): Promise<void>
}

export interface HostSockets {
  /** @throws Fault `unavailable` when nobody listens there. */
  connect(path: string): Promise<ByteSocket>
  /** A unix socket that `user` (or only the caller) may connect to. An old socket file at `path` is replaced. */
  listen(path: string, options: { user: ProcessUser | null }): Promise<SocketListener>
}

export interface SequentialWriter {
  append(content: Uint8Array): Promise<void>
  /** Overwrites from `offset`; the append position stays. */
  writeAt(offset: number, content: Uint8Array): Promise<void>
  sync(): Promise<void>
  close(): Promise<void>
}

export interface PipeWriter {
  /** How many bytes the pipe took now; 0: it is full. Never waits. */
  write(content: Uint8Array): Promise<number>
  close(): Promise<void>
}

/** A named pipe that somebody else is going to write to. */
export interface PipeReader {
  /** Ends when all writers have closed it; not before `begun`. */
  readonly readable: AsyncIterable<Uint8Array>
  /** The writer has it open: from now on its end is the end. */
  begun(): void
  close(): Promise<void>
}

/** What a file's content hashes to, in hexadecimal. */
export interface Digest {
  update(content: Uint8Array): void
  hex(): string
}

export interface HostFiles {
  /** null: no such file. At most `sizeMax` bytes from `offset`. */
  read(path: string, offset: number, sizeMax: number): Promise<Uint8Array | null>
  /** null: no such file. */
  size(path: string): Promise<number | null>
  /** Atomic: a reader sees the old content or the new. With `sync` also after a power cut. */
  replace(path: string, content: Uint8Array, options: { sync: boolean }): Promise<void>
  /** Makes an empty file when there is none; never shortens one. Owner is set when `user` is not null. Mode 0600. */
  ensureFile(path: string, options: { user: ProcessUser | null }): Promise<void>
  /** With its parents. Mode 0700, owner `user` or the caller (only the last one is chowned). */
  ensureFolder(path: string, options: { user: ProcessUser | null }): Promise<void>
  /** Names of what is in a folder; none when it is not there. */
  list(path: string): Promise<readonly string[]>
  /** A symbolic link to `target`; an old one at `path` is replaced. */
  makeLink(path: string, target: string): Promise<void>
  /** A file or a whole folder; nothing there is fine. */
  remove(path: string): Promise<void>
  /** Renames within a folder and syncs that folder. */
  rename(from: string, to: string): Promise<void>
  /** Frees the blocks of a range; its bytes read as zero from then on and the file's size stays. False: this file system cannot. */
  punchHole(path: string, offset: number, length: number): Promise<boolean>
  /** New file (an old one is cut), mode 0600. */
  create(path: string): Promise<SequentialWriter>
  /** Content from `offset` to the end in pieces. */
  stream(path: string, offset: number): AsyncIterable<Uint8Array>
  /** SHA-256. */
  digest(): Digest
  /** A named pipe, mode 0600, owner `user` or the caller; an old file at `path` is replaced. */
  makePipe(path: string, options: { user: ProcessUser | null }): Promise<void>
  /** For writing into a named pipe. @throws Fault `unavailable` when nobody has it open for reading. */
  openPipe(path: string): Promise<PipeWriter>
  openPipeReader(path: string): Promise<PipeReader>
  /** Calls `changed` soon after the file was written to, until `close`. null: this host cannot tell. */
  watch(path: string, changed: () => void): { close(): void } | null
  /** Opens for another process to inherit. `append` implies writing at the end; `both` is for a named pipe. */
  openDescriptor(
    path: string,
    mode: 'read' | 'write' | 'append' | 'both',
  ): Promise<{ readonly fd: number; close(): Promise<void> }>
  /**
   * Why `user` cannot open `path` so, naming the folder or file that bars the way; null when it can. `read-open`: through a descriptor
   * that it has already (/proc/self/fd/N), for which the folders do not matter.
   */
  whyUnreachable(path: string, user: ProcessUser, mode: 'read' | 'write' | 'read-open'): Promise<string | null>
}

/** Files of the kernel's own making, under /proc and /sys: they have no size, and each write is a command. */
export interface KernelFiles {
  /** null: no such file. */
  read(path: string): Promise<string | null>
  /** @throws Fault with the kernel's reason; `not_found` when the file is not there. */
  write(path: string, text: string): Promise<void>
  /** Null where the caller may write to the file or make files in the folder; else why not. */
  whyNotWritable(path: string): Promise<string | null>
  isFolder(path: string): Promise<boolean>
  /** False: it is there already. */
  makeFolder(path: string): Promise<boolean>
  /** Nothing there is fine. @throws Fault `busy` when somebody is in it. */
  removeFolder(path: string): Promise<void>
  /** Folders in it; none when it is not there. */
  list(path: string): Promise<readonly string[]>
}

export interface QemuHost {
  readonly processes: HostProcesses
  readonly sockets: HostSockets
  readonly files: HostFiles
  readonly kernel: KernelFiles
}
