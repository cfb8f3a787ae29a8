-- name: run
-- One run.
SELECT {columns} FROM runs WHERE id = ?;

-- name: runs
-- A page of runs, newest first; one branch of a union when several statuses are asked for.
SELECT {columns} FROM runs WHERE {where} ORDER BY created_at DESC, id DESC LIMIT :limit;

-- name: unfinished
-- Runs of one status, oldest first. A flow is executed elsewhere.
SELECT {columns} FROM runs WHERE status = :status AND kind <> 'flow' AND (created_at, id) > (:after_at, :after_id)
ORDER BY created_at, id LIMIT :limit;

-- name: count_runs
-- Runs by function and status, from the index alone.
SELECT function_id, status, count(*) FROM runs GROUP BY function_id, status;

-- name: event
-- One event with its data.
SELECT e.id, e.name, e.at, e.source, e.idempotency_key, j.data
FROM events e JOIN journal j ON j.stream = 'event/' || e.id AND j.version = 1 WHERE e.id = ?;

-- name: events
-- A page of events, newest first; one branch of a union when several names are asked for.
SELECT e.id, e.name, e.at, e.source, e.idempotency_key, j.data
FROM events e CROSS JOIN journal j ON j.stream = 'event/' || e.id AND j.version = 1
WHERE {where} ORDER BY e.at DESC, e.id DESC LIMIT :limit;

-- name: timers
-- A page of timers that are due.
SELECT target, name, at, version FROM timers
WHERE at <= :until AND (at, target, name) > (:after_at, :after_target, :after_name)
ORDER BY at, target, name LIMIT :limit;

-- name: waiters
-- Every run that waits for an event.
SELECT run_id, step, event, match, since FROM waiters ORDER BY run_id, step;

-- name: keys
-- Every key of the API.
SELECT id FROM keys ORDER BY created_at, id;

-- name: actors
-- The actors of runs that have not ended, and who had them last.
SELECT run_id, actor, worker FROM run_actors;

-- name: lanes
-- The lanes of runs that have not ended.
SELECT run_id, lanes, priority, share FROM run_lanes;

-- name: starts
-- What counts for throttles and rate limits.
SELECT lane, at, run_id FROM starts;

-- name: intakes
-- A page of what waits with intakes of a kind.
SELECT address, kind, function_id, key, run_id, event_id, armed_at, due_at, size FROM intakes
WHERE kind = :kind AND (:key IS NULL OR (function_id, key) > (:function_id, :key))
  AND (:only IS NULL OR function_id = :only) ORDER BY function_id, key LIMIT :limit;

-- name: intakes_of
-- What waits to become these runs, whose ids are a JSON array.
SELECT i.address, i.kind, i.function_id, i.key, i.run_id, i.event_id, i.armed_at, i.due_at, i.size
FROM json_each(?) s JOIN intakes i ON i.run_id = s.value ORDER BY i.address;

-- name: outcomes
-- What became of requests at intakes; the subjects are a JSON array.
SELECT o.subject, o.function_id, o.fate, o.run_id, o.at, o.due_at
FROM json_each(?) s JOIN outcomes o ON o.subject = s.value ORDER BY o.subject, o.function_id;

-- name: deliveries
-- Every message not yet consumed.
SELECT id, target, kind, data, at FROM deliveries ORDER BY at, id;

-- name: functions
-- Every registered function.
SELECT id, version, hash, spec, updated_at, status, created_at, revision FROM functions ORDER BY id;

-- name: blob
-- A large value.
SELECT data FROM blobs WHERE hash = ?;

-- name: meta
-- A fact about the database.
SELECT value FROM meta WHERE key = ?;
