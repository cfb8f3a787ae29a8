"""A client of workflow servers: start runs, follow them, answer what they ask.

It has the methods of LlamaIndex's `WorkflowClient` and speaks to that server as well as to this
one. What it does beyond: connections that are lost, and servers that restart, are waited for with
growing pauses; streams go on behind the last event that was read; and a run that failed is an
answer, not an exception.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from ironflow.workflows.answers import (
    ENDED,
    Acknowledged,
    EventEnvelope,
    EventSchemas,
    Graph,
    Handler,
    Handlers,
    Health,
    RequestRefused,
    Schema,
    Status,
    Workflows,
)

__all__ = [
    "ENDED",
    "Acknowledged",
    "EventEnvelope",
    "EventSchemas",
    "EventStream",
    "Graph",
    "Handler",
    "Handlers",
    "Health",
    "RequestRefused",
    "Schema",
    "Status",
    "WorkflowClient",
    "Workflows",
]

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
"""Seconds before the first and the later attempts to reach a server again; drawn from below."""
PATIENCE = 30.0
"""Seconds for which a server that does not answer is asked again."""
SILENCE = 90.0
"""Seconds without a byte after which a stream is taken for dead; servers send a comment every
25."""
_LOST = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError)

T = TypeVar("T")


class _Problem(msgspec.Struct):
    detail: Any = None


class EventStream:
    """The events of a run, in order, each once, to the end of the run; iterate over it once.

    `last_sequence` is that of the newest event that was read; a stream that begins behind it goes
    on where this one stopped.
    """

    def __init__(
        self,
        client: WorkflowClient,
        handler_id: str,
        query: dict[str, str],
        after: int | Literal["now"],
        attempts: int,
    ) -> None:
        self.last_sequence: int | Literal["now"] = after
        self._client, self._handler_id, self._query = client, handler_id, query
        self._attempts = attempts
        self._events: AsyncIterator[EventEnvelope] | None = None

    def __aiter__(self) -> AsyncIterator[EventEnvelope]:
        if self._events is not None:
            raise RuntimeError("a stream is iterated over once; open another one")
        self._events = self._iterate()
        return self._events

    async def aclose(self) -> None:
        """Let go of the connection; the run is not touched."""
        close = getattr(self._events, "aclose", None)
        if close is not None:
            await close()

    async def _iterate(self) -> AsyncIterator[EventEnvelope]:
        failures, loop = 0, asyncio.get_running_loop()
        while True:
            opened = loop.time()
            try:
                async for sequence, envelope in self._read():
                    failures = 0
                    if sequence is not None:
                        self.last_sequence = sequence
                    yield envelope
                    if envelope.is_a("StopEvent"):
                        return
            except _LOST:
                pass
            except RequestRefused as refused:
                if refused.status == 404:
                    raise ValueError("Handler not found") from refused
                if refused.status != 503:
                    raise
            else:
                if self._is_over:
                    return
            # Lost, or closed without an end: the server went away. It is asked again, a while.
            failures = 1 if loop.time() - opened > LONGEST_PAUSE else failures + 1
            if failures > self._attempts:
                raise ConnectionError(
                    f"the stream of {self._handler_id} was lost {failures} times in a row"
                )
            await asyncio.sleep(_pause(failures))

    async def _read(self) -> AsyncIterator[tuple[int | None, EventEnvelope]]:
        self._is_over = False
        query = {**self._query, "after_sequence": str(self.last_sequence)}
        path = f"/events/{quote(self._handler_id, safe='')}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=SILENCE)
        async with self._client.session() as session:
            url = self._client.base_url + path
            async with session.get(url, params=query, timeout=timeout) as response:
                if response.status == 204:
                    self._is_over = True
                    return
                if response.status != 200:
                    raise _refusal(response.status, await response.read(), f"GET {path}")
                async for event in _parse(response.content.__aiter__()):
                    yield event


async def _parse(lines: AsyncIterator[bytes]) -> AsyncIterator[tuple[int | None, EventEnvelope]]:
    """Server-sent events: the id and the envelope of each."""
    sequence: int | None = None
    data: list[bytes] = []
    async for line in lines:
        line = line.rstrip(b"\r\n")
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif line.startswith(b"id:"):
            text = line[3:].strip()
            sequence = int(text) if text.isdigit() else None
        elif not line and data:
            yield sequence, msgspec.json.decode(b"\n".join(data), type=EventEnvelope)
            data = []


class WorkflowClient:
    """A client of one server. With `async with` all calls share connections; without, each opens
    its own. Calls raise `RequestRefused`, and `OSError` when the server cannot be reached for as
    long as the client is patient, or is lost before it has answered what must not be asked twice.
    """

    def __init__(
        self,
        base_url: str,
        *,
        headers: Mapping[str, str] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        """`patience`: seconds for which a server that cannot be reached is asked again."""
        self.base_url = base_url.rstrip("/")
        self.headers, self.patience = dict(headers or {}), patience
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the shared connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    @asynccontextmanager
    async def session(self) -> AsyncIterator[aiohttp.ClientSession]:
        """The shared session, or one for this call."""
        if self._session is not None:
            yield self._session
            return
        async with self._open() as session:
            yield session

    def _open(self) -> aiohttp.ClientSession:
        # Streams and synchronous runs last as long as they last; every one holds a connection.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        connector = aiohttp.TCPConnector(limit=0)
        return aiohttp.ClientSession(headers=self.headers, timeout=timeout, connector=connector)

    # -- the server and its workflows -------------------------------------------------------------

    async def is_healthy(self) -> Health:
        """Whether the server takes work now: nothing is waited for. Raises `RequestRefused` when it
        does not, `OSError` when it cannot be reached.
        """
        return await self._ask(Health, "GET", "/health", patience=0)

    async def list_workflows(self) -> Workflows:
        """The names of what is served."""
        return await self._ask(Workflows, "GET", "/workflows")

    async def get_workflow_schema(self, workflow_name: str) -> Schema:
        """Schemas of the start and the stop event."""
        return await self._ask(Schema, "GET", f"{_at(workflow_name)}/schema")

    async def get_workflow_events_schema(self, workflow_name: str) -> EventSchemas:
        """Schemas of every event that the workflow knows."""
        return await self._ask(EventSchemas, "GET", f"{_at(workflow_name)}/events")

    async def get_workflow_graph(self, workflow_name: str) -> Graph:
        """The workflow's graph."""
        return await self._ask(Graph, "GET", f"{_at(workflow_name)}/representation")

    # -- runs -------------------------------------------------------------------------------------

    async def run_workflow(
        self,
        workflow_name: str,
        handler_id: str | None = None,
        start_event: Any = None,
        context: Any = None,
    ) -> Handler:
        """Start a run and wait for its end, however long that takes; a run that failed is answered
        like any other. Raises `RequestRefused`.
        """
        body = _run_body(handler_id, start_event, context)
        return await self._ask(Handler, "POST", f"{_at(workflow_name)}/run", body=body)

    async def run_workflow_nowait(
        self,
        workflow_name: str,
        handler_id: str | None = None,
        start_event: Any = None,
        context: Any = None,
    ) -> Handler:
        """Start a run; it is durable when this returns. Raises `RequestRefused`."""
        body = _run_body(handler_id, start_event, context)
        return await self._ask(Handler, "POST", f"{_at(workflow_name)}/run-nowait", body=body)

    def get_workflow_events(
        self,
        handler_id: str,
        include_internal_events: bool = False,
        after_sequence: int | Literal["now"] = -1,
        max_reconnect_attempts: int = 10,
    ) -> EventStream:
        """The events of a run behind `after_sequence` (-1: all, `now`: those to come).

        A connection that is lost is made again, up to `max_reconnect_attempts` times in a row with
        growing pauses, behind the last event. Iterating raises `ValueError` for an unknown handler
        and `ConnectionError` when the server stays away.
        """
        query = {"sse": "true", "include_internal": str(include_internal_events).lower()}
        return EventStream(self, handler_id, query, after_sequence, max_reconnect_attempts)

    async def send_event(
        self, handler_id: str, event: Any, step: str | None = None, *, answers: int | None = None
    ) -> Acknowledged:
        """Send an event to a run, to one step or to whoever takes it; stored when this returns.

        `event` is an event or an envelope (`{"type": ..., "value": {...}}`). `answers` is the
        sequence of the question that it answers (a stream's `last_sequence`): whoever watches the
        run sees which one that was. Raises `RequestRefused`.
        """
        body: dict[str, Any] = {"event": _envelope(event)}
        if step is not None:
            body["step"] = step
        if answers is not None:
            body["answers"] = answers
        path = f"/events/{quote(handler_id, safe='')}"
        return await self._ask(Acknowledged, "POST", path, body=body)

    async def get_handler(self, handler_id: str) -> Handler:
        """A run as it stands. Raises `RequestRefused` for an unknown one."""
        return await self._ask(Handler, "GET", f"/handlers/{quote(handler_id, safe='')}")

    async def get_result(self, handler_id: str) -> Handler:
        """The same as `get_handler`."""
        return await self.get_handler(handler_id)

    async def get_handlers(
        self,
        status: Iterable[str] | None = None,
        workflow_name: Iterable[str] | None = None,
        *,
        run_status: Iterable[str] | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Handlers:
        """Runs with one of these statuses and of one of these workflows, newest first; with `limit`
        a page of them. `run_status` tells more than `status`: `waiting`, `queued`, `paused`.
        """
        query = [("status", text) for text in status or ()]
        query += [("run_status", text) for text in run_status or ()]
        query += [("workflow_name", text) for text in workflow_name or ()]
        if limit is not None:
            query.append(("limit", str(limit)))
        if cursor is not None:
            query.append(("cursor", cursor))
        return await self._ask(Handlers, "GET", "/handlers", query=query)

    async def wait_for_handler(
        self,
        handler_id: str,
        *,
        timeout: float | None = None,
        poll_interval: float | None = None,
        max_poll_interval: float | None = None,
        backoff: str | None = None,
    ) -> Handler:
        """The run once it has ended: told by its stream, without asking again and again, so that
        `poll_interval`, `max_poll_interval` and `backoff` of the original have no effect. Raises
        `TimeoutError` after `timeout` seconds.
        """
        async with asyncio.timeout(timeout):
            handler = await self.get_handler(handler_id)
            if handler.is_ended:
                return handler
            try:
                async for _ in self.get_workflow_events(handler_id, after_sequence="now"):
                    pass
            except ValueError as error:
                raise RequestRefused(404, str(error), f"GET /events/{handler_id}") from error
            return await self.get_handler(handler_id)

    async def cancel_handler(self, handler_id: str, purge: bool = False) -> Acknowledged:
        """Cancel a run; with `purge` also delete it and everything about it. Raises
        `RequestRefused`, also for a run that has ended unless it is purged.
        """
        path = f"/handlers/{quote(handler_id, safe='')}/cancel"
        return await self._ask(Acknowledged, "POST", path, query=[("purge", str(purge).lower())])

    # -- requests ---------------------------------------------------------------------------------

    async def _ask(
        self,
        kind: type[T],
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: dict[str, Any] | None = None,
        patience: float | None = None,
    ) -> T:
        loop = asyncio.get_running_loop()
        until, failures = loop.time() + (self.patience if patience is None else patience), 0
        data = None if body is None else msgspec.json.encode(body, enc_hook=_dump)
        while True:
            try:
                status, answer = await self._request(method, path, query, data)
            except _LOST as error:
                # What may have arrived is not sent twice, unless that makes no difference.
                is_safe = method == "GET" or isinstance(error, aiohttp.ClientConnectorError)
                if not is_safe or loop.time() >= until:
                    if isinstance(error, OSError):
                        raise
                    raise ConnectionError(f"{method} {path}: {error}") from error
            else:
                is_answer = kind is Handler and b'"handler_id"' in answer
                if status < 400 or is_answer:
                    return msgspec.json.decode(answer, type=kind)
                if status != 503 or loop.time() >= until:
                    raise _refusal(status, answer, f"{method} {path}")
            failures += 1
            await asyncio.sleep(_pause(failures))

    async def _request(
        self, method: str, path: str, query: Sequence[tuple[str, str]], data: bytes | None
    ) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"} if data is not None else {}
        async with (
            self.session() as session,
            session.request(
                method, self.base_url + path, params=list(query), data=data, headers=headers
            ) as response,
        ):
            return response.status, await response.read()


def _pause(failures: int) -> float:
    """Seconds before the next attempt: growing, and drawn, so that clients do not come at once."""
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 10))
    drawn: float = random.uniform(0.5, 1.0)
    return longest * drawn


def _refusal(status: int, body: bytes, what: str) -> RequestRefused:
    try:
        detail = msgspec.json.decode(body, type=_Problem).detail
    except (msgspec.DecodeError, UnicodeDecodeError):
        detail = None
    text = body[:200].decode(errors="replace")
    return RequestRefused(status, str(detail) if detail is not None else text, what)


def _at(workflow_name: str) -> str:
    return f"/workflows/{quote(workflow_name, safe='')}"


def _run_body(handler_id: str | None, start_event: Any, context: Any) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if handler_id is not None:
        body["handler_id"] = handler_id
    if start_event is not None:
        body["start_event"] = start_event if isinstance(start_event, dict) else _dump(start_event)
    if context is not None:
        body["context"] = context if isinstance(context, dict) else context.to_dict()
    return body


def _envelope(event: Any) -> Any:
    if isinstance(event, dict | str):
        return event
    kind = type(event)
    return {
        "type": kind.__name__,
        "qualified_name": f"{kind.__module__}.{kind.__qualname__}",
        "value": _dump(event),
    }


def _dump(value: Any) -> Any:
    """Events, and what they are made of, as JSON can hold it."""
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(f"{type(value).__name__} is not JSON")
    return dump(mode="json")
