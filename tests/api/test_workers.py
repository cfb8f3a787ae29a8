"""Workers over real HTTP: the plain protocol by hand, and our own worker with everything that a
body can do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ironflow import Worker
from ironflow.core.errors import ConfigError, NonRetryable
from ironflow.sdk.function import Function, Registry
from ironflow.sdk.function import function as define

REGISTER = "/ironflow.v1.IronflowService/RegisterFunction"
WORKER = "/api/v1/workers/w%201"
BODY = {"function_ids": ["plain"], "max_concurrent_jobs": 2, "hostname": "here", "extra": 1}


async def register(api: Any, **facts: Any) -> None:
    body = {"id": "plain", "preferredMode": "EXECUTION_MODE_PULL", **facts}
    async with api.client.post(REGISTER, json=body) as response:
        assert response.status == 200, await response.text()
    assert (await api.post(f"{WORKER}/register", BODY)).json == {"status": "registered"}


async def test_the_plain_protocol_from_registration_to_the_end(api: Any) -> None:
    await register(api, retry={"max_attempts": 2})
    empty = await api.get(f"{WORKER}/jobs?available=2")
    assert (empty.status, empty.body, empty.headers.get("Ironflow-Poll-Wait")) == (204, b"", None)
    held = await api.get(f"{WORKER}/jobs?available=2&wait=0.01")
    assert (held.status, held.headers["Ironflow-Poll-Wait"]) == (204, "0.01")
    poll = asyncio.create_task(api.get(f"{WORKER}/jobs?available=2&wait=20"))
    run_id = await api.start("plain", {"n": 1})
    (job,) = (await poll).json["jobs"]
    assert (job["run_id"], job["max_attempts"], job["on_exhausted"]) == (run_id, 2, "pause")
    assert job["event"]["data"] == {"n": 1}
    fence = {"execution_seq": job["execution_seq"], "lease_token": job["lease_token"]}
    path = f"{WORKER}/jobs/{job['job_id']}"
    assert (await api.ask("PUT", f"{path}/ack", json=fence | {"run_id": run_id})).status == 200
    beat = {"worker_id": "w 1", "active_jobs": 1, "jobs": [{"job_id": job["job_id"]}]}
    assert (await api.post(f"{WORKER}/heartbeat", beat)).json == {"status": "ok"}
    (worker,) = (await api.get("/api/v1/workers")).json["workers"]
    assert (worker["id"], worker["active_jobs"], worker["runs"]) == ("w 1", 1, [run_id])
    steps = [{"id": f"{run_id}:a:0", "name": "a", "type": "invoke", "status": "completed",
              "output": [1], "started_at": "2026-01-01T00:00:00Z", "duration_ms": 3}]  # fmt: skip
    update = {"status": "progress", "steps": steps, "step_offset": 0} | fence
    assert (await api.ask("PUT", path, json=update)).status == 200
    assert (await api.ask("PUT", path, json=update)).status == 200
    done = {"status": "completed", "output": {"ok": True}, "steps": [], "step_offset": 1} | fence
    assert (await api.ask("PUT", path, json=done)).status == 200
    stale = await api.ask("PUT", path, json=done)
    assert (stale.status, stale.json["error"]) == (409, "STALE_EXECUTION")
    run = (await api.get(f"/api/v1/runs/{run_id}")).json
    assert (run["status"], run["result"], run["steps_total"]) == ("completed", {"ok": True}, 1)


async def test_what_a_worker_says_wrong_is_refused_with_the_reason(memory_api: Any) -> None:
    api = memory_api
    await register(api)
    for path, body, field in (
        (f"{WORKER}/register", BODY | {"function_ids": []}, "function_ids"),
        (f"{WORKER}/register", BODY | {"function_ids": ["none"]}, "function_ids"),
        (f"{WORKER}/register", BODY | {"max_concurrent_jobs": 0}, "max_concurrent_jobs"),
        (f"/api/v1/workers/{'x' * 300}/register", BODY, "worker_id"),
    ):
        answer = await api.post(path, body)
        assert (answer.status, answer.json["field"]) == (422, field)
    assert (await api.get(f"{WORKER}/jobs?wait=soon")).status == 422
    assert (await api.get("/api/v1/workers/none/jobs")).status == 404
    assert (await api.post("/api/v1/workers/none/heartbeat", {})).status == 404
    fence = {"execution_seq": 1, "lease_token": "x", "status": "completed"}
    assert (await api.ask("PUT", f"{WORKER}/jobs/j", json=fence)).status == 409
    assert (await api.ask("PUT", f"{WORKER}/jobs/j", json={})).status == 422
    answers = await api.post(
        f"{WORKER}/commands",
        {"reports": [{"job_id": "j", "execution_seq": 1, "lease_token": "t", "command": "rm",
                      "data": {}}]},
    )  # fmt: skip
    assert answers.json["answers"][0]["code"] == "STALE_EXECUTION"
    assert (await api.get("/api/v1/values/00")).status == 404


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"id": ""}, "id"),
        ({"id": "f", "triggers": [{}]}, "triggers[0]"),
        ({"id": "f", "triggers": [{"event": "a", "cron": "* * * * *"}]}, "triggers[0]"),
        ({"id": "f", "triggers": [{"event": "a", "expression": "nope.x"}]}, "on.expression"),
        ({"id": "f", "triggers": [{"cron": "every day"}]}, "cron"),
        ({"id": "f", "retry": {"maxAttempts": 0}}, "maxAttempts"),
        ({"id": "f", "preferredMode": "EXECUTION_MODE_NONE"}, "preferredMode"),
        ([], "object"),
    ],
)
async def test_a_function_that_makes_no_sense_is_not_registered(
    memory_api: Any, body: Any, reason: str
) -> None:
    async with memory_api.client.post(REGISTER, json=body) as response:
        problem = await response.json()
    assert (response.status, problem["code"]) == (400, "invalid_argument")
    assert reason in problem["message"]
    known = [f["id"] for f in (await memory_api.get("/api/v1/functions")).json["items"]]
    assert "f" not in known


async def test_both_spellings_of_fields_are_taken_and_nothing_changes_twice(
    memory_api: Any,
) -> None:
    camel = {"id": "f", "retry": {"maxAttempts": 4, "onExhausted": "fail"}, "timeoutMs": 1000}
    snake = {"id": "f", "retry": {"max_attempts": 4, "on_exhausted": "fail"}, "timeout_ms": 1000}
    answers = []
    for body in (camel, snake, camel | {"description": "new"}):
        async with memory_api.client.post(REGISTER, json=body) as response:
            answers.append(await response.json())
    assert [a["created"] for a in answers] == [True, False, False]
    assert [a["function"]["version"] for a in answers] == [1, 1, 2]
    assert answers[0]["function"]["retry"]["maxAttempts"] == 4


# -- our own worker -------------------------------------------------------------------------------


class Bench:
    """The functions of the worker under test."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.calls: list[str] = []
        self.entered, self.gate = asyncio.Event(), asyncio.Event()

    def add(self, **options: Any) -> Any:
        def wrap(fn: Any) -> Function:
            import ironflow.sdk.function as sdk

            before, sdk.registry = sdk.registry, self.registry
            try:
                return define(**options)(fn)
            finally:
                sdk.registry = before

        return wrap

    async def note(self, name: str, value: Any = None) -> Any:
        self.calls.append(name)
        return value


