"""Why a run stands where it stands: for every state the sentence that a person reads."""

from __future__ import annotations

import msgspec
import pytest

from ironflow.core.clock import SECOND
from ironflow.core.runs import entries as e
from ironflow.core.runs.entries import RunOptions
from ironflow.core.runs.execution import RunningStep
from ironflow.core.runs.explain import Explanation, Reason, WakeSource, explain, wake_sources
from ironflow.core.runs.fold import apply
from ironflow.core.runs.retry import RetryPolicy
from ironflow.core.runs.state import Run, RunStatus, Step, StepStatus
from ironflow.core.values.payloads import Failure, Payload

START = 1_767_225_600 * SECOND  # 2026-01-01T00:00:00Z
HOUR = 3600 * SECOND
ONE = Payload(raw=msgspec.Raw(b"1"))
NO = Failure("ValueError", "no such card")


def created(**options: object) -> e.RunCreated:
    return e.RunCreated("billing", ONE, "h", RunOptions(**options))  # type: ignore[arg-type]


def make(*entries: e.RunEntry, at: int = START) -> Run:
    """A run with these entries, a second apart."""
    run = Run("r1")
    for number, entry in enumerate(entries):
        apply(run, entry, at + number * SECOND)
    return run


BEGUN = (created(), e.RunStarted(1, "v1"))


def kinds(told: Explanation) -> list[str]:
    return [reason.kind for reason in told.reasons]


@pytest.mark.parametrize(
    ("position", "served", "text", "kind"),
    [
        (0, True, "Queued: the run is next to start, as soon as a slot is free.", "slot"),
        (1, True, "Queued: all slots are taken; 1 run will start before this one.", "slot"),
        (12, True, "Queued: all slots are taken; 12 runs will start before this one.", "slot"),
        (None, True, "Queued: the run waits for its turn to start.", "slot"),
        (
            None,
            False,
            (
                "Queued: no process serves function 'billing': the run will start as soon as one "
                "registers it."
            ),
            "function",
        ),
    ],
)
def test_a_queued_run_says_what_is_before_it(
    position: int | None, served: bool, text: str, kind: str
) -> None:
    run = make(created())
    told = explain(run, START, served=served, queue_position=position)
    assert told.summary == text
    assert kinds(told) == [kind]
    assert wake_sources(run) == [WakeSource("slot", "billing")]


def test_a_run_that_queues_again_goes_on() -> None:
    run = make(*BEGUN, e.RunParked(), e.RunQueued())
    assert "next to go on" in explain(run, START, queue_position=0).summary


def test_a_running_run_names_the_steps_that_execute() -> None:
    run = make(*BEGUN)
    steps = [
        RunningStep("charge", "charge", 1, START),
        RunningStep("p/mail", "mail", 3, START + 60 * SECOND),
    ]
    told = explain(run, START + 90 * SECOND, running=steps)
    assert told.summary == "Running: step 'charge' for 1m 30s and step 'mail' for 30s."
    assert told.reasons == [
        Reason("step", "step 'charge' has been executing for 1m 30s", "charge"),
        Reason("step", "step 'mail' has been executing for 30s (attempt 3)", "p/mail"),
    ]
    assert wake_sources(run) == [WakeSource("execution", "1")]


def test_a_running_run_without_steps_is_between_them_or_lost_its_process() -> None:
    run = make(*BEGUN, e.RunStarted(2, "v1", recovered=True))
    told = explain(run, START)
    assert told.summary.startswith("Running: the function's own code is executing, between steps")
    assert kinds(told) == ["step", "recovery"]
    assert "ended 1 time in a row" in told.reasons[1].text
    assert "this is execution 2" in told.reasons[1].text
    waiting = explain(run, START, queue_position=3)
    assert waiting.summary == (
        "Running: the process that executed the run has ended; it is picked up again as soon as "
        "a slot is free."
    )
    unserved = explain(run, START, served=False)
    assert unserved.reasons[0].kind == "function"
    assert "as soon as a process serves function 'billing'" in unserved.summary


