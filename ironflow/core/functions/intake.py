"""The intake of a function: what waits before it becomes a run. Pure.

A *debounce* keeps the last of several events until it has been quiet, a *batch* keeps all of them
until there are enough, and a *singleton* lets one run in at a time. Each value of a policy's key
has an intake of its own: an address, a stream, and the fold of its entries that is here. Time is
that of the events (when they were emitted), so that what comes of them does not depend on when they
were brought here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec

from ironflow.core.clock import SECOND
from ironflow.core.functions.definition import Definition
from ironflow.core.functions.flow_control import FlowControl, compile_key
from ironflow.core.runs import commands as c
from ironflow.core.runs.entries import TakenEvent
from ironflow.core.values.payloads import Payload, pack

MOST_KEY = 200
"""Characters of a key's value that an address holds; a longer one is named by its hash."""
MOST_BYTES = 10 * 1024 * 1024
"""Bytes of data in one batch: it starts with what it has when one more would pass them."""

Cause = Literal["quiet", "size", "wait", "bytes", "operator"]
"""Why what waited has become a run."""


# -- keys and addresses ---------------------------------------------------------------------------


def key_value(path: str | None, data: object) -> str:
    """The value at a policy's key, as text: a text is itself, numbers and truth values are as JSON
    has them. Without a key or a value (or with an object or a list) it is empty: all of these share
    one intake.
    """
    if path is None:
        return ""
    found = compile_key(path, "key").get({"data": data}, None)
    if found is None or isinstance(found, dict | list):
        return ""
    text = found if isinstance(found, str) else msgspec.json.encode(found).decode()
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) > MOST_KEY:
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    return text


class Intake(NamedTuple):
    """Where a request for a run goes instead of to the run: the actor's kind, the function's id and
    the key's value.
    """

    kind: Literal["debounce", "batch", "singleton"]
    function_id: str
    key: str

    @property
    def address(self) -> str:
        """The actor's address; one that is made of a function's id and a key is never another's."""
        return f"{self.kind}/{len(self.function_id)}:{self.function_id}:{self.key}"


def parse_address(key: str) -> tuple[str, str]:
    """The function's id and the key's value of an actor's key, which is its address without the
    kind.
    """
    length, _, rest = key.partition(":")
    size = int(length)
    return rest[:size], rest[size + 1 :]


def intake_of(definition: Definition, data: object) -> Intake | None:
    """Where an event with `data` goes, None for a function that starts a run for each."""
    control: FlowControl = definition.flow_control
    if control.debounce is not None:
        return Intake("debounce", definition.id, key_value(control.debounce.key, data))
    if control.batch is not None:
        return Intake("batch", definition.id, key_value(control.batch.key, data))
    return gate_of(definition, data)


def gate_of(definition: Definition, data: object) -> Intake | None:
    """Which intake must let a run with this input in, if any."""
    singleton = definition.flow_control.singleton
    if singleton is None:
        return None
    return Intake("singleton", definition.id, key_value(singleton.key, data))


def defers(definition: Definition) -> c.Fate | None:
    """What becomes of an event for the function, when it does not start a run at once."""
    if definition.flow_control.debounce is not None:
        return "debounced"
    return "batched" if definition.flow_control.batch is not None else None


# -- debounce -------------------------------------------------------------------------------------


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event (or another request) for a run: the run that it would start by itself, and when it
    was emitted.
    """

    run_id: str
    create: c.CreateRun
    at: int
    source: str = ""

    @property
    def subject(self) -> str:
        """What outcomes are kept under: the event's id, else that of the run."""
        return subject_of(self.run_id, self.create)

    @property
    def digest(self) -> str | None:
        """The digest of its data, where that is kept out of line."""
        return self.create.input.blob


def subject_of(run_id: str, create: c.CreateRun) -> str:
    """What the outcome of a request is kept under."""
    return create.event.id if create.event is not None else run_id


