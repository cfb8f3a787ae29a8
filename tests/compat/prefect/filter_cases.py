"""Data that is the same on two servers, and random but repeatable filters over it."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from compat.prefect.sequences import Operation

Json = dict[str, Any]


def moment(hours: float) -> str:
    """So many hours from now."""
    return (datetime.now(UTC) + timedelta(hours=hours)).isoformat()


RUNS: tuple[tuple[str, list[str], list[Json]], ...] = (
    ("alpha", ["a"], [{"type": "PENDING"}, {"type": "RUNNING"}]),
    ("beta", ["a", "b"], [{"type": "PENDING"}, {"type": "RUNNING"}, {"type": "COMPLETED"}]),
    ("gamma", ["b"], [{"type": "RUNNING"}, {"type": "FAILED"}]),
    ("delta", [], [{"type": "SCHEDULED", "state_details": {"scheduled_time": moment(3)}}]),
    (
        "epsilon",
        ["a"],
        [{"type": "SCHEDULED", "name": "Late", "state_details": {"scheduled_time": moment(-3)}}],
    ),
    ("zeta", ["c"], [{"type": "RUNNING"}, {"type": "CRASHED"}]),
    ("eta", ["a", "c"], [{"type": "RUNNING"}, {"type": "COMPLETED", "name": "Cached"}]),
    ("theta_100%", [], [{"type": "PENDING"}, {"type": "CANCELLED"}]),
    (
        "iota",
        ["b", "c"],
        [{"type": "SCHEDULED", "name": "Late", "state_details": {"scheduled_time": moment(-1)}}],
    ),
    ("kappa", ["a", "b", "c"], [{"type": "RUNNING"}, {"type": "PAUSED"}]),
)
"""Name, tags, and the states that it takes one after the other. What is late is late already: each
server would mark it in its own time."""
NAMES = [name for name, _, _ in RUNS]
TASKS = (
    ("one", ["a"], "alpha", "RUNNING"),
    ("two", [], "alpha", "COMPLETED"),
    ("three", ["b"], "gamma", "FAILED"),
    ("four", ["a", "b"], "kappa", "PENDING"),
    ("five", ["c"], "alpha", "CANCELLED"),
)


def data() -> list[Operation]:
    """What makes it."""
    made = [
        Operation("POST", "/flows/", {"name": "{nonce}-x", "tags": ["a"]}, "x"),
        Operation("POST", "/flows/", {"name": "{nonce}-y", "tags": []}, "y"),
        Operation("POST", "/flows/", {"name": "{nonce}-z", "tags": ["a", "b"]}, "z"),
    ]
    for number, (name, labels, states) in enumerate(RUNS):
        body: Json = {
            "flow_id": "{x}" if number % 3 else "{y}",
            "name": name,
            "tags": labels,
            "state": states[0],
            "idempotency_key": f"{name}-{{nonce}}",
            "flow_version": f"v{number % 2}",
        }
        made.append(Operation("POST", "/flow_runs/", body, name))
        for state in states[1:]:
            forced = {"state": state, "force": True}
            made.append(Operation("POST", f"/flow_runs/{{{name}}}/set_state", forced))
    for name, labels, run, state in TASKS:
        body = {"flow_run_id": f"{{{run}}}", "task_key": name, "dynamic_key": "0", "name": name}
        body |= {"tags": labels, "state": {"type": state}}
        made.append(Operation("POST", "/task_runs/", body, name))
    child = {"flow_id": "{x}", "name": "child", "parent_task_run_id": "{one}"}
    made.append(Operation("POST", "/flow_runs/", child, "child"))
    return made


class Filters:
    """Draws filters of each object."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def some(self, values: list[str], most: int = 3) -> list[str]:
        """A few of them."""
        return self.rng.sample(values, self.rng.randint(0 if self.rng.random() < 0.1 else 1, most))

    def fields(self, choices: dict[str, Any]) -> Json:
        """One to three fields, and now and then the other operator."""
        chosen = self.rng.sample(sorted(choices), self.rng.randint(1, min(3, len(choices))))
        found = {name: choices[name]() for name in chosen}
        if self.rng.random() < 0.35:
            found["operator"] = "or_"
        return found

    def moments(self) -> Json:
        """A bound or two."""
        return self.rng.choice(
            [
                {"before_": moment(0.5)},
                {"after_": moment(-2)},
                {"after_": moment(-2), "before_": moment(2)},
                {"before_": moment(-2)},
                {"after_": moment(1)},
            ]
        )

    def times(self) -> Json:
        """A bound, or whether there is a moment at all."""
        if self.rng.random() < 0.4:
            return {"is_null_": self.rng.random() < 0.5}
        return self.moments()

    def tags(self) -> Json:
        """Of all kinds."""
        return self.rng.choice(
            [
                {"all_": self.some(["a", "b", "c"], 2)},
                {"is_null_": True},
                {"is_null_": False},
                {"operator": "or_", "all_": ["a"], "is_null_": True},
            ]
        )

    def state(self, negative: bool) -> Json:
        """Types and names, joined either way."""
        kinds = ["RUNNING", "COMPLETED", "FAILED", "SCHEDULED", "PENDING", "CRASHED", "PAUSED"]
        kind = "not_any_" if negative and self.rng.random() < 0.3 else "any_"
        name = "not_any_" if negative and self.rng.random() < 0.3 else "any_"
        return self.fields(
            {
                "type": lambda: {kind: self.some(kinds)},
                "name": lambda: {name: self.some(["Late", "Cached", "Running", "Scheduled"])},
            }
        )

    def flow_runs(self) -> Json:
        """Of flow runs."""
        ids = [f"{{{name}}}" for name in NAMES]
        keys = [f"{name}-{{nonce}}" for name in NAMES]
        rng = self.rng
        return self.fields(
            {
                "id": lambda: {rng.choice(["any_", "not_any_"]): self.some(ids, 5)},
                "name": lambda: rng.choice(
                    [{"any_": self.some(NAMES, 4)}, {"like_": rng.choice(["ETA", "a", "_", "0%"])}]
                ),
                "tags": lambda: rng.choice([self.tags(), {"any_": self.some(["a", "c"], 2)}]),
                "state": lambda: self.state(negative=True),
                "flow_version": lambda: {"any_": self.some(["v0", "v1", "v2"])},
                "start_time": self.times,
                "end_time": self.times,
                "expected_start_time": self.moments,
                "next_scheduled_start_time": self.moments,
                "deployment_id": lambda: {"is_null_": rng.random() < 0.8},
                "work_queue_name": lambda: {"is_null_": True},
                "parent_flow_run_id": lambda: {"any_": self.some(["{alpha}", "{beta}"], 2)},
                "parent_task_run_id": lambda: rng.choice(
                    [{"is_null_": True}, {"is_null_": False}, {"any_": ["{one}", "{two}"]}]
                ),
                "idempotency_key": lambda: {
                    rng.choice(["any_", "not_any_"]): self.some(keys, 4),
                },
            }
        )

    def task_runs(self) -> Json:
        """Of task runs."""
        names = [name for name, _, _, _ in TASKS]
        rng = self.rng
        return self.fields(
            {
                "id": lambda: {"any_": self.some([f"{{{name}}}" for name in names])},
                "name": lambda: rng.choice([{"any_": self.some(names)}, {"like_": "O"}]),
                "tags": self.tags,
                "state": lambda: self.state(negative=False),
                "start_time": self.times,
                "end_time": self.times,
                "expected_start_time": self.moments,
                "subflow_runs": lambda: {"exists_": rng.random() < 0.5},
                "flow_run_id": lambda: {"any_": self.some(["{alpha}", "{gamma}", "{kappa}"], 2)},
            }
        )

    def flows(self) -> Json:
        """Of flows."""
        return self.fields(
            {
                "id": lambda: {
                    self.rng.choice(["any_", "not_any_"]): self.some(["{x}", "{y}"], 2),
                },
                "name": lambda: {"any_": self.some(["{nonce}-x", "{nonce}-z"], 2)},
                "tags": lambda: self.rng.choice(
                    [{"all_": self.some(["a", "b"], 2)}, {"is_null_": True}, {"is_null_": False}]
                ),
                "deployment": lambda: {"is_null_": True},
            }
        )


