-- Which lists of tags Prefect flow runs have, and which runs have them.

CREATE INDEX flow_runs_tags ON flow_runs (tags, id);
