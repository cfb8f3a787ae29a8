"""Task runs in the history of their flow run, or of their own: made and moved over HTTP, reported
by clients, and those that stand for a flow run of its own.
"""

from __future__ import annotations

import msgspec

from ironflow.actors.kernel.actor import Envelope
from ironflow.actors.prefect.history import HistoryActor
from ironflow.core.errors import Conflict
from ironflow.core.prefect import bodies
from ironflow.core.prefect import commands as c
from ironflow.core.prefect import runs as r
from ironflow.core.prefect.states import (
    State,
    StateCreate,
    begin_state,
    drop_unpersisted_data,
    micros,
)
from ironflow.core.prefect.task_rules import decide_task_state
from ironflow.core.prefect.timers import TIMER_NAMES
from ironflow.storage.ports import Batch
from ironflow.storage.relational.prefect_runs import TASK_CACHES, TASK_RUNS

_encode = msgspec.json.Encoder().encode


class TaskRunKeeper(HistoryActor):
    """What the actor of a flow run does for its task runs."""

    def decide_task(
        self, task: r.TaskRun, proposed: StateCreate, *, force: bool, cached: State | None = None
    ) -> tuple[r.TaskRunMoved | None, tuple[int, bytes]]:
        """The entry that a proposal for a task run leads to, if any, and the answer to it."""
        run = self.history.flow_run
        child = task.state.state_details.child_flow_run_id if task.state is not None else None
        situation = self.situation(
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
        drop_unpersisted_data(verdict.state)
        moved = r.TaskRunMoved(
            id=task.info.id,
            state=verdict.state,
            run_count=verdict.run_count,
            flow_run_run_count=decided.flow_run_run_count,
        )
        return moved, answer

    def create_task(self, message: c.CreateTaskRun, envelope: Envelope) -> object:
        """Create a task run, or find it by its keys. Raises `Conflict` without its flow run."""
        info, run = message.info, self.history.flow_run
        if run is None and info.flow_run_id is not None:
            self.leave_if_empty()
            raise Conflict(f"flow_run_id: there is no flow run {info.flow_run_id}")
        known = r.find_task(self.history, info)
        if known is not None:
            return self.after_pending(envelope, self.show_task_run(known, 200))
        if run is not None:
            info.labels = {**run.info.labels, "prefect.flow-run.id": self.key, **info.labels}
        draft = r.TaskRun(info=info, created_at=0, updated_at=0)
        moved, _ = self.decide_task(draft, message.state, force=True)
        assert moved is not None
        return self.record(
            [r.TaskRunCreated(info=info), moved],
            envelope,
            lambda: self.show_task_run(self.history.tasks[info.id], 201),
        )

    def read_task(self, message: c.ReadTaskRun, envelope: Envelope) -> object:
        """A task run as it is now."""
        return self.after_pending(envelope, self.show_task_run(self.task_run(message.id), 200))

    def set_task_state(self, message: c.SetTaskRunState, envelope: Envelope) -> object:
        """Decide about a state that is proposed for a task run."""
        task = self.task_run(message.id)
        entry, answer = self.decide_task(
            task, message.state, force=message.force, cached=message.cached
        )
        reply = c.Reply(*answer)
        if entry is None:
            return self.after_pending(envelope, reply)
        batch = Batch([], [], [])
        state, details = entry.state, entry.state.state_details
        if state.type == "COMPLETED" and state.name != "Cached" and details.cache_key is not None:
            expires = micros(details.cache_expiration)
            row = (details.cache_key, self.key, state.at, expires, _encode(state))
            batch.puts.append((TASK_CACHES, row))
        return self.record([entry], envelope, lambda: reply, batch=batch)

    def change_task(self, message: c.ChangeTaskRun, envelope: Envelope) -> object:
        """Rename a task run."""
        self.task_run(message.id)
        return self.record([r.TaskRunChanged(id=message.id, name=message.name)], envelope)

    def delete_task(self, message: c.DeleteTaskRun, envelope: Envelope) -> object:
        """Delete a task run; one that has no flow run with its whole history."""
        self.task_run(message.id)
        if message.id == self.key:
            return self.delete()
        batch = Batch([], [], [(TASK_RUNS, (message.id,))])
        return self.record([r.TaskRunDeleted(message.id)], envelope, batch=batch)

    def record_tasks(self, message: c.RecordTaskRuns, envelope: Envelope) -> object:
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
        self.leave_if_empty()
        return self.record(entries, envelope)

    def mirror_child(self, message: c.MirrorChild, envelope: Envelope) -> object:
        """A task run that stands for a flow run follows it."""
        task = self.history.tasks.get(message.task_run_id)
        if task is None:
            self.leave_if_empty()
            return self.record([], envelope, delivery=message.delivery)
        theirs = message.state
        create = StateCreate(
            type=theirs.type,
            name=theirs.name,
            message=theirs.message,
            data=theirs.data,
            state_details=msgspec.structs.replace(theirs.state_details),
        )
        situation = self.situation(
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
        return self.record([entry], envelope, delivery=message.delivery)

    async def delete(self) -> bool:
        """Delete the history and everything of it; whether there was one."""
        env, history = self.environment, self.history
        await env.store.journal.flush()
        if not history.version:
            self.cell.leave_when_quiet()
            return False
        await env.store.forget([self.key])
        for name in TIMER_NAMES:
            env.timers.disarm(self.address, name)
        self.history, self.timers = r.History(self.key), {}
        self.info, self.body, self.facts, self.task_bodies = None, None, None, {}
        self.snapshot_version = 0
        self.cell.leave_when_quiet()
        return True
