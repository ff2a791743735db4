/** The tables as Kysely sees them; `migrations/` is what makes them. Rows are stored types: `toWire` functions turn them into the API's. */
import type { ColumnType, Generated, GeneratedAlways } from 'kysely'
import type { Json } from '@typevisor/base'
import type { Role } from '@typevisor/identity'
import type { DomainDump, DomainSettings, DomainSnapshot } from '@typevisor/model'
import type { SagaState } from '@typevisor/saga'

/** pg gives and takes a Date. */
type Time = ColumnType<Date, Date, Date>
type TimeOrNull = ColumnType<Date | null, Date | null | undefined, Date | null>
/** jsonb: parsed when read; written as text, since pg would take a JavaScript array for an SQL array. */
type Jsonb<T> = ColumnType<T, string, string>
type DefaultJsonb<T> = ColumnType<T, string | undefined, string>

export interface AccountTable {
  id: string
  name: string
  role: Role
  password_hash: string | null
  password_unused: Generated<boolean>
  disabled: Generated<boolean>
  created_at: Time
}

export interface SessionTable {
  id: string
  account_id: string
  secret_hash: Buffer
  created_at: Time
  last_seen_at: Time
  expires_at: Time
  address: string
}

export interface TokenTable {
  id: string
  account_id: string
  name: string
  secret_hash: Buffer
  scopes: string[]
  created_at: Time
  expires_at: TimeOrNull
  last_used_at: TimeOrNull
}

export interface LoginAttemptTable {
  key: string
  count: number
  window_ends_at: Time
}

export interface AuditTable {
  id: GeneratedAlways<number>
  at: Time
  account: string | null
  via: 'session' | 'token' | 'local' | 'none'
  operation: string
  resource: string | null
  resource_name: string | null
  outcome: string
  address: string | null
  request_id: string
  search: GeneratedAlways<string>
}

export interface HostTable {
  name: string
  token_id: string | null
  token_hash: Buffer | null
  connected: Generated<boolean>
  connection_epoch: Generated<number>
  driver: Generated<string>
  version: Generated<string>
  accelerator: Generated<string>
  accelerator_reason: Generated<string>
  cpu_count: Generated<number>
  memory_bytes: Generated<number>
  event_sequence: Generated<number>
  journal_id: Generated<string | null>
  last_seen_at: TimeOrNull
  created_at: Time
}

export type InstanceStateKind = 'creating' | 'stopped' | 'running' | 'paused' | 'saved' | 'crashed' | 'failed' | 'destroying'

export interface InstanceTable {
  id: string
  name: string
  image: string
  host: string | null
  spec: Jsonb<Json>
  vcpu_count: number
  memory_bytes: number
  root_disk_bytes: number
  labels: DefaultJsonb<Record<string, string>>
  forwards: DefaultJsonb<{ protocol: 'tcp' | 'udp'; hostPort: number; guestPort: number }[]>
  snapshots: DefaultJsonb<readonly DomainSnapshot[]>
  settings: DefaultJsonb<DomainSettings>
  settings_notes: DefaultJsonb<readonly string[]>
  dump: ColumnType<DomainDump | null, string | null | undefined, string | null>
  vcpu_count_max: GeneratedAlways<number>
  memory_bytes_max: GeneratedAlways<number>
  huge_pages: GeneratedAlways<boolean>
  state_kind: InstanceStateKind
  state_cause: string
  state_detail: string | null
  state_since: Time
  state_sequence: Generated<number>
  operation_id: string | null
  operation_name: string | null
  created_at: Time
  created_by: string
  destroyed_at: TimeOrNull
  search: GeneratedAlways<string>
}

export interface ImageTable {
  host: string
  name: string
  title: string
  digest: string
  size_bytes: number
  virtual_bytes: number
  minimum_memory_bytes: number
  default_user: string
  contents: DefaultJsonb<Record<string, string>>
  built_at: Time
}

export interface EventTable {
  id: GeneratedAlways<number>
  /** xid8 as text: 64 bits. */
  xid: GeneratedAlways<string>
  at: Time
  kind: string
  resource: string | null
  name: string | null
  content: DefaultJsonb<Record<string, Json>>
}

export interface EventHorizonTable {
  single: Generated<boolean>
  xid: string
  id: number
}

/** Written by `@typevisor/saga` alone; here it is read. */
export interface SagaTable {
  readonly id: GeneratedAlways<string>
  readonly name: GeneratedAlways<string>
  readonly resource: GeneratedAlways<string>
  readonly input: GeneratedAlways<Json>
  readonly outputs: GeneratedAlways<Record<string, Json>>
  readonly state_kind: GeneratedAlways<SagaState['kind']>
  readonly state: GeneratedAlways<SagaState>
  readonly created_at: GeneratedAlways<Date>
  readonly updated_at: GeneratedAlways<Date>
}

export interface Database {
  account: AccountTable
  session: SessionTable
  token: TokenTable
  login_attempt: LoginAttemptTable
  audit: AuditTable
  host: HostTable
  instance: InstanceTable
  image: ImageTable
  event: EventTable
  event_horizon: EventHorizonTable
  saga: SagaTable
}
