"""Whether any finished step ran twice: the journal's word against the execution log's.

The journal is read from the database file itself, read-only, as the next process would find it.
`judge` is pure. A step that was under way when the process died may be executed once more, for its
result was never acknowledged; everything else has exactly as many executions as recorded outcomes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ironflow.demo.executions import Execution
from ironflow.storage.maintenance.files import opened


class Recorded(msgspec.Struct, frozen=True):
    """What the journal holds of a run: outcomes by step name, how often it started, its end."""

    completed: Counter[str]
    failed: Counter[str]
    starts: int
    ended: str | None

    @property
    def finished(self) -> set[str]:
        """The steps that have a result."""
        return set(self.completed)


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The account. `holds` when `problems` is empty.

    `again` are executions, after the kill, of steps that had finished before it; `interrupted`
    steps were under way at the kill and were executed once more; `retried` attempts failed and were
    made again.
    """

    holds: bool
    steps: int
    executions: int
    finished_before: int
    finished_after: int
    again: int
    interrupted: int
    retried: int
    recorded_twice: int
    starts: int
    problems: list[str]


class _StepEntry(msgspec.Struct):
    name: str
    kind: str


_decode_step = msgspec.json.Decoder(_StepEntry).decode
_ENDS = {"run.completed", "run.failed", "run.cancelled"}


def read_journal(db: str | Path, run_id: str) -> Recorded:
    """What the journal in a database file says now; its server may be alive or dead."""
    query = "SELECT kind, data FROM journal WHERE stream = ? ORDER BY version"
    completed: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    starts, ended = 0, None
    with opened(db) as (connection, _):
        for kind, data in connection.execute(query, (f"run/{run_id}",)):
            if kind in ("step.completed", "step.failed"):
                step = _decode_step(data)
                if step.kind == "run":
                    (completed if kind == "step.completed" else failed)[step.name] += 1
            elif kind == "run.started":
                starts += 1
            elif kind in _ENDS:
                ended = kind
    return Recorded(completed, failed, starts, ended)


def judge(
    before: Recorded | None, after: Recorded, log: Sequence[Execution], pids: Sequence[int]
) -> Verdict:
    """Compare. `before` is the journal as the killed server left it, or None when none was killed.

    `pids` are the server processes in order.
    """
    finished = before.finished if before is not None else set()
    executed = Counter(execution.step for execution in log)
    again = sum(execution.step in finished and execution.pid != pids[0] for execution in log)
    outcomes = after.completed + after.failed
    twice = sorted(step for step, count in after.completed.items() if count > 1)
    surplus = {step: executed[step] - outcomes[step] for step in {*executed, *outcomes}}
    interrupted = {step for step, count in surplus.items() if count == 1} - finished
    if before is None:
        interrupted = set()
    problems = []
    if after.ended != "run.completed":
        problems.append(f"the run did not complete: {after.ended or 'it has not ended'}")
    if twice:
        problems.append(f"recorded as finished more than once: {_some(twice)}")
    if again:
        problems.append(f"{again} executions of steps that had finished before the kill")
    odd = sorted(step for step, count in surplus.items() if count and step not in interrupted)
    if odd:
        problems.append(f"executions and recorded outcomes do not match: {_some(odd)}")
    if strangers := sorted({execution.pid for execution in log} - set(pids)):
        problems.append(f"executed by processes that are none of ours: {strangers}")
    return Verdict(
        holds=not problems,
        steps=len(after.completed),
        executions=len(log),
        finished_before=len(finished),
        finished_after=len(after.finished - finished),
        again=again,
        interrupted=len(interrupted),
        retried=sum(after.failed.values()),
        recorded_twice=len(twice),
        starts=after.starts,
        problems=problems,
    )


def _some(steps: Sequence[str]) -> str:
    return ", ".join(steps[:3]) + (f" and {len(steps) - 3} more" if len(steps) > 3 else "")
