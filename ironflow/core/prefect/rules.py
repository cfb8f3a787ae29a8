"""Orchestration: whether a run may take a proposed state, and what becomes of the proposal.

A rule is a function over a `Transition`, with a table of the state types that it looks at. The
rules of a policy are asked in order; each may change the proposal, or end the matter: REJECT keeps
the run where it is or gives it another state, WAIT tells the client to come again, ABORT tells it
to stop. What no rule ends is accepted. `force` asks only those rules that may not be passed over.

Everything is an argument: the present, the run, what is known around it, and chance.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime
from typing import Literal, NamedTuple

import msgspec

from ironflow.core.clock import SECOND, to_datetime
from ironflow.core.prefect.runs import FlowRunPolicy, Progress, TaskRunPolicy
from ironflow.core.prefect.states import (
    AWAITING_RETRY,
    STATE_TYPES,
    TERMINAL,
    State,
    StateCreate,
    StateType,
    begin_state,
    has_persisted_data,
)

LONGEST_DELAY = 100 * 365 * 86_400.0
"""Seconds that a retry is put off at most."""
Status = Literal["ACCEPT", "REJECT", "WAIT", "ABORT"]


class Details(msgspec.Struct, frozen=True, tag_field="type"):
    """Why the answer is what it is."""


class AcceptDetails(Details, frozen=True, tag="accept_details"):
    """The run has the state that was proposed."""


class RejectDetails(Details, frozen=True, tag="reject_details"):
    """The run has another state."""

    reason: str | None = None


class WaitDetails(Details, frozen=True, tag="wait_details"):
    """It is too early."""

    delay_seconds: int
    reason: str | None = None


class AbortDetails(Details, frozen=True, tag="abort_details"):
    """The client should stop."""

    reason: str | None = None


class Situation(msgspec.Struct, kw_only=True):
    """What a decision depends on beside the run. `now` in microseconds."""

    now: int
    state_id: str
    rng: random.Random
    flow_run_id: str | None = None
    task_run_id: str | None = None
    child_flow_run_id: str | None = None
    deployment_id: str | None = None
    infrastructure_pid: str | None = None
    is_subflow: bool = False
    flow_state: State | None = None
    """For a task run: the state of its flow run."""
    flow_run_count: int = 0
    """For a task run: how often its flow run has run."""
    flow_run_run_count: int = 0
    """For a task run: how often its flow run had run when the task run last ran."""
    has_flow: bool = False
    cached: State | None = None
    """For a task run: the completed state that the cache has for its key."""
    flow_policy: FlowRunPolicy | None = None
    task_policy: TaskRunPolicy | None = None


class Transition:
    """A proposal on its way through the rules; they change `proposed`, `policy` and `run_count`."""

    __slots__ = (
        "before", "initial", "policy", "policy_changed", "proposed", "run", "run_count",
        "situation",
    )  # fmt: skip

    def __init__(self, run: Progress, proposed: State, situation: Situation) -> None:
        self.run, self.initial, self.proposed, self.situation = run, run.state, proposed, situation
        self.before = situation.flow_policy or FlowRunPolicy()
        self.policy = self.before
        self.policy_changed = False
        self.run_count = run.run_count

    def change_policy(self, **changes: object) -> None:
        """Change how the flow run is tried again, paused or resumed."""
        self.policy = msgspec.structs.replace(self.policy, **changes)
        self.policy_changed = True

    def is_after(self, moment: int | None) -> bool:
        """Whether a moment has passed."""
        return moment is not None and moment < self.situation.now

    def propose(self, kind: StateType, name: str, message: str | None, **details: object) -> State:
        """Another state than the one proposed, at the same moment."""
        create = StateCreate(type=kind, name=name, message=message)
        for field, value in details.items():
            setattr(create.state_details, field, value)
        return begin_state(create, self.situation.state_id, self.situation.now)


class Stop(NamedTuple):
    """A rule's last word. `state`: what the run becomes instead; None keeps it where it is."""

    status: Status
    details: Details
    state: State | None = None


Judge = Callable[[Transition], Stop | None]


class Rule(NamedTuple):
    """A rule and the transitions that it looks at. A run without a state comes from None."""

    judge: Judge
    come: frozenset[StateType | None]
    go: frozenset[StateType]
    always: bool = False
    """Asked under `force`, too."""


class Verdict(msgspec.Struct, kw_only=True):
    """What becomes of a proposal. `state` is what the run enters, None when it stays."""

    status: Status
    details: Details
    state: State | None = None
    run_count: int = 0
    policy: FlowRunPolicy | None = None


ANY: frozenset[StateType | None] = frozenset({None, *STATE_TYPES})
ANY_TARGET: frozenset[StateType] = frozenset(STATE_TYPES)
ENDED: frozenset[StateType] = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})


