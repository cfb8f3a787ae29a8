"""Requests about Prefect runs with nonsense in them: each gets an answer that is none of a defect,
and in the end the rows say what the journal says.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import Any

import pytest
from api.conftest import Api
from yarl import URL

from ironflow.actors.audit import check_store
from ironflow.core.clock import derive_id
from ironflow.core.prefect import bodies
from ironflow.core.prefect.states import STATE_TYPES
from ironflow.storage.maintenance.picture import picture_of
from ironflow.storage.ports import RUNS, TIMERS, Batch
from ironflow.storage.relational.prefect_runs import FLOW_RUNS, RUN_STATES
from ironflow.storage.sqlite.store import SqliteStore

MOMENTS = [
    "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-11-25T00:00:00+23:59",
    "2026-11-25T00:00:00", "1969-01-01T00:00:00Z", None, "-1", 0,
]  # fmt: skip
JUNK = [
    None, True, 0, -1, 2**63, 2**70, 1.5, 1e308, "", "x", "x" * 70_000, "\x00", "\ud800",
    "2026-01-01T00:00:00", [], {}, [[]], {"": {}}, {"any_": 1}, [None, {"a": "b"}],
]  # fmt: skip


class Writer:
    """Makes up requests; most parts of most of them are as they should be."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.flows: list[str] = []
        self.runs: list[str] = []
        self.tasks: list[str] = []

    def junk(self) -> Any:
        return self.rng.choice(JUNK)

    def maybe(self, value: Any, chance: float = 0.02) -> Any:
        return self.junk() if self.rng.random() < chance else value

    def some(self, chance: float, **parts: Any) -> dict[str, Any]:
        return {k: self.maybe(v) for k, v in parts.items() if self.rng.random() < chance}

    def one(self, known: list[str]) -> str:
        if known and self.rng.random() < 0.95:
            return self.rng.choice(known)
        return self.rng.choice([derive_id("nobody"), "x", "%00", "%20"])

    def moment(self) -> Any:
        return self.rng.choice(MOMENTS)

    def state(self) -> Any:
        details = self.some(
            0.3,
            scheduled_time=self.moment(),
            pause_timeout=self.moment(),
            pause_key="k",
            pause_reschedule=True,
            cache_key="c",
            cache_expiration=self.moment(),
            run_input_keyset={"response": "r"},
            retriable=False,
        )
        data = self.junk() if self.rng.random() < 0.3 else {"type": "x"}
        state = {
            "type": self.maybe(self.rng.choice(STATE_TYPES)),
            "name": self.maybe(None),
            "data": data,
            "state_details": details,
        }
        return self.maybe(state)

    def filters(self) -> dict[str, Any]:
        names = ("flows", "flow_runs", "task_runs", "sort", "limit", "offset", "page")
        return {name: self.junk() for name in names if self.rng.random() < 0.3}

    def request(self) -> tuple[str, str, Any]:
        rng, some = self.rng, self.some
        run, task = f"/flow_runs/{self.one(self.runs)}", f"/task_runs/{self.one(self.tasks)}"
        policy = some(
            0.5, retries=2, retry_delay=rng.choice([5, -5, 2**62]), pause_keys=["a"], resuming=True
        )
        flow_run = {"flow_id": self.one(self.flows), "empirical_policy": policy}
        flow_run |= some(0.4, state=self.state(), parameters={"a": self.junk()}, tags=["a"])
        flow_run |= some(
            0.2, name="n", idempotency_key="k", parent_task_run_id=self.one(self.tasks)
        )
        delays = rng.choice([1, 2.5, [1, 2], [], 1e300, -5])
        task_run = {
            "flow_run_id": rng.choice([None, self.one(self.runs)]),
            "task_key": self.maybe("k"),
            "dynamic_key": str(rng.randrange(5)),
            "empirical_policy": {"retries": 1, "retry_delay": delays, "retry_jitter_factor": 1},
        }
        task_run |= some(
            0.3,
            state=self.state(),
            cache_expiration=self.moment(),
            id=rng.choice([*self.runs, derive_id("t")]),
        )
        spans = [1, 60, 1e12, 0, -1, 1e-9]
        history = {
            "history_start": self.moment(),
            "history_end": self.moment(),
            "history_interval_seconds": rng.choice(spans),
        }
        lists = ["filter", "count", "paginate", "lateness"]
        move = {"state": self.state(), "force": rng.random() < 0.3}
        return rng.choice(
            [
                ("POST", "/flows/", {"name": self.maybe(f"f{rng.randrange(3)}"), "tags": ["a"]}),
                ("POST", "/flow_runs/", self.maybe(flow_run)),
                ("POST", f"{run}/set_state", move),
                ("POST", f"{run}/set_state", move),
                ("PATCH", run, some(0.3, name="m", tags=["t"], parameters={}, job_variables={})),
                ("PATCH", f"{run}/labels", self.junk()),
                ("POST", f"{run}/resume", self.maybe({"run_input": {"a": self.junk()}})),
                ("POST", f"{run}/input", {"key": self.maybe("k", 0.3), "value": self.junk()}),
                ("POST", f"{run}/input/filter", {"prefix": self.junk(), "limit": self.junk()}),
                ("GET", f"{run}/input/{rng.choice(['k', '%20', '%00', 'a%2Fb'])}", None),
                ("DELETE", f"{run}/input/k", None),
                ("GET", run, None),
                ("GET", f"{run}/{rng.choice(['graph', 'graph-v2', 'logs/download'])}", None),
                ("GET", f"/flow_run_states/?flow_run_id={self.one(self.runs)}", None),
                ("GET", f"/task_run_states/?task_run_id={self.one(self.tasks)}", None),
                ("POST", "/task_runs/", self.maybe(task_run)),
                ("POST", f"{task}/set_state", move),
                ("PATCH", task, {"name": self.junk()}),
                ("GET", task, None),
                ("DELETE", task if rng.random() < 0.1 else "/flows/x", None),
                ("DELETE", run if rng.random() < 0.05 else "/flows/x", None),
                ("POST", f"/{rng.choice(['flow_runs', 'task_runs'])}/history", history),
                ("POST", f"/flow_runs/{rng.choice(lists)}", self.filters()),
                ("POST", "/flow_runs/bulk_set_state", {"state": self.state(), "limit": 3}),
            ]
        )

    def learn(self, path: str, answer: Any) -> None:
        known = {"/flows/": self.flows, "/flow_runs/": self.runs, "/task_runs/": self.tasks}
        if path in known and isinstance(answer, dict) and "id" in answer:
            known[path].append(answer["id"])


