"""Random but repeatable sequences of what clients propose to a server: states of flow runs and task
runs with their policies, valid and invalid, and what they read in between.

An operation is a method, a path and a body in which `{flow}`, `{run}`, `{task}` stand for what the
server has given, and `{nonce}` for what makes names unique in each playing; `keep` names what its
answer's id is kept as.
"""

from __future__ import annotations

import json
import random
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

FLOW_STATES = (
    *["PENDING", "RUNNING", "RUNNING", "COMPLETED", "FAILED", "FAILED", "CANCELLED", "CANCELLING"],
    *["CRASHED", "PAUSED", "SCHEDULED"],
)
TASK_STATES = (
    *["PENDING", "RUNNING", "RUNNING", "COMPLETED", "COMPLETED", "FAILED", "FAILED", "CANCELLED"],
    *["CRASHED", "PAUSED", "SCHEDULED", "CANCELLING"],
)
LIKELY: dict[str, tuple[str, ...]] = {
    "SCHEDULED": ("PENDING", "RUNNING", "CANCELLING"),
    "PENDING": ("RUNNING", "RUNNING", "CANCELLED"),
    "RUNNING": ("FAILED", "FAILED", "PAUSED", "COMPLETED", "CANCELLING"),
    "FAILED": ("RUNNING", "SCHEDULED", "FAILED"),
    "PAUSED": ("RUNNING", "PAUSED", "CANCELLING", "SCHEDULED"),
    "CANCELLING": ("CANCELLED", "RUNNING"),
    "COMPLETED": ("RUNNING", "SCHEDULED", "COMPLETED"),
    "CANCELLED": ("RUNNING", "PENDING"),
    "CRASHED": ("RUNNING", "SCHEDULED"),
}
"""What a client would propose next; other states make up the rest."""
NAMES = {
    "PENDING": ["Submitting", "InfrastructurePending"],
    "RUNNING": ["Retrying", "Rolling"],
    "SCHEDULED": ["AwaitingRetry", "Late", "Resuming", "AwaitingConcurrencySlot"],
    "COMPLETED": ["Cached", "Skipped"],
    "PAUSED": ["Suspended"],
    "FAILED": ["TimedOut"],
}
DATA: tuple[Any, ...] = (
    None,
    None,
    {"type": "unpersisted"},
    {"type": "reference", "storage_key": "k", "serializer_type": "pickle"},
    {"anything": [1, "two", None]},
)


@dataclass
class Operation:
    """One request."""

    method: str
    path: str
    body: Any = None
    keep: str | None = None

    def filled(self, known: dict[str, str]) -> tuple[str, Any]:
        """Path and body with the identifiers of one server."""
        path, text = self.path, json.dumps(self.body)
        for name, value in known.items():
            path = path.replace(f"{{{name}}}", value)
            text = text.replace(f"{{{name}}}", value)
        return path, json.loads(text)

    def __str__(self) -> str:
        return f"{self.method} {self.path} {json.dumps(self.body)}"


@dataclass
class Sequence:
    """A sequence that is being made."""

    rng: random.Random
    operations: list[Operation] = field(default_factory=list)
    transition: str | None = None
    last: str = "PENDING"
    """The type that was proposed last."""

    def add(self, method: str, path: str, body: Any = None, keep: str | None = None) -> None:
        """One more operation."""
        self.operations.append(Operation(method, path, body, keep))

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.rng.random() < probability

    def uuid(self) -> str:
        """A random identifier that the seed repeats."""
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))

    def moment(self, *hours: int) -> str:
        """So many hours from now, one of these."""
        return (datetime.now(UTC) + timedelta(hours=self.rng.choice(hours))).isoformat()

    def state(self, kinds: tuple[str, ...]) -> dict[str, Any]:
        """A state to propose."""
        likely = LIKELY[self.last] if self.chance(0.7) and len(kinds) > 5 else kinds
        kind = self.last = self.rng.choice(likely)
        state: dict[str, Any] = {"type": kind}
        if self.chance(0.25) and kind in NAMES:
            state["name"] = self.rng.choice(NAMES[kind])
        if self.chance(0.3):
            state["message"] = f"because of {self.rng.randint(1, 9)}"
        if kind in ("COMPLETED", "FAILED"):
            state["data"] = self.rng.choice(DATA)
        details = self.details(kind)
        if details or self.chance(0.5):
            state["state_details"] = details
        return state

    def details(self, kind: str) -> dict[str, Any]:
        """What goes with it."""
        details: dict[str, Any] = {}
        if self.chance(0.5):
            if self.transition is None or not self.chance(0.3):
                self.transition = self.uuid()
            details["transition_id"] = self.transition
        if kind == "SCHEDULED" and self.chance(0.9):
            # Seconds ago: a server marks as late what has been due for 15 of them, in its own time.
            soon = (datetime.now(UTC) - timedelta(seconds=3)).isoformat()
            details["scheduled_time"] = soon if self.chance(0.5) else self.moment(2, 5)
        if kind == "PAUSED":
            details["pause_key"] = self.rng.choice(["a", "b"])
            if self.chance(0.8):
                details["pause_timeout"] = self.moment(2, 5)
            details["pause_reschedule"] = self.chance(0.2)
        return details


