"""Workers: register, ask for jobs, report. The wire protocol of pull, as `docs/protocol.md` has
it.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec

from ironflow.actors.elsewhere import jobs as reports
from ironflow.actors.kernel.actor import Ref
from ironflow.actors.workers.exchange import exchange
from ironflow.actors.workers.worker import Heartbeat, Leave, PollDropped, PollJobs, RegisterWorker
from ironflow.core.clock import to_rfc3339
from ironflow.core.errors import InvalidInput, NotFound
from ironflow.core.remote import pull
from ironflow.web.queries import Query, check_text
from ironflow.web.routing import Answer, Call, Handle, Route
from ironflow.web.wire.runs import ValueView
from ironflow.web.wire.workers import (
    AnswersView,
    HeartbeatRequest,
    JobAckRequest,
    JobPage,
    RegisterWorkerRequest,
    ReportsRequest,
    WorkerPage,
    WorkerStatus,
    WorkerView,
)

LONGEST_POLL = 25.0
"""Seconds; workers give up on a request after 30."""
MAX_ID = 200


class PollQuery(Query, frozen=True):
    """Room for `available` jobs; `wait` seconds for the first."""

    available: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 1
    wait: str | None = None


def _worker_id(call: Call[Any, Any]) -> str:
    worker_id = check_text(call.path["worker_id"], "worker_id")
    if len(worker_id) > MAX_ID:
        raise InvalidInput("worker_id", f"is longer than {MAX_ID} characters")
    return worker_id


def _worker(call: Call[Any, Any]) -> Ref:
    """The actor of a worker that is registered. Raises `NotFound`."""
    worker_id = _worker_id(call)
    if worker_id not in call.engine.fleet.workers:
        raise NotFound("worker", worker_id)
    return call.engine.system.ref("worker", worker_id)


async def register_worker(call: Call[Query, RegisterWorkerRequest]) -> Answer:
    """Register a worker."""
    body = call.body
    for function_id in body.function_ids:
        if not call.engine.fleet.serves(function_id):
            raise InvalidInput("function_ids", f"no pull function {function_id!r} is registered")
    message = RegisterWorker(
        functions=frozenset(body.function_ids),
        capacity=body.max_concurrent_jobs,
        hostname=body.hostname,
        labels=body.labels,
        version=body.version,
        heartbeat=body.heartbeat_interval,
        commands=body.reports == "commands",
        window=body.window,
        instance=body.instance,
    )
    await call.engine.system.ref("worker", _worker_id(call)).ask(message)
    return 200, WorkerStatus(status="registered")


async def poll_jobs(call: Call[PollQuery, None]) -> Answer:
    """Jobs for a worker; the connection is held until there is one."""
    wait = _seconds(call.query.wait)
    poll = PollJobs(available=call.query.available, wait=wait)
    ref = _worker(call)
    try:
        news = await ref.ask(poll, timeout=None)
    except asyncio.CancelledError:
        # Nobody reads the answer any more: no job may be lost in it.
        ref.post(PollDropped(poll))
        raise
    if news:
        return 200, JobPage(jobs=news.jobs, signals=news.signals)
    if wait > 0:
        call.headers["Ironflow-Poll-Wait"] = f"{wait:g}"
    return 204, None


def _seconds(text: str | None) -> float:
    try:
        seconds = float(text or 0)
    except ValueError:
        raise InvalidInput("wait", "must be a number of seconds") from None
    if not 0 <= seconds <= 3600:
        raise InvalidInput("wait", "must be a number of seconds from 0")
    return min(seconds, LONGEST_POLL)


async def beat(call: Call[Query, HeartbeatRequest]) -> Answer:
    """The worker lives; its jobs keep their leases."""
    jobs = frozenset(job.job_id for job in call.body.jobs)
    await _worker(call).ask(Heartbeat(jobs, call.body.draining))
    return 200, WorkerStatus(status="ok")


async def remove_worker(call: Call[Query, None]) -> Answer:
    """The worker has ended: what it may still have had is queued anew at once."""
    await _worker(call).ask(Leave())
    return 200, WorkerStatus(status="gone")


async def acknowledge_job(call: Call[Query, JobAckRequest]) -> Answer:
    """The worker has the job."""
    body = call.body
    reports.find_lease(
        call.engine.fleet,
        _worker_id(call),
        call.path["job_id"],
        body.execution_seq,
        body.lease_token,
    )
    return 200, WorkerStatus(status="ok")


async def report_job(call: Call[Query, pull.JobUpdate]) -> Answer:
    """A checkpoint of a job, or its end. Durable when it is answered; safe to repeat."""
    update, job_id = call.body, call.path["job_id"]
    lease = reports.find_lease(
        call.engine.fleet, _worker_id(call), job_id, update.execution_seq, update.lease_token
    )
    await reports.report(call.engine.fleet, lease, update)
    return 200, WorkerStatus(status="ok")


async def report_commands(call: Call[Query, ReportsRequest]) -> Answer:
    """Reports of a worker that runs our executor; each has an answer of its own."""
    worker_id, fleet = _worker_id(call), call.engine.fleet
    worker = fleet.workers.get(worker_id)
    if worker is None:
        raise NotFound("worker", worker_id)
    answers, news = await exchange(fleet, worker, call.body.reports, call.body.window)
    if not news:
        return 200, AnswersView(answers=answers)
    return 200, AnswersView(
        answers=answers, jobs=news.jobs or msgspec.UNSET, signals=news.signals or msgspec.UNSET
    )


async def get_value(call: Call[Query, None]) -> Answer:
    """A large value of a run's record."""
    data = await call.engine.store.reader.blob(check_text(call.path["digest"], "digest"))
    if data is None:
        raise NotFound("stored value", call.path["digest"])
    return 200, ValueView(value=msgspec.Raw(data))


