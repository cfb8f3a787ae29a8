"""The native API's bodies: nothing but fields. Requests are decoded into these, responses encoded
from them, and `/openapi.json` is generated from them.

Moments are RFC 3339 text in UTC with `Z`; durations are seconds. Unknown fields in requests are
refused.
"""

from typing import Annotated, Any, Literal

import msgspec

from ironflow.core.entries import RunKind
from ironflow.core.flow_control import FlowControl
from ironflow.core.pull import Job
from ironflow.core.remote import Answer, Report


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of request bodies."""


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Base of response bodies."""


class Capabilities(View, frozen=True):
    """What clients of the protocol may count on."""

    transports: list[str]
    features: list[str]
    version: str
    auth_required: bool


class Problem(View, frozen=True, omit_defaults=True, kw_only=True):
    """An error (RFC 9457). `field` names the part of the request that is wrong, where one is."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    field: str | None = None
    retry_after: float | None = None
    error: str | None = None
    """The code in the worker protocol's own spelling, where it has one."""


class Refused(View, frozen=True):
    """An error where the clients of the path know no problem documents."""

    detail: str


class Health(View, frozen=True):
    """The process is up. Workflows that are served, runs (of any kind) that execute now, and runs
    that wait for a slot."""

    status: str
    version: str
    loaded_workflows: int
    active_workflows: int
    idle_workflows: int


class Ready(View, frozen=True):
    """Whether the server takes work, and if not, why."""

    status: str
    issues: list[str]


class EmitRequest(Request, frozen=True):
    """An event. The same idempotency key and name again return the first event."""

    name: str
    data: Any = None
    idempotency_key: str | None = None


class OutcomeView(View, frozen=True):
    """What became of an event at one function."""

    function_id: str
    fate: Literal["started", "skipped", "debounced", "batched", "filtered"]
    """`started`: a run of its own. `skipped`: the function is a singleton and a run was there.
    `debounced`, `batched`: it waits with others for one run, or was in it. `filtered`: it did not
    pass the trigger's expression.
    """
    run_id: str | None
    """The run that it started or was skipped for; of what waits, the run once there is one."""
    due_at: str | None
    """When what waits starts, if no more events come."""
    text: str


class EmitView(View, frozen=True):
    """The event and the runs that it started; `created` is False for a repeated key. `outcomes` are
    those of functions whose flow control decides (debounce, batch, singleton).
    """

    event_id: str
    run_ids: list[str]
    created: bool
    outcomes: list[OutcomeView] = []


class BatchItem(View, frozen=True):
    """What became of one event of a batch: `event` when it is stored, `problem` when it is not."""

    ok: bool
    event: EmitView | None = None
    problem: Problem | None = None


class BatchView(View, frozen=True):
    """What became of each event of a batch, in the order of the request."""

    items: list[BatchItem]


class EventView(View, frozen=True):
    """A stored event."""

    id: str
    name: str
    data: Any
    at: str
    source: str
    idempotency_key: str | None
    run_ids: list[str]
    outcomes: list[OutcomeView]
    """What became of it at each function that it concerned."""
    version: int
    metadata: dict[str, Any] | None
    emitted_by: str
    """Who emitted it: `apikey:<id>`, or nothing where no key was needed."""


class EventPage(View, frozen=True):
    """Events, newest first; `next_cursor` goes on."""

    items: list[EventView]
    next_cursor: str | None


class TriggerView(View, frozen=True):
    """What starts a function."""

    event: str
    expression: str | None


class RetryView(View, frozen=True):
    """A retry policy; delays in seconds."""

    max_attempts: int
    initial_delay: float
    factor: float
    max_delay: float
    jitter: float


class FunctionView(View, frozen=True):
    """A registered function. `served` says whether this server can run it now."""

    id: str
    name: str
    version: int
    code: str
    description: str
    triggers: list[TriggerView]
    cron: str | None
    timezone: str | None
    next_run_at: str | None
    timeout: float | None
    retry: RetryView
    input_schema: dict[str, Any] | None
    flow_control: FlowControl
    served: bool
    updated_at: str


class FunctionPage(View, frozen=True):
    """Every function, by id."""

    items: list[FunctionView]


class InvokeRequest(Request, frozen=True):
    """Start a run. The same idempotency key again finds the first run; with other input it is a
    conflict."""

    input: Any = None
    idempotency_key: str | None = None


