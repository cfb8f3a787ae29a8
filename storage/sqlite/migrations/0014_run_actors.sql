-- Runs that go to the same worker as others and have not ended: by which value, and to whom last.

CREATE TABLE run_actors (
  run_id TEXT NOT NULL PRIMARY KEY,
  actor TEXT NOT NULL,
  worker TEXT
) WITHOUT ROWID;
