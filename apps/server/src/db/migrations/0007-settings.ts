import type { Migration } from '../migrate.ts'

/**
 * An instance's settings as its host last told them, so that they are known while it is away, and what its specification lets it grow to.
 * Specifications of before have none of the three fields.
 */
export const settings: Migration = {
  id: 7,
  name: 'settings',
  sql: `ALTER TABLE instance
    ADD COLUMN settings jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(settings) = 'object'),
    ADD COLUMN settings_notes jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(settings_notes) = 'array'),
    ADD COLUMN vcpu_count_max integer GENERATED ALWAYS AS (coalesce((spec ->> 'vcpuCountMax')::integer, (spec ->> 'vcpuCount')::integer)) STORED,
    ADD COLUMN memory_bytes_max bigint GENERATED ALWAYS AS (coalesce((spec ->> 'memoryBytesMax')::bigint, (spec ->> 'memoryBytes')::bigint)) STORED,
    ADD COLUMN huge_pages boolean GENERATED ALWAYS AS (coalesce((spec ->> 'hugePages')::boolean, false)) STORED;`,
}
