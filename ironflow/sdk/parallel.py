"""Branches of a parallel block: each a task with an order of its own, so that their steps are told apart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from ironflow.core.errors import InvalidInput, Unwound
from ironflow.sdk.execution import Branch, Execution, current_branch
from ironflow.sdk.waits import Outcome


async def run_branches(
    execution: Execution,
    scope: str,
    branches: Mapping[str, Callable[[], Any]],
    concurrency: int | None,
    fail_fast: bool,
) -> dict[str, Any]:
    """Results by label, in the order of `branches`; `Outcome`s unless fail-fast."""
    if concurrency is not None and concurrency < 1:
        raise InvalidInput("concurrency", "must be at least 1")
    if not branches:
        return {}
    waiting = iter(branches.items())
    results: dict[str, Any] = dict.fromkeys(branches)
    width = min(concurrency or len(branches), len(branches))
    remaining = width

    async def work() -> None:
        nonlocal remaining
        try:
            for label, branch in waiting:
                results[label] = await _run_branch(execution, scope, label, branch, fail_fast)
        finally:
            remaining -= 1
            execution.active -= 1
        if remaining:
            await execution.park_if_idle()

    # The asking branch waits for its branches; each of them is active in its place.
    execution.active += width - 1
    tasks = [execution.loop.create_task(work()) for _ in range(width)]
    try:
        await _gather(tasks)
    except asyncio.CancelledError:
        if execution.unwinding and not execution.compensating:
            raise Unwound from None
        raise
    finally:
        execution.active += 1
    return results


async def _run_branch(
    execution: Execution, scope: str, label: str, branch: Callable[[], Any], fail_fast: bool
) -> Any:
    segment = label.replace("%", "%25").replace("/", "%2F").replace("#", "%23")
    token = current_branch.set(Branch(execution, f"{scope}{segment}/"))
    try:
        if fail_fast:
            return await execution.executor.call_branch(branch)
        try:
            return Outcome(value=await execution.executor.call_branch(branch))
        except Exception as error:
            return Outcome(error=error)
    finally:
        current_branch.reset(token)


async def _gather(tasks: list[asyncio.Task[None]]) -> None:
    """Wait for all; the first failure cancels the others and is raised once they have ended."""
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()
        raise
    failed = [t for t in tasks if t.done() and not t.cancelled() and t.exception() is not None]
    if not failed:
        return
    error = failed[0].exception()
    assert error is not None
    if isinstance(error, Exception):
        for task in tasks:
            task.cancel()
    # A branch that is suspended or unwound takes the others along by itself: what they do is still recorded.
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()
    raise error
