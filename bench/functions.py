"""The durable functions of ours that are measured, in process and behind a server."""

from __future__ import annotations

import asyncio
import os
import time
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


STEP_SECONDS: list[float] = []
"""What each step of `bench-timed` took its body."""


@function(id="bench-timed")
async def timed(ctx: Context, length: int) -> int:
    """A chain that takes the time of each of its steps."""
    value = 0
    for _ in range(length):
        began = time.perf_counter()
        value = await ctx.step.run("increment", increment, value)
        STEP_SECONDS.append(time.perf_counter() - began)
    return value


LATENESS: list[float] = []
"""Milliseconds by which sleepers of this process woke too late, in that order."""


@function(id="bench-sleeper")
async def sleeper(ctx: Context, until: float) -> None:
    """Sleep until a moment (milliseconds since the epoch)."""
    await ctx.step.sleep_until("nap", until / 1e3)
    LATENESS.append(time.time() * 1e3 - until)


@function(id="bench-lateness")
async def lateness(ctx: Context, _: Any) -> list[float]:
    """How late sleepers were."""
    return LATENESS


GATE = "BENCH_GATE"
"""In the environment, `closed`: a gated run stops in its middle and never goes on."""
PASSAGES: list[float] = []
"""Moments at which bodies came to the gate, in seconds since the epoch."""


@function(id="bench-gated")
async def gated(ctx: Context, length: int) -> int:
    """A chain with a gate in its middle, at which a run is busy for ever when it is closed."""
    value = 0
    for _ in range(length // 2):
        value = await ctx.step.run("increment", increment, value)
    PASSAGES.append(time.time())
    if os.environ.get(GATE) == "closed":
        await asyncio.Event().wait()
    for _ in range(length - length // 2):
        value = await ctx.step.run("increment", increment, value)
    return value


@function(id="bench-passages")
async def passages(ctx: Context, _: Any) -> tuple[int, float]:
    """How many bodies came to the gate, and when the last one did."""
    return len(PASSAGES), max(PASSAGES, default=0.0)


@function(id="bench-reached")
async def reached(ctx: Context, sent: float) -> float:
    """Seconds since a moment that the caller gives, in seconds since the epoch."""
    return time.time() - sent


OPENED = asyncio.Event()
"""Laned runs go on once it is set."""
ENDED: list[float] = []
"""Moments at which laned runs ended, in seconds since the epoch."""


@function(id="bench-laned", flow_control={"concurrency": {"limit": 1, "key": "lane"}})
async def laned(ctx: Context, _: Any) -> None:
    """One at a time in each lane."""
    await OPENED.wait()
    ENDED.append(time.time())


@function(id="bench-laneless")
async def laneless(ctx: Context, _: Any) -> None:
    """The same without lanes."""
    await OPENED.wait()
    ENDED.append(time.time())


@function(id="bench-open")
async def open_lanes(ctx: Context, _: Any) -> None:
    """Let laned runs go on."""
    OPENED.set()


@function(id="bench-ended")
async def ended(ctx: Context, _: Any) -> tuple[int, float]:
    """How many laned runs ended, and when the last one did."""
    return len(ENDED), max(ENDED, default=0.0)


@function(id="bench-heard", on="bench.heard")
async def heard(ctx: Context, event: dict[str, float]) -> float:
    """The same, started by an event."""
    return time.time() - event["sent"]
