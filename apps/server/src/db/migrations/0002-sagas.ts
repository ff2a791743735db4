import { SAGA_SCHEMA_SQL } from '@typevisor/saga'
import type { Migration } from '../migrate.ts'

/** Where sagas live, and how new what a row says of its domain is. */
export const sagas: Migration = {
  id: 2,
  name: 'sagas',
  sql: `
${SAGA_SCHEMA_SQL};
-- The host's sequence number of the newest transition that the row has taken in: an older word changes nothing.
ALTER TABLE instance ADD COLUMN state_sequence bigint NOT NULL DEFAULT 0;
`,
}