def flow_sequence(seed: int) -> list[Operation]:
    """A flow run and what becomes of it."""
    made = Sequence(random.Random(seed))
    made.add("POST", "/flows/", {"name": "flow-{nonce}"}, keep="flow")
    run: dict[str, Any] = {"flow_id": "{flow}"}
    if made.chance(0.7):
        retries = made.rng.choice([0, 1, 2])
        run["empirical_policy"] = {"retries": retries, "retry_delay": made.rng.choice([0, 3600])}
    if made.chance(0.7):
        run["state"] = made.state(("PENDING", "PENDING", "SCHEDULED", "RUNNING", "COMPLETED"))
    if made.chance(0.3):
        run |= {"name": "named", "tags": ["a", "b"], "parameters": {"x": 1}, "context": {"c": 2}}
    if made.chance(0.3):
        run["idempotency_key"] = "key-{nonce}"
    made.add("POST", "/flow_runs/", run, keep="run")
    if made.chance(0.3):
        made.add("PATCH", "/flow_runs/{run}", {"infrastructure_pid": "host:1"})
    if "idempotency_key" in run:
        made.add("POST", "/flow_runs/", run)
    for _ in range(made.rng.randint(4, 9)):
        if made.chance(0.6 if made.last == "PAUSED" else 0.04):
            body = {} if made.chance(0.5) else {"run_input": {"n": 1}}
            made.add("POST", "/flow_runs/{run}/resume", body)
            made.last = "RUNNING"
        elif made.chance(0.06):
            policy = {"retries": 1, "retry_delay": 3600}
            made.add("PATCH", "/flow_runs/{run}", {"empirical_policy": policy})
        else:
            body = {"state": made.state(FLOW_STATES), "force": made.chance(0.1)}
            if body["force"] and body["state"]["type"] == "PAUSED":
                # Suspended without a deployment: only force can do that, and nothing leaves it.
                body["state"]["state_details"]["pause_reschedule"] = False
            made.add("POST", "/flow_runs/{run}/set_state", body)
        if made.chance(0.6):
            made.add("GET", "/flow_runs/{run}")
    made.add("GET", "/flow_runs/{run}")
    made.add("GET", "/flow_run_states/?flow_run_id={run}")
    return made.operations


def task_sequence(seed: int) -> list[Operation]:
    """A task run of a flow run that moves now and then."""
    made = Sequence(random.Random(seed))
    made.add("POST", "/flows/", {"name": "flow-{nonce}"}, keep="flow")
    made.add("POST", "/flow_runs/", {"flow_id": "{flow}", "state": {"type": "PENDING"}}, keep="run")
    if made.chance(0.85):
        made.add("POST", "/flow_runs/{run}/set_state", {"state": {"type": "RUNNING"}})
    task: dict[str, Any] = {
        "flow_run_id": "{run}" if made.chance(0.9) else None,
        "task_key": "task-{nonce}",
        "dynamic_key": "0",
    }
    if made.chance(0.6):
        delay = made.rng.choice([None, 0, 3600, [3600, 7200]])
        task["empirical_policy"] = {"retries": made.rng.choice([0, 1, 2]), "retry_delay": delay}
    if made.chance(0.6):
        task["state"] = made.state(("PENDING", "PENDING", "SCHEDULED", "RUNNING"))
    if made.chance(0.3):
        task |= {
            "name": "named",
            "tags": ["t"],
            "task_inputs": {"x": [{"input_type": "parameter", "name": "p"}]},
            "task_version": "v1",
        }
    made.add("POST", "/task_runs/", task, keep="task")
    made.last = task.get("state", {"type": "PENDING"})["type"]
    if made.chance(0.3) and task["flow_run_id"]:
        made.add("POST", "/task_runs/", task)
    for _ in range(made.rng.randint(4, 9)):
        if made.chance(0.1):
            kinds = ("RUNNING", "CANCELLING", "COMPLETED", "PAUSED")
            made.add("POST", "/flow_runs/{run}/set_state", {"state": made.state(kinds)})
        state = made.state(TASK_STATES)
        if made.chance(0.3):
            state.setdefault("state_details", {})["cache_key"] = "cache-{nonce}"
            if made.chance(0.4):
                state["state_details"]["cache_expiration"] = made.moment(-2, 2)
            if made.chance(0.2):
                state["state_details"]["refresh_cache"] = True
        force = made.chance(0.1)
        made.add("POST", "/task_runs/{task}/set_state", {"state": state, "force": force})
        if made.chance(0.6):
            made.add("GET", "/task_runs/{task}")
    made.add("GET", "/task_runs/{task}")
    made.add("GET", "/task_run_states/?task_run_id={task}")
    return made.operations


