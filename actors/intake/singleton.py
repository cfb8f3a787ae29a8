"""The actor of a singleton: it lets runs of a function in, one at a time for each value of the key.

Runs are created by a message of its own and report their end to it by another, both durable: who
holds it is always a run that exists or is about to, and nothing can be left behind.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ironflow.actors.intake.actor import IntakeActor
from ironflow.actors.kernel.actor import Envelope
from ironflow.core.errors import Conflict
from ironflow.core.functions import intake as i
from ironflow.core.messages import Message
from ironflow.core.runs import commands as c
from ironflow.core.values.payloads import Failure
from ironflow.storage.ports import Batch, IntakeRow


class SingletonActor(IntakeActor[i.Single]):
    """One singleton."""

    fold = i.Single
    kinds = {  # noqa: RUF012 - a table
        "singleton.held": i.Held,
        "singleton.queued": i.Queued,
        "singleton.left": i.Left,
    }

    def handle(self, message: Message[Any], envelope: Envelope, batch: Batch) -> object:
        """Understands the messages about runs that want in, and that have left."""
        match message:
            case c.Admit():
                return self._admit(message, envelope, batch)
            case c.RunLeft():
                entries, sends = i.leave(self.state, message.run_id)
                return self._finish(batch, entries, message, sends, envelope)
            case c.Readmit():
                return self._readmit(message, envelope, batch)
            case c.Withdraw():
                sends = [c.Send(f"run/{message.run_id}", message.cancel)]
                return self.settle(batch, message, sends, envelope)
            case _:
                return super().handle(message, envelope, batch)

    def _admit(self, message: c.Admit, envelope: Envelope, batch: Batch) -> object:
        entries, sends, fate, run_id = i.admit(self.state, self.address, message)
        create = message.create
        now = self.environment.clock.now()
        subject = i.subject_of(message.run_id, create)
        outcome = c.Outcome(subject, self.function_id, fate, run_id, now)
        if create.parent is None or fate == "skipped":
            self.note(batch, outcome)
        if fate == "skipped" and create.parent is not None and not create.parent.detached:
            sends = [c.Send(f"run/{create.parent.run_id}", _tell(message, run_id))]
        reply = c.Admitted(fate, run_id, bool(entries))
        return self._finish(batch, entries, message, sends, envelope, reply)

    def _readmit(self, message: c.Readmit, envelope: Envelope, batch: Batch) -> object:
        state, run_id = self.state, message.run_id
        if state.holder is not None and state.holder != run_id:
            raise Conflict(
                f"function {self.function_id} is a singleton and run {state.holder} is under way: "
                f"run {run_id} can be retried once that has ended"
            )
        if state.holder == run_id:
            raise Conflict(f"run {run_id} has not failed: it is under way")
        retry = msgspec.structs.replace(message.retry, gate=self.address)
        sends = [c.Send(f"run/{run_id}", retry)]
        return self._finish(batch, [i.Held(run_id)], message, sends, envelope, "queued")

    def _finish(
        self,
        batch: Batch,
        entries: list[i.SingletonEntry],
        message: Message[Any],
        sends: list[c.Send],
        envelope: Envelope,
        reply: object = None,
    ) -> object:
        """Commit, with the row as the state has it now."""
        self.record(batch, entries)
        if entries:
            self.show(batch)
        return self.settle(batch, message, sends, envelope, reply)

    def row(self) -> IntakeRow | None:
        """The run that is under way, as lists see it, and the one behind it."""
        state, now = self.state, self.environment.clock.now()
        if state.holder is None:
            return None
        newest, count = (state.holder, 1) if state.waiting is None else (state.waiting, 2)
        return IntakeRow(
            self.address, "singleton", *i.parse_address(self.key), state.holder, newest,
            now, None, count,
        )  # fmt: skip


def _tell(message: c.Admit, run_id: str) -> c.ChildEnded:
    """What the parent of a child that is not made is told."""
    create, parent = message.create, message.create.parent
    assert parent is not None
    text = (
        f"function {create.function_id} is a singleton and run {run_id} is under way: no other was "
        "started"
    )
    error = Failure("Skipped", text, "skipped", retryable=False, facts={"run_id": run_id})
    return c.ChildEnded(
        step=parent.step,
        run_id=message.run_id,
        function_id=create.function_id,
        status="failed",
        error=error,
    )
