"""Testing durable functions: virtual time, crashes at will, mocked steps, no server, no sleeping.

    def test_reminder():
        async def main(world):
            run_id = await world.start(reminder, {"user": 7})
            await world.advance("2d")
            await world.crash()                # kill -9: only what was committed is left
            assert (await world.wait(run_id)).result == "reminded"
        testing.run(main)

    def test_reminder_in_disasters():
        testing.simulate(reminder, {"user": 7})

Everything is the real engine over the in-memory store; only the clock, and what you replace, is
not. Ids and chance come from a seed, so that a test that fails once fails always.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from ironflow.actors.kernel.virtual_time import VirtualTimeLoop, run_virtual
from ironflow.core.errors import Gone, StorageError
from ironflow.sdk.function import Function, Registry, registry
from ironflow.simulation.user import SimulationFailed, simulate
from ironflow.simulation.world import Ended, Mock, World

__all__ = ["Ended", "Gone", "Mock", "SimulationFailed", "StorageError", "World", "run", "simulate"]


def run(
    main: Callable[[World], Coroutine[Any, Any, Any]],
    *,
    functions: Iterable[Function] | None = None,
    linger: float = 2.0,
    seed: int = 0,
    **engine: Any,
) -> Any:
    """Run a test in a world of its own, serving `functions` or all there are; what `main` returns.

    `linger=0` lets go of a waiting body at once, so that every wait is followed by a replay.
    `engine`: options of the engine, such as `capacity` (bodies at once) and `max_crashes`.
    """
    served = registry
    if functions is not None:
        served = Registry()
        for function in functions:
            served.add(function)

    async def body() -> Any:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        world = World(loop, served, linger=linger, seed=seed, **engine)
        await world.boot()
        try:
            return await main(world)
        finally:
            world.executor.abandon()
            await world.engine.stop()

    return run_virtual(body)