async def list_workers(call: Call[Query, None]) -> Answer:
    """Every worker that is known."""
    workers = [
        WorkerView(
            id=worker.id,
            hostname=worker.hostname,
            status=worker.status,
            function_ids=sorted(worker.functions),
            max_concurrent=worker.capacity,
            active_jobs=len(worker.jobs),
            labels=worker.labels,
            version=worker.version,
            transport="rest",
            registered_at=to_rfc3339(worker.registered_at),
            last_heartbeat=to_rfc3339(worker.heard_at),
            actors=call.engine.fleet.queue.bindings.count(worker.id),
            runs=sorted(lease.assignment.run_id for lease in worker.jobs.values()),
        )
        for worker in sorted(call.engine.fleet.workers.values(), key=lambda worker: worker.id)
    ]
    return 200, WorkerPage(workers=workers, count=len(workers))


_WORKER = "/api/v1/workers/{worker_id}"


def _say(
    method: str, path: str, handle: Handle, request: type, summary: str, *problems: int
) -> Route:
    return Route(
        method=method,
        path=f"{_WORKER}/{path}",
        handle=handle,
        name=f"{handle.__name__}_{method.lower()}",
        summary=summary,
        tag="workers",
        request=request,
        response=WorkerStatus,
        statuses={200: "Done"},
        problems=(404, 409, 429, 503, *problems),
    )


ROUTES = (
    Route(
        method="GET",
        path="/api/v1/workers",
        handle=list_workers,
        summary="List workers",
        tag="workers",
        response=WorkerPage,
        statuses={200: "Every worker that is known, by id"},
    ),
    _say("POST", "register", register_worker, RegisterWorkerRequest, "Register a worker"),
    _say("PUT", "register", register_worker, RegisterWorkerRequest, "Register a worker"),
    Route(
        method="DELETE",
        path=_WORKER,
        handle=remove_worker,
        summary="Say that a worker has ended",
        tag="workers",
        response=WorkerStatus,
        statuses={200: "It is forgotten; what it still had is queued anew"},
        problems=(404, 429, 503),
    ),
    _say("POST", "heartbeat", beat, HeartbeatRequest, "Keep the leases of a worker's jobs"),
    _say("PUT", "heartbeat", beat, HeartbeatRequest, "Keep the leases of a worker's jobs"),
    Route(
        method="GET",
        path=f"{_WORKER}/jobs",
        handle=poll_jobs,
        summary="Ask for jobs; held until there is one, or `wait` seconds",
        tag="workers",
        query=PollQuery,
        response=JobPage,
        statuses={
            200: "Jobs",
            204: "None came; `Ironflow-Poll-Wait` says for how long it was held",
        },
        problems=(404, 429, 503),
    ),
    _say("PUT", "jobs/{job_id}/ack", acknowledge_job, JobAckRequest, "Acknowledge a job"),
    _say("PUT", "jobs/{job_id}", report_job, pull.JobUpdate, "Report on a job", 507),
    Route(
        method="POST",
        path=f"{_WORKER}/commands",
        handle=report_commands,
        fast=True,
        summary="Report what happened in executions, command by command",
        tag="workers",
        request=ReportsRequest,
        response=AnswersView,
        statuses={200: "An answer to each report"},
        problems=(404, 429, 503),
    ),
    Route(
        method="GET",
        path="/api/v1/values/{digest}",
        handle=get_value,
        summary="Get a large value by its SHA-256",
        tag="workers",
        response=ValueView,
        statuses={200: "The value"},
        problems=(404, 503),
    ),
)
