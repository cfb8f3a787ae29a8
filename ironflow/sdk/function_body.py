"""The life of a function's body: input, call, end, and the compensations that follow."""

from __future__ import annotations

import asyncio
import inspect
import logging
from functools import partial
from typing import Any

from ironflow.core.errors import StaleExecution, Suspended, Unwound
from ironflow.core.runs import commands as c
from ironflow.core.values.codec import convert_input, encode_plain
from ironflow.core.values.payloads import pack
from ironflow.sdk.blocking import BlockingContext
from ironflow.sdk.context import Context
from ironflow.sdk.execution import COMPENSATIONS, Branch, Execution, current_branch
from ironflow.sdk.failures import describe_failure, is_cancelled
from ironflow.sdk.threads import run_in_thread

log = logging.getLogger("ironflow.runs")


async def run_function(body: Execution) -> None:
    """The body of a function, up to its end and that of its compensations."""
    current_branch.set(Branch(body, ""))
    end = await _run_body(body)
    body.concluding = True
    while end is not None:
        end = await _conclude(body, end)


async def _run_body(body: Execution) -> c.EndExecution | None:
    """The body up to its end. Raises `Suspended` when it is to be replayed later."""
    function, number = body.function, body.number
    try:
        value = await _input(body)
        context = Context(body)
        result = await _call(body, context, value)
        if body.fatal is not None:
            raise body.fatal
        if body.signalled or body.assignment.unwinding is not None:
            # The code swallowed the signal to end, or an ending that was settled came out
            # otherwise.
            raise Suspended if body.leaving else Unwound
        data = encode_plain(result, f"result of function {function.id!r}")
    except (Suspended, asyncio.CancelledError) as signal:
        if body.unwinding and not body.leaving and isinstance(signal, asyncio.CancelledError):
            return _unwound(body)
        if isinstance(signal, Suspended) or body.leaving or is_cancelled():
            raise
        return _failed(body, signal)
    except Unwound:
        if body.leaving:
            raise Suspended from None  # its compensations are the next execution's
        return _unwound(body)
    except StaleExecution:
        raise
    except (Exception, SystemExit) as error:
        if body.leaving and body.signalled:
            raise Suspended from error
        if body.unwinding:
            return _unwound(body)
        return _failed(body, body.fatal or error)
    payload, blob = pack(data)
    return c.EndExecution(execution=number, outcome="completed", result=payload, blob=blob)


def _failed(body: Execution, error: BaseException) -> c.EndExecution:
    failure = describe_failure(error, body.function.retry)
    pending = bool(body.compensations)
    return c.EndExecution(
        execution=body.number, outcome="failed", error=failure, compensations=pending
    )


def _unwound(body: Execution) -> c.EndExecution:
    pending = bool(body.compensations)
    return c.EndExecution(execution=body.number, outcome="unwound", compensations=pending)


async def _conclude(body: Execution, end: c.EndExecution) -> c.EndExecution | None:
    """Report the end; compensate when told to, then report again."""
    try:
        directive = await body.report(end)
    except (Unwound, asyncio.CancelledError):
        if not body.unwinding or body.leaving:
            raise
        return _unwound(body)  # cancelled over its last report
    if directive != "compensate":
        return None
    body.compensating = True
    context = Context(body)
    branch = Branch(body, COMPENSATIONS)
    token = current_branch.set(branch)
    try:
        for undo in reversed(body.compensations):
            try:
                await context.step.run_compensation(undo)
            except Exception as error:  # noqa: BLE001
                # Recorded as a failed step; the others must still have their chance.
                log.warning("compensation %r of run %s: %s", undo.name, body.run_id, error)
    finally:
        current_branch.reset(token)
    return c.EndExecution(execution=body.number, outcome="compensated")


async def _input(body: Execution) -> Any:
    takes_input, is_batch = body.function.takes_input, bool(body.assignment.events)
    if not takes_input and not is_batch:
        return None
    payload = body.assignment.input
    data = payload.json
    if data is None:
        data = await body.effects.blob(payload.blob or "")
    if is_batch:
        datas: Any = convert_input(data, None)
        body.datas = datas
    return body.function.convert(data) if takes_input else None


async def _call(body: Execution, context: Context, value: Any) -> Any:
    function, loop = body.function, body.executor.loop
    extra = (value,) if function.takes_input else ()
    if function.is_async:
        return await function.fn(context, *extra)
    blocking = BlockingContext(context, loop)
    result = await run_in_thread(loop, partial(function.fn, blocking, *extra))
    return await result if inspect.isawaitable(result) else result
