/**
 * The nouns that every layer names, and the one table of what can be done to a domain in which state (`verbs.ts`).
 * Ids are branded and parsed once at the boundary (`ids.ts`); no I/O, no policy.
 */
export {
  DEFAULT_ROOT_DISK_BYTES,
  DISK_FULL,
  waitsForRoom,
  type DiskFull,
  type CloudInitSpec,
  type DomainBoot,
  type DomainCause,
  type DomainDevice,
  type DomainHardware,
  type DomainMigration,
  type DomainRecord,
  type DomainSpec,
  type DomainState,
  type DomainStateKind,
  type DomainStatistics,
  type ExecResult,
  type GuestAddress,
  type PortForward,
} from './domain.ts'
export {
  isHostEvent,
  spaceState,
  type AgentEvent,
  type DomainEvent,
  type HostEvent,
  type HostPart,
  type SpaceCause,
  type VolumeServerCause,
} from './event.ts'
export {
  isLabel,
  isUuid,
  LABEL_WANT,
  parseDomainId,
  parseDomainName,
  parseHostId,
  parseImageName,
  parseSnapshotName,
  parseVolumeId,
  type DomainId,
  type DomainName,
  type HostId,
  type ImageName,
  type SnapshotId,
  type SnapshotName,
  type VolumeId,
} from './ids.ts'
export type {
  MigrationOffer,
  MigrationParameters,
  MigrationProgress,
  MigrationRequest,
  MigrationResult,
  MigrationStatistics,
} from './migration.ts'
export { QUIESCE_MODES, SNAPSHOT_COUNT_MAX, type DomainSnapshot, type Quiesce } from './snapshot.ts'
export { isSshKey, SSH_KEY_WANT } from './ssh-key.ts'
export {
  assertCan,
  assertCanSnapshot,
  canDo,
  canSnapshot,
  isVerb,
  SNAPSHOT_VERBS,
  VERB_NAMES,
  VERBS,
  type SnapshotVerbName,
  type StateFound,
  type Verb,
  type VerbName,
} from './verbs.ts'
