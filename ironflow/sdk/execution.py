"""One execution of a run's body: its branches, what it has asked for so far, and what it waits for.

A durable operation has a place: the branch it is asked in, its position there, and its name with the count
of earlier uses. The place gives the key under which the journal remembers it. The execution counts the
branches that are active; when none is, the body has nothing to do until something durable happens, and
the engine is told so (the run is parked) together with the last wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from ironflow.core import commands as c
from ironflow.core.entries import StepKind
from ironflow.core.errors import NonDeterminism, StaleExecution, Suspended, Unwound
from ironflow.core.execution import Assignment, RunningStep
from ironflow.core.messages import Message
from ironflow.core.runs import OPEN, Step
from ironflow.core.values import decode_value

if TYPE_CHECKING:
    from ironflow.sdk.executor import Executor
    from ironflow.sdk.function import Function

R = TypeVar("R")

COMPENSATIONS = "@compensate/"
"""The scope of compensations, apart from the steps of the body."""


class Branch:
    """A line of execution with an order of its own: the body, or one branch of a parallel block."""

    __slots__ = ("counts", "execution", "position", "scope")

    def __init__(self, execution: Execution, scope: str) -> None:
        self.execution, self.scope = execution, scope
        self.position = 0
        self.counts: dict[str, int] = {}


class Place:
    """Where in the code an operation is asked for, and what the journal has for it."""

    __slots__ = ("key", "kind", "name", "pos", "scope", "step")

    def __init__(
        self, kind: StepKind, name: str, key: str, pos: int, scope: str, step: Step | None
    ) -> None:
        self.kind, self.name, self.key, self.pos, self.scope = kind, name, key, pos, scope
        self.step = step


class Group:
    """The waits of one branch: it is active again when one of them ends."""

    __slots__ = ("blocked", "futures")

    def __init__(self) -> None:
        self.blocked = False
        self.futures: dict[str, asyncio.Future[None]] = {}


current_branch: ContextVar[Branch | None] = ContextVar("ironflow_branch", default=None)


class Execution:
    """Everything that one execution holds in memory."""

    def __init__(self, executor: Executor, function: Function, assignment: Assignment) -> None:
        self.executor, self.function, self.assignment = executor, function, assignment
        self.loop = executor.loop
        self.effects = assignment.effects
        self.steps, self.order = assignment.steps, assignment.order
        self.active = 1
        self.waits: dict[str, Group] = {}
        self.running: dict[str, tuple[str, int, int]] = {}
        self.compensations: list[tuple[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []
        self.values: list[c.RecordStep] = []
        self.unwinding = assignment.unwinding is not None
        self.compensating = False
        self.leaving = False
        self.fatal: Exception | None = None
        self.task: asyncio.Task[None] | None = None

    @property
    def run_id(self) -> str:
        """The run."""
        return self.assignment.run_id

    @property
    def number(self) -> int:
        """The fencing token of everything that this execution reports."""
        return self.assignment.execution

    @property
    def is_idle(self) -> bool:
        """Whether nothing but a durable wait holds the body up."""
        return self.active <= 0 and not self.running

    # -- places -----------------------------------------------------------------------------------

    def branch(self) -> Branch:
        """The branch that is asking."""
        branch = current_branch.get()
        if branch is None or branch.execution is not self:
            raise RuntimeError(
                "ctx was used outside of its run: durable operations belong into the function's body "
                "or into branches of ctx.step.parallel and ctx.step.map, not into steps"
            )
        return branch

    def place(self, kind: StepKind, name: str, branch: Branch | None = None) -> Place:
        """The next place of a branch. Raises `NonDeterminism` when the journal has another step there."""
        branch = branch or self.branch()
        pos = branch.position
        branch.position = pos + 1
        key = self._key(branch, name)
        scope = branch.scope
        order = self.order.get(scope)
        if order is not None and pos < len(order):
            recorded = order[pos]
            if recorded and recorded != key:
                self._diverge(scope, pos, recorded, key)
        step = self.steps.get(key)
        if step is not None and step.kind != kind:
            self._diverge(scope, pos, f"{key} ({step.kind})", f"{key} ({kind})")
        return Place(kind, name, key, pos, scope, step)

    def block(self, name: str) -> str:
        """The scope of a block's branches. The block takes a position, so that moving it is noticed."""
        branch = self.branch()
        pos = branch.position
        branch.position = pos + 1
        key = self._key(branch, name)
        order = self.order.get(branch.scope)
        if order is not None and pos < len(order) and order[pos]:
            self._diverge(branch.scope, pos, order[pos], f"{key} (block)")
        return key + "/"

    def _key(self, branch: Branch, name: str) -> str:
        if not name or len(name) > 200 or not isinstance(name, str):
            raise ValueError("a step needs a name of 1 to 200 characters")
        count = branch.counts.get(name, 0)
        branch.counts[name] = count + 1
        if "/" in name or "#" in name or "%" in name or name[0] == "@":
            name = name.replace("%", "%25").replace("/", "%2F").replace("#", "%23")
            name = name.replace("@", "%40")
        return f"{branch.scope}{name}#{count}" if count else branch.scope + name

    def _diverge(self, scope: str, pos: int, recorded: str, asked: str) -> None:
        error = NonDeterminism(scope, pos, recorded, asked)
        # Even if the body swallows it: a run whose code left its history must not go on.
        self.fatal = error
        raise error

    # -- reports ----------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise if the body may not begin anything new."""
        if self.leaving:
            raise Suspended
        if self.unwinding and not self.compensating:
            raise Unwound
        if self.fatal is not None:
            raise self.fatal

    async def report(self, command: Message[R]) -> R:
        """Report to the engine; recorded values that were not reported yet go first."""
        try:
            if self.values:
                await self.flush()
            return await self.effects.ask(command)
        except StaleExecution as stale:
            self.leaving = True
            raise Suspended from stale

    async def flush(self) -> None:
        """Report recorded values (`ctx.now()` and the like)."""
        values, self.values = self.values, []
        for command in values:
            self.obey(await self.effects.ask(command))

    def obey(self, directive: c.Directive) -> None:
        """Do what the engine answered."""
        if directive == "suspend":
            self.suspend()
            raise Suspended
        if directive == "unwind" and not self.compensating:
            self.unwinding = True
            raise Unwound

    async def value(self, step: Step) -> Any:
        """The recorded result of a step."""
        result = step.result
        if result is None:
            return None
        if result.json is not None:
            return decode_value(result.json)
        return decode_value(await self.effects.blob(result.blob or ""))

    # -- waiting ----------------------------------------------------------------------------------

    def begin_wait(self, keys: Iterable[str]) -> Group:
        """The asking branch is no longer active; it will be when one of the steps `keys` ends."""
        group = Group()
        for key in keys:
            group.futures[key] = self.loop.create_future()
            self.waits[key] = group
        group.blocked = True
        self.active -= 1
        return group

    def end_wait(self, group: Group) -> None:
        """The branch goes on, whatever became of its waits."""
        for key in group.futures:
            self.waits.pop(key, None)
        self._unblock(group)

    def parks(self, *beside: str) -> tuple[str, ...] | None:
        """If no branch is active: the steps that the body waits for, but those that are just being reported."""
        if self.active > 0:
            return None
        return tuple(key for key in self.waits if key not in beside)

    async def park_if_idle(self) -> None:
        """Tell the engine when the last active branch has ended while others wait."""
        if self.active <= 0 and self.waits and not self.leaving:
            await self.report(c.Park(self.number, tuple(self.waits)))
            self.executor.note_idle(self)

    async def wait(self, group: Group, key: str) -> None:
        """Until the step `key` has ended. Raises `Suspended` when the body is let go of meanwhile."""
        self.executor.note_idle(self)
        try:
            await group.futures[key]
        finally:
            self.end_wait(group)

    def wake(self, key: str | None) -> None:
        """Steps have ended: let their branches go on."""
        for ended in [key] if key is not None else list(self.waits):
            group = self.waits.get(ended)
            step = self.steps.get(ended)
            if group is None or step is None or step.status in OPEN:
                continue
            self._unblock(group)
            future = group.futures[ended]
            if not future.done():
                future.set_result(None)

    def _unblock(self, group: Group) -> None:
        if group.blocked:
            group.blocked = False
            self.active += 1
            self.executor.note_busy(self)

    # -- ending -----------------------------------------------------------------------------------

    def suspend(self) -> None:
        """Let go of the body at its next boundary; what waits ends now."""
        self.leaving = True
        self._interrupt(Suspended)

    def unwind(self) -> None:
        """Cancel: whatever the body does or waits for ends now."""
        if self.compensating or self.unwinding:
            return
        self.unwinding = True
        self._interrupt(Unwound)
        # A body in a thread cannot be interrupted: it is told at its next durable operation.
        if self.task is not None and self.function.is_async and self.active > 0:
            self.task.cancel()

    def _interrupt(self, signal: type[BaseException]) -> None:
        for group in set(self.waits.values()):
            for future in group.futures.values():
                if not future.done():
                    future.set_exception(signal())

    def running_steps(self) -> list[RunningStep]:
        """What executes now."""
        return [RunningStep(key, *facts) for key, facts in self.running.items()]
