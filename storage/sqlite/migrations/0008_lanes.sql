-- The lanes of runs that have not ended, so that a start knows who waits for which without reading every run.

CREATE TABLE run_lanes (
  run_id TEXT NOT NULL PRIMARY KEY,
  lanes TEXT NOT NULL
) WITHOUT ROWID;
