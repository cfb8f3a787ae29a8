"""Server-sent events over `http.client`: goes on after a lost connection where it stood.

A stream that breaks is opened again with `Last-Event-ID`, with pauses that double up to 5 s; the
server sends heartbeats, so silence means that the connection is dead.
"""

from __future__ import annotations

import http.client
import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from ironflow.cli.client import Client, Query
from ironflow.cli.failures import Refused, Unreachable

SILENCE = 60.0
"""Seconds without a byte after which a connection is given up."""
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0
LONGEST_LINE = 256 << 20


class Message(NamedTuple):
    """One event: its name, its id (empty when it has none) and its data.

    Without a name it is only an id: nothing happened, but this is where to go on.
    """

    event: str
    id: str
    data: bytes


def parse(lines: Iterable[bytes]) -> Iterator[Message]:
    """The messages in the lines of an event stream; a last one that was cut off is dropped."""
    data: list[bytes] = []
    event, last_id, has_id = "", "", False
    for raw in lines:
        line = raw.rstrip(b"\r\n")
        if not line:
            if data:
                yield Message(event or "message", last_id, b"\n".join(data))
            elif has_id:
                yield Message("", last_id, b"")
            event, data, has_id = "", [], False
            continue
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"event":
            event = value.decode("utf-8", "replace")
        elif name == b"id":
            last_id, has_id = value.decode("utf-8", "replace"), True


def follow(
    client: Client,
    path: str,
    query: Query,
    *,
    last_id: str | None = None,
    on_connection: Callable[[str | None], None] = lambda _: None,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[Message]:
    """Messages without end. `on_connection` hears the reason when it is lost, None when it is back.

    Raises `Refused` and, when there was never a connection, `Unreachable`.
    """
    delay, was_connected = FIRST_PAUSE, False
    while True:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
        if last_id is not None:
            headers["Last-Event-ID"] = last_id
        try:
            response = client.open_stream(path, query, headers, SILENCE)
        except Unreachable as error:
            if not was_connected:
                raise
            reason = error.message
        except Refused as error:
            if not was_connected or error.status < 500:
                raise
            reason = error.message
        else:
            was_connected = True
            on_connection(None)
            for message in parse(_lines(response)):
                delay = FIRST_PAUSE
                last_id = message.id or last_id
                if message.event:
                    yield message
            reason = "the connection was closed"
        on_connection(reason)
        pause(delay * random.uniform(0.5, 1.0))
        delay = min(delay * 2, LONGEST_PAUSE)


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Lines until the connection ends, however it ends."""
    with response:
        while True:
            try:
                line = response.readline(LONGEST_LINE)
            except (OSError, http.client.HTTPException):
                return
            if not line:
                return
            yield line
