"""Actors whose state is the fold of a stream: start from snapshot and entries, change only by
committed entries.

Commits are pipelined: the state moves on when an append is queued and the answer leaves when it is
durable. That is safe because there is one writer and it is first in, first out: if a commit fails,
everything queued behind it for this stream fails with it, and the actor is dropped and wakes again
from what the journal has.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ironflow.actors.environment import Environment
from ironflow.actors.kernel.actor import Actor, Envelope
from ironflow.core.crash_points import reach
from ironflow.core.messages import Message
from ironflow.storage.ports import SNAPSHOTS, TIMERS, Batch

SNAPSHOT_AFTER = 256
"""Entries since the last snapshot before a new one is considered."""

RENEW_FIRST, RENEW_LAST = 0.1, 5.0
"""Seconds after which an actor that was started again asks for what it may have lost: ever later,
so that a thousand actors on a full disk do not keep the process busy."""


class Renew(Message[None], frozen=True):
    """Time to renew every source that may wake the actor."""


class StreamActor(Actor):
    """Base of event-sourced actors."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.uncommitted = 0
        self.snapshot_version = 0

    @property
    def stream(self) -> str:
        """The name of the stream: the actor's address, unless a subclass says otherwise."""
        return self.address

    def is_fresh(self) -> bool:
        """Whether the id was made up for what is to begin now, so that there is no stream to read.

        True once: that is a fifth of what an invocation costs, and a trip to a thread before its
        commit. If there were a stream after all, the fence of the first version would refuse the
        commit.
        """
        fresh = self.environment.fresh
        if self.key not in fresh:
            return False
        fresh.discard(self.key)
        return True

    def renew_later(self) -> None:
        """Ask for `Renew` after a pause that grows with the number of restarts."""
        pause = min(RENEW_FIRST * 2.0 ** min(self.cell.restarts, 10), RENEW_LAST)
        self.system.later(pause, self.system.at(self.address), Renew())

    def is_quiet(self) -> bool:
        """Nothing is on its way to the disk."""
        return self.uncommitted == 0

    def snapshot_is_due(self, version: int) -> bool:
        """Whether the state as of `version` should be stored: ever rarer as the stream grows, so
        that the cost per entry stays flat, and waking reads at most about a third of the stream's
        entries.
        """
        since = version - self.snapshot_version
        return since >= SNAPSHOT_AFTER and since * 2 >= self.snapshot_version

    def add_snapshot(self, batch: Batch, version: int, state: bytes) -> None:
        """Store the state with the entries of `batch`."""
        self.snapshot_version = version
        batch.puts.append((SNAPSHOTS, (self.stream, version, state)))

    def set_timer(self, batch: Batch, name: str, at: int | None, version: int) -> None:
        """Set a durable timer with `batch`; None: clear it. To be armed once that is committed."""
        if at is None:
            batch.deletes.append((TIMERS, (self.address, name)))
        else:
            batch.puts.append((TIMERS, (self.address, name, at, version)))

    def arm(self, name: str, at: int | None) -> None:
        """Have a timer ring whose row is in the database; None: it is there no more."""
        if at is None:
            self.environment.timers.disarm(self.address, name)
        else:
            self.environment.timers.arm(self.address, name, at)

    def commit(
        self,
        batch: Batch,
        envelope: Envelope | None = None,
        reply: object = None,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Queue a batch; once it is durable answer `envelope` with `reply` (an error refuses it)
        and run `then`.
        """
        self.uncommitted += 1
        self.environment.store.journal.append(
            batch, partial(self._committed, envelope, reply, then)
        )

    def _committed(
        self,
        envelope: Envelope | None,
        reply: object,
        then: Callable[[], None] | None,
        error: Exception | None,
    ) -> None:
        cell = self.cell
        if cell.actor is not self:
            return  # an earlier commit failed, and all that was asked with it
        if error is None:
            self.uncommitted -= 1
            reach("answer.before")
            if isinstance(reply, Exception) and envelope is not None:
                cell.refuse(envelope, reply)
            elif envelope is not None:
                cell.answer(envelope, reply)
            reach("answer.after")
            if then is not None:
                then()
        else:
            cell.crash(error)  # it starts again by itself
