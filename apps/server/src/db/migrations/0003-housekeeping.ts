import type { Migration } from '../migrate.ts'

/** What the list of operations, the first sign-in and pruning ask for. */
export const housekeeping: Migration = {
  id: 3,
  name: 'housekeeping',
  sql: `
-- Whole milliseconds, as all times here: a cursor must find the very row.
ALTER TABLE saga ALTER COLUMN created_at TYPE timestamptz(3);

-- The password is the one the platform made, and nobody has signed in by it yet: a start may make another one.
ALTER TABLE account ADD COLUMN password_unused boolean NOT NULL DEFAULT false;

CREATE INDEX instance_destroyed ON instance (destroyed_at) WHERE destroyed_at IS NOT NULL;
`,
}
