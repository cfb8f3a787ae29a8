"""A flow whose server dies under it, twice: run by the real client's interpreter. It says on its
standard output how far it is and goes on when it gets a line.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.context import FlowRunContext


def say(**what: Any) -> None:
    """One line of JSON."""
    print(json.dumps(what), file=answers, flush=True)


async def told() -> None:
    """Wait until the test has done what it wanted to do."""
    await asyncio.to_thread(sys.stdin.readline)


@task
async def square(n: int) -> int:
    return n * n


@flow
async def child(n: int) -> int:
    return await square(n)


@flow(name="survivor")
async def survivor() -> list[int]:
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    get_run_logger().info("before the first death")
    first = [await square(1), await square(2)]
    say(at="first", run=str(context.flow_run.id))
    await told()  # the server is dead now
    inner = await child(3)
    get_run_logger().info("after the first death")
    futures = square.map(range(20))
    say(at="second")
    await told()  # dead again, events on their way
    many = [future.result() for future in futures]
    last = await child(4)
    return [*first, inner, *many, last]


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    say(at="end", result=asyncio.run(survivor()))
