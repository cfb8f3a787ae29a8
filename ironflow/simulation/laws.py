"""The laws that a simulated process is held to: each a function that yields what breaks it.

Laws of what is stored of a run (its row, timers, waiters, what will wake it) are in
`ironflow.actors.audit` and hold for real files, too; here are those of change, of execution, of
answers, and of what the process keeps in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from ironflow.core.functions.lanes import parse_lane
from ironflow.core.runs import commands as c
from ironflow.core.runs import entries as e
from ironflow.core.runs.state import OPEN, Run, RunStatus, StepStatus
from ironflow.storage.ports import DELIVERIES, RUNS, TIMERS, WAITERS, Delivery, Entry

if TYPE_CHECKING:
    from ironflow.simulation.world import World

DECIDED = frozenset({"block", "race"})
"""Kinds of steps that record a decision, which may be made anew after a retry from failure."""

# -- every entry ----------------------------------------------------------------------------------


def versions_are_gapless(head: int, entry: Entry) -> Iterator[str]:
    """The versions of a stream count 1, 2, 3, whoever crashed in between."""
    if entry.version != head + 1:
        yield f"version {entry.version} follows version {head}"


def sequence_grows(last: int, entry: Entry) -> Iterator[str]:
    """Every entry has a number of its own, greater than that of all before it."""
    if entry.seq <= last:
        yield f"seq {entry.seq} follows seq {last}"


def finished_steps_stay_finished(run: Run, change: e.RunEntry) -> Iterator[str]:
    """A step that has its result gets no other, does not fail and does not begin again."""
    if isinstance(change, e.StepCompleted | e.StepFailed | e.WaitStarted | e.WaitEnded):
        step = run.steps.get(change.key)
        if step is not None and step.status is StepStatus.COMPLETED and step.kind not in DECIDED:
            yield f"step {change.key!r} had completed when {type(change).__name__} was recorded"


def ended_runs_stay_ended(run: Run, change: e.RunEntry) -> Iterator[str]:
    """After its end a run records nothing, until it is retried."""
    if run.is_terminal and not isinstance(change, e.RunReopened):
        yield f"had {run.status.value} when {type(change).__name__} was recorded"


def executions_count_up(run: Run, change: e.RunEntry) -> Iterator[str]:
    """Every execution has the next number: the token that fences off the one before."""
    if isinstance(change, e.RunStarted) and change.execution != run.execution + 1:
        yield f"execution {change.execution} follows execution {run.execution}"


def branches_go_on_after_their_waits(run: Run, change: e.RunEntry) -> Iterator[str]:
    """A branch does nothing new while the journal says that it waits."""
    if not isinstance(change, e.StepCompleted | e.StepFailed) or not change.pos:
        return
    order = run.order.get(change.scope, [])
    before = run.steps.get(order[change.pos - 1]) if change.pos <= len(order) else None
    if before is not None and before.status in OPEN:
        yield f"step {change.key!r} is recorded while {before.key!r} before it is still open"


CHANGE_LAWS: tuple[Callable[[Run, Any], Iterator[str]], ...] = (
    finished_steps_stay_finished,
    ended_runs_stay_ended,
    executions_count_up,
    branches_go_on_after_their_waits,
)


def replay_gives_the_live_state(live: bytes | None, replayed: bytes) -> Iterator[str]:
    """What the entries up to here make is what the actor had in memory when it wrote them."""
    if live is not None and live != replayed:
        yield f"lived as {live.decode()} and replays as {replayed.decode()}"


def snapshot_is_the_state(snapshot: bytes, replayed: bytes) -> Iterator[str]:
    """A snapshot holds what the entries up to its version make."""
    if snapshot != replayed:
        yield "the snapshot is not what the entries make"


# -- every call of a step's function, every answer ------------------------------------------------


def finished_step_never_runs_again(run: Run, key: str) -> Iterator[str]:
    """The function of a step is not called once the step has ended durably."""
    step = run.steps.get(key)
    if step is not None and step.status in (StepStatus.COMPLETED, StepStatus.FAILED):
        yield f"step {key!r} is executed though it has {step.status.value}"


def one_execution_at_a_time(
    executing: set[tuple[str, str]], run_id: str, key: str
) -> Iterator[str]:
    """No step is under way twice at the same time."""
    if (run_id, key) in executing:
        yield f"step {key!r} is executed while it is being executed"


def acknowledged_report_is_durable(run: Run, command: object, directive: object) -> Iterator[str]:
    """What the body of a run was answered is in the journal."""
    match command:
        case c.RecordStep():
            step = run.steps.get(command.key)
            if step is None or step.status is not StepStatus.COMPLETED:
                yield f"the result of step {command.key!r} was acknowledged and is not there"
        case c.FailStep():
            step = run.steps.get(command.key)
            if step is None or step.attempt < command.attempt:
                yield f"the failure of step {command.key!r} was acknowledged and is not there"
        case c.StartWait() if directive != "unwind":
            if command.key not in run.steps:
                yield f"the wait of step {command.key!r} was acknowledged and is not there"
        case c.EndExecution() if directive == "go":
            if run.status is RunStatus.RUNNING and run.execution == command.execution:
                yield f"the end of execution {command.execution} was acknowledged and is not there"
        case _:
            pass


def acknowledged_is_durable(head: int, acknowledged: int) -> Iterator[str]:
    """What the outside was told is in the journal, after every crash."""
    if head < acknowledged:
        yield f"version {acknowledged} was acknowledged, the journal has {head}"


# -- at rest: nothing to do but to let time pass --------------------------------------------------


def capacity_is_kept(world: World, runs: dict[str, Run]) -> Iterator[str]:
    """Never more bodies than slots."""
    pool = world.engine.pool
    if pool.active > pool.capacity:
        yield f"{pool.active} runs hold one of {pool.capacity} slots"
    bodies = sum(
        run.status is RunStatus.RUNNING and world.executor.is_hot(run.id, run.execution)
        for run in runs.values()
    )
    if bodies > pool.capacity:
        yield f"{bodies} runs execute in {pool.capacity} slots"


def memory_agrees_with_rows(world: World, runs: dict[str, Run]) -> Iterator[str]:
    """What will happen next by itself is what the rows say must happen."""
    env, tables = world.engine.environment, world.store.tables
    pool, timers = env.pool, env.timers
    for run_id, row in list(tables.rows[RUNS.name].items()):
        run = runs.get(run_id[0])
        if run is None:
            continue
        waits = pool.position(run.id) is not None or env.host.spec(run.function_id) is None
        # A run that was paused and resumed is queued anew when the last step of its old body ends.
        leaving = world.executor.is_active(run.id)
        if run.status is RunStatus.QUEUED and not (waits or leaving):
            yield f"run {run.id} is queued and not in the queue"
        if run.status is RunStatus.RUNNING and not (waits or leaving):
            yield f"run {run.id} is running and nothing executes it (row {row[2]})"
    due = timers.pending()
    for target, name, at, _ in tables.rows[TIMERS.name].values():
        if at <= timers.horizon and due.get((target, name)) != at:
            yield f"timer {name!r} of {target} is due at {at}, in memory {due.get((target, name))}"
    messages = [Delivery(*row) for row in tables.rows[DELIVERIES.name].values()]
    found = {message.target for message in messages if message.kind == "event_delivered"}
    for run_id, step, *_ in tables.rows[WAITERS.name].values():
        if env.waiters.get(run_id, step) is None and f"run/{run_id}" not in found:
            yield f"run {run_id} waits at step {step!r} and no event will find it"
    for message in messages:
        if not env.outbox.has(message.target, message.id):
            yield f"message {message.id} to {message.target} is not on its way"


def lanes_are_kept(running: dict[str, set[str]], world: World) -> Iterator[str]:
    """Never more runs in a lane than its limit, at no commit."""
    for lane, runs in running.items():
        function_id, which = parse_lane(lane)
        spec = world.engine.host.spec(function_id)
        terms = spec.policies.terms(which) if spec is not None and spec.policies else None
        if terms is not None and len(runs) > terms[0]:
            yield f"lane {lane} holds {sorted(runs)}"


class Began(msgspec.Struct):
    """A first start that counts in a throttle: when it was, and the latest that the wall clock has
    shown since; microseconds. A clock that is set back is behind what it has shown.
    """

    at: int
    shown: int


def throttles_are_kept(lane: str, starts: list[Began], limit: int, period: int) -> Iterator[str]:
    """Never more first starts than a throttle allows, in no stretch of time as long as its period.
    To be asked whenever one is added to `starts`; takes out of it what is over.

    Time is what the wall clock has shown, since that is all that outlives a process. Where it is
    set forward, periods are over early; where it is set back, a start that was over stays over,
    and one that was not holds its place until the clock has come by again. So a start may bear an
    earlier moment than others that are over, and no difference of moments alone proves anything:
    a start is over once the clock has shown the end of its period, and not before.
    """
    now = starts[-1].at
    starts[:] = [start for start in starts if max(start.shown, now) < start.at + period]
    if len(starts) > limit:
        since = now - starts[0].at
        yield f"lane {lane} let {len(starts)} begin, the first {since} us before the last"


# -- at the end -----------------------------------------------------------------------------------


def every_run_has_ended(runs: dict[str, Run]) -> Iterator[str]:
    """Once the disasters are over, every run comes to its end."""
    for run in runs.values():
        if not run.is_terminal:
            yield f"run {run.id} ({run.function_id}) is still {run.status.value}: {list(run.open)}"


def nothing_is_left(world: World, schedules: frozenset[str]) -> Iterator[str]:
    """Ended runs leave no timer, waiter or message, no slot taken, no body and no actor."""
    rows, engine = world.store.tables.rows, world.engine
    timers = [row for row in rows[TIMERS.name].values() if row[0] not in schedules]
    for what, found in (
        ("timers", timers),
        ("waiters", list(rows[WAITERS.name].values())),
        ("messages", list(rows[DELIVERIES.name].values())),
        ("actors", [s for s in engine.system.statistics() if s.address.startswith("run/")]),
    ):
        if found:
            yield f"{len(found)} {what} are left, the first: {found[0]}"
    counts = {
        "slots taken": engine.pool.active,
        "runs queued": engine.pool.queued,
        "waiters in memory": len(engine.environment.waiters),
        "messages in memory": len(engine.environment.outbox),
        "bodies": len(world.executor),
    }
    for what, number in counts.items():
        if number:
            yield f"{number} {what} are left"
