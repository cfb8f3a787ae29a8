-- The journal, and the projections that its entries are committed with. Moments are microseconds since the epoch.

CREATE TABLE journal (
  seq INTEGER PRIMARY KEY,
  stream TEXT NOT NULL,
  version INTEGER NOT NULL,
  at INTEGER NOT NULL,
  kind TEXT NOT NULL,
  data BLOB NOT NULL
);
-- The fence: of two owners of a stream, one loses here.
CREATE UNIQUE INDEX journal_fence ON journal (stream, version);

CREATE TABLE runs (
  id TEXT NOT NULL PRIMARY KEY,
  function_id TEXT NOT NULL,
  status TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  started_at INTEGER,
  ended_at INTEGER,
  updated_at INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  version INTEGER NOT NULL,
  event_id TEXT,
  event_name TEXT,
  idempotency_key TEXT,
  parent_id TEXT,
  code TEXT,
  reason TEXT,
  crashes INTEGER NOT NULL
) WITHOUT ROWID;
-- Without a rowid an index ends with the primary key, so each of these serves pages by (created_at, id).
CREATE INDEX runs_created ON runs (created_at);
CREATE INDEX runs_function ON runs (function_id, created_at);
CREATE INDEX runs_function_status ON runs (function_id, status, created_at);
CREATE INDEX runs_status ON runs (status, created_at);
CREATE INDEX runs_event ON runs (event_id, created_at) WHERE event_id IS NOT NULL;
CREATE INDEX runs_event_name ON runs (event_name, created_at) WHERE event_name IS NOT NULL;
CREATE INDEX runs_parent ON runs (parent_id, created_at) WHERE parent_id IS NOT NULL;
CREATE INDEX runs_idempotency ON runs (idempotency_key, created_at) WHERE idempotency_key IS NOT NULL;

CREATE TABLE timers (
  target TEXT NOT NULL,
  name TEXT NOT NULL,
  at INTEGER NOT NULL,
  version INTEGER NOT NULL,
  PRIMARY KEY (target, name)
) WITHOUT ROWID;
CREATE INDEX timers_at ON timers (at);

CREATE TABLE waiters (
  run_id TEXT NOT NULL,
  step TEXT NOT NULL,
  event TEXT NOT NULL,
  match TEXT,
  since INTEGER NOT NULL,
  PRIMARY KEY (run_id, step)
) WITHOUT ROWID;

CREATE TABLE deliveries (
  id TEXT NOT NULL PRIMARY KEY,
  target TEXT NOT NULL,
  kind TEXT NOT NULL,
  data BLOB NOT NULL,
  at INTEGER NOT NULL
);

CREATE TABLE events (
  id TEXT NOT NULL PRIMARY KEY,
  name TEXT NOT NULL,
  at INTEGER NOT NULL,
  source TEXT NOT NULL,
  idempotency_key TEXT
) WITHOUT ROWID;
CREATE INDEX events_at ON events (at);
CREATE INDEX events_name ON events (name, at);

CREATE TABLE functions (
  id TEXT NOT NULL PRIMARY KEY,
  version INTEGER NOT NULL,
  hash TEXT NOT NULL,
  spec BLOB NOT NULL,
  updated_at INTEGER NOT NULL
);

-- Large values by their SHA-256, and the streams that mention them.
CREATE TABLE blobs (
  hash TEXT NOT NULL PRIMARY KEY,
  size INTEGER NOT NULL,
  data BLOB NOT NULL
);
CREATE TABLE blob_refs (
  stream TEXT NOT NULL,
  hash TEXT NOT NULL,
  PRIMARY KEY (stream, hash)
) WITHOUT ROWID;
CREATE INDEX blob_refs_hash ON blob_refs (hash);

CREATE TABLE snapshots (
  stream TEXT NOT NULL PRIMARY KEY,
  version INTEGER NOT NULL,
  data BLOB NOT NULL
);

CREATE TABLE meta (
  key TEXT NOT NULL PRIMARY KEY,
  value TEXT NOT NULL
) WITHOUT ROWID;
