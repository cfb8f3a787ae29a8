"""A process in trouble: a `World` on a simulated disk, whose faults come from a plan."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from ironflow.actors.engine import Engine
from ironflow.actors.kernel.system import System
from ironflow.actors.kernel.virtual_time import VirtualTimeLoop
from ironflow.core.errors import Gone, StorageError
from ironflow.core.runs.commands import TimerFired
from ironflow.core.runs.execution import Assignment
from ironflow.sdk.executor import Executor
from ironflow.sdk.function import Registry
from ironflow.simulation.disk import DiskStore, Latency, Point
from ironflow.simulation.faults import Chance, Crash, Fault, UnreliableOutbox, plan_crashes
from ironflow.simulation.story import Story
from ironflow.simulation.watch import Watch, WatchedEffects
from ironflow.simulation.world import World
from ironflow.storage.ports import TIMERS, Batch, Entry

RESTART_AFTER = 1.0
"""Seconds until a process that could not start is started again."""
MOST_TURNS = 2000
"""Turns of the loop at one moment, after which the process is held to be in a loop of its own; what
is sound takes less than fifty.
"""


class Process(World):
    """The world of a simulated case. `on_finding` is called for every law that is broken."""

    def __init__(
        self,
        loop: VirtualTimeLoop,
        functions: Registry,
        chance: Chance,
        faults: frozenset[Fault],
        story: Story,
        on_finding: Callable[[], None],
        *,
        days: float = 0.0,
        linger: float = 2.0,
        **engine: Any,
    ) -> None:
        self.faults, self.story = faults, story
        self.latency = Latency(chance.of("disk"), slow="slow" in faults, full="full" in faults)
        self.watch = Watch(self, story, on_finding)
        self.crashes = plan_crashes(chance, faults, days)
        self.crash_count = 0
        self._mail, self._noise = chance.of("mail"), chance.of("noise")
        self._order = chance.of("order") if "order" in faults else None
        self._next: Crash | None = None
        self._turns, self._turned_at = 0, 0.0
        self._restart: asyncio.TimerHandle | None = None
        tearing = chance.of("torn")
        store = DiskStore(self.latency, tearing, self, keeps_unsynced="torn" in faults)
        super().__init__(loop, functions, linger=linger, store=store, **engine)
        self.ids.rng = chance.of("ids")
        loop.on_turn, loop.on_rest = self._turn, self.watch.rest

    @property
    def is_up(self) -> bool:
        """Whether the process has started and takes work."""
        return self._up.is_set()

    async def wait_until_up(self) -> None:
        """Until the process takes work."""
        await self._up.wait()

    @property
    def is_calm(self) -> bool:
        """Whether the disasters are over."""
        return self.latency.calm

    def calm_down(self) -> None:
        """From now on nothing goes wrong any more."""
        self.latency.calm = True
        self.crashes.clear()
        self._next = None
        outbox = self.engine.environment.outbox
        if isinstance(outbox, UnreliableOutbox):
            outbox.calm = True
        self.watch.unsettle()
        self.story.tell(self.clock.now(), "fault", "", "the disasters are over")

    # -- life and death ---------------------------------------------------------------------------

    def build(self) -> None:
        """Make the parts of one life, each with its faults."""
        self._next = self.crashes.pop() if self.crashes else None
        self.executor = _WatchedExecutor(self.functions, self.clock, self.ids, linger=self.linger)
        self.executor.watch = self.watch
        # What a body of this life still does after its end is nothing to the next one.
        executing: set[tuple[str, str]] = set()
        self.executor.intercept = partial(self._watch_call, executing)
        system = System(self.clock, self.ids, order=self._order)
        self.engine = Engine(
            self.store, self.executor, self.clock, self.ids, system=system, **self._engine_options
        )
        self.executor.lookup = self.engine.host.spec
        late, duplicate = "late" in self.faults, "duplicate" in self.faults
        if late or duplicate:
            outbox = UnreliableOutbox(system, self._mail, late=late, duplicate=duplicate)
            outbox.calm = self.is_calm
            self.engine.environment.outbox = outbox

    async def boot(self) -> None:
        """Start the process. One that cannot is started again, as a supervisor would."""
        self._restart = None
        life = self.lives + 1
        try:
            await super().boot()
        except (Gone, StorageError) as error:
            if life == self.lives and not self._died.is_set():
                self.story.tell(self.clock.now(), "fault", "", f"the start failed: {error}")
                self.end(RESTART_AFTER)
            return
        if self.is_up and life == self.lives:
            self.story.tell(self.clock.now(), "fault", "", f"life {life} is up")

    def end(self, down: float = 0.0) -> None:
        """The process dies now, and is started again after `down` seconds."""
        if self._restart is not None:
            return
        self.crash_count += 1
        self._next = None
        self.kill()
        self.watch.died()
        self._restart = self.loop.call_later(down, lambda: self._spawn(self.boot()))

    def passed(self, point: Point) -> bool:
        """`disk.Monitor`: a commit has come to a point."""
        if point == "queued":
            return False if not self._counts("queued") else self._crash("a commit begins")
        words = {
            "written": "a commit is written and not synced",
            "synced": "a commit is synced and not answered",
            "answered": "a commit is answered",
        }
        return self._counts(point) and self._crash(words[point])

    def _turn(self) -> None:
        self._turns = self._turns + 1 if self.loop.time() == self._turned_at else 0
        self._turned_at = self.loop.time()
        if self._turns == MOST_TURNS:
            found = iter([f"{MOST_TURNS} turns of the loop at one and the same moment"])
            self.watch.find("time_goes_on", "", found)
        if self._next is not None and self._counts("turn"):
            self._crash("between two turns of the loop")

    def _counts(self, point: str) -> bool:
        crash = self._next
        if crash is None or crash.point != point:
            return False
        crash.left -= 1
        return crash.left <= 0

    def _crash(self, when: str) -> bool:
        assert self._next is not None
        down = self._next.down
        self.story.tell(self.clock.now(), "fault", "", f"crash: {when}; down for {down:g} s")
        self.end(down)
        return True

    # -- disk.Monitor -----------------------------------------------------------------------------

    def appended(self, batch: Batch) -> None:
        """See `disk.Monitor`."""
        self.watch.appended(batch)

    def committed(self, batches: list[Batch], entries: list[Entry]) -> None:
        """See `disk.Monitor`."""
        self.watch.committed(batches, entries)

    def refused(self) -> None:
        """See `disk.Monitor`."""
        self.story.tell(self.clock.now(), "fault", "", "a commit is refused: the disk is full")
        self.watch.refused()

    # -- other trouble ----------------------------------------------------------------------------

    def step_clock(self, seconds: float) -> None:
        """Set the wall clock."""
        self.watch.clock_is_set()
        self.clock.step(seconds)
        self.watch.unsettle()
        self.story.tell(self.clock.now(), "fault", "", f"the clock is set by {seconds:+g} s")

    def ring_again(self) -> None:
        """Ring some timer that is not due, or is due and has rung."""
        rows = sorted(self.store.tables.rows[TIMERS.name].values())
        if rows and self.is_up:
            target, name, *_ = self._noise.choice(rows)
            self.story.tell(self.clock.now(), "fault", target, f"timer {name} of {target} rings")
            with suppress(Gone):
                self.engine.system.at(target).post(TimerFired(name))

    async def _watch_call(
        self,
        executing: set[tuple[str, str]],
        function_id: str,
        name: str,
        fn: Callable[..., Any],
    ) -> Callable[..., Any]:
        place = self.watch.called(name, executing)
        fn = await self._intercept(function_id, name, fn)
        if place is None:
            return fn

        async def call(*args: Any, **kwargs: Any) -> Any:
            executing.add(place)
            try:
                result = fn(*args, **kwargs)
                return await result if asyncio.iscoroutine(result) else result
            finally:
                executing.discard(place)

        return call


class _WatchedExecutor(Executor):
    """Executes bodies whose every answer is watched."""

    watch: Watch

    def start(self, assignment: Assignment) -> None:
        """Begin an execution."""
        effects = WatchedEffects(assignment.effects, self.watch, assignment.run_id)
        super().start(msgspec.structs.replace(assignment, effects=effects))
