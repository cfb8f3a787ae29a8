"""Laws of Prefect's orchestration: random walks of proposed states against a model that says the
same in another way, and reports of task runs that say the same in any order.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironflow.core.clock import SECOND, to_datetime
from ironflow.core.prefect import bodies
from ironflow.core.prefect import runs as r
from ironflow.core.prefect.flow_rules import decide_flow_state
from ironflow.core.prefect.rules import Situation, Verdict
from ironflow.core.prefect.states import (
    STATE_TYPES,
    TERMINAL,
    State,
    StateCreate,
    StateDetails,
    begin_state,
)
from ironflow.core.prefect.task_rules import decide_task_state, retry_delay

START = 1_800_000_000 * SECOND
RUN = "00000000-0000-7000-8000-000000000001"
TASK = "00000000-0000-7000-8000-000000000002"

# What each state allows when nothing else is to be known: A accept, R reject and stay, X abort.
# Columns as STATE_TYPES: scheduled, pending, running, paused, cancelling, completed, failed,
# crashed, cancelled.
FLOW_TABLE = {
    "SCHEDULED": "AAARCAAAA",  # C: cancelled at once
    "PENDING": "AXARAAAAA",
    "RUNNING": "AXAAAAAAA",
    "PAUSED": "ARARAAAAA",
    "CANCELLING": "RRRRRRRRA",
    "COMPLETED": "XAAXXAAXA",
    "FAILED": "XAAXXAAXA",
    "CRASHED": "XAAXXAAXA",
    "CANCELLED": "XXAXXAAXA",
}
TASK_TABLE = {
    **dict.fromkeys(("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING"), "AAAAAAAAA"),
    **dict.fromkeys(("COMPLETED", "FAILED", "CRASHED", "CANCELLED"), "AAAXXAAXA"),
}
LETTERS = {"ACCEPT": "A", "REJECT": "R", "ABORT": "X", "WAIT": "W"}


def flow_run(**policy: Any) -> r.FlowRun:
    info = r.FlowRunInfo(id=RUN, name="n", flow_id=RUN)
    return r.FlowRun(
        info=info,
        flow_name="f",
        created_at=START,
        updated_at=START,
        policy=r.FlowRunPolicy(**policy),
    )


def task_run(**policy: Any) -> r.TaskRun:
    info = r.TaskRunInfo(
        id=TASK,
        name="t",
        flow_run_id=RUN,
        task_key="k",
        dynamic_key="0",
        empirical_policy=r.TaskRunPolicy(**policy),
    )
    return r.TaskRun(info=info, created_at=START, updated_at=START)


class Walk:
    """A flow run under the rules."""

    def __init__(self, **policy: Any) -> None:
        self.run, self.now, self.count = flow_run(**policy), START, 0

    def propose(
        self,
        kind: Any,
        *,
        force: bool = False,
        data: bytes = b"null",
        after: float = 1,
        **more: Any,
    ) -> Verdict:
        self.now += int(after * SECOND)
        self.count += 1
        facts = {k: more.pop(k) for k in ("deployment_id", "infrastructure_pid") if k in more}
        name = more.pop("name", None)
        create = StateCreate(
            type=kind, name=name, data=msgspec.Raw(data), state_details=StateDetails(**more)
        )
        situation = Situation(
            now=self.now,
            state_id=f"state-{self.count}",
            rng=random.Random(0),
            flow_run_id=RUN,
            **facts,
        )
        state = begin_state(create, situation.state_id, self.now)
        verdict = decide_flow_state(self.run, state, situation, force=force)
        if verdict.state is not None:
            r.enter(self.run, verdict.state)
            self.run.run_count = verdict.run_count
            self.run.policy = verdict.policy or self.run.policy
        return verdict


@pytest.mark.parametrize("come", STATE_TYPES)
@pytest.mark.parametrize("go", STATE_TYPES)
def test_every_pair_of_a_flow_run(come: str, go: str) -> None:
    walk = Walk()
    walk.propose("PENDING", force=True)
    walk.propose(come, force=True)
    verdict = walk.propose(go)
    letter = FLOW_TABLE[come][STATE_TYPES.index(go)]
    if letter == "C":
        assert verdict.status == "REJECT"
        assert walk.run.type == "CANCELLED"
    else:
        assert LETTERS[verdict.status] == letter
        assert walk.run.type == (go if letter == "A" else come)


@pytest.mark.parametrize("come", STATE_TYPES)
@pytest.mark.parametrize("go", STATE_TYPES)
def test_every_pair_of_a_task_run(come: Any, go: Any) -> None:
    task = task_run()
    flow = Walk()
    flow.propose("RUNNING", force=True)
    for kind, force in ((come, True), (go, False)):
        situation = Situation(
            now=START + SECOND,
            state_id=f"s-{force}",
            rng=random.Random(0),
            flow_run_id=RUN,
            task_run_id=TASK,
            has_flow=True,
            flow_state=flow.run.state,
            flow_run_count=1,
        )
        state = begin_state(StateCreate(type=kind), situation.state_id, situation.now)
        verdict = decide_task_state(task, state, situation, force=force).verdict
        if verdict.state is not None:
            r.enter(task, verdict.state)
            task.run_count = verdict.run_count
    letter = TASK_TABLE[come][STATE_TYPES.index(go)]
    assert LETTERS[verdict.status] == letter
    assert task.type == (go if letter == "A" else come)


class Model:
    """What a walk must come to, said without rules: a table, and the few facts beside it."""

    def __init__(self, retries: int) -> None:
        self.retries, self.type, self.count = retries, "PENDING", 0
        self.started: int | None = None
        self.ended: int | None = None
        self.running_since: int | None = None
        self.run_time = 0
        self.resuming = False
        self.scheduled: int | None = None
        self.has_result = False
        self.keys: set[str] = set()

    def expect(self, go: str, now: int, *, result: bool, key: str | None, at: int | None) -> str:
        come, letter = self.type, FLOW_TABLE[self.type][STATE_TYPES.index(go)]  # type: ignore[arg-type]
        again = go in ("RUNNING", "SCHEDULED", "PENDING") or (go == "COMPLETED" and not result)
        if come == "COMPLETED" and self.has_result and again:
            return "R"
        early = self.scheduled is not None and self.scheduled > now
        if go == "RUNNING" and come in ("SCHEDULED", "PENDING") and early:
            return "W"
        if go == "PAUSED" and come == "RUNNING" and key in self.keys:
            return "R"
        if letter == "A" and come == "RUNNING" and go == "FAILED" and self.count <= self.retries:
            self.enter("SCHEDULED", now, at=now, key=None, result=False)
            self.keys.clear()
            self.resuming = False
            return "R"
        if letter == "C":
            self.enter("CANCELLED", now, at=None, key=None, result=False)
            return "R"
        if letter == "A":
            self.enter(go, now, at=at, key=key, result=result)
        return letter

    def enter(self, go: str, now: int, *, at: int | None, key: str | None, result: bool) -> None:
        come = self.type
        if come == "RUNNING":
            self.run_time += now - (self.running_since or 0)
        begins_anew = come in TERMINAL and go in ("RUNNING", "PENDING")
        if begins_anew or (come == "PAUSED" and go == "SCHEDULED"):
            self.keys.clear()
            self.resuming = False
        if go == "RUNNING":
            self.count += 0 if self.resuming else 1
            self.resuming = come == "PAUSED"
            self.running_since = now
            self.started = self.started or now
        elif come == "PAUSED" and go not in ("PENDING", "SCHEDULED"):
            self.resuming = True
        elif go in TERMINAL:
            self.resuming = False
        if go == "PAUSED":
            self.keys.add(key or f"own-{now}")
        if go in TERMINAL:
            self.started = self.started or now
            self.ended = self.ended or now
        else:
            self.ended = None
        if go == "SCHEDULED":
            self.scheduled = at if at is not None else now
        elif not (come == "SCHEDULED" and go == "PENDING"):
            self.scheduled = None
        self.type, self.has_result = go, result


PROPOSALS = st.lists(
    st.tuples(
        st.sampled_from(STATE_TYPES),
        st.booleans(),
        st.sampled_from([None, "a", "b"]),
        st.sampled_from([None, -5, 3, 30]),
        st.sampled_from([0.5, 4.0]),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 3), PROPOSALS)
def test_random_walks_agree_with_the_model(retries: int, proposals: list[Any]) -> None:
    walk, model = Walk(retries=retries), Model(retries)
    walk.propose("PENDING", force=True)
    for go, result, key, offset, after in proposals:
        now = walk.now + int(after * SECOND)
        at = None if offset is None or go != "SCHEDULED" else now + offset * SECOND
        expected = model.expect(go, now, result=result, key=key, at=at)
        details: dict[str, Any] = {"pause_key": key} if go == "PAUSED" else {}
        if at is not None:
            details["scheduled_time"] = to_datetime(at)
        verdict = walk.propose(
            go, after=after, data=b'{"type":"x"}' if result else b"null", **details
        )
        run = walk.run
        assert LETTERS[verdict.status] == expected, (model.type, go)
        assert (run.type, run.run_count) == (model.type, model.count)
        assert (run.started_at, run.ended_at) == (model.started, model.ended)
        assert run.run_time == model.run_time
        given_keys = {key for key in run.policy.pause_keys or () if len(key) == 1}
        assert given_keys == {key for key in model.keys if len(key) == 1}
        assert len(run.policy.pause_keys or ()) == len(model.keys)
        assert bool(run.policy.resuming) == model.resuming
        assert (run.ended_at is not None) == (run.type in TERMINAL)
        assert (run.next_scheduled_at is not None) == (run.type == "SCHEDULED")


# -- single rules ---------------------------------------------------------------------------------


def test_a_transition_is_not_made_twice() -> None:
    walk = Walk()
    walk.propose("PENDING")
    first = walk.propose("RUNNING", transition_id=RUN)
    again = walk.propose("RUNNING", transition_id=RUN)
    assert (first.status, again.status, walk.run.run_count) == ("ACCEPT", "REJECT", 1)


def test_names_tell_pending_states_apart() -> None:
    walk = Walk()
    walk.propose("PENDING")
    assert walk.propose("PENDING", name="Submitting").status == "ACCEPT"
    assert walk.propose("PENDING", name="Submitting").status == "ABORT"


def test_what_is_scheduled_waits_also_while_it_is_pending() -> None:
    walk = Walk()
    at = to_datetime(START + 100 * SECOND)
    walk.propose("SCHEDULED", scheduled_time=at)
    assert walk.run.expected_at == START + 100 * SECOND
    walk.propose("PENDING")
    verdict = walk.propose("RUNNING")
    assert verdict.status == "WAIT"
    assert verdict.details.delay_seconds == 97  # type: ignore[attr-defined]
    assert walk.propose("RUNNING", after=97).status == "ACCEPT"


def test_a_failed_flow_is_tried_again_with_its_delay() -> None:
    walk = Walk(retries=1, retry_delay=7)
    walk.propose("PENDING")
    walk.propose("RUNNING")
    verdict = walk.propose("FAILED")
    assert verdict.status == "REJECT"
    assert verdict.state is not None
    assert (verdict.state.name, walk.run.policy.retry_type) == ("AwaitingRetry", "in_process")
    assert walk.run.next_scheduled_at == walk.now + 7 * SECOND
    assert walk.propose("RUNNING").status == "WAIT"
    assert walk.propose("RUNNING", after=7).status == "ACCEPT"
    assert walk.propose("FAILED").status == "ACCEPT"
    assert walk.run.policy.retry_type is None


def test_suspending_needs_a_deployment() -> None:
    walk = Walk()
    walk.propose("PENDING")
    walk.propose("RUNNING")
    assert walk.propose("PAUSED", pause_reschedule=True).status == "ABORT"
    assert walk.propose("PAUSED", pause_reschedule=True, deployment_id=RUN).status == "ACCEPT"
    assert walk.propose("RUNNING").status == "REJECT"
    assert walk.propose("SCHEDULED", deployment_id=RUN, name="Resuming").status == "ACCEPT"
    walk.propose("PENDING")
    walk.propose("RUNNING")
    assert (walk.run.run_count, walk.run.policy.resuming) == (1, False)


def test_a_pause_that_is_over_fails_the_run() -> None:
    walk = Walk()
    walk.propose("PENDING")
    walk.propose("RUNNING")
    walk.propose("PAUSED", pause_timeout=to_datetime(walk.now + 5 * SECOND))
    assert walk.propose("RUNNING", after=10).status == "REJECT"
    assert walk.run.type == "FAILED"


def test_what_somebody_executes_is_asked_to_cancel() -> None:
    walk = Walk()
    walk.propose("SCHEDULED")
    assert walk.propose("CANCELLING", infrastructure_pid="7").status == "ACCEPT"
    assert walk.propose("CANCELLED").status == "ACCEPT"


def test_only_a_deployment_can_schedule_what_has_ended() -> None:
    walk = Walk()
    walk.propose("FAILED", force=True)
    assert walk.propose("SCHEDULED").status == "ABORT"
    assert walk.propose("SCHEDULED", deployment_id=RUN).status == "ACCEPT"
    assert walk.run.policy.retry_type == "reschedule"


@given(st.integers(1, 9), st.lists(st.floats(0, 100), min_size=1, max_size=5), st.floats(0, 0.99))
def test_retry_delays(attempt: int, delays: list[float], chance: float) -> None:
    policy = r.TaskRunPolicy(retries=9, retry_delay=list(delays), retry_jitter_factor=0.5)
    base = delays[min(attempt, len(delays)) - 1]
    assert base <= retry_delay(policy, attempt, chance) <= base * 1.5


# -- reports --------------------------------------------------------------------------------------


def report(number: int, kind: Any, at: int, **more: Any) -> r.TaskRunRecorded:
    info = r.TaskRunInfo(
        id=TASK, name="t", flow_run_id=RUN, task_key="k", dynamic_key="0", tags=[f"v{number}"]
    )
    state = State(id=f"event-{number:03d}", type=kind, name=kind, timestamp=to_datetime(at))
    return r.TaskRunRecorded(info=info, state=state, run_count=number, **more)


REPORTS = st.lists(
    st.tuples(st.sampled_from(STATE_TYPES), st.integers(0, 5)), min_size=1, max_size=8
)


@given(REPORTS, st.data())
def test_reports_say_the_same_in_any_order_and_repeated(reports: list[Any], data: Any) -> None:
    made = [report(n, kind, START + at * SECOND) for n, (kind, at) in enumerate(reports)]
    newest = max(made, key=lambda one: (one.state.timestamp, one.state.id))
    order = data.draw(st.permutations([*made, *data.draw(st.lists(st.sampled_from(made)))]))
    history = r.History(RUN)
    r.apply(
        history,
        r.FlowRunCreated(info=flow_run().info, flow_name="f", policy=r.FlowRunPolicy()),
        START,
    )
    for one in order:
        # As the journal has it, so that no report shares anything with another.
        again = r.decode_entry("task_run.recorded", r.encode_entry(one))
        r.apply(history, again, START)
    (task,) = history.tasks.values()
    assert task.state is not None
    assert (task.state.id, task.type) == (newest.state.id, newest.state.type)
    assert (task.run_count, task.info.tags) == (newest.run_count, newest.info.tags)
    assert set(task.seen) == {one.state.id for one in made}


def test_a_report_under_another_id_is_of_the_same_task_run() -> None:
    history = r.History(RUN)
    r.apply(history, report(0, "PENDING", START), START)
    other = report(1, "RUNNING", START + SECOND)
    other.info.id = "00000000-0000-7000-8000-000000000009"
    r.apply(history, other, START)
    (task,) = history.tasks.values()
    assert (task.info.id, task.type) == (TASK, "RUNNING")


def test_every_entry_survives_the_journal() -> None:
    walk = Walk(retries=1)
    walk.propose("PENDING", force=True)
    state = walk.run.state
    assert state is not None
    run_input = r.RunInput(id=RUN, key="k", value="1", sender=None, created_at=START)
    entries: list[r.FlowEntry] = [
        r.FlowRunCreated(info=walk.run.info, flow_name="f", policy=walk.run.policy),
        r.FlowRunMoved(state=state, run_count=2, policy=walk.run.policy),
        r.FlowRunChanged(info=walk.run.info),
        r.InputAdded(run_input),
        r.InputRemoved("k"),
        r.TaskRunCreated(info=task_run().info),
        r.TaskRunMoved(id=TASK, state=state, run_count=1),
        report(3, "RUNNING", START, expected_at=START),
        r.TaskRunChanged(id=TASK, name="new"),
        r.TaskRunDeleted(TASK),
    ]
    assert {type(entry) for entry in entries} == set(r.KINDS)
    rows = [(r.KINDS[type(entry)], r.encode_entry(entry), START) for entry in entries]
    history = r.replay(RUN, rows)
    assert history.version == len(entries)
    assert history.flow_run is not None
    assert (history.flow_run.run_count, history.tasks, history.inputs) == (2, {}, {})
    for kind, data, _ in rows:
        assert r.encode_entry(r.decode_entry(kind, data)) == data


@given(st.sampled_from(STATE_TYPES), st.integers(0, 10**9), st.integers(0, 10**9))
def test_estimates(kind: Any, waited: int, ran: int) -> None:
    walk = Walk()
    walk.propose("PENDING", force=True, after=0)
    body = bodies.encode_flow_run(walk.run, bodies.encode_info(walk.run))
    now = START + waited
    shown = msgspec.json.decode(bodies.render_run(walk.run, body, now))
    assert shown["estimated_start_time_delta"] == pytest.approx(waited / SECOND)
    walk.propose("RUNNING", force=True, after=0)
    body = bodies.encode_flow_run(walk.run, bodies.encode_info(walk.run))
    shown = msgspec.json.decode(bodies.render_run(walk.run, body, walk.now + ran))
    assert shown["estimated_run_time"] == pytest.approx(ran / SECOND)
    assert shown["total_run_time"] == 0.0


@pytest.mark.parametrize("delay", [-5, 0, 2**62])
def test_a_delay_of_any_length_has_a_date(delay: int) -> None:
    walk = Walk(retries=1, retry_delay=delay)
    walk.propose("RUNNING", force=True)
    assert walk.propose("FAILED").status == "REJECT"
    at = walk.run.next_scheduled_at
    assert at is not None
    assert walk.now <= at < walk.now + 101 * 366 * 86_400 * SECOND
