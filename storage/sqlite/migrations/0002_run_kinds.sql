-- How a run was written: a durable function, a Prefect flow, an event-driven workflow.

ALTER TABLE runs ADD COLUMN kind TEXT NOT NULL DEFAULT 'function';
-- A page of a rare kind must not read over a million functions; functions themselves need no index.
CREATE INDEX runs_flows ON runs (created_at) WHERE kind = 'flow';
CREATE INDEX runs_workflows ON runs (created_at) WHERE kind = 'workflow';