WAITS: list[tuple[e.RunEntry, Reason, list[WakeSource]]] = [
    (
        e.WaitStarted("nap", "nap", 0, "sleep", until=START + 2 * HOUR, parks=True),
        Reason(
            "timer", "step 'nap' sleeps until 2026-01-01T02:00:00Z (in 2h)", "nap", START + 2 * HOUR
        ),
        [WakeSource("timer", "step:nap", "nap", START + 2 * HOUR)],
    ),
    (
        e.WaitStarted("ok", "ok", 0, "event", event="order.*", match="data.id == 7", parks=True),
        Reason(
            "event",
            "step 'ok' waits for an event 'order.*' with data.id == 7, without a time limit",
            "ok",
        ),
        [WakeSource("waiter", "order.*", "ok")],
    ),
    (
        e.WaitStarted("ok", "ok", 0, "event", event="paid", until=START + HOUR, parks=True),
        Reason(
            "event",
            "step 'ok' waits for an event 'paid', at most until 2026-01-01T01:00:00Z (in 1h)",
            "ok",
            START + HOUR,
        ),
        [
            WakeSource("timer", "step:ok", "ok", START + HOUR),
            WakeSource("waiter", "paid", "ok"),
        ],
    ),
    (
        e.WaitStarted("kid", "kid", 0, "invoke", child="r2", target="mail", parks=True),
        Reason(
            "run",
            "step 'kid' waits for run r2 of function 'mail' to end, without a time limit",
            "kid",
        ),
        [WakeSource("child", "r2", "kid")],
    ),
    (
        e.StepFailed(
            "pay", "pay", 0, "run", NO, attempt=2, retry_at=START + 30 * SECOND, parks=True
        ),
        Reason(
            "retry",
            "step 'pay': attempt 3 is due in 30s, at 2026-01-01T00:00:30Z, "
            "after ValueError: no such card",
            "pay",
            START + 30 * SECOND,
        ),
        [WakeSource("timer", "step:pay", "pay", START + 30 * SECOND)],
    ),
]


@pytest.mark.parametrize(("entry", "reason", "sources"), WAITS)
def test_a_waiting_run_names_what_it_waits_for(
    entry: e.RunEntry, reason: Reason, sources: list[WakeSource]
) -> None:
    run = make(*BEGUN, entry)
    assert run.status is RunStatus.WAITING
    told = explain(run, START)
    assert told.reasons == [reason]
    assert told.summary == f"Waiting: {reason.text}."
    assert wake_sources(run) == sources


def test_of_several_waits_the_summary_names_the_one_that_ends_first() -> None:
    run = make(
        *BEGUN,
        e.WaitStarted("p/a", "a", 0, "event", "p/", event="never"),
        e.WaitStarted("p/b", "b", 0, "sleep", "p/", until=START + HOUR),
        e.WaitStarted("p/c", "c", 0, "sleep", "p/", until=START + 60 * SECOND, parks=True),
    )
    told = explain(run, START)
    assert told.summary == (
        "Waiting for 3 steps; next: step 'c' sleeps until 2026-01-01T00:01:00Z (in 1m)."
    )
    assert [reason.step for reason in told.reasons] == ["p/a", "p/b", "p/c"]


def test_a_timer_that_should_have_rung_is_due_now() -> None:
    run = make(*BEGUN, e.WaitStarted("nap", "nap", 0, "sleep", until=START, parks=True))
    assert "(due now)" in explain(run, START + HOUR).summary


def test_between_attempts_of_the_function_only_the_pause_counts() -> None:
    run = make(
        created(retry=RetryPolicy(max_attempts=4)),
        e.RunStarted(1, "v1"),
        e.WaitStarted("p/a", "a", 0, "event", "p/", event="never"),
        e.AttemptFailed(NO, START + 60 * SECOND),
    )
    told = explain(run, START + 50 * SECOND)
    assert told.summary == (
        "Waiting: attempt 2 of 4 of the function is due in 10s, at 2026-01-01T00:01:00Z, "
        "after ValueError: no such card."
    )
    assert kinds(told) == ["retry", "event"]
    assert wake_sources(run) == [WakeSource("timer", "attempt", None, START + 60 * SECOND)]


def test_a_paused_run_says_why_and_how_it_goes_on() -> None:
    run = make(
        *BEGUN,
        e.WaitStarted("nap", "nap", 0, "sleep", until=START + HOUR, parks=True),
        e.RunPaused("lunch"),
    )
    told = explain(run, START)
    assert told.summary == (
        "Paused since 2026-01-01T00:00:03Z: lunch. `ironflow runs resume r1` lets it go on."
    )
    assert kinds(told) == ["pause", "timer"]
    assert wake_sources(run) == [WakeSource("operator", "request")]
    parked = make(*BEGUN, e.RunPaused("the process ended 6 times in a row", "crash_loop"))
    assert "the process ended 6 times" in explain(parked, START).summary
    assert wake_sources(parked) == [WakeSource("operator", "crash_loop")]


