"""The actor of one Prefect flow run and its task runs, or of a task run that has no flow run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ironflow.actors.kernel.actor import Ensure, Envelope
from ironflow.actors.prefect.task_runs import TaskRunKeeper
from ironflow.actors.stream import Renew
from ironflow.core.errors import Conflict, InvalidInput, NotFound
from ironflow.core.messages import Message
from ironflow.core.prefect import bodies
from ironflow.core.prefect import commands as c
from ironflow.core.prefect import runs as r
from ironflow.core.prefect.faults import Refusal
from ironflow.core.prefect.flow_rules import NEVER_RESUMED, decide_flow_state, is_suspended
from ironflow.core.prefect.lists import status_of
from ironflow.core.prefect.schemas import find_mismatches
from ironflow.core.prefect.states import (
    LATE,
    RESUMING,
    StateCreate,
    StateDetails,
    begin_state,
    drop_unpersisted_data,
)
from ironflow.core.prefect.timers import CLEAN_UP_TIMER, LATE_TIMER, left_behind
from ironflow.core.runs import commands as native
from ironflow.storage.ports import TIMERS, Batch
from ironflow.storage.relational.prefect_runs import RUN_INPUTS

_encode = msgspec.json.Encoder().encode
_parse = msgspec.json.Decoder().decode


class FlowRunActor(TaskRunKeeper):
    """Understands `ironflow.core.prefect.commands`, and the verbs of all runs."""

    def receive(self, message: Message[Any], envelope: Envelope) -> object:
        """Decide, commit, and answer after the commit."""
        handle = _HANDLERS.get(type(message))
        self.now = self.environment.clock.now()
        if self.is_foreign:
            raise NotFound("flow run", self.key)
        if handle is not None:
            return handle(self, message, envelope)
        return super().receive(message, envelope)

    # -- flow runs --------------------------------------------------------------------------------

    def _create(self, message: c.CreateFlowRun, envelope: Envelope) -> object:
        if self.history.flow_run is not None:
            return self.after_pending(envelope, self.show_flow_run(200))
        parent = message.parent
        created = r.FlowRunCreated(
            info=message.info,
            flow_name=message.flow_name,
            policy=message.policy,
            parent_flow_run_id=parent.owner if parent is not None else None,
            parent_task_name=parent.name if parent is not None else None,
        )
        situation = self.situation(task_run_id=message.info.parent_task_run_id)
        state = begin_state(message.state, situation.state_id, situation.now)
        draft = r.FlowRun(
            info=message.info, flow_name="", created_at=0, updated_at=0, policy=message.policy
        )
        situation.flow_run_id = self.key
        verdict = decide_flow_state(draft, state, situation, force=True)
        assert verdict.state is not None
        drop_unpersisted_data(verdict.state)
        moved = r.FlowRunMoved(state=verdict.state, run_count=verdict.run_count)
        return self.record([created, moved], envelope, lambda: self.show_flow_run(201))

    def _read(self, message: c.ReadFlowRun, envelope: Envelope) -> object:
        return self.after_pending(envelope, self.show_flow_run(200))

    def _set_state(self, message: c.SetFlowRunState, envelope: Envelope) -> object:
        entry, answer = self._decide(self.flow_run, message.state, force=message.force)
        reply = c.Reply(*answer)
        if entry is None:
            return self.after_pending(envelope, reply)
        return self.record([entry], envelope, lambda: reply)

    def _resume(self, message: c.ResumeFlowRun, envelope: Envelope) -> object:
        run = self.flow_run
        state = run.state
        if state is None or state.type != "PAUSED":
            reply = c.Reply(*bodies.encode_abort("The flow run is not paused."))
            return self.after_pending(envelope, reply)
        keyset = state.state_details.run_input_keyset or {}
        wrong = self._judge_input(keyset, message.run_input or "{}")
        if wrong is not None:
            reply = c.Reply(*bodies.encode_reject(wrong, state))
            return self.after_pending(envelope, reply)
        create = StateCreate(type="RUNNING")
        if is_suspended(state):
            create = StateCreate(type="SCHEDULED", name=RESUMING)
        entry, answer = self._decide(run, create, force=False)
        reply = c.Reply(*answer)
        if entry is None:
            return self.after_pending(envelope, reply)
        batch, entries = Batch([], [], []), list[r.FlowEntry]([entry])
        key = keyset.get("response")
        if key is not None and key not in self.history.inputs:
            entries.append(self._keep_input(batch, key, message.run_input or "{}", None))
        return self.record(entries, envelope, lambda: reply, batch=batch)

    def _judge_input(self, keyset: dict[str, str], run_input: str) -> str | None:
        """Why what a resumed run is given is not what it asked for; None when it is."""
        if not keyset:
            return None
        wanted = self.history.inputs.get(keyset.get("schema", ""))
        if wanted is None:
            return "The run does not say what input it waits for."
        try:
            found = find_mismatches(_parse(wanted.value), _parse(run_input))
        except (InvalidInput, msgspec.DecodeError) as error:
            return f"The schema of the run's input cannot be used: {error}"
        if not found:
            return None
        first = found[0]
        where = ".".join(map(str, first.path)) or "the input"
        return f"The input is not what the run waits for: {where}: {first.text}"

    def _change(self, message: c.ChangeFlowRun, envelope: Envelope) -> object:
        run = self.flow_run
        if message.job_variables is not msgspec.UNSET:
            _check_infrastructure(run)
        changes = {
            name: value
            for name, value in msgspec.structs.asdict(message).items()
            if value is not msgspec.UNSET and name not in ("policy", "labels")
        }
        if message.labels is not msgspec.UNSET:
            changes["labels"] = {**run.info.labels, **message.labels}
        info = msgspec.structs.replace(run.info, **changes)
        policy = None if message.policy is msgspec.UNSET else message.policy
        return self.record([r.FlowRunChanged(info=info, policy=policy)], envelope)

    def _add_input(self, message: c.AddInput, envelope: Envelope) -> object:
        _ = self.flow_run
        if message.key in self.history.inputs:
            raise Conflict("A flow run input with this key exists already.")
        batch = Batch([], [], [])
        added = self._keep_input(batch, message.key, message.value, message.sender)
        return self.record([added], envelope, batch=batch)

    def _keep_input(self, batch: Batch, key: str, value: str, sender: str | None) -> r.InputAdded:
        now, id_ = self.now, self.environment.ids.new()
        at = bodies.moment(now) or ""
        view = bodies.RunInputView(id_, at, at, self.key, key, value, sender)
        batch.puts.append((RUN_INPUTS, (self.key, key, now, _encode(view), value)))
        return r.InputAdded(r.RunInput(id=id_, key=key, value=value, sender=sender, created_at=now))

    def _remove_input(self, message: c.RemoveInput, envelope: Envelope) -> object:
        _ = self.flow_run
        if message.key not in self.history.inputs:
            raise NotFound("flow run input", message.key)
        batch = Batch([], [], [(RUN_INPUTS, (self.key, message.key))])
        return self.record([r.InputRemoved(message.key)], envelope, batch=batch)

    # -- when the client does not come -------------------------------------------------------------

    def _ring(self, message: native.TimerFired, envelope: Envelope) -> object:
        """A timer that is not wanted (any more) is harmless."""
        due = self.timers.get(message.name)
        if due is None or due > self.now:
            return None
        del self.timers[message.name]
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
        return self.record([entry] if entry is not None else [], None, batch=batch)

    def _clean_up(self, batch: Batch) -> object:
        """Cancel the tasks and flows that the cancelled flow run has left behind."""
        entries, sends = list[r.FlowEntry](), list[native.Send]()
        for task in left_behind(self.history):
            child = task.state.state_details.child_flow_run_id if task.state is not None else None
            if child is not None:
                message = c.CancelFlowRun(reason="The flow run that waits for it was cancelled.")
                sends.append(native.Send(f"flow_run/{child}", message))
            create = StateCreate(type="CANCELLED", message="The flow run was cancelled.")
            if child is not None:
                create.state_details.child_flow_run_id = child
            entries.append(self.decide_task(task, create, force=True)[0])  # type: ignore[arg-type]
        return self.record(entries, None, batch=batch, sends=sends)

    def _renew(self, message: Renew, envelope: Envelope) -> None:
        self.environment.outbox.repost(self.address)
        for name, at in self.timers.items():
            self.environment.timers.arm(self.address, name, at)

    # -- decisions ---------------------------------------------------------------------------------

    def _decide(
        self, run: r.FlowRun, proposed: StateCreate, *, force: bool
    ) -> tuple[r.FlowRunMoved | None, tuple[int, bytes]]:
        """The entry that a proposal leads to, if any, and the answer to it."""
        info = run.info
        situation = self.situation(
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
        drop_unpersisted_data(verdict.state)
        moved = r.FlowRunMoved(
            state=verdict.state, run_count=verdict.run_count, policy=verdict.policy
        )
        return moved, answer

    # -- the verbs of all runs --------------------------------------------------------------------

    def _cancel_with_parent(self, message: c.CancelFlowRun, envelope: Envelope) -> object:
        run = self.history.flow_run
        if run is None or run.is_terminal:
            self.leave_if_empty()
            return self.record([], envelope, delivery=message.delivery)
        create = StateCreate(type="CANCELLED", message=message.reason)
        entry, _ = self._decide(run, create, force=True)
        assert entry is not None
        return self.record([entry], envelope, delivery=message.delivery)

    def _propose(self, create: StateCreate, envelope: Envelope, *, force: bool = False) -> object:
        entry, answer = self._decide(self.flow_run, create, force=force)
        if entry is None:
            details = msgspec.json.decode(answer[1])["details"]
            raise Conflict(details.get("reason") or "The flow run does not allow that now.")
        return self.record([entry], envelope, lambda: status_of(self.flow_run.state).value)

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
        name = RESUMING if is_suspended(state) else None
        return self._propose(StateCreate(type=kind, name=name), envelope)  # type: ignore[arg-type]

    def _retry_run(self, message: native.RetryRun, envelope: Envelope) -> object:
        if not self.flow_run.is_terminal:
            raise Conflict(f"run {self.key} has not ended")
        create = StateCreate(type="SCHEDULED", name="AwaitingRetry", message=message.reason)
        return self._propose(create, envelope)


Handler = Callable[[FlowRunActor, Any, Envelope], object]
_HANDLERS: dict[type, Handler] = {
    c.SetFlowRunState: FlowRunActor._set_state,
    c.CreateFlowRun: FlowRunActor._create,
    c.ReadFlowRun: FlowRunActor._read,
    c.RecordTaskRuns: FlowRunActor.record_tasks,
    c.CreateTaskRun: FlowRunActor.create_task,
    c.SetTaskRunState: FlowRunActor.set_task_state,
    c.ReadTaskRun: FlowRunActor.read_task,
    c.ResumeFlowRun: FlowRunActor._resume,
    c.ChangeFlowRun: FlowRunActor._change,
    c.DeleteHistory: lambda actor, message, envelope: actor.delete(),
    c.AddInput: FlowRunActor._add_input,
    c.RemoveInput: FlowRunActor._remove_input,
    c.ChangeTaskRun: FlowRunActor.change_task,
    c.DeleteTaskRun: FlowRunActor.delete_task,
    c.MirrorChild: FlowRunActor.mirror_child,
    c.CancelFlowRun: FlowRunActor._cancel_with_parent,
    native.TimerFired: FlowRunActor._ring,
    native.CancelRun: FlowRunActor._cancel,
    native.PauseRun: FlowRunActor._pause,
    native.ResumeRun: FlowRunActor._resume_run,
    native.RetryRun: FlowRunActor._retry_run,
    Renew: FlowRunActor._renew,
    Ensure: lambda actor, message, envelope: None,
}


def _check_infrastructure(run: r.FlowRun) -> None:
    """Whether what a run is to be started with may still change. Raises `Refusal`."""
    if run.type != "SCHEDULED":
        raise Refusal(400, f"Job variables for a flow run in state {run.type} cannot be updated")
    if run.info.deployment_id is None:
        raise Refusal(400, "A deployment for the flow run could not be found")
