"""Changes that are not broken off with whoever asked for them."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_under_way: set[asyncio.Task[Any]] = set()


def unbroken(
    change: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T]]:
    """A change that is on its way to the disk goes on when its caller is cancelled, as a request is
    whose client hangs up: what is durable must hold in memory, too.
    """

    @functools.wraps(change)
    async def whole(*args: P.args, **options: P.kwargs) -> T:
        task = asyncio.get_running_loop().create_task(change(*args, **options))
        _under_way.add(task)  # the loop itself would not keep it
        task.add_done_callback(_under_way.discard)
        return await asyncio.shield(task)

    return whole
