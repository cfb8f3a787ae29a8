"""The durable functions of ours that are measured, in process and behind a server."""

from __future__ import annotations

from typing import Any

from ironflow import Context, function

CHAIN = 10
"""Steps of a chain, everywhere."""


async def increment(value: int) -> int:
    """The step: as little as a step can do."""
    return value + 1


@function(id="bench-chain")
async def chain(ctx: Context, length: int) -> int:
    """Steps one after the other."""
    value = 0
    for _ in range(length):
        value = await ctx.step.run("increment", increment, value)
    return value


@function(id="bench-noop")
async def noop(ctx: Context, value: Any) -> Any:
    """No step at all: what is left is the run itself."""
    return value
