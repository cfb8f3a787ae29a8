"""Every endpoint of the Prefect API that is served: a valid request is answered with the real
server's status and a body that fits the real server's schema; invalid ones get a 4xx of its shape.
"""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from compat.prefect.contract import Contract
from compat.prefect.servers import Answer, Server

NOWHERE = "00000000-0000-4000-8000-000000000000"
HISTORY = {
    "history_start": "2026-01-01T00:00:00Z",
    "history_end": "2026-01-02T00:00:00Z",
    "history_interval_seconds": 3600.0,
}
TASK = {"task_key": "t", "dynamic_key": "0", "flow_run_id": "{run}"}
LOG = {
    "name": "prefect.flow_runs",
    "level": 20,
    "message": "said",
    "timestamp": "2026-01-01T00:00:00Z",
    "flow_run_id": "{run}",
}
EVENT = {
    "occurred": "2026-01-01T00:00:00Z",
    "event": "table.laid",
    "resource": {"prefect.resource.id": "table.1"},
    "id": "{fresh}",
}
DAY = {"occurred": {"since": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z"}}
SINCE = {"start_time": {"after_": "2026-01-01T00:00:00Z"}}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}

VALID: list[tuple[str, str, Any, int]] = [
    ("GET", "/health", None, 200),
    ("GET", "/ready", None, 200),
    ("GET", "/hello", None, 200),
    ("GET", "/version", None, 200),
    ("GET", "/admin/version", None, 200),
    ("GET", "/admin/settings", None, 200),
    ("GET", "/admin/storage", None, 200),
    # -- flows
    ("POST", "/flows/", {"name": "table-{fresh}", "tags": ["a"], "labels": {"b": 1}}, 201),
    ("POST", "/flows/", {"name": "{flow_name}"}, 200),
    ("GET", "/flows/{flow}", None, 200),
    ("GET", "/flows/name/{flow_name}", None, 200),
    ("POST", "/flows/filter", {"flows": {"name": {"like_": "TABLE"}}, "limit": 3}, 200),
    ("POST", "/flows/filter", None, 200),
    ("POST", "/flows/paginate", {"page": 1, "limit": 2}, 200),
    ("POST", "/flows/count", {"flows": {"id": {"any_": ["{flow}"]}}}, 200),
    ("PATCH", "/flows/{flow}", {"tags": ["changed"]}, 204),
    ("DELETE", "/flows/{lone_flow}", None, 204),
    ("POST", "/flows/bulk_delete", {"flows": {"id": {"any_": ["{bulk_flow}"]}}}, 200),
    # -- flow runs
    ("POST", "/flow_runs/", {"flow_id": "{flow}"}, 201),
    ("POST", "/flow_runs/", {"flow_id": "{flow}", "idempotency_key": "{key}"}, 200),
    ("GET", "/flow_runs/{run}", None, 200),
    ("POST", "/flow_runs/filter", {"flow_runs": {"id": {"any_": ["{run}"]}}}, 200),
    ("POST", "/flow_runs/paginate", {"page": 1, "limit": 2}, 200),
    ("POST", "/flow_runs/count", {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}, 200),
    ("POST", "/flow_runs/history", HISTORY, 200),
    ("POST", "/flow_runs/lateness", {}, 200),
    ("PATCH", "/flow_runs/{run}", {"name": "changed", "tags": ["x"]}, 204),
    ("PATCH", "/flow_runs/{run}/labels", {"team": "data"}, 204),
    ("POST", "/flow_runs/{other}/set_state", {"state": {"type": "RUNNING"}}, 201),
    ("POST", "/flow_runs/{run}/resume", {}, 200),
    ("POST", "/flow_runs/{run}/input", {"key": "{fresh}", "value": "1"}, 201),
    ("POST", "/flow_runs/{run}/input/filter", {"prefix": "kept"}, 200),
    ("GET", "/flow_runs/{run}/input/kept", None, 200),
    ("DELETE", "/flow_runs/{run}/input/lost", None, 204),
    ("GET", "/flow_runs/{run}/graph", None, 200),
    ("GET", "/flow_runs/{run}/graph-v2", None, 200),
    ("GET", "/flow_runs/{run}/logs/download", None, 200),
    (
        "POST",
        "/flow_runs/bulk_set_state",
        {"flow_runs": {"id": {"any_": ["{bulk_run}"]}}, "state": {"type": "RUNNING"}},
        200,
    ),
    ("POST", "/flow_runs/bulk_delete", {"flow_runs": {"id": {"any_": ["{bulk_run}"]}}}, 200),
    ("DELETE", "/flow_runs/{lone_run}", None, 204),
    # -- task runs
    ("POST", "/task_runs/", {**TASK, "task_key": "{fresh}"}, 201),
    ("POST", "/task_runs/", TASK, 200),
    ("GET", "/task_runs/{task}", None, 200),
    ("POST", "/task_runs/filter", {"task_runs": {"flow_run_id": {"any_": ["{run}"]}}}, 200),
    ("POST", "/task_runs/paginate", {"page": 1, "limit": 2}, 200),
    ("POST", "/task_runs/count", {"flow_runs": {"id": {"any_": ["{run}"]}}}, 200),
    ("POST", "/task_runs/history", HISTORY, 200),
    ("PATCH", "/task_runs/{task}", {"name": "changed"}, 204),
    ("POST", "/task_runs/{task}/set_state", {"state": {"type": "RUNNING"}}, 201),
    ("DELETE", "/task_runs/{lone_task}", None, 204),
    # -- states
    ("GET", "/flow_run_states/{run_state}", None, 200),
    ("GET", "/flow_run_states/?flow_run_id={run}", None, 200),
    ("GET", "/task_run_states/{task_state}", None, 200),
    ("GET", "/task_run_states/?task_run_id={task}", None, 200),
    # -- logs and events
    ("POST", "/logs/", [LOG, LOG], 201),
    ("POST", "/logs/filter", {"logs": {"flow_run_id": {"any_": ["{run}"]}}}, 200),
    ("POST", "/events", [EVENT], 204),
    ("POST", "/events/filter", {"filter": {"event": {"prefix": ["table."]}}, "limit": 10}, 200),
    ("POST", "/events/count-by/day", {"filter": {}}, 200),
    ("POST", "/events/count-by/time", {"filter": DAY, "time_unit": "hour"}, 200),
    ("POST", "/events/count-by/event", {"filter": {}}, 200),
    ("POST", "/events/count-by/resource", {"filter": {}}, 200),
    # -- saved searches and what the UI asks
    ("PUT", "/saved_searches/", {"name": "{fresh}", "filters": []}, 201),
    ("GET", "/saved_searches/{search}", None, 200),
    ("POST", "/saved_searches/filter", {"limit": 5}, 200),
    ("DELETE", "/saved_searches/{lone_search}", None, 204),
    ("POST", "/ui/flows/count-deployments", {"flow_ids": ["{flow}"]}, 200),
    ("POST", "/ui/flows/next-runs", {"flow_ids": ["{flow}"]}, 200),
    ("POST", "/ui/flow_runs/history", {"limit": 5}, 200),
    ("POST", "/ui/flow_runs/count-task-runs", {"flow_run_ids": ["{run}"]}, 200),
    ("POST", "/ui/task_runs/dashboard/counts", {"task_runs": SINCE}, 200),
    ("POST", "/ui/task_runs/count", {}, 200),
    ("GET", "/ui/task_runs/{task}", None, 200),
    ("POST", "/ui/schemas/validate", {"schema": SCHEMA, "values": {"n": 1}}, 200),
]

FILTER = {"flow_runs": {"state": {"type": {"any_": ["NOWHERE"]}}}}
INVALID: list[tuple[str, str, Any, int]] = [
    ("GET", "/nothing-here", None, 404),
    ("GET", "/csrf-token?client={fresh}", None, 422),
    ("GET", "/csrf-token", None, 422),
    ("POST", "/flows/", {}, 422),
    ("POST", "/flows/", {"name": "x", "surprise": 1}, 422),
    ("POST", "/flows/", {"name": 5}, 422),
    ("POST", "/flows/", {"name": "x", "labels": {"a": None}}, 422),
    ("POST", "/flows/", b"{", 422),
    ("POST", "/flows/", [], 422),
    ("GET", "/flows/not-a-uuid", None, 404),
    ("GET", f"/flows/{NOWHERE}", None, 404),
    ("GET", "/flows/name/nobody", None, 404),
    ("PATCH", f"/flows/{NOWHERE}", {"tags": []}, 404),
    ("PATCH", "/flows/{flow}", {"name": "x"}, 422),
    ("DELETE", f"/flows/{NOWHERE}", None, 404),
    ("POST", "/flows/filter", {"limit": 201}, 422),
    ("POST", "/flows/filter", {"limit": -1}, 422),
    ("POST", "/flows/filter", {"offset": -1}, 422),
    ("POST", "/flows/filter", {"sort": "SIDEWAYS"}, 422),
    ("POST", "/flows/filter", {"flows": {"name": {"near_": "x"}}}, 422),
    ("POST", "/flows/filter", {"flows": {"colour": {"any_": ["x"]}}}, 422),
    ("POST", "/flows/paginate", {"page": 0}, 422),
    ("POST", "/flow_runs/", {"flow_id": "x"}, 422),
    ("POST", "/flow_runs/", {"flow_id": "{flow}", "state": {"type": "HAPPY"}}, 422),
    ("POST", "/flow_runs/", {"flow_id": "{flow}", "parameters": 5}, 422),
    ("GET", f"/flow_runs/{NOWHERE}", None, 404),
    ("GET", "/flow_runs/nope", None, 404),
    ("PATCH", f"/flow_runs/{NOWHERE}", {"name": "x"}, 404),
    ("PATCH", "/flow_runs/{run}", {"job_variables": {"image": "x"}}, 400),
    ("PATCH", "/flow_runs/{scheduled}", {"job_variables": {"image": "x"}}, 400),
    ("DELETE", f"/flow_runs/{NOWHERE}", None, 404),
    ("POST", "/flow_runs/filter", FILTER, 422),
    ("POST", "/flow_runs/filter", {"flow_runs": {"operator": "xor_"}}, 422),
    ("POST", "/flow_runs/filter", {"flow_runs": {"start_time": {"before_": "noon"}}}, 422),
    ("POST", "/flow_runs/filter", {"limit": 201}, 422),
    ("POST", "/flow_runs/count", {"flow_runs": {"id": {"any_": ["x"]}}}, 422),
    ("POST", "/flow_runs/history", {"history_start": "2026-01-01T00:00:00Z"}, 422),
    ("POST", "/flow_runs/history", {**HISTORY, "history_interval_seconds": 0.5}, 422),
    ("POST", f"/flow_runs/{NOWHERE}/set_state", {"state": {"type": "RUNNING"}}, 404),
    ("POST", "/flow_runs/{run}/set_state", {"state": {"type": "RUNING"}}, 422),
    ("POST", "/flow_runs/{run}/set_state", {}, 422),
    ("POST", f"/flow_runs/{NOWHERE}/resume", {}, 404),
    ("POST", "/flow_runs/{run}/input", {"key": "two words", "value": "1"}, 422),
    ("POST", "/flow_runs/{run}/input", {"key": "kept", "value": "1"}, 409),
    ("POST", f"/flow_runs/{NOWHERE}/input", {"key": "k", "value": "1"}, 404),
    ("POST", "/flow_runs/{run}/input/filter", {}, 422),
    ("GET", "/flow_runs/{run}/input/absent", None, 404),
    ("DELETE", "/flow_runs/{run}/input/absent", None, 404),
    ("GET", f"/flow_runs/{NOWHERE}/logs/download", None, 404),
    ("PATCH", f"/flow_runs/{NOWHERE}/labels", {"a": 1}, 404),
    ("POST", "/task_runs/", {"task_key": "t"}, 422),
    ("POST", "/task_runs/", {**TASK, "task_inputs": {"x": [{"input_type": "magic"}]}}, 422),
    ("GET", f"/task_runs/{NOWHERE}", None, 404),
    ("PATCH", f"/task_runs/{NOWHERE}", {"name": "x"}, 404),
    ("DELETE", f"/task_runs/{NOWHERE}", None, 404),
    ("POST", f"/task_runs/{NOWHERE}/set_state", {"state": {"type": "RUNNING"}}, 404),
    ("POST", "/task_runs/{task}/set_state", {"state": {}}, 422),
    ("POST", "/task_runs/filter", {"sort": "BY_HEART"}, 422),
    ("POST", "/task_runs/paginate", {"limit": 0, "page": -1}, 422),
    ("GET", f"/flow_run_states/{NOWHERE}", None, 404),
    ("GET", "/flow_run_states/", None, 422),
    ("GET", "/flow_run_states/?flow_run_id=x", None, 422),
    ("GET", f"/task_run_states/{NOWHERE}", None, 404),
    ("GET", "/task_run_states/", None, 422),
    ("POST", "/logs/", [{"name": "x"}], 422),
    ("POST", "/logs/filter", {"logs": {"level": {"ge_": "loud"}}}, 422),
    ("POST", "/events", [{"event": "x"}], 422),
    ("POST", "/events/filter", {"limit": -1}, 422),
    ("POST", "/events/filter", {"filter": {"event": {"prefix": "x"}}}, 422),
    ("GET", "/events/filter/next?page-token=nonsense", None, 403),
    ("POST", "/events/count-by/colour", {"filter": {}}, 422),
    ("PUT", "/saved_searches/", {}, 422),
    ("GET", f"/saved_searches/{NOWHERE}", None, 404),
    ("DELETE", f"/saved_searches/{NOWHERE}", None, 404),
    ("POST", "/ui/flows/next-runs", {"flow_ids": ["x"]}, 422),
    ("POST", "/ui/flow_runs/count-task-runs", {}, 422),
    ("POST", "/ui/task_runs/dashboard/counts", {}, 422),
    ("GET", f"/ui/task_runs/{NOWHERE}", None, 404),
    ("POST", "/ui/schemas/validate", {"schema": SCHEMA}, 422),
]


class World:
    """What the table asks about, made on a server; `{name}` in a row is its identifier."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.known = {"key": str(uuid.uuid4()), "flow_name": f"table-{uuid.uuid4()}"}
        self.make("flow", "POST", "/flows/", {"name": "{flow_name}"})
        for name in ("lone_flow", "bulk_flow"):
            self.make(name, "POST", "/flows/", {"name": "table-{fresh}"})
        run = {"flow_id": "{flow}", "state": {"type": "PENDING"}}
        self.make("run", "POST", "/flow_runs/", {**run, "idempotency_key": "{key}"})
        for name in ("other", "lone_run", "bulk_run"):
            self.make(name, "POST", "/flow_runs/", run)
        self.make("scheduled", "POST", "/flow_runs/", {**run, "state": {"type": "SCHEDULED"}})
        self.ask("POST", "/flow_runs/{run}/set_state", {"state": {"type": "RUNNING"}})
        self.make("task", "POST", "/task_runs/", {**TASK, "state": {"type": "PENDING"}})
        self.make("lone_task", "POST", "/task_runs/", {**TASK, "dynamic_key": "1"})
        for key in ("kept", "lost"):
            self.ask("POST", "/flow_runs/{run}/input", {"key": key, "value": "1"})
        for name in ("search", "lone_search"):
            self.make(name, "PUT", "/saved_searches/", {"name": "{fresh}"})
        run_row, task_row = (
            self.ask("GET", "/flow_runs/{run}"),
            self.ask("GET", "/task_runs/{task}"),
        )
        self.known["run_state"] = run_row.body["state_id"]
        self.known["task_state"] = task_row.body["state_id"]
        self.ask("POST", "/logs/", [LOG])
        self.ask("POST", "/events", [EVENT])

    def make(self, name: str, method: str, path: str, body: Any) -> None:
        """Create something, and know it by this name."""
        answer = self.ask(method, path, body)
        # What cannot be made fails in its own rows, not in those of everything else.
        self.known[name] = answer.body.get("id", NOWHERE)

    def filled(self, value: Any) -> Any:
        """The value with identifiers where names stood; `{fresh}` is new each time."""
        match value:
            case str():
                for name, known in self.known.items():
                    value = value.replace(f"{{{name}}}", known)
                return value.replace("{fresh}", str(uuid.uuid4()))
            case dict():
                return {key: self.filled(item) for key, item in value.items()}
            case list():
                return [self.filled(item) for item in value]
            case _:
                return value

    def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """A request with names in it."""
        return self.server.ask(method, self.filled(path), self.filled(body))


def named(row: tuple[str, str, Any, int]) -> str:
    """How a row is called in a report."""
    method, path, body, status = row
    return f"{method} {path} {str(body)[:40]} {status}"


@pytest.fixture(scope="module")
def world(ours: Server) -> World:
    return World(ours)


@pytest.mark.parametrize("row", VALID, ids=named)
def test_valid_requests(
    world: World, prefect_contract: Contract, row: tuple[str, str, Any, int]
) -> None:
    method, path, body, status = row
    answer = world.ask(method, path, body)
    assert answer.status == status, answer
    if path == "/admin/settings":  # the real server's own; ours shows those that mean something
        assert answer.body["server"]["api"]["default_limit"] == 200
        return
    prefect_contract.check(method, world.filled(path), answer.body)


@pytest.mark.parametrize("row", INVALID, ids=named)
def test_invalid_requests(world: World, row: tuple[str, str, Any, int]) -> None:
    method, path, body, status = row
    answer = world.ask(method, path, body)
    assert answer.status == status, answer
    if "exception_detail" in answer.body:
        assert status == 422
        assert answer.body["exception_message"] == "Invalid request received."
        assert answer.body["exception_detail"]
        assert all(
            {"type", "loc", "msg"} <= each.keys() for each in answer.body["exception_detail"]
        )
    else:
        said = answer.body.get("detail", answer.body.get("exception_message"))
        assert isinstance(said, str)


@pytest.mark.parametrize(
    ("version", "status"), [("0.7.9", 400), ("abc", 400), ("0.8.0", 200), ("99.0.0", 200)]
)
def test_clients_of_other_versions(ours: Server, version: str, status: int) -> None:
    assert ours.ask("GET", "/hello", X_PREFECT_API_VERSION=version).status == status


@pytest.mark.parametrize(("asked", "right"), [("/flows", "/flows/"), ("/events/", "/events")])
def test_the_other_spelling_is_a_redirect(ours: Server, asked: str, right: str) -> None:
    answer = ours.ask("POST", asked, {})
    assert answer.status == 307
    assert answer.headers["location"].endswith(f"/api{right}")


def test_what_the_client_reads_before_its_first_write(ours: Server) -> None:
    version = ours.ask("GET", "/admin/version").body
    assert version.split(".")[0] == "3"
    token = ours.ask("GET", f"/csrf-token?client={uuid.uuid4()}")
    assert token.status == 422
    assert "CSRF protection is disabled." in token.body["detail"]
