import type { Migration } from '../migrate.ts'

/**
 * Accounts and their credentials, the audit log, hosts, instances, images and the outbox of events.
 *
 * Conventions: times are whole milliseconds, as the API's are (a cursor must find the very row); bytes are bigint; a row that others point at by name keeps that
 * name for life.
 */
export const foundation: Migration = {
  id: 1,
  name: 'foundation',
  sql: `
CREATE EXTENSION IF NOT EXISTS pg_trgm;

CREATE TABLE account (
  id            uuid PRIMARY KEY,
  name          text NOT NULL UNIQUE,
  role          text NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
  password_hash text,
  disabled      boolean NOT NULL DEFAULT false,
  created_at    timestamptz(3) NOT NULL
);
-- The machine's own user, who comes by the credentials file in the data directory and has no password.
INSERT INTO account (id, name, role, password_hash, created_at)
VALUES ('00000000-0000-7000-8000-000000010ca1', 'local', 'admin', NULL, now());

CREATE TABLE session (
  id           uuid PRIMARY KEY,
  account_id   uuid NOT NULL REFERENCES account (id) ON DELETE CASCADE,
  secret_hash  bytea NOT NULL UNIQUE CHECK (length(secret_hash) = 32),
  created_at   timestamptz(3) NOT NULL,
  last_seen_at timestamptz(3) NOT NULL,
  expires_at   timestamptz(3) NOT NULL,
  address      text NOT NULL
);
CREATE INDEX session_account ON session (account_id);
CREATE INDEX session_expiry ON session (expires_at);

CREATE TABLE token (
  id           uuid PRIMARY KEY,
  account_id   uuid NOT NULL REFERENCES account (id) ON DELETE CASCADE,
  name         text NOT NULL,
  secret_hash  bytea NOT NULL CHECK (length(secret_hash) = 32),
  scopes       text[] NOT NULL,
  created_at   timestamptz(3) NOT NULL,
  expires_at   timestamptz(3),
  last_used_at timestamptz(3),
  UNIQUE (account_id, name)
);

-- Tries to sign in, counted before the password is looked at. Lost without harm, hence unlogged.
CREATE UNLOGGED TABLE login_attempt (
  key            text PRIMARY KEY,
  count          integer NOT NULL,
  window_ends_at timestamptz(3) NOT NULL
);
CREATE INDEX login_attempt_end ON login_attempt (window_ends_at);

-- Keeps names rather than references: it outlives what it tells of.
CREATE TABLE audit (
  id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at         timestamptz(3) NOT NULL,
  account    text,
  via        text NOT NULL CHECK (via IN ('session', 'token', 'local', 'none')),
  operation  text NOT NULL,
  resource   text,
  outcome    text NOT NULL,
  address    text,
  request_id text NOT NULL,
  search     text GENERATED ALWAYS AS (
               lower(coalesce(account, '') || ' ' || operation || ' ' || coalesce(resource, '') || ' ' || outcome || ' ' || coalesce(address, ''))
             ) STORED
);
CREATE INDEX audit_at ON audit (at);
CREATE INDEX audit_search ON audit USING gin (search gin_trgm_ops);

CREATE TABLE host (
  name               text PRIMARY KEY,
  -- The token with which its agent joins; a new one replaces the old.
  token_id           uuid UNIQUE,
  token_hash         bytea CHECK (length(token_hash) = 32),
  connected          boolean NOT NULL DEFAULT false,
  -- Grows with each connection, so that what an older connection still says is known to be old.
  connection_epoch   bigint NOT NULL DEFAULT 0,
  driver             text NOT NULL DEFAULT '',
  version            text NOT NULL DEFAULT '',
  accelerator        text NOT NULL DEFAULT '',
  accelerator_reason text NOT NULL DEFAULT '',
  cpu_count          integer NOT NULL DEFAULT 0,
  memory_bytes       bigint NOT NULL DEFAULT 0,
  -- Highest domain event of the host that is taken in: the agent is asked for what follows.
  event_sequence     bigint NOT NULL DEFAULT 0,
  last_seen_at       timestamptz(3),
  created_at         timestamptz(3) NOT NULL
);

-- "env=prod tier=web", for search. Immutable because the order of a jsonb object's keys is.
CREATE FUNCTION label_text(labels jsonb) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
  AS $$ SELECT coalesce(string_agg(key || '=' || value, ' '), '') FROM jsonb_each_text(labels) $$;

CREATE TABLE instance (
  id              uuid PRIMARY KEY,
  name            text NOT NULL,
  image           text NOT NULL,
  host            text REFERENCES host (name),
  -- The whole DomainSpec that was asked for; the columns beside it are what lists, sums and placement read.
  spec            jsonb NOT NULL,
  vcpu_count      integer NOT NULL CHECK (vcpu_count > 0),
  memory_bytes    bigint NOT NULL CHECK (memory_bytes > 0),
  root_disk_bytes bigint NOT NULL CHECK (root_disk_bytes >= 0),
  labels          jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(labels) = 'object'),
  forwards        jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(forwards) = 'array'),
  state_kind      text NOT NULL
                  CHECK (state_kind IN ('creating', 'stopped', 'running', 'paused', 'saved', 'crashed', 'failed', 'destroying')),
  state_cause     text NOT NULL,
  state_detail    text,
  state_since     timestamptz(3) NOT NULL,
  -- The operation that holds the instance now.
  operation_id    uuid,
  operation_name  text,
  created_at      timestamptz(3) NOT NULL,
  created_by      text NOT NULL,
  destroyed_at    timestamptz(3),
  search          text GENERATED ALWAYS AS (lower(name || ' ' || image || ' ' || label_text(labels))) STORED,
  CHECK ((operation_id IS NULL) = (operation_name IS NULL))
);
-- Everything that lists reads instances that are not destroyed.
CREATE UNIQUE INDEX instance_name ON instance (name) WHERE destroyed_at IS NULL;
CREATE INDEX instance_created ON instance (created_at, id) WHERE destroyed_at IS NULL;
CREATE INDEX instance_state ON instance (state_kind, id) WHERE destroyed_at IS NULL;
CREATE INDEX instance_memory ON instance (memory_bytes, id) WHERE destroyed_at IS NULL;
CREATE INDEX instance_host ON instance (host, id) WHERE destroyed_at IS NULL;
CREATE INDEX instance_operation ON instance (operation_id) WHERE operation_id IS NOT NULL;
CREATE INDEX instance_search ON instance USING gin (search gin_trgm_ops) WHERE destroyed_at IS NULL;

-- What each host holds. An image is the same on two hosts when its digest is.
CREATE TABLE image (
  host                 text NOT NULL REFERENCES host (name) ON DELETE CASCADE,
  name                 text NOT NULL,
  title                text NOT NULL,
  digest               text NOT NULL,
  size_bytes           bigint NOT NULL,
  virtual_bytes        bigint NOT NULL,
  minimum_memory_bytes bigint NOT NULL,
  default_user         text NOT NULL,
  contents             jsonb NOT NULL DEFAULT '{}',
  built_at             timestamptz(3) NOT NULL,
  PRIMARY KEY (host, name)
);

-- The outbox. A reader goes up to the oldest transaction that still runs, in the order (xid, id): see outbox.ts.
CREATE TABLE event (
  id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  xid      xid8 NOT NULL DEFAULT pg_current_xact_id(),
  at       timestamptz(3) NOT NULL,
  kind     text NOT NULL,
  resource text,
  name     text,
  content  jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(content) = 'object')
);
CREATE UNIQUE INDEX event_order ON event (xid, id);
CREATE INDEX event_resource ON event (resource, xid, id);
CREATE INDEX event_at ON event (at);
-- What the reader has thrown away: whoever asks for something older is told that there is a gap.
CREATE TABLE event_horizon (
  single boolean PRIMARY KEY DEFAULT true CHECK (single),
  xid    xid8 NOT NULL,
  id     bigint NOT NULL
);
INSERT INTO event_horizon (xid, id) VALUES ('0', 0);

-- Only wakes readers: carries nothing, and nobody relies on it.
CREATE FUNCTION event_wake() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('typevisor_event', ''); RETURN NULL; END $$;
CREATE TRIGGER event_wake AFTER INSERT ON event FOR EACH STATEMENT EXECUTE FUNCTION event_wake();
`,
}
