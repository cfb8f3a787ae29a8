"""Reports of an execution as they cross a network: the commands of `core.runs.commands` with a
name, the lease that they are made under, and their answers.

A worker that speaks these runs the very executor of the server: its bodies wait in parallel
branches, retry single steps and compensate. It keeps a copy of the run's record, which it brings
forward by the same decisions as the server does (`Shadow`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ironflow.core.clock import Clock
from ironflow.core.errors import InvalidInput
from ironflow.core.messages import Message
from ironflow.core.remote.checks import check_command
from ironflow.core.remote.pull import JobContext
from ironflow.core.runs import commands as c
from ironflow.core.runs.decisions import decide
from ironflow.core.runs.effects import Situation
from ironflow.core.runs.execution import Assignment, Effects
from ironflow.core.runs.fold import apply
from ironflow.core.runs.state import OPEN, Run, Step

LEAVE = "leave"
"""The body is out of memory without having ended the run."""

REPORTS: dict[str, type[Message[Any]]] = {
    "record_step": c.RecordStep,
    "fail_step": c.FailStep,
    "start_wait": c.StartWait,
    "park": c.Park,
    "end_execution": c.EndExecution,
    "note_cancel": c.NoteCancel,
    LEAVE: c.ExecutionLeft,
}
"""What a worker may say of an execution, by the name on the wire."""
NAMES = {kind: name for name, kind in REPORTS.items()}

_encode = msgspec.json.Encoder().encode
_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    name: msgspec.json.Decoder(kind) for name, kind in REPORTS.items()
}
_SENDABLE: dict[str, msgspec.json.Decoder[Any]] = {
    "create_run": msgspec.json.Decoder(c.CreateRun),
    "emit_event": msgspec.json.Decoder(c.EmitEvent),
}
"""The messages that a step may send to others: it starts a run, or emits an event."""


class SentMessage(msgspec.Struct, frozen=True):
    """A durable message that goes out with a step's result."""

    target: str
    kind: str
    data: msgspec.Raw


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """One command under a lease."""

    job_id: str
    execution_seq: int
    lease_token: str
    command: str
    data: msgspec.Raw
    sends: tuple[SentMessage, ...] = ()


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a report: the directive, or why it was refused."""

    directive: c.Directive | None = None
    code: str | None = None
    message: str | None = None


class RecordedJob(msgspec.Struct, frozen=True, omit_defaults=True):
    """A job as a worker that reports commands needs it: the lease, and the run's whole record."""

    job_id: str
    execution_seq: int
    lease_token: str
    record: Run
    context: JobContext | msgspec.UnsetType = msgspec.UNSET


class Woken(msgspec.Struct, frozen=True):
    """A wait of a body that is in a worker's memory has ended: the step as it is now."""

    job_id: str
    step: Step


class Signals(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a worker is told beside its jobs."""

    woken: tuple[Woken, ...] = ()
    cancelled: tuple[str, ...] = ()
    """Jobs whose bodies are to be unwound."""
    dropped: tuple[str, ...] = ()
    """Jobs whose bodies no longer own their runs."""

    def __bool__(self) -> bool:
        return bool(self.woken or self.cancelled or self.dropped)


def encode_report(job_id: str, execution: int, token: str, command: Message[Any]) -> Report:
    """A command on its way to the server."""
    sends: tuple[SentMessage, ...] = ()
    if isinstance(command, c.RecordStep) and command.sends:
        sends = tuple(
            SentMessage(
                send.target,
                c.DELIVERY_KINDS[type(send.message)],
                msgspec.Raw(_encode(send.message)),
            )
            for send in command.sends
        )
        command = msgspec.structs.replace(command, sends=())
    name = NAMES[type(command)]
    return Report(job_id, execution, token, name, msgspec.Raw(_encode(command)), sends)


def decode_report(report: Report, order: Mapping[str, Sequence[str]]) -> Message[Any]:
    """The command of a report, under the execution that the lease names, whatever it says itself.
    `order` is the run's: see `check_command`.

    Raises `InvalidInput` naming the field that is wrong.
    """
    decoder = _DECODERS.get(report.command)
    if decoder is None:
        known = ", ".join(REPORTS)
        raise InvalidInput("command", f"{report.command!r:.60} is none of {known}")
    try:
        command: Any = decoder.decode(report.data)
        sends = tuple(map(_decode_send, report.sends)) if report.sends else ()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput("data", f"is no {report.command}: {error}") from error
    if isinstance(command, c.RecordStep) and command.sends:
        raise InvalidInput("data.sends", "messages go beside the data of a step")
    facts: dict[str, Any] = {}
    if command.execution != report.execution_seq:
        facts["execution"] = report.execution_seq
    if sends and isinstance(command, c.RecordStep):
        facts["sends"] = sends
    if facts:
        command = msgspec.structs.replace(command, **facts)
    found: Message[Any] = command
    check_command(found, order)
    return found


def _decode_send(sent: SentMessage) -> c.Send:
    decoder = _SENDABLE.get(sent.kind)
    if decoder is None:
        raise InvalidInput("sends.kind", f"a step cannot send {sent.kind!r:.60}")
    is_run = sent.target.startswith("run/")
    if is_run is not (sent.kind == "create_run") or (not is_run and sent.target != "router/"):
        raise InvalidInput("sends.target", f"{sent.kind} cannot go to {sent.target!r:.60}")
    return c.Send(sent.target, decoder.decode(sent.data))


class Shadow:
    """A worker's copy of a run's record. It takes the same decisions as the run's actor, so it
    holds what was recorded without being sent it.
    """

    def __init__(self, run: Run, clock: Clock) -> None:
        self.run, self._clock = run, clock

    def assignment(self, execution: int, effects: Effects) -> Assignment:
        """An execution of the body over this copy."""
        run = self.run
        ending = run.unwinding or run.cancelling
        return Assignment.of(run, execution, ending, effects, lambda: run)

    def follow(self, command: Message[Any]) -> Any:
        """The server records this command, now or before; what it answers."""
        now = self._clock.now()
        decision = decide(self.run, command, Situation(now, hot=True))
        for entry in decision.entries:
            apply(self.run, entry, now)
        return decision.reply

    def update(self, step: Step) -> None:
        """A wait has ended; this is the step as the server has it."""
        self.run.steps[step.key] = step
        if step.status not in OPEN:
            self.run.open.pop(step.key, None)
