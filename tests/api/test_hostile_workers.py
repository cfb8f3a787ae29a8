"""Workers that lie: commands and reports with numbers, texts, values and leases that make no sense,
over real HTTP. Each is refused with the field; the run, and the server, are as well as before.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

REGISTER = "/ironflow.v1.IronflowService/RegisterFunction"
LARGE = b'"' + b"x" * 70_000 + b'"'
DIGEST = hashlib.sha256(LARGE).hexdigest()
DEEP = "[" * 5_000 + "]" * 5_000


@pytest.fixture
async def hostile_api(memory_api: Any, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Any]:
    """A server that is well at the end: no answer of it was a 5xx, no actor crashed, nothing in its
    log is an error.
    """
    yield memory_api
    assert (await memory_api.get("/ready")).status == 200
    assert (await memory_api.end("echo", "alive"))["result"] == "alive"
    metrics = (await memory_api.get("/metrics")).body.decode()
    assert 'status="5' not in metrics
    for kind, total in memory_api.engine.system.statistics_by_kind().items():
        assert total.restarts == 0, f"an actor of kind {kind} crashed"
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == []


class Job:
    """A run that this test has been handed as a worker."""

    def __init__(self, api: Any, job: dict[str, Any], worker: str) -> None:
        self.api, self.job, self.worker = api, job, worker
        self.run_id = job["run_id"]
        self.fence = {"execution_seq": job["execution_seq"], "lease_token": job["lease_token"]}

    async def command(self, command: str, data: dict[str, Any], **facts: Any) -> dict[str, Any]:
        """The answer to a report by command."""
        data = {"execution": 1, **data}
        report = {"job_id": self.job["job_id"], "command": command, "data": data} | self.fence
        body = json.dumps({"reports": [report | facts]})
        answer = await self.api.post(f"{self.worker}/commands", body.encode())
        assert answer.status == 200, answer.body
        (one,) = answer.json["answers"]
        return dict(one)

    async def update(self, status: str, **facts: Any) -> Any:
        """The answer to a report by yields."""
        body = json.dumps({"status": status} | self.fence | facts).encode()
        path = f"{self.worker}/jobs/{self.job['job_id']}"
        return await self.api.ask("PUT", path, data=body)


async def take_job(api: Any, name: str = "w", reports: str = "commands") -> Job:
    """Register a function and a worker, start a run, and take its job."""
    worker = f"/api/v1/workers/{name}"
    body = {"id": "pulled", "retry": {"initialDelayMs": 0}}
    async with api.client.post(REGISTER, json=body) as response:
        assert response.status == 200, await response.text()
    facts = {"function_ids": ["pulled"], "max_concurrent_jobs": 9, "reports": reports}
    assert (await api.post(f"{worker}/register", facts)).status == 200
    await api.start("pulled", {"n": 1})
    return await next_job(api, worker)


async def next_job(api: Any, worker: str) -> Job:
    (job,) = (await api.get(f"{worker}/jobs?available=1&wait=20")).json["jobs"]
    return Job(api, job, worker)


STEP = {"key": "a", "name": "a", "pos": 0, "kind": "run", "result": {"json": 1}}
FAILED = {"key": "a", "name": "a", "pos": 0, "kind": "run",
          "error": {"kind": "E", "message": "m"}}  # fmt: skip
WAIT = {"key": "a", "name": "a", "pos": 0, "kind": "event", "event": "x.y", "parks": []}
NAP = {"key": "a", "name": "a", "pos": 0, "kind": "sleep", "until": 1, "parks": []}
CHILD = {"function_id": "echo", "input": {"json": 1}, "input_hash": ""}


@pytest.mark.parametrize(
    ("command", "data", "field"),
    [
        ("record_step", STEP | {"pos": -1}, "pos"),
        ("record_step", STEP | {"pos": -(10**30)}, "pos"),
        ("record_step", STEP | {"pos": 10**9}, "pos"),
        ("record_step", STEP | {"pos": 10**400}, ""),
        ("record_step", STEP | {"scope": "s/", "pos": 10**6}, "pos"),
        ("record_step", STEP | {"key": ""}, "key"),
        ("record_step", STEP | {"key": "k" * 5000}, "key"),
        ("record_step", STEP | {"name": "k" * 5000}, "name"),
        ("record_step", STEP | {"attempt": -3}, "attempt"),
        ("record_step", STEP | {"attempt": 10**40}, ""),
        ("record_step", STEP | {"started_at": -5}, "started_at"),
        ("record_step", STEP | {"started_at": 10**18}, "started_at"),
        ("record_step", STEP | {"kind": "magic"}, "kind"),
        ("record_step", STEP | {"result": 5}, "result"),
        ("record_step", STEP | {"result": {"blob": DIGEST, "size": len(LARGE)}}, "result"),
        ("record_step", STEP | {"result": {"blob": DIGEST, "size": 5},
                                "blob": base64.b64encode(b'"other"').decode()}, "result"),
        ("record_step", STEP | {"sends": [{"target": "janitor/", "message": {}}]}, ""),
        ("fail_step", FAILED | {"retry_in": -1}, "retry_in"),
        ("fail_step", FAILED | {"retry_in": 1e308}, "retry_in"),
        ("fail_step", FAILED | {"pos": 10**9}, "pos"),
        ("start_wait", NAP | {"until": 10**30}, ""),
        ("start_wait", NAP | {"until": 10**18}, "until"),
        ("start_wait", NAP | {"until": -1}, "until"),
        ("start_wait", WAIT | {"match": "data.x >"}, "match"),
        ("start_wait", WAIT | {"match": "nobody.knows == 1"}, "match"),
        ("start_wait", WAIT | {"match": "(" * 5000}, "match"),
        ("start_wait", WAIT | {"event": "a..b"}, "event"),
        ("start_wait", WAIT | {"event": ""}, "event"),
        ("start_wait", WAIT | {"lookback": 1e300}, "lookback"),
        ("start_wait", WAIT | {"kind": "invoke", "event": None, "child": "c" * 9000,
                               "create": CHILD}, "child"),
        ("end_execution", {"outcome": "failed", "error": {"kind": "E", "message": "m"},
                           "retry_after": 1e308}, "retry_after"),
        ("end_execution", {"outcome": "won"}, "outcome"),
        ("park", {"waits": 5}, "waits"),
        ("launch", {}, "command"),
    ],
)  # fmt: skip
async def test_a_command_that_makes_no_sense_is_refused(
    hostile_api: Any, command: str, data: dict[str, Any], field: str
) -> None:
    job = await take_job(hostile_api)
    answer = await job.command(command, data)
    assert answer["code"] in ("invalid_input", "invalid_expression"), answer
    assert field in answer["message"]
    # The run has not heard of it, and goes on.
    assert (await hostile_api.engine.run(job.run_id)).steps == {}
    done = {"outcome": "completed", "result": {"json": "fine"}}
    assert (await job.command("end_execution", done))["directive"] == "go"
    ended = (await hostile_api.get(f"/api/v1/runs/{job.run_id}/result?wait=20s")).json
    assert (ended["status"], ended["result"]) == ("completed", "fine")


@pytest.mark.parametrize(
    ("kind", "target", "data", "field"),
    [
        ("create_run", "router/", CHILD, "sends.target"),
        ("create_run", "run/x", CHILD | {"input": {"blob": DIGEST, "size": 9}}, "input"),
        ("create_run", "run/x", CHILD | {"function_id": ""}, "function_id"),
        ("emit_event", "run/x", {"id": "e", "name": "a.b", "data": {"json": 1}}, "sends.target"),
        ("emit_event", "router/", {"id": "e", "name": "a b", "data": {"json": 1}}, "name"),
        ("emit_event", "router/", {"id": "e", "name": "", "data": {"json": 1}}, "name"),
        ("emit_event", "router/", {"id": "e", "name": "a.b", "data": {"json": 1}, "at": -1}, "at"),
        ("cancel_run", "run/x", {"reason": "no"}, "sends.kind"),
    ],
)
async def test_a_message_that_makes_no_sense_is_not_sent(
    hostile_api: Any, kind: str, target: str, data: Any, field: str
) -> None:
    job = await take_job(hostile_api)
    answer = await job.command(
        "record_step", STEP, sends=[{"target": target, "kind": kind, "data": data}]
    )
    assert (answer["code"], field in answer["message"]) == ("invalid_input", True), answer
    assert (await hostile_api.engine.run(job.run_id)).steps == {}


async def test_a_large_value_must_be_what_its_digest_says(hostile_api: Any) -> None:
    job = await take_job(hostile_api)
    good = {
        "result": {"blob": DIGEST, "size": len(LARGE)},
        "blob": base64.b64encode(LARGE).decode(),
    }
    assert (await job.command("record_step", STEP | good))["directive"] == "go"
    forged = b'"' + b"y" * 70_000 + b'"'
    bad = good | {"blob": base64.b64encode(forged).decode()}
    answer = await job.command("record_step", STEP | {"key": "b", "pos": 1} | bad)
    assert answer["code"] == "invalid_input"
    # All runs share the table of large values: nobody's was replaced.
    assert (await hostile_api.get(f"/api/v1/values/{DIGEST}")).json["value"] == "x" * 70_000


async def test_values_that_no_reader_could_read_are_refused(hostile_api: Any) -> None:
    job = await take_job(hostile_api)
    report = (
        '{"reports":[{"job_id":"%s","execution_seq":1,"lease_token":"%s","command":"record_step",'
        '"data":{"execution":1,"key":"a","name":"a","pos":0,"kind":"run","result":{"json":%s}}}]}'
    )
    for value in (DEEP, '"\\ud800"', '{"a":\n1}'):
        body = report % (job.job["job_id"], job.fence["lease_token"], value)
        answer = await hostile_api.post(f"{job.worker}/commands", body.encode())
        if answer.status == 200:
            assert answer.json["answers"][0]["code"] == "invalid_input", value[:10]
        else:
            assert answer.status in (400, 422)
    assert (await hostile_api.engine.run(job.run_id)).steps == {}


async def test_what_a_worker_says_of_the_runs_of_others_is_refused(hostile_api: Any) -> None:
    theirs = await take_job(hostile_api, "theirs")
    mine = await take_job(hostile_api, "mine")
    for job_id, token, seq in (
        (theirs.job["job_id"], mine.fence["lease_token"], 1),
        (theirs.job["job_id"], theirs.fence["lease_token"], 1),  # right, but not this worker's
        (mine.job["job_id"], mine.fence["lease_token"], 2),
        (mine.job["job_id"], mine.fence["lease_token"], -1),
        (mine.job["job_id"], "", 1),
        ("../../etc", "x", 1),
    ):
        report = {"job_id": job_id, "execution_seq": seq, "lease_token": token,
                  "command": "record_step", "data": {"execution": seq, **STEP}}  # fmt: skip
        answer = await hostile_api.post(f"{mine.worker}/commands", {"reports": [report]})
        assert answer.json["answers"][0]["code"] == "STALE_EXECUTION"
        update = {"status": "completed", "execution_seq": seq, "lease_token": token}
        path = f"{mine.worker}/jobs/{job_id.replace('/', '%2F')}"
        assert (await hostile_api.ask("PUT", path, json=update)).status == 409
        ack = {"run_id": "x", "execution_seq": seq, "lease_token": token}
        assert (await hostile_api.ask("PUT", f"{path}/ack", json=ack)).status == 409
    for job in (theirs, mine):
        assert (await hostile_api.engine.run(job.run_id)).steps == {}
    assert (await mine.update("completed", output=1)).status == 200
    # A report that is played again changes nothing.
    assert (await mine.update("completed", output=2)).status == 409
    assert (await hostile_api.engine.run(mine.run_id)).result.json == b"1"


@pytest.mark.parametrize(
    ("status", "facts", "field"),
    [
        ("progress", {"step_offset": -1}, "step_offset"),
        ("progress", {"step_offset": 10**30}, "step_offset"),
        ("progress", {"steps": [{"id": f"r:{n}:0"} for n in range(501)]}, "steps"),
        ("progress", {"steps": [{"id": ""}]}, "steps[0].id"),
        ("progress", {"steps": [{"id": "x" * 2000}]}, "steps[0].id"),
        ("progress", {"steps": [{"id": "r:a:0", "started_at": "yesterday"}]}, "started_at"),
        ("dancing", {}, "status"),
        ("yielded", {}, "yield"),
        ("yielded", {"yield": {"step_id": "r:a:0", "type": "sleep"}}, "yield.until"),
        ("yielded", {"yield": {"step_id": "r:a:0", "type": "sleep", "until": "soon"}}, "until"),
        ("yielded", {"yield": {"step_id": "r:a:0", "type": "nap"}}, "type"),
        ("yielded", {"yield": {"step_id": "r:a:0", "type": "wait_for_event"}}, "event_filter"),
        ("yielded", {"yield": {"step_id": "r:a:0", "type": "wait_for_event",
                               "event_filter": {"event": "a..b"}}}, "event_filter.event"),
        ("yielded", {"yield": {"step_id": "r:a:0", "type": "wait_for_event", "event_filter":
                               {"event": "a.b", "match": "data.x > ("}}}, "match"),
        ("yielded", {"yield": {"step_id": "r:a:0", "type": "wait_for_event", "event_filter":
                               {"event": "a.b", "match": "x]y", "match_value": 1}}}, "match"),
        ("yielded", {"yield": {"step_id": "r:a:0", "type": "wait_for_event", "event_filter":
                               {"event": "a.b", "timeout": "9999999999d"}}}, "timeout"),
        ("yielded", {"yield": {"step_id": "r:a:0", "type": "invoke_function"}}, "function_id"),
        ("yielded", {"yield": {"step_id": "r:a:0", "type": "invoke_function",
                               "function_id": "echo", "invoke_timeout_ms": 1e300}},
         "invoke_timeout_ms"),
        ("failed", {"error": {"message": "m", "retry_after_ms": 1e300}}, "retry_after_ms"),
        ("failed", {"error": "no object"}, "error"),
    ],
)  # fmt: skip
async def test_a_report_that_makes_no_sense_is_refused(
    hostile_api: Any, status: str, facts: dict[str, Any], field: str
) -> None:
    job = await take_job(hostile_api, reports="yields")
    answer = await job.update(status, **facts)
    assert answer.status == 422, answer.body
    assert field in answer.json["field"], answer.body
    assert (await job.update("completed", output="fine")).status == 200
    assert (await hostile_api.engine.run(job.run_id)).status == "completed"


async def test_places_of_steps_do_not_depend_on_what_a_worker_says(hostile_api: Any) -> None:
    """The SDK counts from the first step of the run, others from that of the execution."""
    job = await take_job(hostile_api, reports="yields")
    steps = [{"id": f"{job.run_id}:s:{n}", "name": "s"} for n in range(3)]
    assert (await job.update("progress", steps=steps, step_offset=9_999_999)).status == 200
    assert (await job.update("progress", steps=steps, step_offset=0)).status == 200
    more = [{"id": f"{job.run_id}:s:3", "name": "s"}]
    assert (await job.update("completed", steps=more, step_offset=77)).status == 200
    run = await hostile_api.engine.run(job.run_id)
    assert run.order == {"": ["s:0", "s:1", "s:2", "s:3"]}


async def test_a_worker_that_waits_for_what_is_over_is_parked(hostile_api: Any) -> None:
    """Its run would be handed out again and again, for ever."""
    job = await take_job(hostile_api, reports="yields")
    nap = {"step_id": f"{job.run_id}:nap:0", "type": "sleep", "until": "2020-01-01T00:00:00Z"}
    parked = asyncio.create_task(hostile_api.reach(job.run_id, "paused"))
    for _ in range(30):
        assert (await job.update("yielded", **{"yield": nap})).status == 200
        again = asyncio.create_task(next_job(hostile_api, job.worker))
        await asyncio.wait({parked, again}, return_when=asyncio.FIRST_COMPLETED)
        if parked.done():
            again.cancel()
            break
        job = await again
    run = await hostile_api.engine.run(job.run_id)
    assert (run.status, run.paused_cause) == ("paused", "crash_loop")
    assert "recorded nothing" in (run.reason or "")
