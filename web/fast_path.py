"""The fast path: plain requests for a few busy routes, answered by the connection itself.

aiohttp makes a message, a stream, a request, two tasks and a response of every request, and
asks a row of middlewares about it; for a few hundred bytes of JSON that is most of what the answer
costs. Here a request in one piece, whose head has come before, byte for byte, and was plain as
aiohttp's own parser read it, is looked up, admitted, handled and answered in one write.

Nothing is decided here that is decided elsewhere. Whatever is not plain goes the usual way: another
route, a query where none is expected, a header that somebody looks at, a large body, a key that
needs more than a look.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine, Mapping
from functools import lru_cache, partial
from time import perf_counter
from typing import Any, NamedTuple, Protocol, cast

from aiohttp import web
from aiohttp.http_parser import RawRequestMessage

from ironflow.actors.runs.endings import Ending
from ironflow.core.access.actions import Requirement, requirement_of
from ironflow.core.access.directory import DEFAULT_ENVIRONMENT
from ironflow.web.access import HEADER, NAME_HEADER, Gate, secret_of
from ironflow.web.limits import kind_held
from ironflow.web.patience import BODY_BYTES, PatientHandler, PatientRunner
from ironflow.web.whole import encode_answer, encode_response

log = logging.getLogger("ironflow.web")

Headers = Mapping[str, str]
Reply = tuple[int, bytes] | tuple[int, bytes, str] | web.Response
"""A status, a JSON body and perhaps a `Location`, or a response whose body is all there."""
Serve = Callable[[Headers, dict[str, str], bytes], Coroutine[Any, Any, Reply]]
"""Answers a request: its headers, the parts of its path, its body. Raises nothing but
`CancelledError`."""
Then = Callable[[Reply], None]
Bind = Callable[[str], Serve | None]
"""What answers requests with this query; None where that is refused."""
Count = Callable[[str, str, int, float], None]
"""Told of an answer: method, template, status, seconds."""

MOST_HEADS = 1024
"""Heads that are remembered: a client sends the same one again and again."""
LONGEST_HEAD = 2048
"""Bytes of a head that is remembered."""
LONGEST_LINE = 256
"""Bytes of a first line that is looked for."""
ANSWER_SECONDS = 30.0
"""After which an actor that was asked directly is not waited for, as elsewhere."""
MOST_LINES = 256
"""Paths that are remembered."""
MOST_QUERIES = 64
"""Queries of a route that are remembered."""
CANCELLED = 499

_ID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_ID_LENGTH = 36
_NAME = re.compile(rb"[A-Za-z0-9_.-]+")
_FIRST = re.compile(rb"[A-Z]+ \S+ HTTP/1\.1\r\n")
_PART = re.compile(r"\{(\w+)\}")
_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: (\d{1,9})(?=\r\n|$)")
_LOOKED_AT = ("Origin", "Sec-Fetch-Site", "Expect", NAME_HEADER)


class Direct(Protocol):
    """What answers requests of a route by asking one actor one thing: no coroutine is needed."""

    def ask(self, headers: Headers, path: dict[str, str], body: bytes, then: Then) -> bool:
        """Ask, and call `then` with the answer, perhaps at once; False when it takes more. Raises
        nothing.
        """
        ...

    def refuse(self, error: Exception) -> Reply:
        """The answer in place of one that did not come."""
        ...


class FastRoute(NamedTuple):
    """A route that may be answered here. `name`: of the id in its path, if there is one. What is
    `is_held` open counts for a key, and is answered here only where there are none.
    """

    method: str
    template: str
    name: str
    needed: Requirement | None
    serve: Serve
    is_held: bool = False
    bind: Bind | None = None
    direct: Direct | None = None


class Head(NamedTuple):
    """What is known of a plain head, but for its first line and the length of the body."""

    headers: Headers
    secret: str | None


class Plain(NamedTuple):
    """A plain request that is all there."""

    route: FastRoute
    serve: Serve
    path: dict[str, str]
    headers: Headers
    body: bytes


class FastPath:
    """The routes of an application that are served so, and the heads that have come before."""

    def __init__(self, gate: Gate, body_limit: int, count: Count) -> None:
        self.count = count
        self._gate, self._most = gate, min(body_limit, BODY_BYTES)
        self._routes: dict[tuple[bytes, ...], FastRoute] = {}
        self._named: dict[tuple[bytes, ...], FastRoute] = {}
        self._places: dict[int, set[int]] = {}
        """Where names stand in paths of so many parts."""
        self._bound: dict[tuple[str, str, bytes], Serve | None] = {}
        self._heads: dict[bytes, Head] = {}
        self._lines: dict[bytes, tuple[FastRoute | None, bytes]] = {}
        """What paths without an id come to."""

    def add(self, method: str, template: str, serve: Serve, direct: Direct | None = None) -> None:
        """Serve a route here, too. Its path has one part that is not fixed at most, a UUID. What
        `direct` answers `serve` is not asked for.
        """
        if kind_held(method, template):
            raise ValueError(f"{template} may be held open: that is counted elsewhere")
        found = _PART.search(template)
        name = "" if found is None else found[1]
        fixed = template.replace(f"{{{name}}}", "{}").encode()
        needed = requirement_of(method, template)
        route = FastRoute(method, template, name, needed, serve, direct=direct)
        self._routes[tuple((b"%b %b" % (method.encode(), fixed)).split(b"/"))] = route

    def add_named(self, method: str, template: str, serve: Serve, bind: Bind | None = None) -> None:
        """Serve a route here, too, whose path has one part that is not fixed: a plain name, or a
        UUID. `bind`: it also takes queries.
        """
        found = _PART.search(template)
        assert found is not None
        fixed = template.replace(found[0], "{}").encode()
        parts = tuple((b"%b %b" % (method.encode(), fixed)).split(b"/"))
        needed, held = requirement_of(method, template), kind_held(method, template)
        self._named[parts] = FastRoute(method, template, found[1], needed, serve, bool(held), bind)
        self._places.setdefault(len(parts), set()).add(parts.index(b"{}"))

    def _find(self, parts: list[bytes]) -> tuple[FastRoute | None, bytes]:
        """The route of a path, and the part of it that is not fixed."""
        id_ = b""
        for place, part in enumerate(parts):
            if len(part) == _ID_LENGTH and _ID.fullmatch(part):
                parts[place], id_ = b"{}", part
                break
        key = tuple(parts)
        route = self._routes.get(key)
        if route is not None:
            return (route if bool(route.name) is bool(id_) else None), id_
        if id_:
            return self._named.get(key), id_
        for place in self._places.get(len(parts), ()):
            name = parts[place]
            route = self._named.get((*parts[:place], b"{}", *parts[place + 1 :]))
            if route is not None and _NAME.fullmatch(name):
                return route, name
        return None, b""

    def _bind(self, route: FastRoute, query: bytes) -> Serve | None:
        if route.bind is None:
            return None
        key = route.method, route.template, query
        if key not in self._bound:
            if len(self._bound) >= MOST_QUERIES:
                self._bound.clear()
            self._bound[key] = route.bind(query.decode("latin-1"))
        return self._bound[key]

    def read(self, data: bytes) -> Plain | int:
        """The plain request that `data` is; else how many bytes of it are still to come, 0 when it
        is none.
        """
        stop = data.find(b" HTTP/1.1\r\n", 0, LONGEST_LINE)
        end = data.find(b"\r\n\r\n", stop + 9)
        if stop < 0 or not 0 < end - stop <= LONGEST_HEAD:
            return 0
        line, mark, query = data[:stop].partition(b"?")
        found = self._lines.get(line)
        if found is None:
            found = self._find(line.split(b"/"))
            if found[0] is not None and len(found[1]) != _ID_LENGTH:
                # Ids are ever new, names come again and again.
                if len(self._lines) >= MOST_LINES:
                    self._lines.clear()
                self._lines[line] = found
        route, id_ = found
        if route is None:
            return 0
        length, key = _split_head(data[stop + 9 : end])
        head = self._heads.get(key)
        if head is None or length > self._most:
            return 0
        missing = end + 4 + length - len(data)
        if missing:
            return max(missing, 0)
        if route.is_held and self._gate.asks_for_keys:
            return 0
        if not self._gate.admits(head.secret, route.needed):
            return 0
        serve = self._bind(route, query) if mark else route.serve
        if serve is None:
            return 0
        path = {route.name: id_.decode()} if route.name else {}
        return Plain(route, serve, path, head.headers, data[end + 4 :])

    def learn(self, data: bytes, message: RawRequestMessage, is_whole: bool) -> int:
        """Remember the head of the message that begins where `data` does, if it is plain. How many
        bytes of the message are still to come; -1 when that is not known, or more has come.
        """
        line, end = _FIRST.match(data), data.find(b"\r\n\r\n")
        if line is None or end < line.end() or message.chunked or message.upgrade:
            return -1
        headers = message.headers
        length = int(headers.get("Content-Length", "0"))
        left = end + 4 + length - len(data)
        if left < 0 or is_whole is not (left == 0):
            return -1
        if end - line.end() > LONGEST_HEAD:
            return left
        found, key = _split_head(data[line.end() - 2 : end])
        if (
            not (message.should_close or message.compression)
            and not any(name in headers for name in _LOOKED_AT)
            and headers.get(HEADER, DEFAULT_ENVIRONMENT) == DEFAULT_ENVIRONMENT
            and found == length
            and len(headers.getall("Content-Length", ())) <= 1
        ):
            if len(self._heads) >= MOST_HEADS:
                self._heads.clear()
            kept = headers.copy()
            kept.popall("Content-Length", None)  # the next one of this kind has another
            self._heads[key] = Head(kept, secret_of(kept))
        return left


@lru_cache(MOST_HEADS)  # most heads come again with their very length
def _split_head(head: bytes) -> tuple[int, bytes]:
    """The length of the body that a head tells, and the head without it: those of a client differ
    in nothing else. `head` begins with the end of the first line.
    """
    found = _LENGTH.search(head)
    if found is None:
        return 0, head
    start, stop = found.span(1)
    return int(found[1]), head[:start] + head[stop:]


FAST_PATH = web.AppKey("fast_path", FastPath)


class Steps:
    """Takes a coroutine from wait to wait without a task. `done` is told what it returned, None
    when it was cancelled.
    """

    __slots__ = ("_awaited", "_coroutine", "_done", "_loop")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, Reply],
        done: Callable[[Reply | None], None],
    ) -> None:
        self._loop, self._coroutine, self._done = loop, coroutine, done
        self._awaited: asyncio.Future[Any] | None = None

    def go_on(self, _: object = None) -> None:
        """Take the next step."""
        self._awaited = None
        try:
            awaited = self._coroutine.send(None)
        except StopIteration as stop:
            self._done(stop.value)
        except asyncio.CancelledError:
            self._done(None)
        except Exception:
            log.exception("a request could not be answered")
            self._done(None)
        else:
            if awaited is None:  # it lets others go first
                self._loop.call_soon(self.go_on)
                return
            awaited._asyncio_future_blocking = False
            if type(awaited) is Ending:  # whoever waits for the end of a run goes on meanwhile
                awaited.tell(self.go_on)
            else:
                awaited.add_done_callback(self.go_on)
            self._awaited = awaited

    def cancel(self) -> None:
        """End what it waits for."""
        if self._awaited is not None:
            self._awaited.cancel()


class FastHandler(PatientHandler):
    """A connection that answers plain requests itself."""

    __slots__ = ("_alarm", "_began", "_fast", "_held", "_left", "_plain", "_steps")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Nothing has come yet."""
        super().connection_made(transport)
        manager = self._manager
        assert isinstance(manager, _FastServer)
        self._fast = manager.fast
        self._held = b""
        """The beginning of a plain request, or what came while one is answered."""
        self._left = 0
        """Bytes that aiohttp is still to get of its message; -1: what comes is no beginning."""
        self._plain: Plain | None = None
        """What is being answered."""
        self._steps: Steps | None = None
        self._began = 0.0
        self._alarm: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: BaseException | None) -> None:
        """Nobody waits for the answer any more."""
        super().connection_lost(exc)
        if self._alarm is not None:
            self._alarm.cancel()
        if self._steps is not None:
            self._steps.cancel()
        elif self._plain is not None:
            self._answered(None)

    def data_received(self, data: bytes) -> None:
        """Something came: the whole of a request, or a part of one."""
        if self._held:
            data, self._held = self._held + data, b""
        if self._plain is not None:
            self._hold_back(data)
            return
        if not self._left and self._is_idle():
            found = self._fast.read(data)
            if isinstance(found, Plain):
                self._answer(found)
                return
            if found:
                self._held = data
                if self._deadline is None:
                    self._await_head()
                return
        self._hand_on(data)

    def _is_idle(self) -> bool:
        """Whether the request before was answered, the answer is out, and nothing ends."""
        return not (
            self._waiter is None
            or self._messages
            or self._paused
            or self._upgraded
            or self._close
            or self._force_close
        )

    def _hand_on(self, data: bytes) -> None:
        """What came is aiohttp's to read."""
        before = self._request_count
        super().data_received(data)
        if self._left > 0:
            self._left = max(self._left - len(data), -1)
        elif self._left == 0 and data:
            self._left = -1
            if self._request_count == before + 1 and self._messages:
                message, payload = self._messages[-1]
                if isinstance(message, RawRequestMessage):
                    self._left = self._fast.learn(data, message, payload.is_eof())

    def _hold_back(self, data: bytes) -> None:
        """A client that asks before it was answered waits for its turn."""
        self._held = data
        if self.transport is not None:
            self.transport.pause_reading()

    def _answer(self, plain: Plain) -> None:
        assert self._manager is not None
        self._calm()
        self._manager.requests_count += 1
        self._request_in_progress = True
        self._plain, self._began = plain, perf_counter()
        route, headers, path, body = plain.route, plain.headers, plain.path, plain.body
        if route.direct is None or not route.direct.ask(
            headers, path, body, partial(self._told, plain)
        ):
            self._steps = Steps(self._loop, plain.serve(headers, path, body), self._answered)
            self._steps.go_on()
        elif self._plain is plain and self._alarm is None:
            # One for all requests of a connection: it looks which of them is late, if any.
            self._alarm = self._loop.call_later(ANSWER_SECONDS, self._look_at_answer)

    def _told(self, plain: Plain, reply: Reply) -> None:
        if self._plain is plain:  # else nobody waits for it any more
            self._answered(reply)

    def _look_at_answer(self) -> None:
        self._alarm, plain = None, self._plain
        if plain is None or plain.route.direct is None or self._steps is not None:
            return
        left = self._began + ANSWER_SECONDS - perf_counter()
        if left > 0:
            self._alarm = self._loop.call_later(left, self._look_at_answer)
        else:
            self._answered(plain.route.direct.refuse(TimeoutError()))

    def _answered(self, reply: Reply | None) -> None:
        plain = self._plain
        assert plain is not None
        self._steps = self._plain = None
        self._request_in_progress = False
        if isinstance(reply, tuple):  # asked first: the other look takes a microsecond
            status, answer = reply[0], encode_answer(*reply)
        elif reply is None:
            status, answer = CANCELLED, b""
        else:
            status, answer = reply.status, encode_response(reply)
        transport = self.transport
        if transport is not None and transport.is_closing():
            transport = None
        if transport is not None and answer:
            # At once, not at the end of the loop's turn: whoever waits goes on meanwhile.
            transport.set_write_buffer_limits(0)
            transport.write(answer)
            transport.set_write_buffer_limits()
        elif transport is not None:
            transport.abort()
        route = plain.route
        self._fast.count(route.method, route.template, status, perf_counter() - self._began)
        if self._handler_waiter is not None:
            self._handler_waiter.set_result(None)  # the server ends, and has waited for this
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._held and transport is not None:
            transport.resume_reading()
            self.data_received(b"")


class FastRunner(PatientRunner):
    """Runs an application, on the fast path where it has one."""

    __slots__ = ()

    def _set_kind(self, server: web.Server) -> None:
        fast = self.app.get(FAST_PATH)
        if fast is None:
            super()._set_kind(server)
        else:
            server.__class__ = _FastServer
            cast("_FastServer", server).fast = fast


class _FastServer(web.Server):
    """Makes the connections."""

    fast: FastPath

    def __call__(self) -> FastHandler:
        return FastHandler(self, loop=self._loop, **self._kwargs)