@pytest.mark.parametrize("seed", range(3))
async def test_nonsense_is_answered(api: Api, seed: int) -> None:
    writer, statuses = Writer(seed), Counter[int]()
    for _ in range(500):
        method, path, body = writer.request()
        data = None if body is None else json.dumps(body).encode("utf-8", "surrogatepass")
        url = URL(f"{api.client.make_url('/api')}{path}", encoded=True)
        async with api.client.session.request(method, url, data=data) as response:
            text = await response.read()
            assert response.status < 500, (method, path, body, text)
            statuses[response.status] += 1
            if response.content_type == "application/json" and text:
                writer.learn(path, json.loads(text))
    assert statuses[200] > 50
    assert statuses[201] > 20
    assert statuses[422] > 50
    await say_the_same(api)
    if isinstance(api.engine.store, SqliteStore):
        assert await asyncio.to_thread(audit, api) == []


def audit(api: Api) -> list[str]:
    with picture_of(api.engine.store.reader._path) as picture:  # type: ignore[attr-defined]
        return [finding.law for finding in check_store(picture)]


async def ask(api: Api, path: str, body: Any) -> Any:
    async with api.client.post(f"/api{path}", json=body) as response:
        return await response.json()


async def test_an_audit_finds_what_does_not_agree(api: Api) -> None:
    if not isinstance(api.engine.store, SqliteStore):
        return  # there is no file to look into
    flow = await ask(api, "/flows/", {"name": "f"})
    state = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2100-01-01T00:00:00Z"}}
    run = (await ask(api, "/flow_runs/", {"flow_id": flow["id"], "state": state}))["id"]
    task = {"flow_run_id": run, "task_key": "k", "dynamic_key": "0"}
    await ask(api, "/task_runs/", task)
    assert await asyncio.to_thread(audit, api) == []
    store = api.engine.store
    (known,) = await store.reader.select(f"SELECT {', '.join(FLOW_RUNS.columns)} FROM flow_runs")
    wrong = (*known[:-1], b"{}")
    states = await store.reader.select("SELECT stream, version FROM run_states LIMIT 1")
    deletes = [(TIMERS, (f"flow_run/{run}", "late")), (RUN_STATES, states[0]), (RUNS, (run,))]
    await store.journal.commit(Batch([], [(FLOW_RUNS, wrong)], deletes))
    assert await asyncio.to_thread(audit, api) == [
        "row_agrees_with_stream",
        "bodies_agree_with_stream",
        "states_agree_with_stream",
        "timers_agree_with_stream",
    ]


async def say_the_same(api: Api) -> None:
    """The rows of runs are what the fold of their streams makes."""
    reader = api.engine.store.reader
    checked = 0
    for run_id, body in await reader.select("SELECT id, body FROM flow_runs"):
        history = await api.engine.flow_run(run_id)
        run = history.flow_run
        assert run is not None
        assert bodies.encode_flow_run(run, bodies.encode_info(run)) == body
        query = "SELECT id, body FROM task_runs WHERE flow_run_id = ?"
        for task_run_id, task_body in await reader.select(query, (run_id,)):
            assert bodies.encode_task_run(history.tasks[task_run_id]) == task_body
            checked += 1
        listed = await api.engine.run(run_id)
        row = await reader.run(run_id)
        assert row is not None
        assert (row.status, row.version) == (listed.status.value, row.version)
        assert row.ended_at == listed.ended_at
        checked += 1
    assert checked > 5
