"""What the actors of one process share: storage, time, the executor's side, and the in-memory
indexes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ironflow.actors.events.waiters import WaiterIndex
from ironflow.actors.kernel.outbox import Outbox
from ironflow.actors.kernel.timers import Timers
from ironflow.actors.runs.endings import Endings
from ironflow.actors.workflows.streams import Streams
from ironflow.core.clock import Clock, Ids, derive_id
from ironflow.core.runs.effects import MAX_CRASHES
from ironflow.storage.ports import Store

if TYPE_CHECKING:
    from ironflow.actors.hosts import Hosts, Slots
    from ironflow.actors.kernel.system import System


@dataclass(slots=True)
class Environment:
    """Wired once by the assembly, then handed to every actor."""

    store: Store
    clock: Clock
    ids: Ids
    host: Hosts
    system: System
    pool: Slots
    timers: Timers
    outbox: Outbox
    waiters: WaiterIndex = field(default_factory=WaiterIndex)
    endings: Endings = field(default_factory=Endings)
    streams: Streams = field(init=False)
    fresh: set[str] = field(default_factory=set)
    """Ids of runs that were made up a moment ago: no journal can have them yet."""
    max_crashes: int = MAX_CRASHES
    salt: tuple[str, ...] = ()
    """Goes into ids that are made from names, so that they differ from server to server."""
    fates: dict[tuple[str, str], int] = field(default_factory=dict)
    """How many requests had which fate at intakes, by function and fate (for metrics)."""

    def __post_init__(self) -> None:
        """Workflow streams are read from the same store."""
        self.streams = Streams(self.store)

    def derive_id(self, *parts: str) -> str:
        """The id that belongs to these parts here."""
        return derive_id(*parts, *self.salt)

    def count_fate(self, function_id: str, fate: str) -> None:
        """Something became of a request for a run."""
        key = function_id, fate
        self.fates[key] = self.fates.get(key, 0) + 1
