"""The events that tell of a flow's changes and of a flow run's moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec
import orjson

from ironflow.actors.prefect.sinks import FlowChange
from ironflow.core.clock import SECOND, moment
from ironflow.core.prefect.events import Event, Labels
from ironflow.core.prefect.runs import FlowRun, FlowRunInfo
from ironflow.core.prefect.states import State
from ironflow.storage.ports import Batch

TIGHT = 300 * SECOND
"""An event follows another that came less than so many microseconds before it: those that wait for
the one before do not wait for longer.
"""
MAX_MESSAGE = 100_000
"""Characters of a state's message that its event repeats."""
REMEMBERED = 4096
"""Flow runs whose company is held in memory."""

_encode = msgspec.json.Encoder().encode


class _Summary(msgspec.Struct, omit_defaults=True):
    type: str
    name: str
    message: str = ""
    pause_reschedule: str | None = None


class Company(NamedTuple):
    """The resources that the events of a flow run are related to, and the same as JSON."""

    info: FlowRunInfo
    related: tuple[Labels, ...]
    text: bytes


def find_company(run: FlowRun) -> Company:
    """The flow of a flow run, its deployment, the task run that stands for it, and its tags."""
    info = run.info
    related = [
        {
            "prefect.resource.id": f"prefect.flow.{info.flow_id}",
            "prefect.resource.role": "flow",
            "prefect.resource.name": run.flow_name,
        }
    ]
    if info.deployment_id is not None:
        related.append(
            {
                "prefect.resource.id": f"prefect.deployment.{info.deployment_id}",
                "prefect.resource.role": "deployment",
            }
        )
    if run.parent_task_name is not None:
        related.append(
            {
                "prefect.resource.id": f"prefect.task-run.{info.parent_task_run_id}",
                "prefect.resource.role": "task-run",
                "prefect.resource.name": run.parent_task_name,
            }
        )
    related += [
        {"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"}
        for tag in sorted({*info.tags})
    ]
    return Company(info, tuple(related), orjson.dumps(related))


def tell_move(run: FlowRun, old: State | None, company: Company) -> Event:
    """The event of a flow run's move, which has just been recorded, from `old` to the state that it
    has now. Its id is that of the state, so that telling twice tells once.
    """
    info, state = run.info, run.state
    assert state is not None
    return Event(
        id=state.id,
        event=f"prefect.flow-run.{state.name}",
        occurred=state.at,
        received=run.updated_at,
        resource={
            "prefect.resource.id": f"prefect.flow-run.{info.id}",
            "prefect.resource.name": info.name,
            "prefect.run-count": str(run.run_count),
            "prefect.state-message": _shorten(state.message or ""),
            "prefect.state-name": state.name,
            "prefect.state-timestamp": _to_isoformat(state),
            "prefect.state-type": state.type,
        },
        related=company.related,
        payload=b'{"intended":%b,"initial_state":%b,"validated_state":%b}'
        % (
            _intend(None if old is None else old.type, state.type),
            b"null" if old is None else _summarize(old),
            _summarize(state),
        ),
        follows=old.id if old is not None and state.at - old.at < TIGHT else None,
    ).with_related(company.text)


def _to_isoformat(state: State) -> str:
    # What the sum comes to for nearly all moments, from text that is needed anyway.
    if state.at % SECOND:
        return f"{moment(state.at)[:-1]}+00:00"
    return state.timestamp.isoformat()


@lru_cache
def _intend(come: str | None, go: str) -> bytes:
    return _encode({"from": come, "to": go})


def _summarize(state: State) -> bytes:
    message, is_paused = state.message, state.type == "PAUSED"
    if not message and not is_paused:
        return _summarize_plain(state.type, state.name)
    reschedule = str(state.state_details.pause_reschedule).lower() if is_paused else None
    return _encode(_Summary(state.type, state.name, _shorten(message or ""), reschedule))


@lru_cache
def _summarize_plain(kind: str, name: str) -> bytes:
    return _encode(_Summary(kind, name))


def _shorten(message: str) -> str:
    """A message with its ends alone, when it is long: some hold whole results."""
    left_out = len(message) - MAX_MESSAGE
    if left_out <= 0:
        return message
    half = MAX_MESSAGE // 2
    return f"{message[:half]}...{left_out} additional characters...{message[-half:]}"


def tell_change(change: FlowChange) -> Event:
    """The event of a flow's change."""
    return Event(
        id=change.event_id,
        event=f"prefect.flow.{change.what}",
        occurred=change.at,
        received=change.at,
        resource={
            "prefect.resource.id": f"prefect.flow.{change.flow_id}",
            "prefect.resource.name": change.name,
        },
        payload=_encode({"name": change.name, "tags": change.tags, "labels": change.labels}),
    )


Include = Callable[[Sequence[Event], Batch], Callable[[], None]]


class FlowEvents:
    """A `MoveSink` that keeps an event of every change and move, in the commit of that itself."""

    def __init__(self, include: Include) -> None:
        self._include = include
        self._companies: dict[str, Company] = {}

    def flow_changed(self, change: FlowChange, batch: Batch) -> Callable[[], None]:
        """See `MoveSink`."""
        return self._include((tell_change(change),), batch)

    def flow_run_moved(self, run: FlowRun, old: State | None, batch: Batch) -> Callable[[], None]:
        """See `MoveSink`."""
        return self._include((tell_move(run, old, self._company(run)),), batch)

    def _company(self, run: FlowRun) -> Company:
        known = self._companies.get(run.info.id)
        if known is None or known.info is not run.info:
            while len(self._companies) >= REMEMBERED:
                del self._companies[next(iter(self._companies))]
            known = self._companies[run.info.id] = find_company(run)
        return known
