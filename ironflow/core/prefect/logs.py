"""Lines that runs log, and whether one fits a filter."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import cached_property
from typing import Any

import msgspec
import orjson

from ironflow.core.clock import from_datetime, to_rfc3339
from ironflow.core.prefect.coercion import decode_leniently
from ironflow.core.prefect.conditions import Condition, Group, Test
from ironflow.core.prefect.faults import Fault, InvalidRequest, parse_leniently
from ironflow.core.prefect.packets import make_packet
from ironflow.core.prefect.scalars import parse_uuid

MAX_LOGS = 10_000
"""Lines in one request."""

_BODY = (
    b'{"id":"%s","created":"%s","updated":"%s","name":%s,"level":%d,"message":%s,'
    b'"timestamp":"%s","flow_run_id":%s,"task_run_id":%s}'
)


class LogLine(msgspec.Struct, frozen=True, dict=True):
    """One line. Moments are microseconds."""

    id: str
    flow_run_id: str | None
    task_run_id: str | None
    level: int
    at: int
    created_at: int
    name: str
    message: str

    @cached_property
    def body(self) -> bytes:
        """The line as the API shows it."""
        created = to_rfc3339(self.created_at).encode()
        return _BODY % (
            self.id.encode(),
            created,
            created,
            orjson.dumps(self.name),
            self.level,
            orjson.dumps(self.message),
            to_rfc3339(self.at).encode(),
            orjson.dumps(self.flow_run_id),
            orjson.dumps(self.task_run_id),
        )

    @property
    def frame(self) -> bytes:
        """The message that subscribers get."""
        return b'{"type":"log","log":%s}' % self.body

    @cached_property
    def packet(self) -> bytes:
        """That message as it goes over the wire."""
        return make_packet(self.frame)


class WireLog(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line as clients send it."""

    name: str
    level: int
    message: str
    timestamp: datetime
    flow_run_id: str | None = None
    task_run_id: str | None = None


_decode = msgspec.json.Decoder(list[WireLog]).decode


def decode_logs(data: bytes, now: int, new_id: Callable[[], str]) -> list[LogLine]:
    """The lines of a request, received at `now`. Raises `InvalidRequest`, and then none is
    taken."""
    wires = decode_leniently(_decode, data)
    if len(wires) > MAX_LOGS:
        text = f"must have at most {MAX_LOGS} lines"
        raise InvalidRequest([Fault(("body",), "too_long", text)])
    faults: list[Fault] = []
    lines = [_check(wire, now, new_id, faults, n) for n, wire in enumerate(wires)]
    if faults:
        raise InvalidRequest(faults, parse_leniently(data))
    return lines


def _check(
    wire: WireLog, now: int, new_id: Callable[[], str], faults: list[Fault], number: int
) -> LogLine:
    ids = []
    for name in ("flow_run_id", "task_run_id"):
        text = getattr(wire, name)
        found = None if text is None else parse_uuid(text)
        if text is not None and found is None:
            faults.append(Fault(("body", number, name), "uuid_parsing", "must be a UUID", text))
        ids.append(found)
    if not -(2**31) <= wire.level < 2**31:
        text = "must fit 32 bits"
        faults.append(Fault(("body", number, "level"), "int_parsing", text, wire.level))
    return LogLine(
        new_id(),
        ids[0],
        ids[1],
        wire.level,
        from_datetime(wire.timestamp),
        now,
        wire.name,
        wire.message,
    )


def is_wanted(condition: Condition, line: LogLine) -> bool:
    """Whether a line fits a condition of the filter language."""
    if isinstance(condition, Group):
        if not condition.parts:
            return True
        holds = any if condition.either else all
        return holds(is_wanted(part, line) for part in condition.parts)
    return _holds(condition, line)


def _holds(test: Test, line: LogLine) -> bool:
    if test.test == "search":
        return bool(test.value.matches(f"{line.name} {line.message}"))
    found: Any = getattr(line, test.column)
    match test.test:
        case "in":
            return found in test.value
        case "ge":
            return bool(found >= test.value)
        case "le":
            return bool(found <= test.value)
        case "null":
            return bool((found is None) == test.value)
        case _:
            raise ValueError(f"logs have no test {test.test!r}")
