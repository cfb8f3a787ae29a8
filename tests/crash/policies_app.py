"""A function under every policy that makes runs wait."""

from __future__ import annotations

import asyncio
from typing import Any

from ironflow import Context, function

LIMIT, PERIOD, AT_ONCE, RATE = 6, 1.5, 4, 15


@function(
    id="ruled",
    retry={"max_attempts": 9, "initial_delay": 0.05},
    flow_control={
        "concurrency": AT_ONCE,
        "priority": "data.priority",
        "fairness": {"key": "data.org"},
        "throttle": {"limit": LIMIT, "period": PERIOD, "key": "data.org"},
    },
)
async def ruled(ctx: Context, data: Any) -> int:
    """Executes, waits, and executes again."""
    await ctx.step.run("first", asyncio.sleep, 0.05)
    await ctx.step.sleep("rest", 0.1)
    await ctx.step.run("second", asyncio.sleep, 0.05)
    return int(data["n"])


@function(id="rated", flow_control={"rate_limit": {"limit": RATE, "period": "1h"}})
async def rated(ctx: Context) -> str:
    """Is made so often and no more."""
    return "made"