class InvokeView(View, frozen=True):
    """The run; with `?wait=` also how it ended, if it did in time.

    `fate` says what the function's flow control made of it: `skipped` with the run that is there,
    `debounced` or `batched` with no run yet, but the event (`event_id`) that waits, and `due_at`,
    when it runs if no more come.
    """

    run_id: str | None
    created: bool
    status: str
    fate: Literal["started", "skipped", "debounced", "batched"] = "started"
    due_at: str | None = None
    event_id: str | None = None
    result: Any = None
    error: "FailureView | None" = None
    timed_out: bool = False
    """The wait is over but the run goes on."""


class FailureView(View, frozen=True):
    """What went wrong."""

    kind: str
    message: str
    code: str
    retryable: bool
    trace: str


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
    instance: Annotated[str, msgspec.Meta(max_length=200)] = ""
    """Differs from one process of this worker to the next: what an older one had is queued anew."""


class WorkerStatus(View, frozen=True):
    """What became of a worker's word."""

    status: str


class JobPage(View, frozen=True):
    """Jobs for a worker. `signals` (`core.remote.Signals`) are for one that reports commands."""

    jobs: list[Job]
    signals: Any


class ReportsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in a worker's executions, in order."""

    reports: Annotated[tuple[Report, ...], msgspec.Meta(max_length=10_000)]


class AnswersView(View, frozen=True):
    """The answers, in the order of the reports."""

    answers: list[Answer]


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


class EndpointRequest(Request, frozen=True):
    """Where functions are served. What is not given stays as it is registered, or is 10 seconds and
    10 calls at once. `dry_run`: only say what would change.
    """

    url: Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]
    timeout: Annotated[float, msgspec.Meta(gt=0, le=3600)] | None = None
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=100_000)] | None = None
    dry_run: bool = False


class DifferenceView(View, frozen=True):
    """A function that an endpoint serves, or served. `change` is `new`, `changed`, `same`, `moved`
    (from `before`: another endpoint, `pull`) or `gone` (it is served no more and stays registered).
    `code` is the hash of the code that is there, `registered` of what is known here.
    """

    function_id: str
    change: str
    code: str | None
    registered: str | None
    before: str | None


class SurveyView(View, frozen=True):
    """What an endpoint serves. `applied`: it is registered now; `drifts`: something differed."""

    url: str
    sdk: str
    applied: bool
    drifts: bool
    differences: list[DifferenceView]


class EndpointFunctionView(View, frozen=True):
    """A function behind an endpoint: `active` calls are under way, `waiting` runs wait to be
    sent.
    """

    id: str
    version: int
    code: str
    timeout: float
    concurrency: int
    active: int
    waiting: int
    breaker: str


class EndpointView(View, frozen=True):
    """An address, and the functions that are registered for it. `reports`: how it answers."""

    url: str
    reports: str
    functions: list[EndpointFunctionView]


class EndpointPage(View, frozen=True):
    """Endpoints, by address."""

    items: list[EndpointView]


class BreakerView(View, frozen=True):
    """A circuit breaker: one for each function and endpoint."""

    key: str
    function_id: str
    endpoint: str
    state: str
    consecutive_fails: int
    open_until: str | None
    last_failure: str
    last_failure_at: str | None


class BreakerPage(View, frozen=True):
    """Circuit breakers, by key."""

    items: list[BreakerView]


class WaitingView(View, frozen=True):
    """A run that waits in a lane: since when, and what its place among others depends on."""

    run_id: str
    since: str
    priority: int
    share: str | None
    """The value of the fair key."""


class LaneView(View, frozen=True):
    """A lane: at most `limit` runs execute in it (`concurrency`), begin for the first time in any
    `period` (`throttle`), or are made in it (`rate_limit`).

    `holders` are those that count now, `waiting` come next (`line`: and why in this order); at most
    a thousand of either are listed, `held` and `queued` say how many there are.
    """

    name: str
    function_id: str
    policy: Literal["concurrency", "throttle", "rate_limit"]
    limit: int
    period: float | None
    held: int
    queued: int
    holders: list[str]
    waiting: list[str]
    line: list[WaitingView]
    reason: str | None
    """Why nobody of those who wait begins now."""
    opens_at: str | None
    """When a full lane has room again by time alone."""


class LanePage(View, frozen=True):
    """Lanes, by name; `next_cursor` goes on."""

    items: list[LaneView]
    next_cursor: str | None


class ValueView(View, frozen=True):
    """A value that is kept out of line."""

    value: Any


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


class RunSummary(View, frozen=True):
    """A run as lists show it. `kind` says how it was written: `function`, `flow` (Prefect) or
    `workflow`; `reason` why it is paused, failed or cancelled; `duration` is in seconds."""

    id: str
    kind: RunKind
    function_id: str
    status: str
    attempt: int
    created_at: str
    started_at: str | None
    ended_at: str | None
    updated_at: str
    duration: float | None
    event_id: str | None
    event_name: str | None
    idempotency_key: str | None
    parent_id: str | None
    code: str | None
    reason: str | None


