"""The events that tell of a flow run's moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from ironflow.core.clock import Clock
from ironflow.core.prefect.events import Event
from ironflow.core.prefect.runs import FlowRun
from ironflow.core.prefect.states import State
from ironflow.storage.ports import Batch

_encode = msgspec.json.Encoder().encode


class _Intended(msgspec.Struct, rename={"come": "from", "go": "to"}):
    come: str | None
    go: str


class _Summary(msgspec.Struct, omit_defaults=True):
    type: str
    name: str
    message: str = ""


class _Payload(msgspec.Struct):
    intended: _Intended
    initial_state: _Summary | None
    validated_state: _Summary


def _summary(state: State) -> _Summary:
    return _Summary(state.type, state.name, state.message or "")


def tell_move(run: FlowRun, old: State | None, now: int) -> Event:
    """The event of a flow run's move from `old` to the state that it has now. Its id is that of
    the state, so that telling twice tells once.
    """
    info, state = run.info, run.state
    assert state is not None
    payload = _Payload(
        _Intended(old.type if old is not None else None, state.type),
        _summary(old) if old is not None else None,
        _summary(state),
    )
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
    related += [
        {"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"}
        for tag in dict.fromkeys(info.tags)
    ]
    return Event(
        id=state.id,
        event=f"prefect.flow-run.{state.name}",
        occurred=state.at,
        received=now,
        resource={
            "prefect.resource.id": f"prefect.flow-run.{info.id}",
            "prefect.resource.name": info.name,
            "prefect.run-count": str(run.run_count),
            "prefect.state-message": state.message or "",
            "prefect.state-name": state.name,
            "prefect.state-timestamp": state.timestamp.isoformat(),
            "prefect.state-type": state.type,
        },
        related=tuple(related),
        payload=_encode(payload),
        follows=old.id if old is not None else None,
    )


Include = Callable[[Sequence[Event], Batch], Callable[[], None]]


class FlowRunEvents:
    """A `MoveSink` that keeps an event of every move, in the commit of the move."""

    def __init__(self, clock: Clock, include: Include) -> None:
        self._clock, self._include = clock, include

    def flow_run_moved(self, run: FlowRun, old: State | None, batch: Batch) -> Callable[[], None]:
        """See `MoveSink`."""
        return self._include((tell_move(run, old, self._clock.now()),), batch)
