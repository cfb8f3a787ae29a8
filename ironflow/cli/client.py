"""Asking a server over HTTP, with the standard library's client: aiohttp takes longer to import
than most verbs take to run.

A `Client` keeps one connection. Answers are raw bodies or decoded into the structs of `web.wire`;
problem documents become `Refused`, and where nothing of ours answers, `Unreachable` names the URL
and what to do.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import click
import msgspec

from ironflow import VERSION
from ironflow.cli.failures import Refused, Unreachable, Wrong
from ironflow.discovery import credentials
from ironflow.web.wire import Problem

API = "/api/v1"
TIMEOUT = 30.0
"""Seconds for an answer, beside the time that the server was asked to wait."""
PAGE = 200
"""Items asked for at once."""

T = TypeVar("T")
Query = dict[str, str | int | None]


class Page(msgspec.Struct):
    """A page of a list, its items as they came."""

    items: list[msgspec.Raw]
    next_cursor: str | None = None


class Client:
    """One server, one connection. Not for several threads at once."""

    def __init__(self, url: str, timeout: float = TIMEOUT) -> None:
        """Raises `Wrong` for a URL that cannot be one."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise Wrong("--server", f"{url!r} is not a URL: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Wrong("--server", f"{url!r} is not a URL like http://127.0.0.1:4200")
        self.url, self.timeout = url.rstrip("/"), timeout
        self._host, self._port = parts.hostname, port
        self._is_secure = parts.scheme == "https"
        self._prefix = parts.path.rstrip("/")
        self._headers = _make_headers(self.url)
        self._connection: http.client.HTTPConnection | None = None

    # -- requests ---------------------------------------------------------------------------------

    def get(self, path: str, query: Query | None = None, wait: float = 0.0) -> bytes:
        """The body of `GET /api/v1<path>`."""
        return self.request("GET", path, query, wait=wait)

    def post(
        self, path: str, body: Any = None, query: Query | None = None, wait: float = 0.0
    ) -> bytes:
        """The body of the answer to `POST /api/v1<path>`; the server may take `wait` longer."""
        data = b"{}" if body is None else msgspec.json.encode(body)
        return self.request("POST", path, query, data, wait)

    def request(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: bytes | None = None,
        wait: float = 0.0,
    ) -> bytes:
        """The body of a successful answer. Raises `Refused`, `Unreachable`."""
        status, kind, data = self._exchange(method, API + path, query, body, wait)
        if 200 <= status < 300:
            return self._checked(kind, status, data)
        raise self._refused(status, kind, data)

    def probe(self, path: str) -> tuple[int, bytes]:
        """Status and body of `GET <path>`, whatever they are. Raises `Unreachable`."""
        status, _, data = self._exchange("GET", path, None, None, 0.0)
        return status, data

    def items(self, path: str, query: Query, limit: int) -> Iterator[bytes]:
        """The items of a paged list, at most `limit`, each as the JSON that came."""
        cursor: str | None = None
        while limit > 0:
            asked = min(limit, PAGE)
            body = self.get(path, {**query, "limit": asked, "cursor": cursor})
            page = decode(body, Page)
            for item in page.items[:limit]:
                yield bytes(item)
            limit -= len(page.items)
            cursor = page.next_cursor
            if cursor is None or not page.items:
                return

    def open_stream(
        self, path: str, query: Query, headers: dict[str, str], timeout: float
    ) -> http.client.HTTPResponse:
        """An event stream on a connection of its own. Raises `Refused`, `Unreachable`."""
        connection = self._connect(timeout)
        target = self._target(API + path, query)
        try:
            connection.request(
                "GET", target, headers={**self._headers, **headers, "Connection": "close"}
            )
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._unreachable(error) from error
        kind = response.getheader("Content-Type", "")
        if response.status == 200 and kind.startswith("text/event-stream"):
            return response
        data = response.read()
        connection.close()
        raise self._refused(response.status, kind, data)

    def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # -- inside -----------------------------------------------------------------------------------

    def _exchange(
        self, method: str, path: str, query: Query | None, body: bytes | None, wait: float
    ) -> tuple[int, str, bytes]:
        headers = dict(self._headers)
        if body is not None:
            headers["Content-Type"] = "application/json"
        target = self._target(path, query)
        is_reused = self._connection is not None
        connection = self._connection or self._connect(self.timeout)
        self._connection = connection
        if connection.sock is not None:
            connection.sock.settimeout(self.timeout + wait)
        else:
            connection.timeout = self.timeout + wait
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            return response.status, response.getheader("Content-Type", ""), response.read()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
            self.close()
            if is_reused and method == "GET":  # the server closed an idle connection
                return self._exchange(method, path, query, body, wait)
            raise self._unreachable(error) from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._unreachable(error) from error

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._is_secure else http.client.HTTPConnection
        return kind(self._host, self._port, timeout=timeout)

    def _target(self, path: str, query: Query | None) -> str:
        given = {name: value for name, value in (query or {}).items() if value is not None}
        return self._prefix + path + (f"?{urlencode(given)}" if given else "")

    def _checked(self, kind: str, status: int, data: bytes) -> bytes:
        if "json" not in kind:
            raise self._foreign(status, kind)
        return data

    def _refused(self, status: int, kind: str, data: bytes) -> Exception:
        try:
            problem = msgspec.json.decode(data, type=Problem)
        except (msgspec.DecodeError, UnicodeError):
            return self._foreign(status, kind)
        message = problem.detail or problem.title
        if problem.field and not message.startswith(problem.field):
            message = f"{problem.field}: {message}"
        return Refused(message, status, problem.code)

    def _foreign(self, status: int, kind: str) -> Unreachable:
        what = f"HTTP {status}, {kind.partition(';')[0] or 'no content type'}"
        return Unreachable(
            f"server: {self.url} answers, but not as ironflow does ({what}); "
            "check --server or IRONFLOW_SERVER_URL"
        )

    def _unreachable(self, error: Exception) -> Unreachable:
        if isinstance(error, TimeoutError | socket.timeout):
            return Unreachable(
                f"server: {self.url} did not answer in time; is it overloaded or stopped? "
                "See `ironflow doctor`"
            )
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        reason = reason or type(error).__name__
        return Unreachable(
            f"server: nothing answers at {self.url} ({reason}); start one with `ironflow serve "
            "app.py`, or name another with --server or IRONFLOW_SERVER_URL"
        )


def connect(url: str) -> Client:
    """A client that is closed when the verb ends. Raises `Wrong` for what is no URL."""
    client = Client(url)
    click.get_current_context().call_on_close(client.close)
    return client


def _make_headers(url: str) -> dict[str, str]:
    """What goes with every request; the key comes from the environment, not from a command line
    that others can see.
    """
    headers = {"Accept": "application/json", "User-Agent": f"ironflow-cli/{VERSION}"}
    found = credentials(url)
    if found.api_key:
        headers["Authorization"] = f"Bearer {found.api_key}"
    if found.environment:
        headers["X-Ironflow-Environment"] = found.environment
    return headers


def decode(body: bytes, kind: type[T]) -> T:
    """A body as a struct of `web.wire`. Raises `Unreachable` when it is none."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise Unreachable(
            f"server: its answer is not one that this ironflow {VERSION} understands ({error}); "
            "use the same version on both sides"
        ) from error


def segment(text: str) -> str:
    """Text as one segment of a path."""
    return quote(text, safe="")
