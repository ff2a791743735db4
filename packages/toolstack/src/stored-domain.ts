import type { EpochMillis, Json } from '@typevisor/base'
import type { DomainDump, DomainMigration, DomainRecord, DomainSnapshot, DomainState, PortForward } from '@typevisor/model'
import type { DriverDomain } from './ports.ts'

/** A domain as the ledger keeps it: what its driver needs, and where it stands. */
export interface StoredDomain extends DriverDomain {
  readonly driver: string
  readonly forwards: readonly PortForward[]
  readonly state: DomainState
  readonly snapshots: readonly DomainSnapshot[]
  readonly dump?: DomainDump
  readonly settingsNotes?: readonly string[]
  /** Names its crash, for as long as that has not been dealt with. */
  readonly crashPending?: string
  /** When it was started again after a crash, of late. */
  readonly restarts?: readonly EpochMillis[]
  readonly createdAt: EpochMillis
  readonly migration?: DomainMigration
  /** It comes by post-copy, and lacks memory: by what listens for that, which whoever takes it up listens by again. A secret. */
  readonly arriving?: { readonly kept: Json }
}

export function toRecord(stored: StoredDomain): DomainRecord {
  const { volumes: _volumes, crashPending: _pending, restarts: _restarts, arriving: _arriving, ...record } = stored
  return record
}
