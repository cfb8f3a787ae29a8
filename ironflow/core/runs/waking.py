"""How a run goes on: with its body in memory, with a new execution, or after waiting in line."""

from __future__ import annotations

from ironflow.core.runs import entries as e
from ironflow.core.runs.effects import Decision, Effect, Enqueue, Situation, StartBody, WakeBody
from ironflow.core.runs.entries import RunEntry
from ironflow.core.runs.state import Run, RunStatus


def start(run: Run, s: Situation, *, recovered: bool = False) -> e.RunStarted:
    """The next execution of the body, in the reserved slot."""
    return e.RunStarted(run.execution + 1, s.code, recovered, s.worker)


def begin(run: Run, s: Situation) -> tuple[list[RunEntry], list[Effect]]:
    """Entries and effects that give a run the reserved slot."""
    if s.hot:
        return [e.RunWoken()], [WakeBody(None, uses_slot=True)]
    return [start(run, s)], [StartBody()]


def wake(
    run: Run,
    key: str,
    entries: list[RunEntry],
    effects: list[Effect],
    s: Situation,
    reply: object = None,
) -> Decision:
    """What the run waited for under `key` has come (`entries` say so): see that its body goes
    on.
    """
    if run.status is RunStatus.RUNNING:
        effects.append(WakeBody(key))
    elif run.status is RunStatus.WAITING and run.retry_at is None:
        if s.slot and s.code is not None:
            more, then = begin(run, s)
            entries.extend(more)
            effects.extend(then)
        else:
            entries.append(e.RunQueued())
            effects.append(Enqueue())
    return Decision(entries, reply, effects)
