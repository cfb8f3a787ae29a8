"""What happened to a run, as the protocol's REST face tells it."""

from typing import Any

from ironflow.web.wire import View


class AuditEventView(View, frozen=True):
    """One thing that happened; `payload` differs from type to type."""

    id: str
    event_type: str
    run_id: str
    function_id: str
    step_id: str
    environment_id: str
    payload: Any
    scope: str
    created_at: str


class AuditView(View, frozen=True):
    """Part of a trail, oldest first; `next_cursor` goes on and is empty at its end.
    `retention_days` is 0: a trail is kept as long as its run.
    """

    events: list[AuditEventView]
    total_count: int
    next_cursor: str
    retention_days: int
