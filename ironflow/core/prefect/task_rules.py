"""The rules of task runs whose states are proposed over HTTP (see `rules`)."""

from __future__ import annotations

import msgspec

from ironflow.core.prefect.rules import (
    ANY,
    ANY_TARGET,
    COPY_SCHEDULED_TIME,
    ENDED,
    WAIT_FOR_SCHEDULED_TIME,
    Rule,
    RuleBook,
    Situation,
    Stop,
    Transition,
    Verdict,
    abort,
    ends,
    is_final,
    keep_ended,
    orchestrate,
    reject,
    try_again,
    types,
)
from ironflow.core.prefect.runs import TaskRun, TaskRunPolicy
from ironflow.core.prefect.states import AWAITING_RETRY, State

RETRYING = "Retrying"
RERUNNING = "Rerunning"
CACHED = "Cached"


def _take_from_cache(transition: Transition) -> Stop | None:
    """What another run has computed for the same key is not computed again."""
    cached = transition.situation.cached
    details = transition.proposed.state_details
    if cached is None or details.cache_key is None or details.refresh_cache:
        return None
    state = transition.propose("COMPLETED", CACHED, cached.message)
    state.data, state.state_details = cached.data, msgspec.structs.replace(cached.state_details)
    return reject("The result is taken from the cache.", state)


def _guard_terminal(transition: Transition) -> Stop | None:
    """A result that can be had is kept; a task that begins anew counts from one, and says so when
    its flow is tried again.
    """
    proposed, situation = transition.proposed, transition.situation
    stop = keep_ended(transition)
    if stop is not None:
        return stop
    if is_final(transition):
        return reject("The run has completed already.")
    if not ends(proposed):
        transition.run_count = 0
    if proposed.type == "RUNNING" and situation.flow_run_run_count < situation.flow_run_count:
        proposed.name = RETRYING
    return None


def _need_running_flow(transition: Transition) -> Stop | None:
    """Tasks run only while their flow does."""
    situation = transition.situation
    if not situation.has_flow:
        return None
    flow = situation.flow_state
    if flow is None or flow.type not in ("RUNNING", "PAUSED"):
        return abort("The flow run that the task belongs to is not running.")
    if flow.type == "PAUSED":
        details = flow.state_details
        state = transition.propose(
            "PAUSED",
            "NotReady",
            None,
            pause_timeout=details.pause_timeout,
            pause_reschedule=details.pause_reschedule,
        )
        return reject(f"The flow run {situation.flow_run_id} is paused.", state)
    return None


def _retry(transition: Transition) -> Stop | None:
    """A task that failed is tried again while it has retries left."""
    policy = transition.situation.task_policy or TaskRunPolicy()
    failed, run = transition.proposed, transition.run
    if failed.state_details.retriable is False or run.run_count > (policy.retries or 0):
        return None
    delay = retry_delay(policy, run.run_count, transition.situation.rng.random())
    return try_again(transition, delay)


def retry_delay(policy: TaskRunPolicy, run_count: int, chance: float) -> float:
    """Seconds until the next attempt after `run_count` of them; `chance` is in [0, 1)."""
    delay = policy.retry_delay
    if isinstance(delay, list):
        delay = delay[min(max(run_count, 1), len(delay)) - 1] if delay else 0
    seconds = float(delay or 0)
    if policy.retry_jitter_factor:
        seconds *= 1.0 + policy.retry_jitter_factor * chance
    return seconds


def _rename(transition: Transition) -> Stop | None:
    """A state that runs again says so."""
    initial = transition.initial
    if transition.run_count > 0:
        retried = initial is not None and initial.name == AWAITING_RETRY
        transition.proposed.name = RETRYING if retried else RERUNNING
    return None


TASK_RULES = RuleBook(
    Rule(_take_from_cache, ANY, types("RUNNING")),
    Rule(_guard_terminal, frozenset({*ENDED}), ANY_TARGET),
    Rule(_need_running_flow, ANY, types("RUNNING")),
    COPY_SCHEDULED_TIME,
    WAIT_FOR_SCHEDULED_TIME,
    Rule(_retry, types("RUNNING"), types("FAILED")),
    Rule(_rename, ANY, types("RUNNING")),
)


class TaskVerdict(msgspec.Struct, kw_only=True):
    """What becomes of a state that is proposed for a task run."""

    verdict: Verdict
    flow_run_run_count: int


def decide_task_state(
    run: TaskRun, proposed: State, situation: Situation, *, force: bool = False
) -> TaskVerdict:
    """What becomes of a state that is proposed for a task run."""
    situation.task_policy = run.info.empirical_policy
    situation.flow_run_run_count = run.flow_run_run_count
    transition, verdict = orchestrate(TASK_RULES, run, proposed, situation, force=force)
    count = run.flow_run_run_count
    if verdict.state is not None and verdict.state.type == "RUNNING":
        verdict.run_count = transition.run_count + 1
        if not force:
            count = situation.flow_run_count
    return TaskVerdict(verdict=verdict, flow_run_run_count=count)
