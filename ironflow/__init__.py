"""Durable workflows in one asyncio process.

Importing this package is cheap: each name below is loaded from its module when it is first used.
The parts, lowest first, each importing only what stands before it: `core` (pure), `sdk`, `storage`,
`actors`, `web`,
`server` with `embedded` and `testing`, `cli`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ironflow.version import VERSION as VERSION

if TYPE_CHECKING:
    from ironflow.core.errors import InvokeError as InvokeError
    from ironflow.core.errors import IronflowError as IronflowError
    from ironflow.core.errors import NonRetryable as NonRetryable
    from ironflow.core.errors import RunError as RunError
    from ironflow.core.errors import StepError as StepError
    from ironflow.core.errors import WaitTimeout as WaitTimeout
    from ironflow.core.functions.definition import Trigger as Trigger
    from ironflow.core.functions.flow_control import Batch as Batch
    from ironflow.core.functions.flow_control import Concurrency as Concurrency
    from ironflow.core.functions.flow_control import Debounce as Debounce
    from ironflow.core.functions.flow_control import Fairness as Fairness
    from ironflow.core.functions.flow_control import FlowControl as FlowControl
    from ironflow.core.functions.flow_control import RateLimit as RateLimit
    from ironflow.core.functions.flow_control import Singleton as Singleton
    from ironflow.core.functions.flow_control import Throttle as Throttle
    from ironflow.core.runs.entries import CancelOn as CancelOn
    from ironflow.core.runs.retry import RetryPolicy as RetryPolicy
    from ironflow.embedded import run as run
    from ironflow.embedded import run_sync as run_sync
    from ironflow.sdk.blocking import BlockingContext as BlockingContext
    from ironflow.sdk.cancellation import is_cancelled as is_cancelled
    from ironflow.sdk.context import Context as Context
    from ironflow.sdk.function import Function as Function
    from ironflow.sdk.function import function as function
    from ironflow.sdk.push import Endpoint as Endpoint
    from ironflow.sdk.waits import Event as Event
    from ironflow.sdk.waits import EventWait as EventWait
    from ironflow.sdk.waits import Outcome as Outcome
    from ironflow.sdk.waits import RunWait as RunWait
    from ironflow.sdk.waits import TimerWait as TimerWait
    from ironflow.sdk.waits import Winner as Winner
    from ironflow.sdk.worker import Worker as Worker

_HOMES = {
    "Batch": "core.functions.flow_control",
    "BlockingContext": "sdk.blocking",
    "CancelOn": "core.runs.entries",
    "Concurrency": "core.functions.flow_control",
    "Context": "sdk.context",
    "Debounce": "core.functions.flow_control",
    "Endpoint": "sdk.push",
    "Event": "sdk.waits",
    "EventWait": "sdk.waits",
    "Fairness": "core.functions.flow_control",
    "FlowControl": "core.functions.flow_control",
    "Function": "sdk.function",
    "InvokeError": "core.errors",
    "IronflowError": "core.errors",
    "NonRetryable": "core.errors",
    "Outcome": "sdk.waits",
    "RateLimit": "core.functions.flow_control",
    "RetryPolicy": "core.runs.retry",
    "RunError": "core.errors",
    "RunWait": "sdk.waits",
    "Singleton": "core.functions.flow_control",
    "StepError": "core.errors",
    "Throttle": "core.functions.flow_control",
    "TimerWait": "sdk.waits",
    "Trigger": "core.functions.definition",
    "WaitTimeout": "core.errors",
    "Winner": "sdk.waits",
    "Worker": "sdk.worker",
    "function": "sdk.function",
    "is_cancelled": "sdk.cancellation",
    "run": "embedded",
    "run_sync": "embedded",
}

__all__ = ["VERSION", *_HOMES]  # noqa: PLE0604 - the names of the table above


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'ironflow' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"ironflow.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
