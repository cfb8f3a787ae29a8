"""What a function's body is handed: `ctx`."""

from __future__ import annotations

import logging
import random
from collections.abc import MutableMapping
from contextvars import ContextVar
from datetime import datetime
from typing import Any
from uuid import UUID

from ironflow.core.clock import to_datetime, to_rfc3339
from ironflow.core.runs import commands as c
from ironflow.core.runs.entries import EventRef
from ironflow.core.runs.state import StepStatus
from ironflow.core.values.codec import decode_value, encode_value
from ironflow.core.values.payloads import pack
from ironflow.sdk.execution import Execution
from ironflow.sdk.steps import Steps
from ironflow.sdk.waits import Event

current_run_id: ContextVar[str | None] = ContextVar("ironflow_run_id", default=None)
"""The run whose code is executing, for logs and for libraries that are not handed `ctx`."""


class RunLogger(logging.LoggerAdapter[logging.Logger]):
    """Logs with the run's id; what a replay would say again is left out."""

    def __init__(self, logger: logging.Logger, context: Context) -> None:
        super().__init__(logger, {})
        self._context = context

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802
        """Not while the body is brought back to where it stood."""
        return not self._context.is_replaying and super().isEnabledFor(level)

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the run and the function."""
        extra = dict(kwargs.get("extra") or {})
        extra.update(run_id=self._context.run_id, function_id=self._context.function_id)
        kwargs["extra"] = extra
        return msg, kwargs


class Context:
    """The run, its durable operations (`step`), and time, chance and ids that replay gives
    again.
    """

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self.step = Steps(execution)

    @property
    def log(self) -> RunLogger:
        """A logger that knows the run, and is silent while the body is brought back to where it
        stood.
        """
        return RunLogger(logging.getLogger(f"ironflow.run.{self.function_id}"), self)

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._execution.run_id

    @property
    def function_id(self) -> str:
        """The function's id."""
        return self._execution.function.id

    @property
    def attempt(self) -> int:
        """Which attempt of the whole function this is, from 1."""
        return self._execution.assignment.attempt

    @property
    def event(self) -> EventRef | None:
        """The event that started the run, if one did."""
        return self._execution.assignment.event

    @property
    def events(self) -> list[Event]:
        """The events of the run's batch, in the order in which they came; empty for a run that was
        not started by a batch. The run's input is the list of their datas.
        """
        execution = self._execution
        return [
            Event(taken.id, taken.name, data, to_rfc3339(taken.at), taken.source)
            for taken, data in zip(execution.assignment.events, execution.datas, strict=True)
        ]

    @property
    def is_replaying(self) -> bool:
        """Whether the body is being brought back to where it stood before a wait or a restart."""
        execution = self._execution
        branch = execution.branch()
        order = execution.order.get(branch.scope, [])
        for key in order[branch.position :]:
            step = execution.steps.get(key)
            if step is not None and step.status is StepStatus.COMPLETED:
                return True
        return False

    def now(self) -> datetime:
        """The present, recorded: a replay gets the same."""
        at = self._recorded("now", self._execution.executor.clock.now)
        return to_datetime(at)

    def random(self) -> float:
        """A random number in [0, 1), recorded."""
        rng: random.Random = self._execution.executor.ids.rng
        value: float = self._recorded("random", rng.random)
        return value

    def uuid(self) -> UUID:
        """A fresh UUID, recorded."""
        return UUID(self._recorded("uuid", self._execution.executor.ids.new))

    def _recorded(self, name: str, make: Any) -> Any:
        execution = self._execution
        place = execution.place("value", name)
        step = place.step
        if step is not None and step.result is not None and step.result.json is not None:
            return decode_value(step.result.json)
        execution.check()
        value = make()
        execution.values.append(
            c.RecordStep(
                execution=execution.number,
                key=place.key,
                name=name,
                pos=place.pos,
                kind="value",
                result=pack(encode_value(value, name))[0],
                scope=place.scope,
                started_at=execution.executor.clock.now(),
            )
        )
        return value
