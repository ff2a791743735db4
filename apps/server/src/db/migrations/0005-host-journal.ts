import type { Migration } from '../migrate.ts'

/** Which journal of the host `event_sequence` counts in; null: its agent has not said it. */
export const hostJournal: Migration = {
  id: 5,
  name: 'host-journal',
  sql: `ALTER TABLE host ADD COLUMN journal_id text;`,
}
