"""What a run's journal says, in the words of the protocol: for its timeline, its audit trail and
subscribers. Each fact is told from an entry and from the run before and after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ironflow.core.remote.pull import step_id
from ironflow.core.runs import entries as e
from ironflow.core.runs.entries import RunEntry
from ironflow.core.runs.fold import apply
from ironflow.core.runs.state import Run
from ironflow.core.values.payloads import Payload
from ironflow.web.connect.run_messages import TEXT


@dataclass(slots=True)
class Fact:
    """One thing that happened to a run. `payload` is its JSON, `value` a user's value in it, under
    `output`.
    """

    type: str
    summary: str
    step_id: str = ""
    step_name: str = ""
    significant: bool = True
    payload: dict[str, Any] = field(default_factory=dict)
    value: Payload | None = None


def apply_and_tell(run: Run, entry: RunEntry, kind: str, at: int) -> Fact:
    """Change the run by an entry, and say what that was."""
    before = _word(run)
    apply(run, entry, at)
    fact = _tell(run, entry, kind)
    after = _word(run)
    fact.payload = {"runId": run.id, **fact.payload}
    if before != after and not isinstance(entry, e.RunCreated):
        fact.payload |= {"oldStatus": before, "newStatus": after}
    return fact


def _word(run: Run) -> str:
    return TEXT.get(run.status.value, run.status.value) if run.exists else ""


def _tell(run: Run, entry: RunEntry, kind: str) -> Fact:
    match entry:
        case e.StepCompleted():
            return _step(run, entry.key, "completed", entry.result)
        case e.StepFailed():
            return _step(run, entry.key, "failed", None, entry.error.message)
        case e.WaitStarted():
            what = entry.event or entry.target or entry.kind
            return _about(run, entry.key, "step.started", f"waits: {what}", significant=False)
        case e.WaitEnded():
            ok = entry.outcome == "completed"
            reason = entry.error.message if entry.error is not None else entry.outcome
            outcome = "completed" if ok else "failed"
            return _step(run, entry.key, outcome, entry.result, "" if ok else reason)
        case e.StepPatched():
            word = "injected" if entry.injected else "patched"
            fact = _about(run, entry.key, f"step.{word}", f"{word}: {entry.reason}".rstrip(": "))
            fact.payload |= {"reason": entry.reason, "by": entry.by}
            fact.value = entry.result
            return fact
        case _:
            return _tell_of_run(run, entry, kind)


def _tell_of_run(run: Run, entry: RunEntry, kind: str) -> Fact:
    match entry:
        case e.RunCreated():
            payload = {"functionId": entry.function_id}
            return Fact("run.created", f"created for {entry.function_id}", payload=payload)
        case e.RunPaused():
            return Fact("run.paused", entry.reason, payload={"reason": entry.reason})
        case e.RunResumed() | e.RunReopened():
            return Fact("run.resumed", "goes on")
        case e.RunUnwinding():
            return Fact("saga.compensation.started", f"compensates: {entry.outcome}")
        case e.RunFailed():
            return _ended("failed", entry.error.message)
        case e.RunCancelled():
            return _ended("cancelled", entry.reason)
        case e.RunCompleted():
            fact = _ended("completed", "")
            fact.value = entry.result
            return fact
        case e.AttemptFailed():
            text = f"attempt failed: {entry.error.message}"
            return Fact("run.status_changed", text, payload={"reason": entry.error.message})
        case e.RunStarted() | e.RunWoken() | e.RunQueued() | e.RunParked() | e.AttemptDue():
            text = f"is {_word(run)}"
            return Fact("run.status_changed", text, significant=isinstance(entry, e.RunStarted))
        case _:
            return Fact(kind, kind.replace(".", " ").replace("_", " "), significant=False)


def _ended(status: str, reason: str) -> Fact:
    summary = f"{status}: {reason}" if reason else status
    return Fact("run.status_changed", summary, payload={"reason": reason} if reason else {})


def _step(run: Run, key: str, outcome: str, result: Payload | None = None, error: str = "") -> Fact:
    step = run.steps[key]
    prefix = "saga.compensation" if step.kind == "compensate" else "step"
    fact = _about(run, key, f"{prefix}.{outcome}", f"{outcome}: {error}" if error else outcome)
    if step.ended_at is not None and step.started_at:
        fact.payload["durationMs"] = max(0, step.ended_at - step.started_at) // 1000
    if error:
        fact.payload |= {"error": error, "attempt": step.attempt}
    fact.value = result
    return fact


def _about(run: Run, key: str, type: str, what: str, *, significant: bool = True) -> Fact:
    step, own = run.steps[key], step_id(run.id, key)
    return Fact(type, f"step {step.name} {what}", own, step.name, significant, {"stepId": own})


def topics(run_id: str, entry: RunEntry) -> Iterator[str]:
    """The topics under which subscribers hear of an entry."""
    base = f"system.run.{run_id}"
    match entry:
        case e.RunCreated():
            yield f"{base}.created"
        case e.RunCompleted():
            yield f"{base}.completed"
        case e.RunFailed():
            yield f"{base}.failed"
        case e.RunCancelled():
            yield f"{base}.cancelled"
        case e.RunPaused():
            yield f"{base}.paused"
        case e.RunResumed() | e.RunReopened():
            yield f"{base}.resumed"
        case e.StepCompleted():
            yield f"{base}.step.{step_id(run_id, entry.key)}.completed"
        case e.StepFailed():
            yield f"{base}.step.{step_id(run_id, entry.key)}.failed"
        case e.WaitStarted():
            yield f"{base}.step.{step_id(run_id, entry.key)}.created"
        case e.WaitEnded():
            word = "completed" if entry.outcome == "completed" else "failed"
            yield f"{base}.step.{step_id(run_id, entry.key)}.{word}"
        case e.RunStarted() | e.RunParked() | e.RunQueued() | e.RunWoken() | e.AttemptFailed():
            yield f"{base}.updated"
        case _:
            return
