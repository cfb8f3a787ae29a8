-- What commits have said about rows of other tables and these do not show yet: see `storage.sqlite.deferral`. Slots that are used
-- again and again; `commit_id` says what is newer, and that of slot 0 up to where the tables show it.
CREATE TABLE deferred (
  slot INTEGER NOT NULL PRIMARY KEY,
  commit_id INTEGER NOT NULL,
  data BLOB NOT NULL
);
