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
  type DomainDump,
  type DomainHardware,
  type DomainRecord,
  type DomainSpec,
  type DomainState,
  type DomainStateKind,
  type DomainStatistics,
  type ExecResult,
  type GuestAddress,
  type PortForward,
  type VcpuStatistics,
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
export { CHORD_COUNT_MAX, chordsOfText, KEY_NAMES, parseChord, type Chord } from './keys.ts'
export { HAPPENINGS, lifeDiagram, transitions, verbTable, type Happening, type HappeningName, type Transition } from './life.ts'
export {
  assertSettings,
  changedSettings,
  CPU_LIST_WANT,
  formatCpuList,
  machineSettings,
  MEMORY_BLOCK_BYTES,
  MEMORY_TARGET_BYTES_MIN,
  memoryBytesOf,
  parseCpuList,
  patched,
  pluggedBytesOf,
  SETTING_NAMES,
  vcpuCountOf,
  type CpuSet,
  type DiskLimit,
  type DomainSettings,
  type SettingName,
  type SettingsPatch,
} from './settings.ts'
export { QUIESCE_MODES, SNAPSHOT_COUNT_MAX, type DomainSnapshot, type Quiesce } from './snapshot.ts'
export { isSshKey, SSH_KEY_WANT } from './ssh-key.ts'
export {
  assertCan,
  assertCanSet,
  assertCanSnapshot,
  canDo,
  canSnapshot,
  isVerb,
  SET_VERB,
  SNAPSHOT_VERBS,
  VERB_NAMES,
  VERBS,
  type SnapshotVerbName,
  type StateFound,
  type Verb,
  type VerbName,
} from './verbs.ts'
