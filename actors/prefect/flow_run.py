"""The actor of one Prefect flow run and its task runs, or of a task run that has no flow run.

Its stream is `run/<id>`, like that of any run. A command becomes entries; these are committed with
the rows that the API, its filters and the lists of all runs read, and with the timers that bring a
run on when its client does not: late, paused for too long, cancelled with tasks left behind.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from ironflow.actors.environment import Environment
from ironflow.actors.kernel import LATER, Ensure, Envelope
from ironflow.actors.outbox import encode_row, with_delivery
from ironflow.actors.prefect.rows import flow_run_row, run_row, task_run_row
from ironflow.actors.prefect.sinks import MoveSink
from ironflow.actors.stream import Renew, StreamActor
from ironflow.core import commands as native
from ironflow.core.clock import SECOND
from ironflow.core.errors import Conflict, NotFound
from ironflow.core.messages import Message
from ironflow.core.prefect import bodies
from ironflow.core.prefect import commands as c
from ironflow.core.prefect import runs as r
from ironflow.core.prefect.flow_rules import NEVER_RESUMED, decide_flow_state, is_suspended
from ironflow.core.prefect.lists import as_run, status_of
from ironflow.core.prefect.rules import Situation
from ironflow.core.prefect.states import (
    LATE,
    State,
    StateCreate,
    StateDetails,
    begin_state,
    micros,
)
from ironflow.core.prefect.task_rules import decide_task_state
from ironflow.storage.ports import DELIVERIES, RUNS, TIMERS, Batch, Loaded, NewEntry
from ironflow.storage.prefect_runs import FLOW_RUNS, RUN_INPUTS, RUN_STATES, TASK_CACHES, TASK_RUNS

LATE_AFTER = 15 * SECOND
"""How long after its scheduled time a run that nobody has taken is late."""
CLEAN_UP_AFTER = 10 * SECOND
"""How long after its cancellation what a flow run left behind is cancelled, too: its process may
still report how its tasks ended.
"""
LATE_TIMER, PAUSE_TIMER, CLEAN_UP_TIMER = "late", "pause", "clean_up"
_TIMER_NAMES = (LATE_TIMER, PAUSE_TIMER, CLEAN_UP_TIMER)

_encode_history = msgspec.json.Encoder().encode
_decode_history = msgspec.json.Decoder(r.History).decode
_encode = msgspec.json.Encoder().encode


def fold(run_id: str, loaded: Loaded) -> r.History:
    """The history that a snapshot and the entries after it make."""
    snapshot = loaded.snapshot
    history = r.History(run_id) if snapshot is None else _decode_history(snapshot.data)
    for entry in loaded.entries:
        r.apply(history, r.decode_entry(entry.kind, entry.data), entry.at)
    return history


class FlowRunActor(StreamActor):
    """One flow run. Understands `ironflow.core.prefect.commands`, and the verbs of all runs."""

    history: r.History

    def __init__(self, environment: Environment, sink: MoveSink) -> None:
        super().__init__(environment)
        self.sink = sink
        self.is_foreign = False
        """The stream is that of another kind of run."""
        self._info: bytes | None = None
        self._timers: dict[str, int] = {}

    @property
    def stream(self) -> str:
        """See `StreamActor`."""
        return f"run/{self.key}"

    async def start(self) -> None:
        """Fold the stream."""
        loaded = await self.environment.store.reader.load(self.stream)
        if loaded.entries and not r.is_ours(loaded.entries[0].kind):
            self.is_foreign, self.history = True, r.History(self.key)
            return
        self.history = fold(self.key, loaded)
        if loaded.snapshot is not None:
            self.snapshot_version = loaded.snapshot.version
        self._timers = self._wanted_timers()
        if self.cell.restarts:
            self.renew_later()

    def receive(self, message: Message[Any], envelope: Envelope) -> object:
        """Decide, commit, and answer after the commit."""
        handle = _HANDLERS.get(type(message))
        if self.is_foreign:
            raise NotFound("flow run", self.key)
        if handle is not None:
            return handle(self, message, envelope)
        return super().receive(message, envelope)

    # -- what is there ----------------------------------------------------------------------------

    @property
    def flow_run(self) -> r.FlowRun:
        """The flow run. Raises `NotFound`."""
        run = self.history.flow_run
        if run is None:
            self._leave_if_empty()
            raise NotFound("flow run", self.key)
        return run

    def task_run(self, task_run_id: str) -> r.TaskRun:
        """A task run. Raises `NotFound`."""
        task = self.history.tasks.get(task_run_id)
        if task is None:
            self._leave_if_empty()
            raise NotFound("task run", task_run_id)
        return task

    def _leave_if_empty(self) -> None:
        if not self.history.version:
            self.cell.leave_when_quiet()

    def _flow_run_body(self) -> bytes:
        run = self.flow_run
        if self._info is None:
            self._info = bodies.encode_info(run)
        return bodies.encode_flow_run(run, self._info)

    def _show_flow_run(self, status: int) -> c.Reply:
        now = self.environment.clock.now()
        return c.Reply(status, bodies.render_run(self.flow_run, self._flow_run_body(), now))

    def _show_task_run(self, task: r.TaskRun, status: int) -> c.Reply:
        now = self.environment.clock.now()
        return c.Reply(status, bodies.render_run(task, bodies.encode_task_run(task), now))

    def _after_pending(self, envelope: Envelope, reply: object) -> object:
        """Answer with what is known here, but not before it is durable."""
        if not self.uncommitted:
            return reply
        self.commit(Batch([], [], []), envelope, reply)
        return LATER

    # -- the commit -------------------------------------------------------------------------------

    def _record(
        self,
        entries: list[r.FlowEntry],
        envelope: Envelope | None,
        reply: Callable[[], object] = lambda: None,
        *,
        batch: Batch | None = None,
        delivery: str | None = None,
        sends: list[native.Send] | None = None,
    ) -> object:
        """Apply entries, and commit them with all that follows from them."""
        now, history = self.environment.clock.now(), self.history
        batch = batch or Batch([], [], [])
        tasks: dict[str, None] = {}
        flow_changed = False
        old = history.flow_run.state if history.flow_run is not None else None
        for entry in entries:
            data = r.encode_entry(entry)
            r.apply(history, entry, now)
            version = history.version
            batch.entries.append(NewEntry(self.stream, version, now, r.KINDS[type(entry)], data))
            match entry:
                case r.FlowRunMoved(state=state):
                    flow_changed = True
                    row = (self.stream, version, state.id, self.key, "flow_run", state.at)
                    batch.puts.append((RUN_STATES, row))
                case r.TaskRunMoved(id=id_, state=state):
                    tasks[id_] = None
                    row = (self.stream, version, state.id, id_, "task_run", state.at)
                    batch.puts.append((RUN_STATES, row))
                case r.TaskRunRecorded(state=state):
                    task = r.find_task(history, entry.info)
                    assert task is not None
                    tasks[task.info.id] = None
                    row = (self.stream, version, state.id, task.info.id, "task_run", state.at)
                    batch.puts.append((RUN_STATES, row))
                case r.FlowRunCreated() | r.FlowRunChanged():
                    self._info, flow_changed = None, True
                case r.TaskRunCreated(info=info):
                    tasks[info.id] = None
                case r.TaskRunChanged(id=id_):
                    tasks[id_] = None
                case _:
                    pass
        for id_ in tasks:
            task = history.tasks[id_]
            batch.puts.append((TASK_RUNS, task_run_row(task, bodies.encode_task_run(task))))
        run = history.flow_run
        if run is not None and flow_changed:
            batch.puts.append((FLOW_RUNS, flow_run_row(run, self._flow_run_body())))
        if flow_changed or (run is None and self.key in tasks):
            batch.puts.append((RUNS, run_row(history)))
        then: list[Callable[[], None]] = []
        if run is not None and run.state is not old and run.state is not None:
            then += [self.sink.flow_run_moved(run, old, batch), *self._mirror(run, sends, batch)]
        elif sends:
            then += self._send(sends, batch)
        self._set_timers(batch, then)
        if delivery is not None:
            batch.deletes.append((DELIVERIES, (delivery,)))
            then.append(partial(self.environment.outbox.consumed, self.address, delivery))
        if entries and self.snapshot_is_due(history.version):
            self.add_snapshot(batch, history.version, _encode_history(history))
        if flow_changed and run is not None and run.is_terminal:
            then.append(self._publish_end)
        if not (batch.entries or batch.puts or batch.deletes):
            return self._after_pending(envelope, reply()) if envelope is not None else None
        self.commit(batch, envelope, reply(), partial(_run_all, then) if then else None)
        return LATER

    def _mirror(
        self, run: r.FlowRun, sends: list[native.Send] | None, batch: Batch
    ) -> list[Callable[[], None]]:
        """Tell the task run that waits for this flow run how it is."""
        sends = list(sends or ())
        info, state = run.info, run.state
        if info.parent_task_run_id is not None and state is not None:
            owner = run.parent_flow_run_id or info.parent_task_run_id
            message = c.MirrorChild(
                task_run_id=info.parent_task_run_id, child_flow_run_id=info.id, state=state
            )
            sends.append(native.Send(f"flow_run/{owner}", message))
        return self._send(sends, batch)

    def _send(self, sends: list[native.Send], batch: Batch) -> list[Callable[[], None]]:
        now, posts = self.environment.clock.now(), list[Callable[[], None]]()
        for number, send in enumerate(sends):
            delivery = f"{self.stream}/{self.history.version:09d}/{number}"
            batch.puts.append((DELIVERIES, encode_row(send, delivery, now)))
            message = with_delivery(send.message, delivery)
            posts.append(partial(self.environment.outbox.post, send.target, delivery, message))
        return posts

    def _publish_end(self) -> None:
        run = as_run(self.history)
        if run is not None and run.is_terminal:
            self.environment.endings.publish(run)

    # -- timers -----------------------------------------------------------------------------------

    def _wanted_timers(self) -> dict[str, int]:
        run = self.history.flow_run
        state = None if run is None else run.state
        if run is None or state is None:
            return {}
        if state.type == "SCHEDULED" and state.name == "Scheduled" and state.scheduled_at:
            return {LATE_TIMER: state.scheduled_at + LATE_AFTER}
        if state.type == "PAUSED" and state.state_details.pause_timeout is not None:
            return {PAUSE_TIMER: micros(state.state_details.pause_timeout) or 0}
        if state.type == "CANCELLED" and self._left_behind():
            return {CLEAN_UP_TIMER: state.at + CLEAN_UP_AFTER}
        return {}

    def _set_timers(self, batch: Batch, then: list[Callable[[], None]]) -> None:
        wanted, timers = self._wanted_timers(), self.environment.timers
        if wanted == self._timers:
            return
        for name, at in wanted.items():
            if self._timers.get(name) != at:
                batch.puts.append((TIMERS, (self.address, name, at, self.history.version)))
                then.append(partial(timers.arm, self.address, name, at))
        for name in self._timers.keys() - wanted.keys():
            batch.deletes.append((TIMERS, (self.address, name)))
            then.append(partial(timers.disarm, self.address, name))
        self._timers = wanted

    def _left_behind(self) -> list[r.TaskRun]:
        return [task for task in self.history.tasks.values() if not task.is_terminal]

    def _ring(self, message: native.TimerFired, envelope: Envelope) -> object:
        """A timer that is not wanted (any more) is harmless."""
        due = self._timers.get(message.name)
        now = self.environment.clock.now()
        if due is None or due > now:
            return None
        del self._timers[message.name]
        batch = Batch([], [], [(TIMERS, (self.address, message.name))])
        run = self.flow_run
        if message.name == CLEAN_UP_TIMER:
            return self._clean_up(batch)
        if message.name == LATE_TIMER:
            details = StateDetails(scheduled_time=run.state.state_details.scheduled_time)  # type: ignore[union-attr]
            state = StateCreate(type="SCHEDULED", name=LATE, state_details=details)
        else:
            state = StateCreate(type="FAILED", message=NEVER_RESUMED)
        entry, _ = self._decide(run, state, force=True)
        return self._record([entry] if entry is not None else [], None, batch=batch)

    def _clean_up(self, batch: Batch) -> object:
        """Cancel the tasks and flows that the cancelled flow run has left behind."""
        entries, sends = list[r.FlowEntry](), list[native.Send]()
        for task in self._left_behind():
            child = task.state.state_details.child_flow_run_id if task.state is not None else None
            if child is not None:
                message = c.CancelFlowRun(reason="The flow run that waits for it was cancelled.")
                sends.append(native.Send(f"flow_run/{child}", message))
            create = StateCreate(type="CANCELLED", message="The flow run was cancelled.")
            if child is not None:
                create.state_details.child_flow_run_id = child
            entries.append(self._decide_task(task, create, force=True)[0])  # type: ignore[arg-type]
        return self._record(entries, None, batch=batch, sends=sends)

    def _renew(self, message: Renew, envelope: Envelope) -> None:
        self.environment.outbox.repost(self.address)
        for name, at in self._timers.items():
            self.environment.timers.arm(self.address, name, at)

    # -- decisions --------------------------------------------------------------------------------

    def _situation(self, **facts: Any) -> Situation:
        env = self.environment
        run = self.history.flow_run
        return Situation(
            now=env.clock.now(),
            state_id=env.ids.new(),
            rng=env.ids.rng,
            flow_run_id=self.key if run is not None else None,
            **facts,
        )

    def _decide(
        self, run: r.FlowRun, proposed: StateCreate, *, force: bool
    ) -> tuple[r.FlowRunMoved | None, tuple[int, bytes]]:
        """The entry that a proposal leads to, if any, and the answer to it."""
        info = run.info
        situation = self._situation(
            task_run_id=info.parent_task_run_id,
            deployment_id=info.deployment_id,
            infrastructure_pid=info.infrastructure_pid,
            is_subflow=info.parent_task_run_id is not None,
        )
        state = begin_state(proposed, situation.state_id, situation.now)
        verdict = decide_flow_state(run, state, situation, force=force)
        answer = bodies.encode_verdict(verdict, run.state)
        if verdict.state is None:
            return None, answer
        moved = r.FlowRunMoved(
            state=verdict.state, run_count=verdict.run_count, policy=verdict.policy
        )
        return moved, answer

    def _decide_task(
        self, task: r.TaskRun, proposed: StateCreate, *, force: bool, cached: State | None = None
    ) -> tuple[r.TaskRunMoved | None, tuple[int, bytes]]:
        run = self.history.flow_run
        child = task.state.state_details.child_flow_run_id if task.state is not None else None
        situation = self._situation(
            task_run_id=task.info.id,
            child_flow_run_id=None if child is None else str(child),
            has_flow=run is not None,
            flow_state=run.state if run is not None else None,
            flow_run_count=run.run_count if run is not None else 0,
            cached=cached,
        )
        state = begin_state(proposed, situation.state_id, situation.now)
        decided = decide_task_state(task, state, situation, force=force)
        verdict = decided.verdict
        answer = bodies.encode_verdict(verdict, task.state)
        if verdict.state is None:
            return None, answer
        moved = r.TaskRunMoved(
            id=task.info.id,
            state=verdict.state,
            run_count=verdict.run_count,
            flow_run_run_count=decided.flow_run_run_count,
        )
        return moved, answer

    # -- flow runs --------------------------------------------------------------------------------

    def _create(self, message: c.CreateFlowRun, envelope: Envelope) -> object:
        if self.history.flow_run is not None:
            return self._after_pending(envelope, self._show_flow_run(200))
        created = r.FlowRunCreated(
            info=message.info,
            flow_name=message.flow_name,
            policy=message.policy,
            parent_flow_run_id=message.parent_flow_run_id,
        )
        situation = self._situation(task_run_id=message.info.parent_task_run_id)
        state = begin_state(message.state, situation.state_id, situation.now)
        draft = r.FlowRun(
            info=message.info, flow_name="", created_at=0, updated_at=0, policy=message.policy
        )
        situation.flow_run_id = self.key
        verdict = decide_flow_state(draft, state, situation, force=True)
        assert verdict.state is not None
        moved = r.FlowRunMoved(state=verdict.state, run_count=verdict.run_count)
        return self._record([created, moved], envelope, lambda: self._show_flow_run(201))

    def _read(self, message: c.ReadFlowRun, envelope: Envelope) -> object:
        return self._after_pending(envelope, self._show_flow_run(200))

    def _set_state(self, message: c.SetFlowRunState, envelope: Envelope) -> object:
        entry, answer = self._decide(self.flow_run, message.state, force=message.force)
        reply = c.Reply(*answer)
        if entry is None:
            return self._after_pending(envelope, reply)
        return self._record([entry], envelope, lambda: reply)

    def _resume(self, message: c.ResumeFlowRun, envelope: Envelope) -> object:
        run = self.flow_run
        state = run.state
        if state is None or state.type != "PAUSED":
            reply = c.Reply(*bodies.encode_abort("The flow run is not paused."))
            return self._after_pending(envelope, reply)
        create = StateCreate(type="RUNNING")
        if is_suspended(state):
            create = StateCreate(type="SCHEDULED", name="Resuming")
        entry, answer = self._decide(run, create, force=False)
        reply = c.Reply(*answer)
        if entry is None:
            return self._after_pending(envelope, reply)
        batch, entries = Batch([], [], []), list[r.FlowEntry]([entry])
        key = (state.state_details.run_input_keyset or {}).get("response")
        if key is not None and key not in self.history.inputs:
            entries.append(self._keep_input(batch, key, message.run_input or "{}", None))
        return self._record(entries, envelope, lambda: reply, batch=batch)

    def _change(self, message: c.ChangeFlowRun, envelope: Envelope) -> object:
        run = self.flow_run
        changes = {
            name: value
            for name, value in msgspec.structs.asdict(message).items()
            if value is not msgspec.UNSET and name not in ("policy", "labels")
        }
        if message.labels is not msgspec.UNSET:
            changes["labels"] = {**run.info.labels, **message.labels}
        info = msgspec.structs.replace(run.info, **changes)
        policy = None if message.policy is msgspec.UNSET else message.policy
        return self._record([r.FlowRunChanged(info=info, policy=policy)], envelope)

    async def _delete(self) -> bool:
        env, history = self.environment, self.history
        await env.store.journal.flush()
        if not history.version:
            self.cell.leave_when_quiet()
            return False
        await env.store.forget([self.key])
        for name in _TIMER_NAMES:
            env.timers.disarm(self.address, name)
        self.history, self._info, self._timers = r.History(self.key), None, {}
        self.snapshot_version = 0
        self.cell.leave_when_quiet()
        return True

    def _add_input(self, message: c.AddInput, envelope: Envelope) -> object:
        if self.flow_run and message.key in self.history.inputs:
            raise Conflict("A flow run input with this key exists already.")
        batch = Batch([], [], [])
        added = self._keep_input(batch, message.key, message.value, message.sender)
        return self._record([added], envelope, batch=batch)

    def _keep_input(self, batch: Batch, key: str, value: str, sender: str | None) -> r.InputAdded:
        now, id_ = self.environment.clock.now(), self.environment.ids.new()
        at = bodies.moment(now) or ""
        view = bodies.RunInputView(id_, at, at, self.key, key, value, sender)
        batch.puts.append((RUN_INPUTS, (self.key, key, now, _encode(view), value)))
        return r.InputAdded(r.RunInput(id=id_, key=key, value=value, sender=sender, created_at=now))

    def _remove_input(self, message: c.RemoveInput, envelope: Envelope) -> object:
        if self.flow_run and message.key not in self.history.inputs:
            raise NotFound("flow run input", message.key)
        batch = Batch([], [], [(RUN_INPUTS, (self.key, message.key))])
        return self._record([r.InputRemoved(message.key)], envelope, batch=batch)

    # -- task runs --------------------------------------------------------------------------------

    def _create_task(self, message: c.CreateTaskRun, envelope: Envelope) -> object:
        info, run = message.info, self.history.flow_run
        if run is None and info.flow_run_id is not None:
            self._leave_if_empty()
            raise Conflict(f"flow_run_id: there is no flow run {info.flow_run_id}")
        known = r.find_task(self.history, info)
        if known is not None:
            return self._after_pending(envelope, self._show_task_run(known, 200))
        if run is not None:
            info.labels = {**run.info.labels, "prefect.flow-run.id": self.key, **info.labels}
        draft = r.TaskRun(info=info, created_at=0, updated_at=0)
        moved, _ = self._decide_task(draft, message.state, force=True)
        assert moved is not None
        return self._record(
            [r.TaskRunCreated(info=info), moved],
            envelope,
            lambda: self._show_task_run(self.history.tasks[info.id], 201),
        )

    def _read_task(self, message: c.ReadTaskRun, envelope: Envelope) -> object:
        return self._after_pending(envelope, self._show_task_run(self.task_run(message.id), 200))

    def _set_task_state(self, message: c.SetTaskRunState, envelope: Envelope) -> object:
        task = self.task_run(message.id)
        entry, answer = self._decide_task(
            task, message.state, force=message.force, cached=message.cached
        )
        reply = c.Reply(*answer)
        if entry is None:
            return self._after_pending(envelope, reply)
        batch = Batch([], [], [])
        state, details = entry.state, entry.state.state_details
        if state.type == "COMPLETED" and state.name != "Cached" and details.cache_key is not None:
            expires = micros(details.cache_expiration)
            row = (details.cache_key, self.key, state.at, expires, _encode(state))
            batch.puts.append((TASK_CACHES, row))
        return self._record([entry], envelope, lambda: reply, batch=batch)

    def _change_task(self, message: c.ChangeTaskRun, envelope: Envelope) -> object:
        self.task_run(message.id)
        return self._record([r.TaskRunChanged(id=message.id, name=message.name)], envelope)

    def _delete_task(self, message: c.DeleteTaskRun, envelope: Envelope) -> object:
        self.task_run(message.id)
        if message.id == self.key:
            return self._delete()
        batch = Batch([], [], [(TASK_RUNS, (message.id,))])
        return self._record([r.TaskRunDeleted(message.id)], envelope, batch=batch)

    def _record_tasks(self, message: c.RecordTaskRuns, envelope: Envelope) -> object:
        """Reports of a flow run that is gone say nothing any more; repeated ones change nothing."""
        entries: list[r.FlowEntry] = []
        fresh: set[str] = set()
        for report in message.reports:
            if self.history.flow_run is None and report.info.flow_run_id is not None:
                continue
            task = r.find_task(self.history, report.info)
            id_ = report.state.id
            if id_ not in fresh and (task is None or id_ not in task.seen):
                fresh.add(id_)
                entries.append(report)
        self._leave_if_empty()
        return self._record(entries, envelope)

    def _mirror_child(self, message: c.MirrorChild, envelope: Envelope) -> object:
        task = self.history.tasks.get(message.task_run_id)
        if task is None:
            self._leave_if_empty()
            return self._record([], envelope, delivery=message.delivery)
        theirs = message.state
        create = StateCreate(type=theirs.type, name=theirs.name, message=theirs.message)
        create.state_details.scheduled_time = theirs.state_details.scheduled_time
        situation = self._situation(
            task_run_id=task.info.id, child_flow_run_id=message.child_flow_run_id
        )
        state = begin_state(create, situation.state_id, situation.now)
        verdict = decide_task_state(task, state, situation, force=True).verdict
        assert verdict.state is not None
        entry = r.TaskRunMoved(
            id=task.info.id,
            state=verdict.state,
            run_count=verdict.run_count,
            flow_run_run_count=task.flow_run_run_count,
        )
        return self._record([entry], envelope, delivery=message.delivery)

    # -- the verbs of all runs --------------------------------------------------------------------

    def _cancel_with_parent(self, message: c.CancelFlowRun, envelope: Envelope) -> object:
        run = self.history.flow_run
        if run is None or run.is_terminal:
            self._leave_if_empty()
            return self._record([], envelope, delivery=message.delivery)
        create = StateCreate(type="CANCELLED", message=message.reason)
        entry, _ = self._decide(run, create, force=True)
        assert entry is not None
        return self._record([entry], envelope, delivery=message.delivery)

    def _propose(self, create: StateCreate, envelope: Envelope, *, force: bool = False) -> object:
        entry, answer = self._decide(self.flow_run, create, force=force)
        if entry is None:
            details = msgspec.json.decode(answer[1])["details"]
            raise Conflict(details.get("reason") or "The flow run does not allow that now.")
        return self._record([entry], envelope, lambda: status_of(self.flow_run.state).value)

    def _cancel(self, message: native.CancelRun, envelope: Envelope) -> object:
        state = self.flow_run.state
        taken = self.flow_run.info.infrastructure_pid is not None
        if state is not None and state.type == "PENDING" and not taken:
            return self._propose(StateCreate(type="CANCELLED", message=message.reason), envelope)
        return self._propose(StateCreate(type="CANCELLING", message=message.reason), envelope)

    def _pause(self, message: native.PauseRun, envelope: Envelope) -> object:
        details = StateDetails(pause_reschedule=True, pause_key=self.environment.ids.new())
        create = StateCreate(
            type="PAUSED", name="Suspended", message=message.reason, state_details=details
        )
        return self._propose(create, envelope)

    def _resume_run(self, message: native.ResumeRun, envelope: Envelope) -> object:
        state = self.flow_run.state
        if state is None or state.type != "PAUSED":
            raise Conflict(f"run {self.key} is not paused")
        kind = "SCHEDULED" if is_suspended(state) else "RUNNING"
        name = "Resuming" if is_suspended(state) else None
        return self._propose(StateCreate(type=kind, name=name), envelope)  # type: ignore[arg-type]

    def _retry_run(self, message: native.RetryRun, envelope: Envelope) -> object:
        if not self.flow_run.is_terminal:
            raise Conflict(f"run {self.key} has not ended")
        create = StateCreate(type="SCHEDULED", name="AwaitingRetry", message=message.reason)
        return self._propose(create, envelope)


def _run_all(then: list[Callable[[], None]]) -> None:
    for act in then:
        act()


Handler = Callable[[FlowRunActor, Any, Envelope], object]
_HANDLERS: dict[type, Handler] = {
    c.SetFlowRunState: FlowRunActor._set_state,
    c.CreateFlowRun: FlowRunActor._create,
    c.ReadFlowRun: FlowRunActor._read,
    c.RecordTaskRuns: FlowRunActor._record_tasks,
    c.CreateTaskRun: FlowRunActor._create_task,
    c.SetTaskRunState: FlowRunActor._set_task_state,
    c.ReadTaskRun: FlowRunActor._read_task,
    c.ResumeFlowRun: FlowRunActor._resume,
    c.ChangeFlowRun: FlowRunActor._change,
    c.DeleteHistory: lambda actor, message, envelope: actor._delete(),
    c.AddInput: FlowRunActor._add_input,
    c.RemoveInput: FlowRunActor._remove_input,
    c.ChangeTaskRun: FlowRunActor._change_task,
    c.DeleteTaskRun: FlowRunActor._delete_task,
    c.MirrorChild: FlowRunActor._mirror_child,
    c.CancelFlowRun: FlowRunActor._cancel_with_parent,
    native.TimerFired: FlowRunActor._ring,
    native.CancelRun: FlowRunActor._cancel,
    native.PauseRun: FlowRunActor._pause,
    native.ResumeRun: FlowRunActor._resume_run,
    native.RetryRun: FlowRunActor._retry_run,
    Renew: FlowRunActor._renew,
    Ensure: lambda actor, message, envelope: None,
}