class RunPage(View, frozen=True):
    """Runs, newest first; `next_cursor` goes on."""

    items: list[RunSummary]
    next_cursor: str | None


class RunView(RunSummary, frozen=True):
    """One run, whole."""

    input: Any
    result: Any
    error: FailureView | None
    execution: int
    crashes: int
    version: int
    steps_total: int
    worker: str | None
    """The worker that has its current execution, or had the last one; null for none."""
    cancel: list[str]
    """What was done to end its body when that was asked for, step by step, in words."""
    actor: str | None
    """The value of the function's actor key: runs with the same one go to the same worker."""
    waiting_for: list[str]
    """Why it does not go on now, in words; see `/why`."""
    events: list["TakenEventView"]
    """The events of its batch, in the order of the datas that are its input."""
    merged: int
    """How many events were debounced into it; 0 for a run that was not debounced."""
    behind: str | None
    """The run that must have ended before this one begins."""


class TakenEventView(View, frozen=True):
    """One of the events that a run took."""

    id: str
    name: str
    at: str


class StepView(View, frozen=True):
    """One step. `scope` is the branch it belongs to. `running` steps are executing now and not
    recorded yet."""

    key: str
    name: str
    kind: str
    status: str
    scope: str
    position: int
    attempt: int
    started_at: str | None
    ended_at: str | None
    duration: float | None
    until: str | None
    event: str | None
    child_run_id: str | None
    child_function_id: str | None
    result: Any
    error: FailureView | None


class StepPage(View, frozen=True):
    """A run's steps in the order in which they began."""

    run_id: str
    status: str
    items: list[StepView]


class EntryView(View, frozen=True):
    """One journal entry."""

    seq: int
    stream: str
    version: int
    at: str
    kind: str
    data: Any


class EntryPage(View, frozen=True):
    """Entries of a run, oldest first; `next_version` goes on with `?after=`."""

    items: list[EntryView]
    next_version: int | None


class ResultView(View, frozen=True):
    """How a run ended; `status` tells whether it has."""

    run_id: str
    status: str
    result: Any
    error: FailureView | None
    reason: str | None


class ReasonRequest(Request, frozen=True):
    """Why, for the record."""

    reason: str | None = None


class StatusView(View, frozen=True):
    """The run's status after a request; `running` while a cancel or pause takes effect at the next
    step boundary."""

    run_id: str
    status: str
    pending: str | None = None
    """`cancel` or `pause` while that is under way."""


class WhyView(View, frozen=True):
    """Why a run stands where it stands, in words, and what will wake it."""

    run_id: str
    status: str
    summary: str
    reasons: list["ReasonView"]


class ReasonView(View, frozen=True):
    """One thing that a run waits for. `due_at` is when it ends by itself, if it does."""

    kind: str
    """`timer`, `event`, `run`, `retry`, `slot`, `function`, `step`, `recovery`, `pause`, `cancel`,
    `unwind`, `timeout`, `ended`, or `none` (a defect)."""
    step: str | None
    text: str
    due_at: str | None


class BlockageView(View, frozen=True):
    """One time that the event loop was held up: by which line of which function, run and step
    (null for what belongs to none), and for how many seconds.
    """

    at: str
    seconds: float
    place: str
    function_id: str | None
    run_id: str | None
    step: str | None


class EventLoopView(View, frozen=True):
    """How often something held up the event loop, for how many seconds in all, and the latest,
    newest first.
    """

    blocked: int
    blocked_seconds: float
    latest: list[BlockageView]


class StatisticsView(View, frozen=True):
    """The server now: actors by kind, slots, timers, waiters, journal, event loop."""

    version: str
    uptime: float
    actors: dict[str, Any]
    runs: dict[str, int]
    slots: dict[str, int]
    timers: int
    waiters: int
    undelivered: int
    journal: dict[str, Any]
    event_loop: EventLoopView


class ActorView(View, frozen=True):
    """A live actor: its mailbox depth, messages handled, restarts, seconds since its last one."""

    address: str
    state: str
    mailbox: int
    handled: int
    restarts: int
    idle: float


class ActorPage(View, frozen=True):
    """Live actors, the fullest mailboxes first; `total` counts all of them."""

    items: list[ActorView]
    total: int


class IndexView(View, frozen=True):
    """What this server is and where to go on."""

    name: str
    version: str
    links: dict[str, str]
