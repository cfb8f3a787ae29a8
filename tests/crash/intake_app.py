"""Functions whose events wait for one another, for a server that is killed again and again."""

import asyncio
from typing import Any

from ironflow import Context, function


@function(
    id="calm",
    on="row.*",
    flow_control={"debounce": {"period": 1, "key": "data.key", "max_wait": 2}},
)
async def calm(ctx: Context, data: dict[str, Any]) -> Any:
    """The last row of a key."""
    return data["n"]


@function(id="bulk", on="row.*", flow_control={"batch": {"size": 4, "wait": 0.3}})
async def bulk(ctx: Context, rows: list[dict[str, Any]]) -> list[Any]:
    """Every row, in order."""
    return [row["n"] for row in rows]


@function(id="only", on="row.*", flow_control={"singleton": {"key": "data.key"}})
async def only(ctx: Context, data: dict[str, Any]) -> Any:
    """One at a time."""
    await ctx.step.sleep("work", 0.1)
    return data["n"]


@function(
    id="newest",
    on="row.*",
    compensate_on=["cancelled"],
    flow_control={"singleton": {"mode": "cancel", "key": "data.key"}},
)
async def newest(ctx: Context, data: dict[str, Any]) -> Any:
    """The older one makes way."""
    ctx.step.compensate("undo", asyncio.sleep, 0.02)
    await ctx.step.run("begin", asyncio.sleep, 0.05)
    await ctx.step.sleep("work", 0.3)
    return data["n"]