@asynccontextmanager
async def working(api: Any, bench: Bench, **options: Any) -> AsyncIterator[Worker]:
    url = str(api.client.make_url("/"))
    worker = Worker(url, functions=bench.registry.all(), heartbeat=0.5, **options)
    serving = asyncio.create_task(worker.serve())
    try:
        yield worker
    finally:
        worker.stop()
        await serving


async def test_a_worker_runs_everything_that_a_body_can_do(api: Any) -> None:
    bench = Bench()

    @bench.add(id="child")
    async def child(ctx: Any, value: int) -> int:
        return await ctx.step.run("double", bench.note, "double", value * 2)  # type: ignore[no-any-return]

    def blocking(value: int) -> int:
        bench.calls.append("blocking")
        return value + 1

    async def flaky() -> str:
        bench.calls.append("flaky")
        if bench.calls.count("flaky") < 3:
            raise ValueError("not yet")
        return "at last"

    @bench.add(id="whole", on="whole.go", retry=1)
    async def whole(ctx: Any, order: dict[str, Any]) -> Any:
        first = await ctx.step.run("first", bench.note, "first", {"big": "x" * 100_000})
        await ctx.step.sleep("nap", 0.01)

        async def branch(number: int) -> int:
            await ctx.step.sleep("nap", 0.01 * number)
            return await ctx.step.run("block", blocking, number)  # type: ignore[no-any-return]

        numbers = await ctx.step.map("branches", branch, [1, 2, 3])
        retried = await ctx.step.run("flaky", flaky, retry={"initial_delay": 0.01})
        paid = await ctx.step.wait_for_event("paid", "whole.paid", match={"data.id": order["id"]})
        kid = await ctx.step.invoke("kid", child, 21)
        there = await ctx.step.invoke("there", "echo", "from afar")
        await ctx.step.emit("told", "whole.told", {"n": 1})
        return [len(first["big"]), numbers, retried, paid.data["sum"], kid, there]

    async with working(api, bench):
        while "whole" not in api.engine.fleet._specs or not api.engine.fleet.workers:  # noqa: ASYNC110 - a registration is no commit
            await asyncio.sleep(0.01)
        (run_id,) = (
            await api.post("/api/v1/events", {"name": "whole.go", "data": {"id": "o"}})
        ).json["run_ids"]
        run = await api.reach(run_id, "waiting")
        while "paid" not in run.steps:
            run = await api.reach(run_id, "running")
            run = await api.reach(run_id, "waiting")
        await api.post("/api/v1/events", {"name": "whole.paid", "data": {"id": "o", "sum": 5}})
        ended = (await api.get(f"/api/v1/runs/{run_id}/result?wait=60s")).json
    assert ended["result"] == [100_000, [2, 3, 4], "at last", 5, 42, "from afar"]
    counts = {name: bench.calls.count(name) for name in set(bench.calls)}
    assert counts == {"first": 1, "double": 1, "blocking": 3, "flaky": 3}
    told = (await api.get("/api/v1/events?name=whole.told")).json["items"]
    assert len(told) == 1


