"""What one run leaves in its context is not seen by another."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import pytest

from ironflow import function, testing

SECRET: ContextVar[str | None] = ContextVar("secret", default=None)


@function(id="isolation-run")
async def run(ctx: Any, number: int) -> Any:
    before = SECRET.get()
    SECRET.set(f"run {number}")
    inside = await ctx.step.run("read", SECRET.get)
    child = await ctx.step.invoke("kid", run, number - 1) if number else None
    await ctx.step.sleep("nap", 10)
    return [before, inside, child]


@pytest.mark.parametrize("linger", [0.0, 2.0])
def test_context_variables_stay_within_their_run(linger: float) -> None:
    async def main(world: testing.World) -> None:
        ended = await world.run(run, 2)
        assert ended.result == [None, "run 2", [None, "run 1", [None, "run 0", None]]]

    testing.run(main, functions=[run], linger=linger)


def test_queued_runs_are_started_by_others_without_their_context() -> None:
    async def main(world: testing.World) -> None:
        ids = [await world.start(run, 0) for _ in range(5)]
        assert [(await world.wait(i)).result[0] for i in ids] == [None] * 5

    testing.run(main, functions=[run], capacity=1)
