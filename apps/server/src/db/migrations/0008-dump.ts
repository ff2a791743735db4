import type { Migration } from '../migrate.ts'

/** Where the newest core dump of an instance lies, as its host last told it. */
export const dump: Migration = {
  id: 8,
  name: 'dump',
  sql: `ALTER TABLE instance ADD COLUMN dump jsonb CHECK (jsonb_typeof(dump) = 'object');`,
}
