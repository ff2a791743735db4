import type { Migration } from '../migrate.ts'

/** The audit log says by name what was changed; a host can be forgotten, and what ran on it still says where. */
export const names: Migration = {
  id: 4,
  name: 'names',
  sql: `
ALTER TABLE audit ADD COLUMN resource_name text;
-- A generated column is not redefined in place; its index goes with it.
ALTER TABLE audit DROP COLUMN search;
ALTER TABLE audit ADD COLUMN search text GENERATED ALWAYS AS (
  lower(coalesce(account, '') || ' ' || operation || ' ' || coalesce(resource, '') || ' ' || coalesce(resource_name, '') || ' ' || outcome
    || ' ' || coalesce(address, ''))
) STORED;
CREATE INDEX audit_search ON audit USING gin (search gin_trgm_ops);

-- The name of a host that was forgotten stays in the rows of the instances that were destroyed: what it still lists of them is ended
-- by it. Who places an instance and who forgets a host hold one lock, which is what the reference was for.
ALTER TABLE instance DROP CONSTRAINT instance_host_fkey;
`,
}