def pause_sequence(seed: int) -> list[Operation]:
    """A flow run that pauses under several keys and is resumed in time, too late, or not at all."""
    made = Sequence(random.Random(seed))
    made.add("POST", "/flows/", {"name": "flow-{nonce}"}, keep="flow")
    run = {"flow_id": "{flow}", "state": {"type": "PENDING"}}
    made.add("POST", "/flow_runs/", run, keep="run")
    made.add("POST", "/flow_runs/{run}/set_state", {"state": {"type": "RUNNING"}})
    for _ in range(made.rng.randint(3, 5)):
        body = {"state": {"type": "PAUSED", "state_details": made.details("PAUSED")}}
        made.add("POST", "/flow_runs/{run}/set_state", body)
        match made.rng.randrange(5):
            case 0:
                made.add("POST", "/flow_runs/{run}/set_state", {"state": {"type": "RUNNING"}})
            case 1:
                state = {"type": "RUNNING", "name": "Resuming"}
                made.add("POST", "/flow_runs/{run}/set_state", {"state": state})
            case 2:
                made.add("POST", "/flow_runs/{run}/resume", {"run_input": {"n": 1}})
            case _:
                made.add("POST", "/flow_runs/{run}/resume")
        made.add("GET", "/flow_runs/{run}")
        if made.chance(0.3):
            made.add("POST", "/flow_runs/{run}/set_state", {"state": {"type": "RUNNING"}})
    made.add("GET", "/flow_run_states/?flow_run_id={run}")
    return made.operations


def other_words() -> list[Operation]:
    """Values that are said in other words than clients do, and some that are none."""

    def move(details: dict[str, Any], force: Any = True, kind: str = "SCHEDULED") -> Operation:
        body = {"state": {"type": kind, "state_details": details}, "force": force}
        return Operation("POST", "/flow_runs/{run}/set_state", body)

    def find(wanted: dict[str, Any], **page: Any) -> Operation:
        body = {"flow_runs": {"id": {"any_": ["{run}"]}, **wanted}, **page}
        return Operation("POST", "/flow_runs/filter", body)

    def say(level: Any, timestamp: Any, run: Any = "{run}") -> Operation:
        line = {"name": "n", "message": "m", "level": level, "timestamp": timestamp}
        return Operation("POST", "/logs/", [line | {"flow_run_id": run}])

    def create(**body: Any) -> Operation:
        return Operation("POST", "/flow_runs/", {"flow_id": "{flow}", "name": "said", **body})

    later, long_ = 4_102_444_800, "x" * 600_000
    return [
        Operation("POST", "/flows/", {"name": "said-{nonce}"}, keep="flow"),
        Operation("POST", "/flow_runs/", {"flow_id": "{flow}", "name": "said"}, keep="run"),
        *(create(flow_id=id_) for id_ in ("{{flow}}", "urn:uuid:{flow}", "{{flow}", 5, True)),
        create(empirical_policy={"retries": "2", "retry_delay": 1.0, "resuming": "no"}),
        create(empirical_policy={"retries": 2.5}),
        *(create(parameters={"a": text}) for text in (long_, "ü" * 100_000, "x" * 500_000)),
        *(move({"scheduled_time": at}) for at in (later, f"{later}.5", later * 1000, "2999-01-01")),
        *(move({"scheduled_time": at}) for at in ("2999-01-01 10:00", "2999-W01", True, 1e30, "")),
        *(move({}, force) for force in (1, "YES", 0.0, "off", 2, "maybe", None)),
        *(move({"deferred": "off", "untrackable_result": truth}) for truth in (1, "t", 3)),
        move({"pause_timeout": str(later), "pause_reschedule": 0}, kind="PAUSED"),
        *(find({"start_time": {"before_": at}}) for at in (later, str(later), 1, "no time")),
        *(find({"parent_task_run_id": {"is_null_": truth}}) for truth in (1, 0, "yes", "n", 2, "")),
        *(find({}, limit=limit) for limit in (True, "1", 1.0, " 5 ", "5.0", 0.5, "five")),
        *(find({}, offset=offset) for offset in ("1", 0.0, "0_0", [])),
        *(find({"id": {"any_": [id_]}}) for id_ in ("{{run}}", "urn:uuid:{run}", "{run}}")),
        *(say(level, later) for level in ("20", 30.0, True, "loud")),
        *(say(20, at) for at in ("2020-01-01", 1_700_000_000.25, "soon")),
        *(say(20, later, run) for run in ("{{run}}", "{run}x")),
        Operation("POST", "/logs/filter", {"logs": {"flow_run_id": {"any_": ["{run}"]}}}),
        Operation("GET", "/flow_run_states/?flow_run_id=%7B{run}%7D"),
    ]
