-- What waits before it becomes a run (debounced and batched events, singletons), and what became of events there.

CREATE TABLE intakes (
  address TEXT NOT NULL PRIMARY KEY,
  kind TEXT NOT NULL,
  function_id TEXT NOT NULL,
  key TEXT NOT NULL,
  run_id TEXT NOT NULL,
  event_id TEXT NOT NULL,
  armed_at INTEGER NOT NULL,
  due_at INTEGER,
  size INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX intakes_kind ON intakes (kind, function_id, key);
CREATE INDEX intakes_run ON intakes (run_id);

CREATE TABLE outcomes (
  subject TEXT NOT NULL,
  function_id TEXT NOT NULL,
  fate TEXT NOT NULL,
  run_id TEXT NOT NULL,
  at INTEGER NOT NULL,
  due_at INTEGER,
  PRIMARY KEY (subject, function_id)
) WITHOUT ROWID;
CREATE INDEX outcomes_at ON outcomes (at);
