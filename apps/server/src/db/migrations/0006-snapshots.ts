import type { Migration } from '../migrate.ts'

/** An instance's snapshots as its host last told them, so that they are known while it is away. At most 128, by the toolstack's limit. */
export const snapshots: Migration = {
  id: 6,
  name: 'snapshots',
  sql: `ALTER TABLE instance ADD COLUMN snapshots jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(snapshots) = 'array');`,
}
