"""Bodies here, with workers and behind endpoints: one `Host` and one set of slots."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import partial

from ironflow.actors.endpoints.endpoints import Endpoints
from ironflow.actors.slots.lanes import NO_LIMIT, Lanes, LaneState
from ironflow.actors.slots.lines import Row, Ticket
from ironflow.actors.slots.pool import Pool
from ironflow.actors.slots.windows import Later, Windows
from ironflow.actors.workers.affinity import Actor
from ironflow.actors.workers.fleet import Fleet
from ironflow.core.clock import SECOND, Clock, to_rfc3339
from ironflow.core.durations import format_duration
from ironflow.core.functions.definition import FunctionSpec
from ironflow.core.functions.lanes import Policies, is_throttle, is_windowed, parse_lane
from ironflow.core.runs.execution import Assignment, Host, RunningStep
from ironflow.core.runs.state import Step
from ironflow.core.workflows.state import WorkflowState


class Hosts:
    """The `Host` of `core.runs.execution`: what this process cannot execute, others may."""

    def __init__(self, local: Host, fleet: Fleet, endpoints: Endpoints) -> None:
        self.local, self.fleet, self.endpoints = local, fleet, endpoints
        # Most bodies are here: the others are asked only when this one has said no.
        self._all: tuple[Host, ...] = (local, fleet, endpoints)

    def _of(self, function_id: str) -> Host:
        if self.fleet.serves(function_id):
            return self.fleet
        return self.endpoints if self.endpoints.serves(function_id) else self.local

    def spec(self, function_id: str) -> FunctionSpec | None:
        """See `Host`."""
        return (
            self.local.spec(function_id)
            or self.fleet.spec(function_id)
            or self.endpoints.spec(function_id)
        )

    def specs(self) -> Iterable[FunctionSpec]:
        """See `Host`."""
        return [spec for host in self._all for spec in host.specs()]

    def start(self, assignment: Assignment) -> None:
        """See `Host`."""
        self._of(assignment.function_id).start(assignment)

    def attach(
        self,
        run_id: str,
        execution: int,
        steps: Mapping[str, Step],
        order: Mapping[str, list[str]],
        unsettled: AbstractSet[str],
        workflow: WorkflowState | None = None,
    ) -> None:
        """See `Host`."""
        for host in self._all:
            host.attach(run_id, execution, steps, order, unsettled, workflow)

    def wake(self, run_id: str, execution: int, key: str | None) -> bool:
        """See `Host`."""
        return (
            self.local.wake(run_id, execution, key)
            or self.fleet.wake(run_id, execution, key)
            or self.endpoints.wake(run_id, execution, key)
        )

    def cancel(self, run_id: str, execution: int) -> None:
        """See `Host`."""
        for host in self._all:
            host.cancel(run_id, execution)

    def drop(self, run_id: str) -> None:
        """See `Host`."""
        for host in self._all:
            host.drop(run_id)

    def is_hot(self, run_id: str, execution: int) -> bool:
        """See `Host`."""
        return (
            self.local.is_hot(run_id, execution)
            or self.fleet.is_hot(run_id, execution)
            or self.endpoints.is_hot(run_id, execution)
        )

    def is_active(self, run_id: str) -> bool:
        """See `Host`."""
        return (
            self.local.is_active(run_id)
            or self.fleet.is_active(run_id)
            or self.endpoints.is_active(run_id)
        )

    def running_steps(self, run_id: str) -> list[RunningStep]:
        """See `Host`."""
        return self.local.running_steps(run_id)

    def held_up(self, function_id: str) -> str | None:
        """Why no run of a function is begun although there may be room, if so."""
        return self.endpoints.held_up(function_id) or self.fleet.held_up(function_id)


class Slots:
    """The pool of this process for what it executes, the fleet for what workers do, the endpoints
    for what is sent.
    """

    def __init__(
        self,
        pool: Pool,
        fleet: Fleet,
        endpoints: Endpoints,
        policies_of: Callable[[str], Policies | None],
        clock: Clock,
        later: Later,
    ) -> None:
        """`policies_of` is asked for the flow control of a function, as it is now; `later` calls
        something after a number of seconds.
        """
        self.pool, self.fleet, self.endpoints = pool, fleet, endpoints
        self._elsewhere: tuple[Fleet | Endpoints, ...] = fleet, endpoints
        self._policies_of = policies_of
        self.windows = Windows(self._terms, clock, later)
        """What counts for throttles and rate limits."""
        self.lanes = Lanes(
            lambda lane: self._terms(lane)[0], self._weight_of, self._enqueue, self.windows
        )
        self._paused: dict[str, dict[str, None]] = {}
        """The functions that are paused, with their runs that wait for that to end."""
        self._ordered: dict[str, Ticket] = {}
        """Of runs that wait for a slot and whose function has an order of its own."""
        self._rows = pool.rows, fleet.queue.rows, endpoints.rows
        for rows in self._rows:
            rows.order_by(self._ordered.get, self._weight_of)

    def _terms(self, lane: str) -> tuple[int, int]:
        """Limit and period of a lane, by the function's present definition."""
        function_id, which = parse_lane(lane)
        policies = self._policies_of(function_id)
        return (policies.terms(which) if policies is not None else None) or (NO_LIMIT, 0)

    def _weight_of(self, function_id: str, share: str) -> float:
        policies = self._policies_of(function_id)
        return 1.0 if policies is None else policies.weight(share)

    @property
    def capacity(self) -> int:
        """Slots of this process."""
        return self.pool.capacity

    @property
    def active(self) -> int:
        """Slots in use, here and elsewhere."""
        return self.pool.active + self.fleet.active + self.endpoints.active

    @property
    def queued(self) -> int:
        """Runs that wait for a slot."""
        others = self.fleet.queued + self.endpoints.queued
        held = sum(map(len, self._paused.values()))
        return self.pool.queued + others + self.lanes.queued + held

    @property
    def unserved(self) -> int:
        """Runs of functions that nothing serves."""
        return self.pool.unserved

    def acquire(self, run_id: str, function_id: str, lanes: tuple[str, ...] = ()) -> bool:
        """Take a slot, and a place in each lane, at once if that is fair."""
        if lanes and not self.lanes.acquire(run_id, lanes):
            return False
        if self._acquire(run_id, function_id):
            return True
        if lanes and not self._is_queued(run_id):
            self.lanes.release(run_id)
        return False

    def _acquire(self, run_id: str, function_id: str) -> bool:
        if function_id in self._paused:
            return False
        if self.fleet.serves(function_id):
            return self.fleet.acquire(run_id, function_id)
        if self.endpoints.serves(function_id):
            return self.endpoints.acquire(run_id, function_id)
        return self.pool.acquire(run_id)

    def release(self, run_id: str, waits: bool = False) -> None:
        """Give back whatever the run holds; one that has its places and waits for a slot keeps
        them. `waits`: it had no use for its slot just now and will ask for one again.
        """
        self.pool.release(run_id, waits)
        for others in self._elsewhere:
            if others.is_used:
                others.release(run_id, waits)
        keeps = run_id in self._ordered or self.lanes.holds(run_id)
        if keeps and not self._is_queued(run_id):
            self._ordered.pop(run_id, None)
            self.lanes.release(run_id)

    def prefer(self, run_id: str, function_id: str, actor: str, worker_id: str | None) -> None:
        """The run belongs to the worker of its actor; `worker_id` had it last."""
        if self.fleet.serves(function_id):
            self.fleet.prefer(run_id, Actor(function_id, actor), worker_id)

    def worker_of(self, run_id: str) -> str | None:
        """The worker whose slot a run has."""
        return self.fleet.chosen(run_id)

    def _is_queued(self, run_id: str) -> bool:
        return (
            self.pool.is_queued(run_id)
            or self.fleet.is_queued(run_id)
            or self.endpoints.is_queued(run_id)
            or (bool(self._paused) and any(run_id in runs for runs in self._paused.values()))
        )

    def enqueue(self, ticket: Ticket) -> None:
        """Wait for a place in each lane, then for a slot, wherever the function is executed."""
        if ticket.lanes:
            self.lanes.enqueue(ticket)
        else:
            self._enqueue(ticket)

    def _enqueue(self, ticket: Ticket) -> None:
        run_id, function_id = ticket.run_id, ticket.function_id
        policies = self._policies_of(function_id)
        if policies is not None and policies.orders and not self._is_queued(run_id):
            self._ordered[run_id] = ticket
        self._wait(run_id, function_id)

    def in_order(self, tickets: Iterable[Ticket]) -> Iterator[Ticket]:
        """Those who waited before a restart, so that the first to ask is the one whose turn it is:
        functions by the age of their runs, the runs of each by their rank.
        """
        rows: dict[str, Row] = {}
        by_age = sorted(tickets, key=lambda ticket: ticket.age)
        for ticket in by_age:
            function_id = ticket.function_id
            if function_id not in rows:
                rows[function_id] = Row(partial(self._weight_of, function_id))
            rows[function_id].add(ticket)
        for ticket in by_age:
            yield rows[ticket.function_id].take()

    def _wait(self, run_id: str, function_id: str) -> None:
        if function_id in self._paused:
            self._paused[function_id][run_id] = None
        elif self.fleet.serves(function_id):
            self.fleet.enqueue(run_id, function_id)
        elif self.endpoints.serves(function_id):
            self.endpoints.enqueue(run_id, function_id)
        else:
            self.pool.enqueue(run_id, function_id)

    def discard(self, run_id: str, function_id: str) -> None:
        """The run no longer wants one."""
        self.pool.discard(run_id, function_id)
        for others in self._elsewhere:
            if others.is_used:
                others.discard(run_id)
        self._ordered.pop(run_id, None)
        self.lanes.discard(run_id)
        if function_id in self._paused:
            self._paused[function_id].pop(run_id, None)

    def position(self, run_id: str) -> int | None:
        """How many runs are before this one, None when it does not wait."""
        for rows in self._rows:
            position = rows.before(run_id)
            if position is not None:
                return position
        lane = self.lanes.blocked(run_id)
        return None if lane is None else lane.position(run_id)

    def held_up(self, run_id: str) -> str | None:
        """Which lane, worker or end of a pause a run waits for and why, if it does."""
        for function_id, runs in self._paused.items():
            if run_id in runs:
                return f"function {function_id} is paused"
        lane = self.lanes.blocked(run_id)
        if lane is None:
            return self.fleet.held_up_by_actor(run_id)
        place = lane.position(run_id)
        ticket = lane.waiting[place]
        return f"{describe(lane, self._terms(lane.name)[1])}; {place} wait before this run" + (
            f" (its priority is {ticket.priority})" if ticket.priority else ""
        )

    def serve(self, function_id: str) -> None:
        """The function can be executed from now on, or somewhere else than before."""
        waiting = self.pool.take_unserved(function_id)
        if not self.fleet.serves(function_id):
            waiting += self.fleet.take_queued(function_id)
        if not self.endpoints.serves(function_id):
            waiting += self.endpoints.take_queued(function_id)
        for run_id in waiting:
            self._wait(run_id, function_id)
        self.lanes.refresh()

    def pause(self, function_id: str) -> None:
        """Let no run of a function begin or go on. A run that holds a slot keeps it."""
        held = self._paused.setdefault(function_id, {})
        waiting = self.pool.take_unserved(function_id) + self.fleet.take_queued(function_id)
        held.update(dict.fromkeys(waiting + self.endpoints.take_queued(function_id)))

    def go_on(self, function_id: str) -> None:
        """The function is paused no more."""
        for run_id in self._paused.pop(function_id, {}):
            self._wait(run_id, function_id)

    def close(self) -> None:
        """Grant nothing any more: the process is draining."""
        self.pool.close()
        self.fleet.close()
        self.endpoints.close()


def describe(lane: LaneState, period: int) -> str:
    """Why a lane lets nobody in just now; `period` in microseconds."""
    names = ", ".join(lane.holders[:3]) + (", ..." if len(lane.holders) > 3 else "")
    if not is_windowed(lane.name):
        return f"lane {lane.name} has room for {lane.limit} and is full ({names})"
    opens = (
        f"the next may at {to_rfc3339(lane.opens_at)}"
        if lane.opens_at is not None
        else f"those that were let in have not begun yet ({names})"
    )
    return (
        f"lane {lane.name} lets {lane.limit} {'begin' if is_throttle(lane.name) else 'be made'} in "
        f"{format_duration(period / SECOND)}; {opens}"
    )
