import type { EpochMillis } from '@typevisor/base'
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
  readonly createdAt: EpochMillis
  readonly migration?: DomainMigration
}

export function toRecord(stored: StoredDomain): DomainRecord {
  const { volumes: _volumes, ...record } = stored
  return record
}
