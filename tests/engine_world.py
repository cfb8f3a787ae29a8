"""What the tests of the engine share: playing a program in a world, and looking at what is left."""

from __future__ import annotations

from typing import Any

import pytest

from ironflow import testing

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
