-- What has become of a function, since when it is known, and the newest entry of its stream.

ALTER TABLE functions ADD COLUMN status TEXT NOT NULL DEFAULT 'active';
ALTER TABLE functions ADD COLUMN created_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE functions ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;

UPDATE functions SET revision = version, created_at = coalesce(
  (SELECT at FROM journal WHERE stream = 'function/' || functions.id AND version = 1), updated_at);
