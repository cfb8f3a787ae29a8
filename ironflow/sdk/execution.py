"""One execution of a run's body: its branches, what it has asked for so far, and what it waits for.

A durable operation has a place: the branch it is asked in, its position there, and its name with
the count of earlier uses. The place gives the key under which the journal remembers it. The
execution counts the branches that are active; when none is, the body has nothing to do until
something durable happens, and the engine is told so (the run is parked) together with the last
wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ironflow.core.errors import (
    MisusedContext,
    NonDeterminism,
    StaleExecution,
    Suspended,
    Unwound,
)
from ironflow.core.messages import Message
from ironflow.core.runs import commands as c
from ironflow.core.runs.entries import CancelRung, StepKind
from ironflow.core.runs.execution import Assignment, RunningStep
from ironflow.core.runs.state import OPEN, Step
from ironflow.core.values.codec import convert_input, decode_value
from ironflow.core.workflows.state import WorkflowState

if TYPE_CHECKING:
    from ironflow.sdk.executor import Executor
    from ironflow.sdk.function import Function

R = TypeVar("R")

OWN_VALUES = frozenset({"run", "value", "compensate"})
"""Kinds of steps whose results this SDK has encoded itself, with their types."""
COMPENSATIONS = "@compensate/"
"""The scope of compensations, apart from the steps of the body."""


class Branch:
    """A line of execution with an order of its own: the body, or one branch of a parallel block."""

    __slots__ = ("busy", "calls", "counts", "execution", "frozen", "position", "scope", "undos")

    def __init__(self, execution: Execution, scope: str) -> None:
        self.execution, self.scope = execution, scope
        self.position = 0
        self.counts: dict[str, int] = {}
        self.busy: str | None = None
        """The step whose function is executing."""
        self.frozen = False
        """Its block has failed: it may say again what it did, and begin nothing new."""
        self.undos: dict[str, int] = {}
        self.calls: set[asyncio.Task[Any]] = set()
        """Operations that a thread of this branch waits for."""

    def stop(self) -> None:
        """The branch of a thread is cancelled: whatever it waits for ends, it begins nothing
        new.
        """
        self.frozen = True
        for call in list(self.calls):
            call.cancel()


class Compensation(NamedTuple):
    """How to undo something: the step `key` of the compensations."""

    key: str
    name: str
    scope: str
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


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
        self.run_id = assignment.run_id
        self.number = assignment.execution
        """The fencing token of everything that this execution reports."""
        self.loop = executor.loop
        self.effects = assignment.effects
        self.steps, self.order = assignment.steps, assignment.order
        self.unsettled = assignment.unsettled
        self.datas: list[Any] = []
        """Of a batch: the data of each of its events."""
        self.active = 1
        self.waits: dict[str, Group] = {}
        self.running: dict[str, tuple[str, int, int]] = {}
        self.killable: set[asyncio.Task[Any]] = set()
        """What waits for a process that may be killed."""
        self.killed: dict[str, CancelRung] = {}
        """Keys of steps whose process was terminated or killed."""
        self.compensations: list[Compensation] = []
        self.values: list[c.RecordStep] = []
        self._reporting_values = asyncio.Lock()
        self._recording = 0
        """Results of steps that are on their way to the journal."""
        self.unwinding = assignment.unwinding is not None
        self.concluding = False
        """The body has returned or raised; what is left is to report that, and to compensate."""
        self.compensating = False
        self.leaving = False
        self.signalled = False
        """The body was told to end: what it returns or raises from then on means nothing."""
        self.fatal: Exception | None = None
        self.task: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing but a durable wait holds the body up."""
        return self.active <= 0 and not self.running

    async def run(self) -> None:
        """Execute the body up to its end, and report that."""
        await self.executor.run_function(self)

    # -- places -----------------------------------------------------------------------------------

    def branch(self) -> Branch:
        """The branch that is asking."""
        branch = current_branch.get()
        if branch is None or branch.execution is not self:
            raise RuntimeError(
                "ctx was used outside of its run: durable operations belong into the body of the "
                "function or into branches of ctx.step.parallel and ctx.step.map, not into steps"
            )
        return branch

    def place(self, kind: StepKind, name: str, branch: Branch | None = None) -> Place:
        """The next place of a branch. Raises `NonDeterminism` when the journal has another step
        there.
        """
        branch = branch or self.branch()
        if branch.busy is not None:
            raise MisusedContext(name, branch.busy)
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

    def block(self, name: str) -> Place:
        """The place of a block; its branches have the scope `key/`. Only one that failed is in the
        journal.
        """
        branch = self.branch()
        if branch.busy is not None:
            raise MisusedContext(name, branch.busy)
        pos = branch.position
        branch.position = pos + 1
        key = self._key(branch, name)
        step = self.steps.get(key)
        if step is not None and step.kind != "block":
            step = None
        order = self.order.get(branch.scope)
        if order is not None and pos < len(order) and order[pos] and step is None:
            self._diverge(branch.scope, pos, order[pos], f"{key} (block)")
        return Place("block", name, key, pos, branch.scope, step)

    def compensate(
        self, name: str, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Remember how to undo something. The key belongs to the place in the code: branches may
        register in another order on a replay."""
        branch = self.branch()
        count = branch.undos.get(name, 0)
        branch.undos[name] = count + 1
        scope = COMPENSATIONS + branch.scope
        key = scope + _segment(name) + (f"#{count}" if count else "")
        self.compensations.append(Compensation(key, name, scope, fn, args, kwargs))

    def _key(self, branch: Branch, name: str) -> str:
        segment = _segment(name)
        count = branch.counts.get(name, 0)
        branch.counts[name] = count + 1
        return f"{branch.scope}{segment}#{count}" if count else branch.scope + segment

    def _diverge(self, scope: str, pos: int, recorded: str, asked: str) -> None:
        error = NonDeterminism(scope, pos, recorded, asked)
        # Even if the body swallows it: a run whose code left its history must not go on.
        self.fatal = error
        raise error

    # -- reports ----------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise if the body may not begin anything new."""
        if self.leaving:
            self.signalled = True
            raise Suspended
        if self.unwinding and not self.compensating:
            self.signalled = True
            raise Unwound
        if self.fatal is not None:
            raise self.fatal
        branch = current_branch.get()
        if branch is not None and branch.frozen:
            raise asyncio.CancelledError

    async def report(self, command: Message[R]) -> R:
        """Report to the engine; recorded values that were not reported yet go first."""
        if self.values:
            await self.report_values()
        return await self._ask(command)

    async def _ask(self, command: Message[R]) -> R:
        try:
            return await self.effects.ask(command)
        except StaleExecution as stale:
            self.leaving = self.signalled = True
            raise Suspended from stale

    async def record(self, command: c.RecordStep) -> None:
        """Report the result of a step.

        The body is given it even if the run is to be unwound meanwhile: the line behind the step
        may be the one that says how to undo it. The next durable operation ends the body.
        """
        self._recording += 1
        try:
            # `report`, without its two coroutines: this is said for every step.
            if self.values:
                await self.report_values()
            try:
                directive = await self.effects.ask(command)
            except StaleExecution as stale:
                self.leaving = self.signalled = True
                raise Suspended from stale
            if directive == "unwind":
                self.unwind()
            elif directive != "go":
                self.obey(directive)
        finally:
            self._recording -= 1
            if self.unwinding and not self._recording:
                self.loop.call_soon(self._end_later)

    async def report_values(self) -> None:
        """Report recorded values (`ctx.now()` and the like), before anything that may rest on
        them.
        """
        async with self._reporting_values:
            while self.values:
                command = self.values[0]
                directive = await self._ask(command)
                del self.values[0]
                self.obey(directive)

    def obey(self, directive: c.Directive) -> None:
        """Do what the engine answered."""
        if directive == "suspend":
            self.suspend()
            self.signalled = True
            raise Suspended
        if directive == "unwind" and not self.compensating:
            self.unwinding = self.signalled = True
            raise Unwound

    async def value(self, step: Step) -> Any:
        """The recorded result of a step."""
        result = step.result
        if result is None:
            return None
        data = result.json
        if data is None:
            data = await self.effects.blob(result.blob or "")
        # What came from outside is plain JSON: its text must not be able to name a class of ours.
        return decode_value(data) if step.kind in OWN_VALUES else convert_input(data, None)

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
        # A future with an exception whose traceback leads to frames that know the future is a cycle
        # that only the collector could free, and with it the whole body.
        group.futures.clear()
        self._unblock(group)

    def parks(self, *beside: str) -> tuple[str, ...] | None:
        """If no branch is active: the steps that the body waits for, but those that are just being
        reported.
        """
        if self.active > 0:
            return None
        return tuple(key for key in self.waits if key not in beside)

    async def park_if_idle(self) -> None:
        """Tell the engine when the last active branch has ended while others wait."""
        if self.active <= 0 and self.waits and not self.leaving:
            await self.report(c.Park(self.number, tuple(self.waits)))
            self.executor.note_idle(self)

    async def wait(self, group: Group, key: str) -> None:
        """Until the step `key` has ended. Raises `Suspended` when the body is let go of
        meanwhile.
        """
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
            if group is None or step is None or self.is_open(step):
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
        if self.function.is_async:
            if not self._recording:
                self._end_task()
            return
        # A body in a thread cannot be interrupted: it is told at its next durable operation. A
        # process that it waits for can.
        for call in list(self.killable):
            call.cancel()

    def _end_task(self) -> None:
        """Cancel what the body does that is not durable."""
        if self.function.is_async and self.task is not None and self.active > 0:
            self.task.cancel()

    def _end_later(self) -> None:
        """The same, unless the body has come to its end by itself."""
        if not (self.concluding or self.leaving):
            self._end_task()

    def _interrupt(self, signal: type[BaseException]) -> None:
        for group in dict.fromkeys(self.waits.values()):
            self.signalled = True
            for future in group.futures.values():
                if not future.done():
                    future.set_exception(signal())
                    future.exception()  # seen: whoever waits may be cancelled before it looks

    def attach(
        self,
        steps: Mapping[str, Step],
        order: Mapping[str, list[str]],
        unsettled: AbstractSet[str],
        workflow: WorkflowState | None = None,
    ) -> None:
        """The run's record is kept in these objects from now on."""
        self.steps, self.order, self.unsettled = steps, order, unsettled

    def is_open(self, step: Step) -> bool:
        """Whether the step still waits. An end that is not durable yet has not happened for the
        body: were it lost, the body would have gone on with what the journal does not know.
        """
        return step.status in OPEN or step.key in self.unsettled

    def running_steps(self) -> list[RunningStep]:
        """What executes now."""
        return [RunningStep(key, *facts) for key, facts in self.running.items()]


def _segment(name: object) -> str:
    """A step's name as one segment of a key."""
    if not isinstance(name, str) or not name or len(name) > 200:
        raise ValueError("a step needs a name of 1 to 200 characters")
    if "/" in name or "#" in name or "%" in name or name[0] == "@":
        name = name.replace("%", "%25").replace("/", "%2F").replace("#", "%23")
        name = name.replace("@", "%40")
    return name