def test_what_was_asked_for_and_is_under_way_is_said() -> None:
    pausing = explain(make(*BEGUN, e.PauseRequested("lunch")), START)
    assert pausing.reasons[-1] == Reason(
        "pause", "a pause was asked for (lunch); it takes effect at the next step boundary"
    )
    withdrawn = explain(make(*BEGUN, e.PauseRequested("lunch"), e.PauseRequested(None)), START)
    assert "pause" not in kinds(withdrawn)
    cancelling = explain(make(*BEGUN, e.CancelRequested("cancelled", "changed my mind")), START)
    assert cancelling.reasons[-1] == Reason(
        "cancel", "the run is to end (changed my mind); its body is being unwound"
    )


def test_a_run_that_undoes_what_it_did_says_so() -> None:
    run = make(
        *BEGUN,
        e.RunUnwinding("failed", NO),
        e.StepCompleted("@compensate/a", "a", 0, "compensate", ONE, "@compensate/"),
    )
    assert explain(run, START).reasons[-1] == Reason(
        "unwind",
        "the run has failed and its compensations run, 1 ended so far: ValueError: no such card",
    )
    run = make(*BEGUN, e.RunUnwinding("timed_out", None, "too slow"))
    assert "ran out of time" in explain(run, START).reasons[-1].text
    assert "too slow" in explain(run, START).reasons[-1].text


def test_a_time_limit_is_a_reason_until_the_end_is_settled() -> None:
    run = make(created(timeout=90.0))
    told = explain(run, START + 30 * SECOND)
    assert told.reasons[-1] == Reason(
        "timeout",
        "the run may take until 2026-01-01T00:01:30Z (in 1m)",
        due_at=START + 90 * SECOND,
    )
    apply(run, e.CancelRequested("cancelled", "x"), START)
    assert "timeout" not in kinds(explain(run, START))
    ended = make(created(timeout=90.0), e.RunCompleted(ONE))
    assert kinds(explain(ended, START)) == ["ended"]
    # A run that is tried again has all its time again.
    again = make(created(timeout=90.0), e.RunFailed(NO), e.RunReopened())
    assert again.deadline == START + 92 * SECOND


def test_an_ended_run_says_how_and_what_can_be_done() -> None:
    done = explain(make(*BEGUN, e.RunCompleted(ONE)), START)
    assert done.summary == "Completed at 2026-01-01T00:00:02Z, after 1s."
    failed = explain(
        make(*BEGUN, e.StepFailed("pay", "pay", 0, "run", NO, attempt=3), e.RunFailed(NO)), START
    )
    assert failed.summary == (
        "Failed at 2026-01-01T00:00:03Z, after 2s: ValueError: no such card. "
        "`ironflow runs retry r1` tries it again from there."
    )
    assert failed.reasons[1] == Reason(
        "step", "step 'pay' failed in attempt 3: ValueError: no such card", "pay"
    )
    cancelled = explain(make(created(), e.RunCancelled("changed my mind")), START)
    assert cancelled.summary.startswith(
        "Cancelled at 2026-01-01T00:00:01Z, after 1s: changed my mind."
    )
    for run in (make(*BEGUN, e.RunCompleted(ONE)), make(created(), e.RunCancelled("x"))):
        assert wake_sources(run) == []


def test_a_long_error_is_cut() -> None:
    error = Failure("ValueError", "x" * 5000)
    told = explain(make(*BEGUN, e.RunFailed(error)), START)
    assert len(told.summary) < 600
    assert "…" in told.summary


def test_a_run_that_nothing_would_wake_is_called_a_defect() -> None:
    run = make(*BEGUN, e.RunParked())
    assert wake_sources(run) == []
    told = explain(run, START)
    assert kinds(told) == ["none"]
    assert "defect" in told.summary
    run.steps["a"] = Step("a", "a", "sleep", StepStatus.WAITING, 0, until=START)
    run.open["a"] = None
    assert kinds(explain(run, START)) == ["timer"]
