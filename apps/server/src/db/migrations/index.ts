/** All migrations in order. One that has been released is never edited (its checksum is kept); a change is a new file. */
import type { Migration } from '../migrate.ts'
import { foundation } from './0001-foundation.ts'

export const MIGRATIONS: readonly Migration[] = [foundation]
