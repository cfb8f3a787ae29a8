"""States of Prefect flow runs and task runs, as they stand on the wire and in the journal.

A state is a type, of which there are nine, and a name that says more (`Late`, `AwaitingRetry`).
Its `data` is opaque JSON and comes back as it went in.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cached_property
from typing import Literal
from uuid import UUID

import msgspec

from ironflow.core.clock import from_datetime, to_datetime

StateType = Literal[
    "SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING",
    "COMPLETED", "FAILED", "CRASHED", "CANCELLED",
]  # fmt: skip
STATE_TYPES: tuple[StateType, ...] = (
    "SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING",
    "COMPLETED", "FAILED", "CRASHED", "CANCELLED",
)  # fmt: skip
TERMINAL = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})

AWAITING_RETRY = "AwaitingRetry"
LATE = "Late"
RESUMING = "Resuming"

NULL = msgspec.Raw(b"null")
UNPERSISTED = "unpersisted"
"""The type of a result that only the process of its run has."""


class StateDetails(msgspec.Struct, kw_only=True):
    """Facts that rules and clients keep with a state. Moments in UTC."""

    flow_run_id: UUID | None = None
    task_run_id: UUID | None = None
    child_flow_run_id: UUID | None = None
    scheduled_time: datetime | None = None
    cache_key: str | None = None
    cache_expiration: datetime | None = None
    deferred: bool | None = False
    untrackable_result: bool = False
    pause_timeout: datetime | None = None
    pause_reschedule: bool = False
    pause_key: str | None = None
    run_input_keyset: dict[str, str] | None = None
    refresh_cache: bool | None = None
    retriable: bool | None = None
    transition_id: UUID | None = None
    task_parameters_id: UUID | None = None
    traceparent: str | None = None
    deployment_concurrency_lease_id: UUID | None = None


class StateCreate(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A state that a client proposes."""

    type: StateType
    name: str | None = None
    message: str | None = None
    data: msgspec.Raw = NULL
    state_details: StateDetails = msgspec.field(default_factory=StateDetails)


class State(msgspec.Struct, kw_only=True, dict=True):
    """A state of a run. `timestamp` in UTC."""

    id: str
    type: StateType
    name: str
    timestamp: datetime
    message: str | None = None
    data: msgspec.Raw = NULL
    state_details: StateDetails = msgspec.field(default_factory=StateDetails)

    @cached_property
    def at(self) -> int:
        """The timestamp in microseconds."""
        return from_datetime(self.timestamp)

    @property
    def is_terminal(self) -> bool:
        """Whether the run has ended, for now."""
        return self.type in TERMINAL

    @property
    def scheduled_at(self) -> int | None:
        """When the run is to begin, in microseconds."""
        return micros(self.state_details.scheduled_time)


def micros(moment: datetime | None) -> int | None:
    """A moment in microseconds."""
    return None if moment is None else from_datetime(moment)


def default_name(kind: StateType) -> str:
    """The name of a state that was given none."""
    return kind.capitalize()


def in_utc(moment: datetime | None) -> datetime | None:
    """A moment in UTC; one without a zone is taken as UTC."""
    if moment is None or moment.tzinfo is UTC:
        return moment
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def begin_state(proposed: StateCreate, id: str, now: int) -> State:
    """The state that a proposal would be, at `now`. A SCHEDULED one always has a time."""
    details, moment = proposed.state_details, to_datetime(now)
    if details.scheduled_time is not None:
        details.scheduled_time = in_utc(details.scheduled_time)
    elif proposed.type == "SCHEDULED":
        details.scheduled_time = moment
    if details.cache_expiration is not None:
        details.cache_expiration = in_utc(details.cache_expiration)
    if details.pause_timeout is not None:
        details.pause_timeout = in_utc(details.pause_timeout)
    state = State(
        id=id,
        type=proposed.type,
        name=proposed.name or default_name(proposed.type),
        timestamp=moment,
        message=proposed.message,
        data=proposed.data,
        state_details=details,
    )
    state.at = now  # known here, and dear to work out
    return state


class _Result(msgspec.Struct):
    type: object = None


_decode_result = msgspec.json.Decoder(_Result).decode


def has_persisted_data(state: State) -> bool:
    """Whether a state refers to a result that outlives the process of its run: an object that
    says something, and not that its result was not persisted.
    """
    data = bytes(state.data)
    if not data.startswith(b"{") or data.strip(b"{} \t\r\n") == b"":
        return False
    return _decode_result(data).type != UNPERSISTED


def drop_unpersisted_data(state: State) -> None:
    """Do not keep data that says only that its result was not persisted."""
    if state.data is NULL:
        return
    data = bytes(state.data)
    if _UNPERSISTED in data and data.startswith(b"{") and not has_persisted_data(state):
        state.data = NULL


_UNPERSISTED = UNPERSISTED.encode()
decode_state = msgspec.json.Decoder(State).decode
