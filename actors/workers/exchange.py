"""What passes between a worker and its server beside registration: jobs and signals on their way to
it, with the answer to a poll or to reports, whichever comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import msgspec

from ironflow.actors.elsewhere.jobs import (
    Begun,
    Lease,
    check_fence,
    make_job,
    make_recorded_job,
    request_reports,
    settle_reports,
)
from ironflow.actors.workers.queue import Signal, Worker
from ironflow.core.errors import NotFound
from ironflow.core.remote import pull
from ironflow.core.remote.reports import Answer, Report, Signals, Woken
from ironflow.core.runs import commands as c

if TYPE_CHECKING:
    from ironflow.actors.workers.fleet import Fleet

DELIVERY = 30.0
"""Seconds until a job that was sent to a worker must be acknowledged, at most: the connection may
have broken under the answer.
"""
_encode = msgspec.json.Encoder().encode


class News(msgspec.Struct, frozen=True):
    """Jobs and signals for a worker."""

    jobs: list[pull.Job]
    signals: Signals = Signals()

    def __bool__(self) -> bool:
        return bool(self.jobs or self.signals)


NOTHING = News([])


async def exchange(
    fleet: Fleet, worker: Worker, reports: Sequence[Report], window: int | None
) -> tuple[list[Answer], News]:
    """Record reports of a worker; an answer to each, and what there is for the worker by then.
    `window`: how many jobs it takes at a time from now on, if it says so.

    Whoever has reported the end of a body has room for another one: what is granted for that shares
    the commit of the end, and comes with its answer.
    """
    if window is not None and worker.window:
        worker.window = window
    worker.heard_at = fleet.clock.now()
    expires_at = fleet.system.loop.time() + worker.lease

    def find(report: Report) -> Lease:
        job_id = report.job_id
        found = worker.jobs.get(job_id)
        lease = check_fence(found, job_id, report.execution_seq, report.lease_token)
        lease.expires_at = expires_at
        return lease

    worker.reporting += 1
    try:
        begun = request_reports(fleet, find, reports)
        ending = _note_ends(worker, begun)
        fleet.queue.pump(worker)
        try:
            answers = await settle_reports(fleet, begun)
        finally:
            for lease in ending:
                _still_has(fleet, lease)
        if not worker.window or not (worker.offered or worker.signals):
            return answers, NOTHING
        return answers, await take_news(fleet, worker)
    finally:
        worker.reporting -= 1
        if worker.offered or worker.signals:
            fleet.bring(worker)


def _note_ends(worker: Worker, begun: Sequence[Begun]) -> list[Lease]:
    """The leases of bodies that are over, whatever becomes of the report that says so: they do not
    compensate. Said twice, it counts once.
    """
    ending = []
    for one in begun:
        if isinstance(one, Answer) or type(one.command) is not c.EndExecution:
            continue
        lease = one.lease
        if not (one.command.compensations or lease.is_ending) and lease.job_id in worker.jobs:
            lease.is_ending = True
            worker.ending += 1
            ending.append(lease)
    return ending


def _still_has(fleet: Fleet, lease: Lease) -> None:
    """An end that was refused has ended nothing."""
    if lease.is_ending and fleet.leases.get(lease.assignment.run_id) is lease:
        lease.is_ending = False
        worker = fleet.workers.get(lease.holder)
        if worker is not None and lease.job_id in worker.jobs:
            worker.ending -= 1


async def take_news(fleet: Fleet, worker: Worker) -> News:
    """What there is for a worker; it goes out with an answer now."""
    jobs = []
    for lease in _take_offered(fleet, worker):
        spec = fleet.spec(lease.assignment.function_id)
        try:
            if worker.window:
                # As of now: a record goes on changing.
                job = _encode(await make_recorded_job(lease, spec, fleet.secrets))
                jobs.append(cast("pull.Job", msgspec.Raw(job)))
            else:
                made = make_job(lease, spec, worker.commands, fleet.clock, fleet.secrets)
                jobs.append(await made)
        except NotFound as error:
            fleet.lose(lease, f"what it needs cannot be read: {error}")
        else:
            lease.delivered = True
    return News(jobs, _take_signals(worker))


def _take_offered(fleet: Fleet, worker: Worker) -> list[Lease]:
    offered, worker.offered = worker.offered, []
    open_ = [lease for lease in offered if is_open(fleet, lease)]
    expires_at = fleet.system.loop.time() + min(DELIVERY, worker.lease)
    for lease in open_:
        lease.expires_at = expires_at
    return open_


def is_open(fleet: Fleet, lease: Lease) -> bool:
    """Whether an execution still owns its run."""
    return fleet.leases.get(lease.assignment.run_id) is lease


def _take_signals(worker: Worker) -> Signals:
    """What a worker is to be told; it goes out with an answer now."""
    if not worker.signals:
        return NOTHING.signals
    told, worker.signals = worker.signals, []
    return Signals(
        tuple(filter(None, map(_woken, told))),
        tuple(signal.lease.job_id for signal in told if signal.what == "cancelled"),
        tuple(signal.lease.job_id for signal in told if signal.what == "dropped"),
    )


def _woken(signal: Signal) -> Woken | None:
    if signal.what != "woken":
        return None
    step = signal.lease.assignment.record().steps.get(signal.key)
    return None if step is None else Woken(signal.lease.job_id, step)
