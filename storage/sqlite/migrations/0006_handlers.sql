-- Names of workflow runs that callers keep, each with its newest run. Moments are microseconds.

CREATE TABLE handlers (
  id TEXT NOT NULL PRIMARY KEY,
  run_id TEXT NOT NULL,
  workflow TEXT NOT NULL,
  status TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  ended_at INTEGER,
  error TEXT,
  version INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX handlers_created ON handlers (created_at);
CREATE INDEX handlers_status ON handlers (status, created_at);
CREATE INDEX handlers_workflow ON handlers (workflow, created_at);
CREATE INDEX handlers_run ON handlers (run_id);