class Deferred(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event has taken the place of the one before; a run with it is due at `due_at`."""

    request: Request
    due_at: int


class Added(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event is in the batch, which is due at `due_at`."""

    request: Request
    due_at: int


class Started(msgspec.Struct, frozen=True):
    """What waited has become a run."""

    run_id: str
    cause: Cause


class Dropped(msgspec.Struct, frozen=True):
    """What waited is forgotten: an operator's word."""

    reason: str


DebounceEntry = Deferred | Started | Dropped
BatchEntry = Added | Started | Dropped


class Debouncing(msgspec.Struct):
    """The fold of a debounce's stream. Nothing waits while `latest` is None."""

    version: int = 0
    run_id: str = ""
    latest: Request | None = None
    first_at: int = 0
    due_at: int | None = None
    count: int = 0
    """How many events came, of which the last is kept."""

    @property
    def requests(self) -> list[Request]:
        """What waits, the newest last."""
        return [] if self.latest is None else [self.latest]

    def apply(self, entry: DebounceEntry) -> None:
        """Change by one entry."""
        self.version += 1
        if isinstance(entry, Deferred):
            if self.latest is None:
                self.run_id, self.first_at = entry.request.run_id, entry.request.at
            self.latest, self.due_at = entry.request, entry.due_at
            self.count += 1
        else:
            self.latest, self.due_at, self.run_id, self.count = None, None, "", 0

    def create(self) -> c.CreateRun:
        """The run that has become due."""
        if self.latest is None:
            raise ValueError("nothing waits")
        return msgspec.structs.replace(self.latest.create, merged=self.count)


def defer(state: Debouncing, command: c.Defer) -> list[DebounceEntry]:
    """What an event does. One that is emitted when the run was due finds it started."""
    entries: list[DebounceEntry] = []
    first_at = state.first_at if state.latest is not None else command.at
    if state.due_at is not None and state.due_at <= command.at:
        entries.append(Started(state.run_id, "quiet"))
        first_at = command.at
    due_at = command.at + int(command.policy.period * SECOND)
    if command.policy.max_wait is not None:
        due_at = min(due_at, first_at + int(command.policy.max_wait * SECOND))
    request = Request(command.run_id, command.create, command.at)
    entries.append(Deferred(request, due_at))
    return entries


# -- batch ----------------------------------------------------------------------------------------


class Batching(msgspec.Struct):
    """The fold of a batch's stream: what is in it, oldest first."""

    version: int = 0
    run_id: str = ""
    items: list[Request] = []
    due_at: int | None = None
    size: int = 0
    """Bytes of data."""

    @property
    def requests(self) -> list[Request]:
        """What waits, the newest last."""
        return self.items

    @property
    def first_at(self) -> int:
        """When the oldest was emitted; microseconds."""
        return self.items[0].at if self.items else 0

    @property
    def count(self) -> int:
        """How many events wait."""
        return len(self.items)

    def apply(self, entry: BatchEntry) -> None:
        """Change by one entry."""
        self.version += 1
        if isinstance(entry, Added):
            if not self.items:
                self.run_id = entry.request.run_id
            self.items.append(entry.request)
            self.size += size_of(entry.request)
            self.due_at = entry.due_at
        else:
            self.run_id, self.items, self.due_at, self.size = "", [], None, 0


def size_of(request: Request) -> int:
    """Bytes of its data."""
    payload = request.create.input
    return payload.size if payload.json is None else len(payload.json)


def collect(state: Batching, command: c.Collect) -> list[BatchEntry]:
    """What an event does: it joins what waits, or what it would make too much starts without it."""
    request = Request(command.run_id, command.create, command.at, command.source)
    entries: list[BatchEntry] = []
    count, run_id, due_at = len(state.items), state.run_id, state.due_at
    if due_at is not None and due_at <= command.at:
        entries.append(Started(run_id, "wait"))
        count = 0
    elif count and state.size + size_of(request) > MOST_BYTES:
        entries.append(Started(run_id, "bytes"))
        count = 0
    if not count:
        run_id, due_at = request.run_id, command.at + int(command.policy.wait * SECOND)
    assert due_at is not None
    entries.append(Added(request, due_at))
    if count + 1 >= command.policy.size:
        entries.append(Started(run_id, "size"))
    return entries


def merge(items: list[Request], values: Mapping[str, bytes]) -> tuple[c.CreateRun, bytes | None]:
    """The one run of a batch, and the bytes for the blob table when its input is large. `values`
    are datas out of that table, by digest.
    """
    texts = [_text(item.create.input, values) for item in items]
    first = items[0].create
    payload, blob = pack(b"[" + b",".join(texts) + b"]")
    events = tuple(
        TakenEvent(item.create.event.id, item.create.event.name, item.at, item.source)
        for item in items
        if item.create.event is not None
    )
    newest = items[-1].create  # the function as it was registered last
    create = msgspec.structs.replace(
        first,
        input=payload,
        input_hash=hashlib.sha256(b"".join(texts)).hexdigest()[:32],
        options=newest.options,
        code=newest.code,
        events=events,
        idempotency_key=None,
    )
    return create, blob


def _text(payload: Payload, values: Mapping[str, bytes]) -> bytes:
    if payload.json is not None:
        return payload.json
    return values[payload.blob or ""]


# -- singleton ------------------------------------------------------------------------------------


class Held(msgspec.Struct, frozen=True):
    """A run was let in."""

    run_id: str


class Queued(msgspec.Struct, frozen=True):
    """A run takes the place of the one that is there, once that has ended."""

    run_id: str


class Left(msgspec.Struct, frozen=True):
    """A run has ended; the one that waited behind it is let in."""

    run_id: str


SingletonEntry = Held | Queued | Left


class Single(msgspec.Struct):
    """The fold of a singleton's stream: the run that is under way, and the one behind it."""

    version: int = 0
    holder: str | None = None
    waiting: str | None = None

    def apply(self, entry: SingletonEntry) -> None:
        """Change by one entry."""
        self.version += 1
        match entry:
            case Held():
                self.holder = entry.run_id
            case Queued():
                self.waiting = entry.run_id
            case Left() if entry.run_id == self.holder:
                self.holder, self.waiting = self.waiting, None
            case Left() if entry.run_id == self.waiting:
                self.waiting = None
            case _:
                pass


class Admission(NamedTuple):
    """What a singleton decides: its entries, messages to runs, and the run that was given."""

    entries: list[SingletonEntry]
    sends: list[c.Send]
    fate: c.Fate
    run_id: str


def admit(state: Single, address: str, command: c.Admit) -> Admission:
    """Let a run in, give back the one that is there, or have that one make way."""
    run_id = command.run_id
    if run_id in (state.holder, state.waiting):
        return Admission([], [], "started", run_id)
    create = msgspec.structs.replace(command.create, gate=address, delivery=None)
    if state.holder is None:
        return Admission([Held(run_id)], [c.Send(f"run/{run_id}", create)], "started", run_id)
    if command.mode == "skip":
        return Admission([], [], "skipped", state.waiting or state.holder)
    reason = f"run {run_id} takes its place"
    # The one that waits, too, was asked for before and is older.
    older = [state.holder] if state.waiting is None else [state.waiting]
    sends = [c.Send(f"run/{old}", c.CancelRun(reason=reason)) for old in older]
    create = msgspec.structs.replace(create, behind=state.holder)
    sends.append(c.Send(f"run/{run_id}", create))
    return Admission([Queued(run_id)], sends, "started", run_id)


def leave(state: Single, run_id: str) -> tuple[list[SingletonEntry], list[c.Send]]:
    """A run has ended: who is behind it may begin."""
    if run_id == state.holder:
        waiting = state.waiting
        sends = [] if waiting is None else [c.Send(f"run/{waiting}", c.ReleaseRun())]
        return [Left(run_id)], sends
    return ([Left(run_id)] if run_id == state.waiting else []), []
