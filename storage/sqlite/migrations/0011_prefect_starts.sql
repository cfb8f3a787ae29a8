-- Prefect flow runs by state: a page in the order of the expected start is read from its index alone, and those that have
-- ended are in the order in which they began, so that several states are merged.

DROP INDEX flow_runs_state_expected;
CREATE INDEX flow_runs_state_expected ON flow_runs (state_type, expected_at, id);
CREATE INDEX flow_runs_state_began ON flow_runs (state_type, coalesce(started_at, expected_at), id)
  WHERE ended_at IS NOT NULL;
