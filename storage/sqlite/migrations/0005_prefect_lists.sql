-- Lists of Prefect flow runs of one flow, by name and by end, each read in its order.

CREATE INDEX flow_runs_flow_id ON flow_runs (flow_id, id);
CREATE INDEX flow_runs_name ON flow_runs (name, id);
CREATE INDEX flow_runs_ended ON flow_runs (ended_at, id);
CREATE INDEX flow_runs_flow_began ON flow_runs (flow_id, coalesce(started_at, expected_at));
