-- Flows, flow runs and task runs as the Prefect API shows them. Moments and spans are microseconds, lists are JSON.
-- `body` is the JSON object of a response; of runs it lacks the two estimates and the closing brace, which depend on
-- the moment of the question.

CREATE TABLE flows (
  id TEXT NOT NULL PRIMARY KEY,
  name TEXT NOT NULL,
  tags TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  body BLOB NOT NULL
);
CREATE UNIQUE INDEX flows_name ON flows (name);

CREATE TABLE flow_runs (
  id TEXT NOT NULL PRIMARY KEY,
  flow_id TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  deployment_id TEXT,
  parent_task_run_id TEXT,
  parent_flow_run_id TEXT,
  idempotency_key TEXT,
  creator_id TEXT,
  creator_type TEXT,
  creator_name TEXT,
  auto_scheduled INTEGER NOT NULL,
  name TEXT NOT NULL,
  updated_at INTEGER NOT NULL,
  flow_version TEXT,
  deployment_version TEXT,
  work_queue_id TEXT,
  work_queue_name TEXT,
  work_pool_id TEXT,
  work_pool_name TEXT,
  tags TEXT NOT NULL,
  state_id TEXT,
  state_type TEXT,
  state_name TEXT,
  state_at INTEGER,
  run_count INTEGER NOT NULL,
  expected_at INTEGER,
  next_scheduled_at INTEGER,
  started_at INTEGER,
  ended_at INTEGER,
  run_time INTEGER NOT NULL,
  body BLOB NOT NULL
);
CREATE INDEX flow_runs_flow ON flow_runs (flow_id, expected_at);
CREATE INDEX flow_runs_began ON flow_runs (coalesce(started_at, expected_at));
CREATE INDEX flow_runs_expected ON flow_runs (expected_at);
CREATE INDEX flow_runs_deployment ON flow_runs (deployment_id, expected_at) WHERE deployment_id IS NOT NULL;
CREATE INDEX flow_runs_parent ON flow_runs (parent_task_run_id) WHERE parent_task_run_id IS NOT NULL;
CREATE INDEX flow_runs_idempotency ON flow_runs (idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE TABLE task_runs (
  id TEXT NOT NULL PRIMARY KEY,
  flow_run_id TEXT,
  task_key TEXT NOT NULL,
  dynamic_key TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  name TEXT NOT NULL,
  updated_at INTEGER NOT NULL,
  cache_key TEXT,
  task_version TEXT,
  tags TEXT NOT NULL,
  state_id TEXT,
  state_type TEXT,
  state_name TEXT,
  state_at INTEGER,
  run_count INTEGER NOT NULL,
  expected_at INTEGER,
  next_scheduled_at INTEGER,
  started_at INTEGER,
  ended_at INTEGER,
  run_time INTEGER NOT NULL,
  body BLOB NOT NULL
);
CREATE INDEX task_runs_flow_run ON task_runs (flow_run_id, expected_at);
CREATE INDEX task_runs_expected ON task_runs (expected_at);

-- Where the journal has each state; `owner` is the flow run or task run.
CREATE TABLE run_states (
  stream TEXT NOT NULL,
  version INTEGER NOT NULL,
  id TEXT NOT NULL,
  owner TEXT NOT NULL,
  kind TEXT NOT NULL,
  at INTEGER NOT NULL,
  PRIMARY KEY (stream, version)
) WITHOUT ROWID;
CREATE INDEX run_states_id ON run_states (id);

CREATE TABLE run_inputs (
  flow_run_id TEXT NOT NULL,
  key TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  body BLOB NOT NULL,
  value TEXT NOT NULL,
  PRIMARY KEY (flow_run_id, key)
) WITHOUT ROWID;

-- Results of tasks by cache key; `state` is the JSON of the state that holds one.
CREATE TABLE task_caches (
  cache_key TEXT NOT NULL PRIMARY KEY,
  run_id TEXT NOT NULL,
  at INTEGER NOT NULL,
  expires_at INTEGER,
  state BLOB NOT NULL
);
CREATE INDEX task_caches_run ON task_caches (run_id);
