"""Workers, and what they are told and tell: jobs, acknowledgements, reports, heartbeats."""

from typing import Annotated, Any, Literal

import msgspec

from ironflow.core.remote.pull import Job
from ironflow.core.remote.reports import Answer, Report
from ironflow.web.wire import View


class RegisterWorkerRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A worker, and what it takes. Fields that a newer worker adds are passed over."""

    function_ids: Annotated[list[str], msgspec.Meta(min_length=1, max_length=10_000)]
    max_concurrent_jobs: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 10
    worker_id: str | None = None
    hostname: str = ""
    labels: dict[str, str] = {}
    version: dict[str, str] = {}
    heartbeat_interval: Annotated[float, msgspec.Meta(ge=0.1, le=3600)] | None = None
    reports: Literal["yields", "commands"] = "yields"
    """`commands`: it reports by `/commands`, and is handed the run's record with each job."""
    window: Annotated[int, msgspec.Meta(ge=0, le=200_000)] = 0
    """Of one that reports commands: how many jobs it takes at a time. The server keeps count, and
    jobs come with answers to reports, too. 0: each poll says how many more."""
    instance: Annotated[str, msgspec.Meta(max_length=200)] = ""
    """Differs from one process of this worker to the next: what an older one had is queued anew."""


class WorkerStatus(View, frozen=True):
    """What became of a worker's word."""

    status: str


class JobPage(View, frozen=True):
    """Jobs for a worker. `signals` (`core.remote.reports.Signals`) are for one that reports
    commands.
    """

    jobs: list[Job]
    signals: Any


class ReportsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in a worker's executions, in order."""

    reports: Annotated[tuple[Report, ...], msgspec.Meta(max_length=10_000)]
    window: Annotated[int, msgspec.Meta(ge=1, le=200_000)] | None = None
    """How many jobs it takes at a time from now on, where it has registered with a window."""


class AnswersView(View, frozen=True, omit_defaults=True):
    """The answers, in the order of the reports. `jobs` and `signals` as in an answer to a poll, for
    a worker that has registered with a window."""

    answers: list[Answer]
    jobs: list[Job] | msgspec.UnsetType = msgspec.UNSET
    signals: Any = msgspec.UNSET


class JobAckRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The worker has the job and begins."""

    execution_seq: int
    lease_token: str
    run_id: str = ""


class ActiveJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job that a worker is executing."""

    job_id: str


class HeartbeatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The worker lives; the leases of these jobs are renewed."""

    jobs: list[ActiveJob] = []
    active_jobs: int = 0
    worker_id: str | None = None
    draining: bool = False
    """It ends what it has and takes nothing new."""


class WorkerView(View, frozen=True):
    """A worker. `status` is online, draining or offline; `runs` are those that it executes now;
    `actors` counts the values of actor keys whose runs come to it.
    """

    id: str
    hostname: str
    status: str
    function_ids: list[str]
    max_concurrent: int
    active_jobs: int
    labels: dict[str, str]
    version: dict[str, str]
    transport: str
    registered_at: str
    last_heartbeat: str
    actors: int
    runs: list[str]


class WorkerPage(View, frozen=True):
    """Workers, by id."""

    workers: list[WorkerView]
    count: int
