"""What the tests of the engine share: playing a program in a world, and looking at what is left."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from ironflow import testing
from ironflow.core.errors import StorageFull

SECOND = 1_000_000
LINGERS = pytest.mark.parametrize("linger", [0.0, 2.0])
"""With 0 every wait is followed by a replay."""


def play(main: Any, **options: Any) -> Any:
    """`testing.run`, but an error that asyncio only logs fails the test."""
    unseen: list[dict[str, Any]] = []

    async def watched(world: testing.World) -> Any:
        world.loop.set_exception_handler(lambda _, context: unseen.append(context))
        return await main(world)

    result = testing.run(watched, **options)
    assert not unseen, unseen
    return result


async def took(world: testing.World, run_id: str) -> float:
    run = await world.state(run_id)
    assert run.ended_at is not None
    return (run.ended_at - run.created_at) / SECOND


async def runs_of(world: testing.World, function_id: str) -> list[Any]:
    """The runs of a function, in the order of their creation."""
    ids = [key for (key,) in world.store.tables.rows["runs"]]
    runs = [await world.state(run_id) for run_id in ids]
    found = [run for run in runs if run.function_id == function_id]
    return sorted(found, key=lambda run: (run.created_at, run.id))


def is_clean(world: testing.World) -> None:
    """Nothing is left of runs that have ended."""
    rows = world.store.tables.rows
    # Schedules keep theirs: a world that is given no functions serves all that were ever imported.
    assert not [key for key in rows["timers"] if not key[0].startswith("schedule/")]
    assert not rows["waiters"]
    assert not rows["deliveries"]
    assert world.engine.pool.active == world.engine.pool.queued == 0
    assert len(world.engine.environment.waiters) == 0
    assert len(world.engine.environment.outbox) == 0
    assert len(world.executor) == 0


class Trouble:
    """Crashes after so many commits each, and a journal that refuses every so many."""

    def __init__(self, world: testing.World, crashes: list[int], refuse: int) -> None:
        self.world, self.crashes, self.refuse = world, list(crashes), refuse
        self.commits = 0
        self._boot = world.boot
        world.boot = self.boot  # type: ignore[method-assign]
        self.arm()

    async def boot(self) -> None:
        await self._boot()
        self.arm()

    def arm(self) -> None:
        if self.crashes:
            self.world.crash_at_commit(self.crashes.pop())
        self.world.store.journal.fault = self.fault

    def end(self) -> None:
        self.refuse = 0

    def fault(self, _: Any) -> Exception | None:
        self.commits += 1
        full = self.refuse and self.commits % self.refuse == 0
        return StorageFull("full") if full else None

    async def patiently(self, request: Any, *args: Any) -> Any:
        """Ask again when the disk was full or the process died over it; with a key, as users
        should.
        """
        key = f"key {self.commits} {self.world.loop.time()}"
        while True:
            with suppress(testing.Gone, testing.StorageError):
                return await request(*args, idempotency_key=key)
            await self.world.advance(0.25)


async def do(value: Any = None) -> Any:
    return value


async def add(a: int, b: int = 1) -> int:
    return a + b
