"""The tables of flows, flow runs and task runs behind the Prefect API (see `relational`).

Moments and spans are microseconds, lists are JSON text, ids are UUIDs in lower case.
"""

from __future__ import annotations

from ironflow.storage.ports import Table

FLOWS = Table(
    "flows",
    1,
    ("id", "name", "tags", "created_at", "updated_at", "body"),
    ("name", "created_at"),
)
FLOW_RUNS = Table(
    "flow_runs",
    1,
    (
        "id", "flow_id", "created_at", "deployment_id", "parent_task_run_id", "parent_flow_run_id",
        "idempotency_key", "creator_id", "creator_type", "creator_name", "auto_scheduled", "name",
        "updated_at", "flow_version", "deployment_version", "work_queue_id", "work_queue_name",
        "work_pool_id", "work_pool_name", "tags", "state_id", "state_type", "state_name",
        "state_at", "run_count", "expected_at", "next_scheduled_at", "started_at", "ended_at",
        "run_time", "body",
    ),
    (
        "flow_id", "created_at", "deployment_id", "parent_task_run_id", "parent_flow_run_id",
        "idempotency_key", "creator_id", "creator_type", "creator_name", "auto_scheduled",
        "expected_at",
    ),
    deferred=True,
)  # fmt: skip
TASK_RUNS = Table(
    "task_runs",
    1,
    (
        "id", "flow_run_id", "task_key", "dynamic_key", "created_at", "name", "updated_at",
        "cache_key", "task_version", "tags", "state_id", "state_type", "state_name", "state_at",
        "run_count", "expected_at", "next_scheduled_at", "started_at", "ended_at", "run_time",
        "body",
    ),
    ("flow_run_id", "task_key", "dynamic_key"),
    deferred=True,
)  # fmt: skip
FLOW_RUN_MOVES = FLOW_RUNS.narrowed(
    "name", "flow_version", "deployment_version", "work_queue_id", "work_queue_name",
    "work_pool_id", "work_pool_name", "tags",
)  # fmt: skip
"""A flow run that has a new state and is else as it was."""
TASK_RUN_MOVES = TASK_RUNS.narrowed("name", "cache_key", "task_version", "tags", "expected_at")
"""A task run that has a new state, decided here, and is else as it was."""
RUN_STATES = Table(
    "run_states", 2, ("stream", "version", "id", "owner", "kind", "at"), deferred=True
)
RUN_INPUTS = Table("run_inputs", 2, ("flow_run_id", "key", "created_at", "body", "value"))
TASK_CACHES = Table("task_caches", 1, ("cache_key", "run_id", "at", "expires_at", "state"))

TABLES = (FLOWS, FLOW_RUNS, TASK_RUNS, RUN_STATES, RUN_INPUTS, TASK_CACHES)

OF_RUN = (
    ("flow_runs", "id"),
    ("task_runs", "flow_run_id"),
    ("task_runs", "id"),
    ("run_inputs", "flow_run_id"),
    ("task_caches", "run_id"),
)
"""What goes with a run, as (table, column that holds the run's id)."""
OF_STREAM = (("run_states", "stream"),)
"""What goes with a run's stream, as (table, column that holds its name)."""
