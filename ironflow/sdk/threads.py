"""User code off the event loop, in threads of this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import Any


def contain(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function; what it raises can be carried by a future, which `StopIteration` cannot."""
    try:
        return fn(*args, **kwargs)
    except StopIteration as error:
        raise RuntimeError(f"raised {error!r}") from error


def run_on_own_loop(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run an async function to its end in this thread."""
    return asyncio.run(fn(*args, **kwargs))


async def run_in_thread(loop: asyncio.AbstractEventLoop, work: Callable[[], Any]) -> Any:
    """Run something that blocks in a thread of its own: a pool could be exhausted by bodies that
    wait.
    """
    future: asyncio.Future[Any] = loop.create_future()
    context = copy_context()
    virtual: Any = loop if hasattr(loop, "hold") else None
    if virtual is not None:
        virtual.hold()

    def settle(result: Any, error: BaseException | None) -> None:
        if virtual is not None:
            virtual.release()
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def main() -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            result = context.run(contain, work)
        except BaseException as raised:  # noqa: BLE001 - travels to the loop
            error = raised
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=main, name="ironflow-body", daemon=True).start()
    return await future
