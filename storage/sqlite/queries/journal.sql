-- name: last_seq
-- The newest sequence number ever given, which retention may have deleted.
SELECT max(
  coalesce((SELECT max(seq) FROM journal), 0),
  coalesce((SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'seq_floor'), 0)
);

-- name: keep_last_seq
-- Remember the newest sequence number before its entry is deleted.
INSERT INTO meta (key, value) VALUES ('seq_floor', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value;

-- name: snapshot
-- The newest stored state of a stream.
SELECT version, data FROM snapshots WHERE stream = ?;

-- name: stream
-- A stream's entries after a version; a negative limit is none.
SELECT seq, stream, version, at, kind, data FROM journal
WHERE stream = ? AND version > ? ORDER BY version LIMIT ?;

-- name: entry
-- One entry.
SELECT seq, stream, version, at, kind, data FROM journal WHERE stream = ? AND version = ?;

-- name: tail
-- Entries of all streams after a sequence number.
SELECT seq, stream, version, at, kind, data FROM journal WHERE seq > ? ORDER BY seq LIMIT ?;
