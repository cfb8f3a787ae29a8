-- name: newest_run_to_go
-- The newest run of a status that is beyond the newest :keep.
SELECT created_at, id FROM runs WHERE status = :kind ORDER BY created_at DESC, id DESC LIMIT 1 OFFSET :keep;

-- name: newest_event_to_go
-- The newest event that is beyond the newest :keep.
SELECT at, id FROM events ORDER BY at DESC, id DESC LIMIT 1 OFFSET :keep;

-- name: runs
-- Ended runs that may go, oldest first, after a key; a run whose parent goes on stays.
SELECT r.created_at, r.id FROM runs r
WHERE r.status = :kind AND (r.created_at, r.id) > (:after_at, :after_id)
  AND (r.created_at, r.id) <= (:last_at, :last_id)
  AND (coalesce(r.ended_at, r.updated_at) < :cutoff OR (r.created_at, r.id) <= (:until_at, :until_id))
  AND NOT EXISTS (
    SELECT 1 FROM runs p WHERE p.id = r.parent_id AND p.status NOT IN ('completed', 'failed', 'cancelled'))
ORDER BY r.created_at, r.id LIMIT :limit;

-- name: events
-- Events that may go, oldest first, after a key; one that an unfinished run came from stays.
SELECT e.at, e.id FROM events e
WHERE (e.at, e.id) > (:after_at, :after_id) AND (e.at, e.id) <= (:last_at, :last_id)
  AND (e.at < :cutoff OR (e.at, e.id) <= (:until_at, :until_id))
  AND NOT EXISTS (
    SELECT 1 FROM runs r WHERE r.event_id = e.id AND r.status NOT IN ('completed', 'failed', 'cancelled'))
ORDER BY e.at, e.id LIMIT :limit;

-- name: count_entries
-- The entries of a stream.
SELECT count(*) FROM journal WHERE stream = ?;

-- name: references
-- The blobs that a stream mentions.
SELECT hash FROM blob_refs WHERE stream = ?;

-- name: count_references
-- How many streams mention a blob.
SELECT count(*) FROM blob_refs WHERE hash = ?;

-- name: blob_size
-- How large a blob is.
SELECT size FROM blobs WHERE hash = ?;

-- name: delete_blob
-- Delete a blob that nothing mentions any more.
DELETE FROM blobs WHERE hash = :hash AND NOT EXISTS (SELECT 1 FROM blob_refs WHERE hash = :hash);

-- name: delete_entries
-- Delete a stream.
DELETE FROM journal WHERE stream = ?;

-- name: delete_snapshot
-- Delete the stored state of a stream.
DELETE FROM snapshots WHERE stream = ?;

-- name: delete_references
-- Delete what says which blobs a stream mentions.
DELETE FROM blob_refs WHERE stream = ?;

-- name: delete_timers
-- Delete the timers of a stream's actor.
DELETE FROM timers WHERE target = ?;

-- name: delete_run
-- Delete a run's row.
DELETE FROM runs WHERE id = ?;

-- name: delete_waiters
-- Delete what a run waits for.
DELETE FROM waiters WHERE run_id = ?;

-- name: delete_event
-- Delete an event's row.
DELETE FROM events WHERE id = ?;

-- name: next_intake
-- The first stream of a kind of intake after another one.
SELECT min(stream) FROM journal WHERE stream > :after AND stream < :end;

-- name: idle_since
-- When the newest entry of a stream was written, unless something waits there.
SELECT at FROM journal WHERE stream = :stream AND NOT EXISTS (SELECT 1 FROM intakes WHERE address = :stream)
ORDER BY version DESC LIMIT 1;

-- name: stale_outcomes
-- Outcomes of requests that were neither events nor runs (skipped times of schedules), or that outlived them.
DELETE FROM outcomes WHERE (subject, function_id) IN (
  SELECT o.subject, o.function_id FROM outcomes o WHERE o.at < :cutoff
    AND NOT EXISTS (SELECT 1 FROM events e WHERE e.id = o.subject)
    AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = o.subject) LIMIT :limit);

-- name: delete_outcomes
-- Delete what became of an event, or of another request for a run.
DELETE FROM outcomes WHERE subject = ?;
