/**
 * What server and agent say to each other, over one WebSocket that the agent opens (or by plain calls when both are one process).
 *
 *   agent --hello--> server      agent <--request(id, method)-- server      agent --reply(id)--> server
 *   agent --event(sequence)--> server --acknowledge(sequence)--> agent      (at least once, in order; of domains, and of the host itself)
 *   binary frames: u32 stream id, little endian, then bytes of a console or screen
 *
 * Everything that changes something carries `commandId` (given twice is done once) and `fence` (an older owner is refused).
 */
import type { Bytes, EpochMillis, FaultJson } from '@typevisor/base'
import type {
  AgentEvent,
  Chord,
  DeviceInfo,
  DeviceRequest,
  DomainId,
  DomainName,
  DomainRecord,
  DomainSpec,
  DomainStateKind,
  DomainStatistics,
  GuestAddress,
  GuestsOffered,
  MigrationOffer,
  MigrationParameters,
  MigrationRequest,
  MigrationResult,
  Quiesce,
  SettingsPatch,
  SnapshotId,
  SnapshotName,
  SpaceCause,
  VerbName,
} from '@typevisor/model'

export const AGENT_PATH = '/agent/v1'
export const AGENT_PROTOCOL = 1

export interface AgentImage {
  readonly name: string
  readonly title: string
  readonly digest: string
  readonly sizeBytes: number
  readonly virtualBytes: number
  readonly minimumMemoryBytes: number
  readonly defaultUser: string
  readonly contents: Readonly<Record<string, string>>
  readonly builtAt: number
}

export interface AgentHello {
  readonly protocol: number
  readonly name: string
  readonly version: string
  readonly driver: string
  readonly driverVersion: string
  readonly accelerator: string
  readonly acceleratorReason: string
  /** Absent: an agent of before. */
  readonly guests?: GuestsOffered
  readonly cpuCount: number
  readonly memoryBytes: number
  readonly images: readonly AgentImage[]
  /** Of an older agent without `snapshots`. */
  readonly domains: readonly DomainRecord[]
  /** Sequence of the last transition that `domains` contains. */
  readonly sequence: number
  /** Of which journal `sequence` and all events are: another one on a host that was set up anew. Absent: an agent that does not say it yet. */
  readonly journalId?: string
}

/** The server of the host's volumes, as its agent sees it now. */
export interface VolumeServerStatus {
  readonly state: 'serving' | 'away'
  /** When it entered the state. */
  readonly since: EpochMillis
  readonly cause: string
  readonly detail: string | null
  /** Of the one that serves, or that served last; null: none was seen yet. */
  readonly version: string | null
  readonly pid: number | null
  readonly startedAt: EpochMillis | null
  /** Volumes that guests of the host use. */
  readonly attachedCount: number
  /** null: not known, as of one that is away. */
  readonly space: VolumeSpace | null
}

export interface VolumeSpace {
  readonly usedBytes: number
  readonly availableBytes: number
  readonly capacityBytes: number
  /** The threshold that is reached, in percent of the capacity; null: none. */
  readonly warningPercent: number | null
  /** What would be full first: the store, or the file system that it lies on. */
  readonly limitedBy: SpaceCause
}

/** What a host counts, in one answer. */
export interface HostStatistics {
  readonly domains: readonly {
    readonly id: DomainId
    readonly name: string
    readonly state: DomainStateKind
    readonly vcpuCount: number
    readonly memoryBytes: number
    /** null: it has no process, or its process does not answer. */
    readonly statistics: DomainStatistics | null
  }[]
  /** Of the journal's newest event. */
  readonly sequence: number
  /** null: it keeps none. */
  readonly volumeServer: VolumeServerStatus | null
}

export interface Command {
  readonly commandId: string
  readonly fence: number
}
export interface DomainReply {
  /** null: the domain is gone. */
  readonly domain: DomainRecord | null
  readonly sequence: number
}

type ReceiveParams = Command & {
  id: DomainId
  request: MigrationRequest
  channelCount?: number | undefined
  /** An agent of before does not know of it, and its offer does not say so. */
  postCopy?: boolean | undefined
}

