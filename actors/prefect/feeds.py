"""Events, logs and saved searches of the Prefect API: their actors, and the live feeds of the
first two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from ironflow.actors.environment import Environment
from ironflow.actors.kernel.actor import Behavior, Ensure
from ironflow.actors.prefect.events import EventBook, EventKeeper, StoreEvents
from ironflow.actors.prefect.live import Live
from ironflow.actors.prefect.logs import LogKeeper, StoreLogs
from ironflow.actors.prefect.searches import SearchKeeper
from ironflow.core.prefect.events import Event
from ironflow.core.prefect.logs import LogLine
from ironflow.storage.ports import Batch

KEEP = 7 * 86_400.0
"""Seconds that events are kept when nothing else is said."""


Recorder = Callable[[Sequence[Event]], Awaitable[None]]
"""What task runs are recorded with: durable when it returns, harmless when repeated."""


def is_of_task_run(event: Event) -> bool:
    """Whether an event tells what became of a task run that its client orchestrates."""
    return (
        event.event.startswith("prefect.task-run.")
        and event.resource.get("prefect.orchestration") == "client"
    )


class Feeds:
    """Made with the engine. `keep` in seconds; 0 keeps everything."""

    def __init__(self, environment: Environment, keep: float = KEEP) -> None:
        self.events: Live[Event] = Live()
        self.logs: Live[LogLine] = Live()
        self._book = EventBook(self.events, environment.store.journal.append)
        system = environment.system
        system.register(
            Behavior(
                "prefect-events",
                partial(EventKeeper, environment, self._book, keep),
                bound=10_000,
                idle_after=None,
            )
        )
        system.register(
            Behavior(
                "prefect-logs",
                partial(LogKeeper, environment, self.logs, keep),
                bound=10_000,
                idle_after=None,
            )
        )
        system.register(Behavior("prefect-searches", partial(SearchKeeper, environment)))
        self.searches = system.ref("prefect-searches")
        self.event_keeper = system.ref("prefect-events")
        self.log_keeper = system.ref("prefect-logs")

        self.recorder: Recorder | None = None
        self.closing = asyncio.Event()
        """Set when the server stops: clients should go and come back later."""

    def start(self) -> None:
        """Wake both actors, so that what is too old goes although nobody asks for anything."""
        self.event_keeper.post(Ensure())
        self.log_keeper.post(Ensure())

    async def ready(self) -> None:
        """Return when the live feeds know what was there before."""
        await asyncio.gather(self.event_keeper.ask(Ensure()), self.log_keeper.ask(Ensure()))

    async def accept(self, events: Sequence[Event]) -> None:
        """Take events of clients: keep them and let task runs be recorded. All of it is durable
        when it returns, and may be repeated as a whole. Raises `Overloaded`, `StorageError`.
        """
        told = [event for event in events if is_of_task_run(event)]
        if told and self.recorder is not None:
            # First, so that who is told of an event finds what it says.
            await self.recorder(told)
        await self.store_events(events)

    async def store_events(self, events: Sequence[Event]) -> int:
        """Keep events; durable when it returns how many are new. Raises `Overloaded`,
        `StorageError`.
        """
        return await self.event_keeper.ask(StoreEvents(tuple(events)))

    def include(self, events: Sequence[Event], batch: Batch) -> Callable[[], None]:
        """Keep events of our own in a commit of the caller's, who appends `batch` to the journal
        before anything else happens and calls what this gives once it is durable.
        """
        if not self._book.is_open:
            return partial(self.event_keeper.post, StoreEvents(tuple(events)))
        return partial(self._book.tell, self._book.add(events, batch))

    async def store_logs(self, lines: Sequence[LogLine]) -> None:
        """Keep log lines; durable when it returns. Raises `Overloaded`, `StorageError`."""
        await self.log_keeper.ask(StoreLogs(tuple(lines)))

    def close(self) -> None:
        """Followers end: the server stops."""
        self.closing.set()
        self.events.close()
        self.logs.close()
