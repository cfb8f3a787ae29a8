"""Runs in the real Prefect client's environment: async flows of five trivial tasks, so many at
once; prints the seconds of each as JSON. The first flow, which connects, is not counted.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time

from prefect import flow, task

TASKS = 5


@task
async def add(value: int) -> int:
    return value + 1


@flow
async def chain() -> int:
    value = 0
    for _ in range(TASKS):
        value = await add(value)
    return value


async def main(count: int, at_once: int) -> None:
    """Measure."""
    await chain()
    left = iter(range(count))
    took: list[float] = []

    async def caller() -> None:
        for _ in left:
            began = time.perf_counter()
            if await chain() != TASKS:
                raise RuntimeError("a flow came to another result")
            took.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(at_once)))
    print(json.dumps({"seconds": time.perf_counter() - began, "took": took}))


if __name__ == "__main__":
    logging.disable(logging.INFO)
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