/** Method to parameters and reply. */
export interface AgentMethods {
  'domain.define': { params: Command & { id: DomainId; spec: DomainSpec }; reply: DomainReply }
  'domain.carry-out': { params: Command & { id: DomainId; verb: VerbName; timeoutMs?: number }; reply: DomainReply }
  'domain.snapshot': {
    params: Command & {
      id: DomainId
      snapshot: SnapshotId
      name: SnapshotName
      memory: boolean
      quiesce: Quiesce
      timeoutMs: number
    }
    reply: DomainReply
  }
  'domain.set': { params: Command & { id: DomainId; patch: SettingsPatch; timeoutMs?: number }; reply: DomainReply }
  'domain.rename': { params: Command & { id: DomainId; name: DomainName }; reply: DomainReply }
  'domain.revert': { params: Command & { id: DomainId; snapshot: SnapshotId; start: boolean }; reply: DomainReply }
  'domain.snapshot-delete': { params: Command & { id: DomainId; snapshot: SnapshotId }; reply: DomainReply }
  'domain.clone': {
    params: Command & { id: DomainId; spec: DomainSpec; from: { domain: DomainId; snapshot: SnapshotId } }
    reply: DomainReply
  }
  /** What the other host has to know; asked of the one that has the domain. */
  'domain.migration-request': { params: { id: DomainId; parameters: MigrationParameters }; reply: MigrationRequest }
  'domain.receive': { params: ReceiveParams; reply: MigrationOffer }
  /** The same of one that does not run: an agent of before would take it for one that does. */
  'domain.receive-cold': { params: ReceiveParams; reply: MigrationOffer }
  'domain.migrate': {
    params: Command & { id: DomainId; offer: MigrationOffer; parameters: MigrationParameters }
    reply: MigrationResult
  }
  /** Where the domain is when nothing of a move is under way any more. */
  'domain.migrate-cancel': { params: Command & { id: DomainId }; reply: { where: 'here' | 'handed-over' | 'gone' } }
  'domain.take-over': { params: Command & { id: DomainId }; reply: DomainReply }
  'domain.abandon': { params: Command & { id: DomainId }; reply: DomainReply }
  'domain.take-back': { params: Command & { id: DomainId }; reply: DomainReply }
  'domain.attach': { params: Command & { id: DomainId; device: DeviceRequest }; reply: DomainReply }
  'domain.detach': {
    params: Command & { id: DomainId; name: string; timeoutMs: number; force: boolean; deleteVolume: boolean }
    reply: DomainReply
  }
  'domain.resize': { params: Command & { id: DomainId; name: string; sizeBytes: Bytes }; reply: DomainReply }
  /** `medium` null: out with what is there. */
  'domain.medium': { params: Command & { id: DomainId; name: string; medium: string | null }; reply: DomainReply }
  'domain.devices': { params: { id: DomainId }; reply: readonly DeviceInfo[] }
  'domain.list': { params: Record<string, never>; reply: { domains: readonly DomainRecord[]; sequence: number } }
  'domain.statistics': { params: { id: DomainId }; reply: DomainStatistics }
  'domain.addresses': { params: { id: DomainId }; reply: readonly GuestAddress[] }
  'domain.exec': {
    params: { id: DomainId; argv: readonly string[]; stdinBase64?: string; timeoutMs: number }
    reply: { exitCode: number | null; signal: number | null; stdoutBase64: string; stderrBase64: string; truncated: boolean }
  }
  /** Chords of keys by name. */
  'domain.keys': { params: { id: DomainId; chords: readonly Chord[] }; reply: Record<string, never> }
  'domain.screenshot': { params: { id: DomainId }; reply: { contentBase64: string } }
  'domain.file-get': { params: { id: DomainId; path: string; from: number; limit: number }; reply: { contentBase64: string } }
  'domain.file-put': {
    params: { id: DomainId; path: string; contentBase64: string; append: boolean }
    reply: Record<string, never>
  }
  'domain.password': { params: { id: DomainId; user: string; password: string }; reply: Record<string, never> }
  'domain.console-log': {
    params: { id: DomainId; from: number; limit: number }
    reply: { startOffset: number; endOffset: number; contentBase64: string }
  }
  /** null: the host keeps no volume server. */
  'host.volume-server': { params: Record<string, never>; reply: VolumeServerStatus | null }
  /** For metrics. An agent of before answers `unsupported`. */
  'host.statistics': { params: Record<string, never>; reply: HostStatistics }
  /** Names of what CD drives take. */
  'host.media': { params: Record<string, never>; reply: readonly string[] }
  'image.list': { params: Record<string, never>; reply: readonly AgentImage[] }
  'image.build': { params: Command & { name: string }; reply: AgentImage }
}
export type AgentMethod = keyof AgentMethods
export type AgentParams<M extends AgentMethod> = AgentMethods[M]['params']
export type AgentReply<M extends AgentMethod> = AgentMethods[M]['reply']

export type StreamKind = 'console' | 'vnc'

export type ToAgent =
  | { readonly type: 'request'; readonly id: number; readonly method: AgentMethod; readonly params: unknown }
  | { readonly type: 'withdraw'; readonly id: number }
  | { readonly type: 'acknowledge'; readonly sequence: number }
  | {
      readonly type: 'stream.open'
      readonly stream: number
      readonly kind: StreamKind
      readonly domain: DomainId
      readonly fromOffset?: number | undefined
    }
  | { readonly type: 'stream.close'; readonly stream: number }
  /** `takesParts`: events of the host too; a server of before leaves it out, and is not told of any. */
  | { readonly type: 'welcome'; readonly after: number; readonly takesParts?: boolean }
  | { readonly type: 'refused'; readonly fault: FaultJson }

export type FromAgent =
  | { readonly type: 'hello'; readonly hello: AgentHello }
  | { readonly type: 'reply'; readonly id: number; readonly result: unknown }
  | { readonly type: 'fault'; readonly id: number; readonly fault: FaultJson }
  | { readonly type: 'progress'; readonly id: number; readonly fraction: number; readonly message: string }
  | { readonly type: 'event'; readonly event: AgentEvent }
  | { readonly type: 'images'; readonly images: readonly AgentImage[] }
  | { readonly type: 'stream.opened'; readonly stream: number }
  | { readonly type: 'stream.closed'; readonly stream: number; readonly fault: FaultJson | null }

/** What the server needs of an agent, wherever it runs. */
export interface AgentPort {
  readonly hello: AgentHello
  call<M extends AgentMethod>(
    method: M,
    params: AgentParams<M>,
    options?: { signal?: AbortSignal | undefined; progress?: ((fraction: number, message: string) => void) | undefined },
  ): Promise<AgentReply<M>>
  /** Transitions after `after`; the caller acknowledges what it has stored. */
  events(after: number, options: { signal: AbortSignal }): AsyncIterable<AgentEvent>
  acknowledge(sequence: number): Promise<void>
  openStream(kind: StreamKind, domain: DomainId, options?: StreamOptions): Promise<AgentStream>
}

export interface StreamOptions {
  readonly signal?: AbortSignal | undefined
  /** Console only: begin with the kept output from here. */
  readonly fromOffset?: number | undefined
}

export interface AgentStream {
  readonly readable: AsyncIterable<Uint8Array>
  write(content: Uint8Array): Promise<void>
  close(): void
}