async def test_a_cancel_reaches_the_body_and_its_compensations_run(api: Any) -> None:
    bench = Bench()

    async def wait_at_gate() -> None:
        bench.entered.set()
        await bench.gate.wait()

    @bench.add(id="saga", compensate_on=["cancelled", "failed"])
    async def saga(ctx: Any) -> None:
        await ctx.step.run("book", bench.note, "book")
        ctx.step.compensate("unbook", bench.note, "unbook")
        await ctx.step.run("gate", wait_at_gate)

    async with working(api, bench):
        while "saga" not in api.engine.fleet._specs:  # noqa: ASYNC110 - a registration is no commit
            await asyncio.sleep(0.01)
        run_id = await api.start("saga")
        await bench.entered.wait()
        await api.post(f"/api/v1/runs/{run_id}/cancel", {"reason": "enough"})
        run = await api.reach(run_id, "cancelled")
    assert bench.calls == ["book", "unbook"]
    assert run.steps["@compensate/unbook"].status == "completed"


async def test_failures_travel_whole(api: Any) -> None:
    bench = Bench()

    @bench.add(id="bad")
    async def bad(ctx: Any) -> None:
        raise NonRetryable("never again")

    async with working(api, bench):
        while "bad" not in api.engine.fleet._specs:  # noqa: ASYNC110 - a registration is no commit
            await asyncio.sleep(0.01)
        ended = await api.end("bad")
    assert ended["status"] == "failed"
    assert (ended["error"]["kind"], ended["error"]["message"]) == ("NonRetryable", "never again")
    assert "test_workers.py" in ended["error"]["trace"]


async def test_a_worker_that_stops_gives_its_runs_to_the_next_one(api: Any) -> None:
    bench = Bench()

    async def wait_at_gate() -> str:
        bench.entered.set()
        await bench.gate.wait()
        return "through"

    @bench.add(id="long")
    async def long(ctx: Any) -> Any:
        await ctx.step.run("first", bench.note, "first")
        await ctx.step.run("gate", wait_at_gate)
        return await ctx.step.run("last", bench.note, "last", "end")

    async with working(api, bench):
        while "long" not in api.engine.fleet._specs:  # noqa: ASYNC110 - a registration is no commit
            await asyncio.sleep(0.01)
        run_id = await api.start("long")
        await bench.entered.wait()
        asyncio.get_running_loop().call_later(0.05, bench.gate.set)
    # The step that was running was recorded before its worker left.
    run = await api.engine.run(run_id)
    assert run.steps["gate"].status == "completed"
    async with working(api, bench):
        ended = (await api.get(f"/api/v1/runs/{run_id}/result?wait=60s")).json
    assert ended["result"] == "end"
    assert bench.calls == ["first", "last"]


async def test_a_worker_says_what_is_wrong_with_it(memory_api: Any) -> None:
    with pytest.raises(ConfigError, match="server_url"):
        Worker("not a url")
    with pytest.raises(ConfigError, match="concurrency"):
        Worker("http://x", concurrency=0)
    with pytest.raises(ConfigError, match="functions"):
        await Worker("http://x", functions=[]).serve()
    bench = Bench()

    @bench.add(id="echo")  # the server has one of its own
    async def echo(ctx: Any) -> None:
        return None

    url = str(memory_api.client.make_url("/"))
    with pytest.raises(ConfigError, match="executed by the server itself"):
        await Worker(url, functions=[echo]).serve()
