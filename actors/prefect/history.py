"""The base of the actor of a Prefect flow run: its history, and the commits that make it grow.

Its stream is `run/<id>`, like that of any run. Entries are committed with the rows that the API,
its filters and the lists of all runs read, with messages to other flow runs, and with the timers
that bring a run on when its client does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from ironflow.actors.environment import Environment
from ironflow.actors.kernel.actor import LATER, Envelope
from ironflow.actors.kernel.outbox import encode_row, with_delivery
from ironflow.actors.prefect.rows import flow_run_row, row_facts, run_row, task_run_row
from ironflow.actors.prefect.sinks import MoveSink
from ironflow.actors.stream import StreamActor
from ironflow.core.errors import NotFound
from ironflow.core.prefect import bodies
from ironflow.core.prefect import commands as c
from ironflow.core.prefect import runs as r
from ironflow.core.prefect.lists import as_run
from ironflow.core.prefect.rules import Situation
from ironflow.core.prefect.states import State
from ironflow.core.prefect.timers import wanted_timers
from ironflow.core.runs import commands as native
from ironflow.storage.ports import DELIVERIES, RUNS, TIMERS, Batch, Loaded, NewEntry, Table
from ironflow.storage.relational.prefect_runs import (
    FLOW_RUN_MOVES,
    FLOW_RUNS,
    RUN_STATES,
    TASK_RUN_MOVES,
    TASK_RUNS,
)

Then = list[Callable[[], None]]
_encode_history = msgspec.json.Encoder().encode
_decode_history = msgspec.json.Decoder(r.History).decode


def fold(run_id: str, loaded: Loaded) -> r.History:
    """The history that a snapshot and the entries after it make."""
    snapshot = loaded.snapshot
    history = r.History(run_id) if snapshot is None else _decode_history(snapshot.data)
    for entry in loaded.entries:
        r.apply(history, r.decode_entry(entry.kind, entry.data), entry.at)
    return history


class HistoryActor(StreamActor):
    """What is common to all commands of a flow run."""

    history: r.History

    def __init__(self, environment: Environment, sink: MoveSink) -> None:
        super().__init__(environment)
        self.sink = sink
        self.is_foreign = False
        """The stream is that of another kind of run."""
        self.info: bytes | None = None
        """What does not change of the flow run's body, once it was encoded."""
        self.body: bytes | None = None
        """The flow run's body, once it was encoded."""
        self.facts: tuple[object, ...] | None = None
        """What the row among all runs follows, as of the last time that it was written."""
        self.task_bodies: dict[str, bytes] = {}
        """The bodies of the task runs that the last commit has changed."""
        self.timers: dict[str, int] = {}
        self.now = 0
        """When the message in hand came: one moment for all that is recorded of it."""

    @property
    def stream(self) -> str:
        """See `StreamActor`."""
        return f"run/{self.key}"

    def start_at_once(self) -> bool:
        """A run whose id was just made up has no stream to read."""
        if not self.is_fresh():
            return False
        self.history = r.History(self.key)
        return True

    async def start(self) -> None:
        """Fold the stream."""
        loaded = await self.environment.store.reader.load(self.stream)
        if loaded.entries and not r.is_ours(loaded.entries[0].kind):
            self.is_foreign, self.history = True, r.History(self.key)
            return
        self.history = fold(self.key, loaded)
        if loaded.snapshot is not None:
            self.snapshot_version = loaded.snapshot.version
        self.timers = wanted_timers(self.history)
        if self.cell.restarts:
            self.renew_later()

    # -- what is there ----------------------------------------------------------------------------

    @property
    def flow_run(self) -> r.FlowRun:
        """The flow run. Raises `NotFound`."""
        run = self.history.flow_run
        if run is None:
            self.leave_if_empty()
            raise NotFound("flow run", self.key)
        return run

    def task_run(self, task_run_id: str) -> r.TaskRun:
        """A task run. Raises `NotFound`."""
        task = self.history.tasks.get(task_run_id)
        if task is None:
            self.leave_if_empty()
            raise NotFound("task run", task_run_id)
        return task

    def leave_if_empty(self) -> None:
        """An actor without a history need not stay in memory."""
        if not self.history.version:
            self.cell.leave_when_quiet()

    def flow_run_body(self) -> bytes:
        """The flow run's body as rows keep it."""
        run = self.flow_run
        if self.body is None:
            if self.info is None:
                self.info = bodies.encode_info(run)
            self.body = bodies.encode_flow_run(run, self.info)
        return self.body

    def show_flow_run(self, status: int) -> c.Reply:
        """The flow run as it is now, estimates and all."""
        now = self.environment.clock.now()
        return c.Reply(status, bodies.render_run(self.flow_run, self.flow_run_body(), now))

    def show_task_run(self, task: r.TaskRun, status: int) -> c.Reply:
        """A task run as it is now."""
        now = self.environment.clock.now()
        body = self.task_bodies.get(task.info.id) or bodies.encode_task_run(task)
        return c.Reply(status, bodies.render_run(task, body, now))

    def situation(self, **facts: Any) -> Situation:
        """What a decision depends on."""
        env = self.environment
        exists = self.history.flow_run is not None
        return Situation(
            now=self.now,
            state_id=env.ids.new(),
            rng=env.ids.rng,
            flow_run_id=self.key if exists else None,
            **facts,
        )

    # -- the commit -------------------------------------------------------------------------------

    def after_pending(self, envelope: Envelope, reply: object) -> object:
        """Answer with what is known here, but not before it is durable."""
        if not self.uncommitted:
            return reply
        self.commit(Batch([], [], []), envelope, reply)
        return LATER

    def record(
        self,
        entries: Sequence[r.FlowEntry],
        envelope: Envelope | None,
        reply: Callable[[], object] = lambda: None,
        *,
        batch: Batch | None = None,
        delivery: str | None = None,
        sends: Sequence[native.Send] = (),
    ) -> object:
        """Apply entries, and commit them with all that follows from them."""
        history, then = self.history, Then()
        batch = batch or Batch([], [], [])
        old = history.flow_run.state if history.flow_run is not None else None
        tasks, flow = self._apply(entries, batch)
        run = history.flow_run
        self._put_rows(tasks, flow, batch)
        sends = list(sends)
        if run is not None and run.state is not old and run.state is not None:
            then.append(self.sink.flow_run_moved(run, old, batch))
            sends += mirrored(run)
        self._send(sends, batch, then)
        self._set_timers(batch, then)
        if delivery is not None:
            batch.deletes.append((DELIVERIES, (delivery,)))
            then.append(partial(self.environment.outbox.consumed, self.address, delivery))
        if entries and self.snapshot_is_due(history.version):
            self.add_snapshot(batch, history.version, _encode_history(history))
        if flow is not None and run is not None and run.is_terminal:
            then.append(self._publish_end)
        if not (batch.entries or batch.puts or batch.deletes):
            return self.after_pending(envelope, reply()) if envelope is not None else None
        self.commit(batch, envelope, reply(), partial(_run_all, then) if then else None)
        return LATER

    def _apply(
        self, entries: Sequence[r.FlowEntry], batch: Batch
    ) -> tuple[dict[str, Table], Table | None]:
        """How the rows of the task runs that the entries change are to be put, and that of the flow
        run, if it changes.
        """
        now, history, stream = self.now, self.history, self.stream
        tasks: dict[str, Table] = {}
        flow: Table | None = None
        for entry in entries:
            data = r.encode_entry(entry)
            is_move = isinstance(entry, r.TaskRunMoved) and (
                history.tasks[entry.id].expected_at is not None
            )
            r.apply(history, entry, now)
            version = history.version
            batch.entries.append(NewEntry(stream, version, now, r.KINDS[type(entry)], data))
            task_run_id = r.changed_task(history, entry)
            if task_run_id is not None:
                if is_move:
                    tasks.setdefault(task_run_id, TASK_RUN_MOVES)
                else:
                    tasks[task_run_id] = TASK_RUNS
            elif isinstance(entry, r.FlowRunMoved):
                self.body, flow = None, flow or FLOW_RUN_MOVES
            elif isinstance(entry, r.FlowRunCreated | r.FlowRunChanged):
                self.info, self.body, flow = None, None, FLOW_RUNS
            state: State | None = getattr(entry, "state", None)
            if state is not None:
                owner, kind = task_run_id or self.key, "task_run" if task_run_id else "flow_run"
                row = (stream, version, state.id, owner, kind, state.at)
                batch.puts.append((RUN_STATES, row))
        return tasks, flow

    def _put_rows(self, tasks: dict[str, Table], flow: Table | None, batch: Batch) -> None:
        history = self.history
        self.task_bodies = {}
        for task_run_id, table in tasks.items():
            task = history.tasks[task_run_id]
            body = self.task_bodies[task_run_id] = bodies.encode_task_run(task)
            batch.puts.append((table, task_run_row(task, body)))
        run = history.flow_run
        if run is not None and flow is not None:
            batch.puts.append((flow, flow_run_row(run, self.flow_run_body())))
        if flow is not None or (run is None and self.key in tasks):
            facts = row_facts(history)
            if facts != self.facts:
                self.facts = facts
                batch.puts.append((RUNS, run_row(history)))

    def _send(self, sends: Sequence[native.Send], batch: Batch, then: Then) -> None:
        if not sends:
            return
        outbox, now = self.environment.outbox, self.now
        for number, send in enumerate(sends):
            delivery = f"{self.stream}/{self.history.version:09d}/{number}"
            batch.puts.append((DELIVERIES, encode_row(send, delivery, now)))
            message = with_delivery(send.message, delivery)
            then.append(partial(outbox.post, send.target, delivery, message))

    def _publish_end(self) -> None:
        endings = self.environment.endings
        run = as_run(self.history, with_steps=endings.are_awaited(self.key))
        if run is not None and run.is_terminal:
            endings.publish(run)

    # -- timers -----------------------------------------------------------------------------------

    def _set_timers(self, batch: Batch, then: Then) -> None:
        wanted, timers = wanted_timers(self.history), self.environment.timers
        if wanted == self.timers:
            return
        for name, at in wanted.items():
            if self.timers.get(name) != at:
                batch.puts.append((TIMERS, (self.address, name, at, self.history.version)))
                then.append(partial(timers.arm, self.address, name, at))
        for name in self.timers.keys() - wanted.keys():
            batch.deletes.append((TIMERS, (self.address, name)))
            then.append(partial(timers.disarm, self.address, name))
        self.timers = wanted


def mirrored(run: r.FlowRun) -> list[native.Send]:
    """What the task run that waits for a flow run is to be told of its state."""
    info, state = run.info, run.state
    if info.parent_task_run_id is None or state is None:
        return []
    owner = run.parent_flow_run_id or info.parent_task_run_id
    message = c.MirrorChild(
        task_run_id=info.parent_task_run_id, child_flow_run_id=info.id, state=state
    )
    return [native.Send(f"flow_run/{owner}", message)]


def _run_all(then: Then) -> None:
    for act in then:
        act()
