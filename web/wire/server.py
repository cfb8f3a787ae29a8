"""What the server says of itself: whether it works, what it can do, how it does."""

from typing import Any

from ironflow.web.wire import View


class Capabilities(View, frozen=True):
    """What clients of the protocol may count on."""

    transports: list[str]
    features: list[str]
    version: str
    auth_required: bool


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
