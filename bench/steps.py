"""Durable steps in process: N runs at once, each a chain of ten trivial steps, each result
committed before the next step begins."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from ceilings import summary

from ironflow import Context, function
from ironflow.embedded import open_engine

CHAIN = 10


async def increment(value: int) -> int:
    """The step: as little as a step can do."""
    return value + 1


@function(id="bench-chain")
async def chain(ctx: Context, length: int) -> int:
    """Ten steps one after the other."""
    value = 0
    for _ in range(length):
        value = await ctx.step.run("increment", increment, value)
    return value


async def steps(folder: Path, runs: int, seconds: float, durability: str) -> dict[str, float]:
    """Steps per second with `runs` runs at once; p50 and p99 are of whole runs, start to finish."""
    async with open_engine(folder / "steps.db", durability=durability) as engine:
        end = time.perf_counter() + seconds
        latencies: list[float] = []

        async def caller() -> None:
            while (began := time.perf_counter()) < end:
                _, run = await engine.invoke_and_wait("bench-chain", b"10")
                if run is None or run.status != "completed":
                    raise RuntimeError(f"a run did not complete: {run}")
                latencies.append(time.perf_counter() - began)

        await engine.invoke_and_wait("bench-chain", b"10")
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(caller() for _ in range(runs)))
        spent = time.perf_counter() - began
        figures = summary(len(latencies), spent, time.process_time() - cpu, latencies)
        figures["per_second"] *= CHAIN
        figures["cpu_us"] /= CHAIN
        figures["count"] *= CHAIN
        await check(engine.store.reader, len(latencies) + 1)
        return figures


async def check(reader: object, runs: int) -> None:
    """What was counted is in the journal."""
    counted = await reader.count_runs()  # type: ignore[attr-defined]
    if counted.get(("bench-chain", "completed")) != runs:
        raise RuntimeError(f"the journal has {counted}, {runs} completed runs were counted")
