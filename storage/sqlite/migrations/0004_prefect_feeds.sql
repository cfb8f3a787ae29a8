-- Events, logs and saved searches of the Prefect API. `seq` counts what was accepted, in the order of the commits.

CREATE TABLE prefect_events (
  id TEXT NOT NULL PRIMARY KEY,
  seq INTEGER NOT NULL,
  event TEXT NOT NULL,
  resource_id TEXT NOT NULL,
  occurred_at INTEGER NOT NULL,
  received_at INTEGER NOT NULL,
  body TEXT NOT NULL
);
CREATE UNIQUE INDEX prefect_events_seq ON prefect_events (seq);
CREATE INDEX prefect_events_occurred ON prefect_events (occurred_at, seq);
CREATE INDEX prefect_events_event ON prefect_events (event, occurred_at, seq);

-- Which events a resource takes part in, as their subject or beside it.
CREATE TABLE event_resources (
  resource_id TEXT NOT NULL,
  occurred_at INTEGER NOT NULL,
  event_id TEXT NOT NULL,
  PRIMARY KEY (resource_id, occurred_at, event_id)
) WITHOUT ROWID;

CREATE TABLE logs (
  seq INTEGER NOT NULL PRIMARY KEY,
  id TEXT NOT NULL,
  flow_run_id TEXT,
  task_run_id TEXT,
  level INTEGER NOT NULL,
  at INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  name TEXT NOT NULL,
  message TEXT NOT NULL
);
CREATE INDEX logs_at ON logs (at);
CREATE INDEX logs_flow_run ON logs (flow_run_id, at) WHERE flow_run_id IS NOT NULL;
CREATE INDEX logs_task_run ON logs (task_run_id, at) WHERE task_run_id IS NOT NULL;

CREATE TABLE saved_searches (
  id TEXT NOT NULL PRIMARY KEY,
  name TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  filters TEXT NOT NULL
);
CREATE UNIQUE INDEX saved_searches_name ON saved_searches (name);

-- Filters by state, each in the orders that lists are asked for.
CREATE INDEX flow_runs_state ON flow_runs (state_type, id);
CREATE INDEX flow_runs_state_expected ON flow_runs (state_type, expected_at);
CREATE INDEX flow_runs_state_name ON flow_runs (state_name, id);
CREATE INDEX task_runs_state ON task_runs (state_type, id);
