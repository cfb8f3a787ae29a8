-- Keys of the API by their ids; what they are is in their streams.

CREATE TABLE keys (
  id TEXT NOT NULL PRIMARY KEY,
  created_at INTEGER NOT NULL
) WITHOUT ROWID;
