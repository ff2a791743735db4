/** All migrations in order. One that has been released is never edited (its checksum is kept); a change is a new file. */
import type { Migration } from '../migrate.ts'
import { foundation } from './0001-foundation.ts'
import { sagas } from './0002-sagas.ts'
import { housekeeping } from './0003-housekeeping.ts'
import { names } from './0004-names.ts'
import { hostJournal } from './0005-host-journal.ts'
import { snapshots } from './0006-snapshots.ts'
import { settings } from './0007-settings.ts'
import { dump } from './0008-dump.ts'

export const MIGRATIONS: readonly Migration[] = [foundation, sagas, housekeeping, names, hostJournal, snapshots, settings, dump]
