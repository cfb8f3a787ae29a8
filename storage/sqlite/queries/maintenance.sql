-- name: gaps
-- Streams whose versions are not 1, 2, 3 and so on.
SELECT stream, count(*), min(version), max(version) FROM journal
GROUP BY stream HAVING min(version) <> 1 OR max(version) <> count(*) LIMIT 20;

-- name: missing_blobs
-- Streams that mention a blob which is not there.
SELECT r.stream, r.hash FROM blob_refs r
WHERE NOT EXISTS (SELECT 1 FROM blobs b WHERE b.hash = r.hash) LIMIT 20;

-- name: lost_runs
-- Runs without a stream.
SELECT r.id FROM runs r
WHERE NOT EXISTS (SELECT 1 FROM journal j WHERE j.stream = 'run/' || r.id) LIMIT 20;

-- name: lost_events
-- Events without a stream.
SELECT e.id FROM events e
WHERE NOT EXISTS (SELECT 1 FROM journal j WHERE j.stream = 'event/' || e.id AND j.version = 1) LIMIT 20;

-- name: snapshots_ahead
-- Snapshots of a version that their stream has not reached.
SELECT s.stream, s.version FROM snapshots s
WHERE s.version > coalesce((SELECT max(version) FROM journal j WHERE j.stream = s.stream), 0) LIMIT 20;

-- name: blobs
-- Every large value.
SELECT hash, size, data FROM blobs;