def types(*kinds: StateType) -> frozenset[StateType]:
    """A row of the table of from- or to-states."""
    return frozenset(kinds)


def reject(reason: str, state: State | None = None) -> Stop:
    """The run stays where it is, or becomes `state`."""
    return Stop("REJECT", RejectDetails(reason), state)


def abort(reason: str) -> Stop:
    """The client should stop."""
    return Stop("ABORT", AbortDetails(reason))


def wait(until: int, now: int, reason: str) -> Stop:
    """The client should come again at `until`, in whole seconds, not earlier."""
    seconds = -((now - until) // SECOND)
    return Stop("WAIT", WaitDetails(seconds, reason))


ACCEPTED = AcceptDetails()


class RuleBook:
    """Rules in the order in which they are asked."""

    def __init__(self, *rules: Rule) -> None:
        self.rules = rules
        self._judges: dict[tuple[StateType | None, StateType, bool], tuple[Judge, ...]] = {}

    def judges(self, come: StateType | None, go: StateType, *, force: bool) -> tuple[Judge, ...]:
        """Those that look at a transition; which they are is worked out once for each kind."""
        kind = come, go, force
        known = self._judges.get(kind)
        if known is None:
            known = self._judges[kind] = tuple(
                rule.judge
                for rule in self.rules
                if (rule.always or not force) and come in rule.come and go in rule.go
            )
        return known


def orchestrate(
    book: RuleBook, run: Progress, proposed: State, situation: Situation, *, force: bool
) -> tuple[Transition, Verdict]:
    """Ask the rules about a proposal."""
    transition = Transition(run, proposed, situation)
    status: Status = "ACCEPT"
    details: Details = ACCEPTED
    for judge in book.judges(run.type, proposed.type, force=force):
        stop = judge(transition)
        if stop is None:
            continue
        status, details = stop.status, stop.details
        if stop.state is None:
            return transition, Verdict(status=status, details=details)
        transition.proposed = stop.state
        transition.run_count = run.run_count
        break
    _finish(transition)
    return transition, Verdict(
        status=status,
        details=details,
        state=transition.proposed,
        run_count=transition.run_count,
        policy=transition.policy if transition.policy_changed else None,
    )


def _finish(transition: Transition) -> None:
    """What holds of every state that is entered: it names its run."""
    state, situation = transition.proposed, transition.situation
    details = state.state_details
    details.flow_run_id = situation.flow_run_id  # type: ignore[assignment]
    details.task_run_id = situation.task_run_id  # type: ignore[assignment]
    if situation.child_flow_run_id is not None:
        details.child_flow_run_id = situation.child_flow_run_id  # type: ignore[assignment]


# -- rules that flow runs and task runs share -----------------------------------------------------


def copy_scheduled_time(transition: Transition) -> Stop | None:
    """What was scheduled stays scheduled while it is pending."""
    details = transition.proposed.state_details
    initial = transition.initial
    if details.scheduled_time is None and initial is not None:
        details.scheduled_time = initial.state_details.scheduled_time
    return None


def wait_for_scheduled_time(transition: Transition) -> Stop | None:
    """Nothing runs before its time."""
    initial, now = transition.initial, transition.situation.now
    at = initial.scheduled_at if initial is not None else None
    if at is None or at <= now:
        return None
    return wait(at, now, "The run is scheduled for a time that has not come.")


def keep_ended(transition: Transition) -> Stop | None:
    """What has ended is neither paused nor cancelled nor crashed any more."""
    initial = transition.initial
    if initial is not None and transition.proposed.type in ("PAUSED", "CANCELLING", "CRASHED"):
        return abort(f"The run has ended already: {initial.type}.")
    return None


def try_again(transition: Transition, seconds: float) -> Stop:
    """What failed is scheduled for another attempt, so many seconds from now."""
    failed, at = transition.proposed, after(transition.situation.now, seconds)
    state = transition.propose("SCHEDULED", AWAITING_RETRY, failed.message, scheduled_time=at)
    state.data = failed.data
    return reject("The run is tried again.", state)


COPY_SCHEDULED_TIME = Rule(copy_scheduled_time, types("SCHEDULED"), types("PENDING"))
WAIT_FOR_SCHEDULED_TIME = Rule(
    wait_for_scheduled_time, types("SCHEDULED", "PENDING"), types("RUNNING")
)


def after(now: int, seconds: float) -> datetime:
    """A moment so many seconds from now; not earlier, and never so late that it has no date."""
    return to_datetime(now + int(min(max(seconds, 0.0), LONGEST_DELAY) * SECOND))


def is_final(transition: Transition) -> bool:
    """Whether the run has completed and its result can be had."""
    initial = transition.initial
    return initial is not None and initial.type == "COMPLETED" and has_persisted_data(initial)


def ends(state: State) -> bool:
    """Whether a state ends its run."""
    return state.type in TERMINAL
