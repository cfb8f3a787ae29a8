-- What commits have said about rows of other tables and these do not show yet: see `storage.deferral`.
CREATE TABLE deferred (
  id INTEGER NOT NULL PRIMARY KEY,
  data BLOB NOT NULL
);