SORTS = {
    "/flow_runs": ["NAME_ASC", "NAME_DESC"],
    "/task_runs": ["NAME_ASC", "NAME_DESC"],
    "/flows": ["NAME_ASC", "NAME_DESC"],
}
WIDE = {
    "/flow_runs": ["flow_runs", "flow_runs", "flow_runs", "task_runs", "flows"],
    "/task_runs": ["task_runs", "task_runs", "flow_runs", "flows"],
    "/flows": ["flows", "flow_runs", "task_runs"],
}
"""Whose filters are drawn for a list; its own most often."""


def question(seed: int) -> Operation:
    """A filter request; only what `data` made can be found by it."""
    rng = random.Random(seed)
    filters = Filters(rng)
    path = rng.choice(["/flow_runs", "/flow_runs", "/task_runs", "/flows"])
    body: Json = {"sort": rng.choice(SORTS[path])}
    for kind in set(rng.sample(WIDE[path], 1 if rng.random() < 0.6 else 2)):
        body[kind] = getattr(filters, kind)()
    mine = {"like_": "{nonce}"}
    if "flows" not in body:
        body["flows"] = {"name": mine}
    elif body["flows"].get("operator") == "or_" or "name" in body["flows"]:
        body["flows"] = {"name": mine, "tags": {"is_null_": rng.random() < 0.5}}
    else:
        body["flows"]["name"] = mine
    form = rng.choice(["filter", "filter", "filter", "paginate", "count"])
    if form == "filter" and rng.random() < 0.3:
        body |= {"limit": rng.randint(0, 4), "offset": rng.randint(0, 2)}
    if form == "paginate":
        body |= {"limit": rng.randint(1, 4), "page": rng.randint(1, 2)}
    if form == "count":
        del body["sort"]
    return Operation("POST", f"{path}/{form}", body)
