"""The rules of flow runs, in the order in which they are asked (see `rules`)."""

from __future__ import annotations

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
from ironflow.core.prefect.runs import FlowRun
from ironflow.core.prefect.states import (
    RESUMING,
    State,
    has_persisted_data,
    micros,
)

NEVER_RESUMED = "The run was paused and not resumed in time."


def _refuse_repeated(transition: Transition) -> Stop | None:
    """A client that asks again because an answer was lost must not move the run twice."""
    initial, proposed = transition.initial, transition.proposed
    if initial is None:
        return None
    transition_id = proposed.state_details.transition_id
    if transition_id is None or transition_id != initial.state_details.transition_id:
        return None
    return reject("The run has made this very transition already.")


def _keep_result(transition: Transition) -> Stop | None:
    """Nobody loses a result that can be had, not even by force."""
    if is_final(transition) and not has_persisted_data(transition.proposed):
        return reject("The run has a persisted result, which this state would lose.")
    return None


def _guard_terminal(transition: Transition) -> Stop | None:
    """What has ended begins anew only where that makes sense."""
    proposed, stop = transition.proposed, keep_ended(transition)
    if stop is not None or ends(proposed):
        return stop
    if is_final(transition):
        return reject("The run has completed already.")
    if proposed.type == "SCHEDULED" and transition.situation.deployment_id is None:
        return abort("A run without a deployment cannot be scheduled again.")
    retry_type = "reschedule" if proposed.type == "SCHEDULED" else None
    transition.change_policy(pause_keys=[], resuming=False, retry_type=retry_type)
    return None


def _insist_on_cancelling(transition: Transition) -> Stop | None:
    return reject("The run is being cancelled; all that it can become is cancelled.")


def _cancel_without_infrastructure(transition: Transition) -> Stop | None:
    """A run that no process works on has nobody who could act on a request to cancel."""
    initial = transition.initial
    assert initial is not None
    if initial.type == "PAUSED" and not initial.state_details.pause_reschedule:
        return None
    has_process = transition.situation.infrastructure_pid is not None
    if initial.type == "SCHEDULED" and has_process and initial.name != RESUMING:
        return None
    state = transition.propose("CANCELLED", "Cancelled", None)
    word = "suspended" if initial.type == "PAUSED" else "scheduled"
    return reject(f"Nothing executes this {word} run, so it is cancelled at once.", state)


def _prevent_pending(transition: Transition) -> Stop | None:
    """Two processes must not both take a run."""
    initial, proposed = transition.initial, transition.proposed
    assert initial is not None
    if initial.type == "PENDING" and initial.name != proposed.name:
        return None
    return abort(f"A run that is {initial.type} cannot become PENDING.")


def _retry(transition: Transition) -> Stop | None:
    """A flow that failed is tried again in its process while it has retries left."""
    policy, run = transition.policy, transition.run
    if run.run_count > (policy.retries or 0):
        transition.change_policy(retry_type=None)
        return None
    transition.change_policy(retry_type="in_process", resuming=False, pause_keys=[])
    return try_again(transition, policy.retry_delay or 0)


def _pause(transition: Transition) -> Stop | None:
    """Only what runs can pause, and each pause of it once."""
    initial, situation = transition.initial, transition.situation
    details = transition.proposed.state_details
    if initial is None or initial.type != "RUNNING":
        return reject("Only a running flow can be paused.")
    key = details.pause_key
    if key is not None and key in (transition.policy.pause_keys or ()):
        return reject("The run has paused with this key already.")
    if details.pause_reschedule:
        if situation.is_subflow:
            return abort("A flow that another flow waits for cannot be suspended.")
        if situation.deployment_id is None:
            return abort("A flow without a deployment cannot be suspended.")
    # One that was given no key fires once, too.
    keys = [*(transition.policy.pause_keys or ()), key or situation.state_id]
    transition.change_policy(pause_keys=keys)
    return None


def _resume(transition: Transition) -> Stop | None:
    """A paused run goes on in time, fails, or is cancelled."""
    initial, proposed = transition.initial, transition.proposed
    assert initial is not None
    if proposed.type == "PENDING":
        return reject("A paused run cannot become PENDING.")
    if proposed.type == "SCHEDULED" and not initial.state_details.pause_reschedule:
        # Its process is gone: the next one begins from the beginning, and pauses again.
        transition.change_policy(retry_type="reschedule", pause_keys=[], resuming=False)
    else:
        transition.change_policy(resuming=True)
    if proposed.type not in ("RUNNING", "SCHEDULED"):
        return None
    if initial.state_details.pause_reschedule and transition.situation.deployment_id is None:
        return reject("A suspended run without a deployment cannot be resumed.")
    if transition.is_after(micros(initial.state_details.pause_timeout)):
        state = transition.propose("FAILED", "Failed", NEVER_RESUMED)
        return reject("The time in which the run could be resumed is over.", state)
    return None


FLOW_RULES = RuleBook(
    Rule(_refuse_repeated, ANY, ANY_TARGET),
    Rule(_keep_result, types("COMPLETED"), types("COMPLETED"), always=True),
    Rule(_guard_terminal, frozenset({*ENDED}), ANY_TARGET),
    Rule(_insist_on_cancelling, types("CANCELLING"), ANY_TARGET - {"CANCELLED"}),
    Rule(
        _cancel_without_infrastructure,
        types("SCHEDULED", "PAUSED"),
        types("CANCELLING"),
        always=True,
    ),
    Rule(
        _prevent_pending, types("PENDING", "CANCELLING", "RUNNING", "CANCELLED"), types("PENDING")
    ),
    COPY_SCHEDULED_TIME,
    WAIT_FOR_SCHEDULED_TIME,
    Rule(_retry, types("RUNNING"), types("FAILED")),
    Rule(_pause, ANY - ENDED, types("PAUSED")),
    Rule(_resume, types("PAUSED"), ANY_TARGET - {"PAUSED"}),
)


def decide_flow_state(
    run: FlowRun, proposed: State, situation: Situation, *, force: bool = False
) -> Verdict:
    """What becomes of a state that is proposed for a flow run."""
    situation.flow_policy = run.policy
    transition, verdict = orchestrate(FLOW_RULES, run, proposed, situation, force=force)
    if verdict.state is None:
        return verdict
    state, is_paused = verdict.state, run.type == "PAUSED"
    # What leaves a pause is marked as resuming only from then on.
    resuming = transition.before.resuming if is_paused else transition.policy.resuming
    if state.type == "RUNNING" and not resuming:
        verdict.run_count = run.run_count + 1
    if resuming and (state.type == "RUNNING" or ends(state)) and not (is_paused and not force):
        transition.change_policy(resuming=False)
    verdict.policy = transition.policy if transition.policy_changed else None
    return verdict


def is_suspended(state: State) -> bool:
    """Whether a paused run has no process any more, and is to be scheduled to go on."""
    return state.state_details.pause_reschedule
