-- The rank of runs that wait, and what began of late: a row of `starts` is written in the commit of what it counts.

ALTER TABLE run_lanes ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
ALTER TABLE run_lanes ADD COLUMN share TEXT;

CREATE TABLE starts (
  lane TEXT NOT NULL,
  at INTEGER NOT NULL,
  run_id TEXT NOT NULL,
  PRIMARY KEY (lane, at, run_id)
) WITHOUT ROWID;
