/**
 * The toolstack: the lifecycle of domains on one host, with no policy. Everything above stands on it, and a script can use it with no
 * server at all.
 *
 *   caller --command(id, fence)--> saga (durable) --steps--> DomainDriver --> hypervisor --> guest
 *                                      |                        |
 *                                      v                        v events
 *                                   Ledger: domains, fences, transitions with their causes
 *
 * Invariants
 *   - A command given twice is done once (`commandId`), also when the process is killed in between.
 *   - A command of an owner that was replaced is refused (`fence`).
 *   - What a guest must keep for life (machine version, CPU model, addresses) is fixed at `define` and never planned again.
 *   - Every state transition is written with its cause, in one append, before anybody is told; those that nobody watched are worked
 *     out at `openToolstack` and marked `reconstructed`.
 *   - `close` and SIGKILL end no guest.
 * Failure paths: a verb that fails is undone; an undo that fails leaves a stuck saga, and the domain is held until it is destroyed.
 * Moves to another host: `migration.ts`, while it runs; `cold-sending.ts`, while it does not. Exactly one host has it, whatever is killed.
 * Not here: which host, how much memory, when to start again: callers decide. Wire formats of hypervisors: drivers.
 * Modelled on libxenlight's contract (Xen, tools/libs/light): policy-free, asynchronous, capabilities asked and never guessed.
 */
export type {
  CallOptions,
  ConsoleOptions,
  Capability,
  DetachOptions,
  ConsoleSlice,
  CoreFormat,
  DomainDriver,
  DriverCapabilities,
  DriverDomain,
  DriverEvent,
  DriverState,
  ExecRequest,
  GuestCapabilities,
  GuestStream,
  SettingsOptions,
  SettingsOutcome,
  MigrateOptions,
  MigrationLinks,
  SendRestOptions,
  TakenOver,
  MigrationListener,
  MigrationPeer,
  MigrationStream,
  MigrationTarget,
  ReceiveOptions,
  TakeOverOptions,
  VolumeAttachment,
} from './ports.ts'
export {
  checkConformance,
  conformanceTable,
  DRIVER_OPERATIONS,
  type ConformanceReport,
  type DriverOperation,
  type OperationResult,
  type PromiseOutcome,
} from './conformance-report.ts'
export type { DriverWorld } from './conformance.ts'
export {
  openToolstack,
  type CommandOptions,
  type DetachRequest,
  type ReadOptions,
  type Toolstack,
  type ToolstackOptions,
} from './toolstack.ts'
export { freePort, macFor, planUsb, serialOfName } from './hotplug.ts'
export { DETACH_DEFAULTS, volumeNamed, volumeOf, type MediaFolder } from './devices.ts'
export { joinStreams } from './join-streams.ts'
export type { SaveFolder } from './steps.ts'
export { TOOLSTACK_OPERATIONS } from './operations.ts'
export { CORE_FORMATS } from './ports.ts'
export { assertSettable, SETTINGS_TIMEOUT_MS } from './settings.ts'
export { SNAPSHOT_DEFAULTS, type SnapshotRequest } from './snapshots.ts'
export { TOOLSTACK_SAGAS } from './verbs.ts'
