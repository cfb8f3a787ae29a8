"""What the websockets of the Prefect face have in common: the handshake, and following a feed.

The first message of a client is `auth`, the answer `auth_success`. A client that follows then says
what it wants with `filter`; it gets what there is already, oldest first, and then what comes, each
item once. Whoever reads slowly waits for nobody: it reads on from the database.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from ironflow.actors.engine import Engine
from ironflow.actors.prefect.live import Live, Published
from ironflow.core.access.directory import DEFAULT_ENVIRONMENT
from ironflow.core.access.keys import PermissionDenied
from ironflow.core.errors import IronflowError
from ironflow.core.prefect.faults import Fault
from ironflow.web.access import secret_in, secret_of
from ironflow.web.stream import LIVE

T = TypeVar("T", bound="Item")

PROTOCOL = "prefect"
HEARTBEAT = 30.0
"""Seconds without a word after which a client is asked whether it is still there."""
PATIENCE = 30.0
"""Seconds that a client gets for its handshake."""
MAX_MESSAGE = 8 * 1024 * 1024
"""Bytes of one message of a client."""
CHUNK = 256
"""Rows that are read at once for a follower that catches up."""
MOST_TAKEN = 16
"""Items that a follower is handed at once without waking its task."""
MOST_BUFFERED = 64 * 1024
"""Bytes that a client may be behind and still be handed more."""
NO_KEY = (
    "Auth required: set PREFECT_API_AUTH_STRING=user:ifkey_... (PREFECT_API_KEY is no use here)"
)
NO_KEY_IN_URL = (
    "Auth required: for clients before 3.6.14, PREFECT_API_URL=http://user:ifkey_...@HOST:PORT/api"
)
AUTH_SUCCESS = '{"type":"auth_success"}'

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Closed(Exception):
    """The conversation is over; the socket has been closed, with a reason where there was one."""


class Item(Protocol):
    """What a feed has: encoded once for all followers."""

    @property
    def frame(self) -> bytes:
        """The message."""
        ...

    @property
    def packet(self) -> bytes:
        """The message as it goes over the wire."""
        ...


class Source(Protocol[T]):
    """What a follower wants to see of a feed."""

    live: Live[T]

    def is_wanted(self, item: T) -> bool:
        """Whether a live item is meant."""
        ...

    def backfill(self, newest: int) -> AsyncIterator[list[bytes]]:
        """Messages of what there is up to `newest`, oldest first."""
        ...

    async def catch_up(self, after: int) -> tuple[list[bytes], int]:
        """Messages of what was accepted behind `after` and is no longer in memory, and where to go
        on."""
        ...


async def open_socket(request: web.Request, *, autoping: bool = True) -> web.WebSocketResponse:
    """Accept a websocket; `prefect` is spoken if the client offers it. With `autoping` pings are
    answered at once."""
    request[LIVE] = True
    socket = web.WebSocketResponse(
        protocols=(PROTOCOL,),
        heartbeat=HEARTBEAT,
        autoping=autoping,
        max_msg_size=MAX_MESSAGE,
        compress=False,
    )
    await socket.prepare(request)
    return socket


async def close(socket: web.WebSocketResponse, code: int, reason: str) -> Closed:
    """Close with a reason; raise what it gives."""
    text = reason.encode("utf-8", "replace")[:120]
    with contextlib.suppress(ConnectionError):
        await socket.close(code=code, message=text)
    return Closed(reason)


async def shake_hands(
    request: web.Request, socket: web.WebSocketResponse, engine: Engine, action: str
) -> None:
    """Let the client introduce itself, with a key that is good for `action` where keys are needed:
    in its message, or in the headers of its request. Raises `Closed`.
    """
    message = await _receive(socket)
    if message.get("type") != "auth":
        raise await close(socket, WSCloseCode.POLICY_VIOLATION, "Expected 'auth' message")
    if engine.keyring.is_needed:
        token = message.get("token")
        given = secret_in(token) if isinstance(token, str) else ""
        await _check_key(socket, engine, action, given or secret_of(request.headers), NO_KEY)
    await socket.send_str(AUTH_SUCCESS)


async def admit(
    request: web.Request, socket: web.WebSocketResponse, engine: Engine, action: str
) -> None:
    """Let in a client that does not introduce itself: where keys are needed it has one in the
    headers of its request. Raises `Closed`.
    """
    if engine.keyring.is_needed:
        await _check_key(socket, engine, action, secret_of(request.headers), NO_KEY_IN_URL)


async def _check_key(
    socket: web.WebSocketResponse, engine: Engine, action: str, secret: str | None, advice: str
) -> None:
    """Whether a key is good for `action`; `advice` is for who has none. Raises `Closed`."""
    if not secret:
        raise await close(socket, WSCloseCode.POLICY_VIOLATION, advice)
    try:
        key = engine.keyring.check(secret)
        if key.environment not in (None, DEFAULT_ENVIRONMENT):
            raise PermissionDenied("this key is bound to another environment")
        directory = engine.registrar.directory
        everything = directory.irn(DEFAULT_ENVIRONMENT, "event", "*")
        decision = directory.grant(key.roles).decide(action, everything)
        if not decision.allowed:
            raise PermissionDenied(f"{action}: {decision.reason}")
    except IronflowError as error:
        raise await close(
            socket, WSCloseCode.POLICY_VIOLATION, f"Auth required: {error.message}"
        ) from error


async def receive_filter(socket: web.WebSocketResponse) -> tuple[Any, bool]:
    """What a client wants to follow, and whether it wants what there is already. Raises
    `Closed`."""
    message = await _receive(socket)
    if message.get("type") != "filter":
        raise await close(socket, WSCloseCode.PROTOCOL_ERROR, "Expected 'filter' message")
    if "filter" not in message:
        raise await close(socket, WSCloseCode.PROTOCOL_ERROR, "Invalid filter: there is none")
    return message["filter"], message.get("backfill") is not False


async def refuse_filter(socket: web.WebSocketResponse, fault: Fault) -> Closed:
    """Close because of what is wrong with a filter; raise what it gives."""
    where = ".".join(map(str, fault.where))
    text = f"Invalid filter: {where}: {fault.text}"
    return await close(socket, WSCloseCode.PROTOCOL_ERROR, text)


async def _receive(socket: web.WebSocketResponse) -> dict[str, Any]:
    try:
        async with asyncio.timeout(PATIENCE):
            message = await socket.receive()
            while message.type is WSMsgType.PING:  # clients look first whether anybody is there
                await socket.pong(message.data)
                message = await socket.receive()
    except TimeoutError as error:
        text = "the handshake took too long"
        raise await close(socket, WSCloseCode.POLICY_VIOLATION, text) from error
    if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
        raise Closed
    try:
        return _decode(message.data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        text = "a message must be a JSON object"
        raise await close(socket, WSCloseCode.PROTOCOL_ERROR, text) from error


async def follow(
    request: web.Request, socket: web.WebSocketResponse, source: Source[Any], backfill: bool
) -> None:
    """Send what is there already, then what comes, until the client or the server leaves."""
    sender = asyncio.create_task(_Follower(request, socket, source).run(backfill))
    try:
        # Someone has to read, or pings and the client's goodbye would not be heard.
        receiver = asyncio.create_task(_listen(socket))
        try:
            await asyncio.wait({sender, receiver}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            receiver.cancel()
        if sender.done():
            await sender
    finally:
        sender.cancel()
    with contextlib.suppress(ConnectionError):
        await socket.close(code=WSCloseCode.GOING_AWAY)


async def _listen(socket: web.WebSocketResponse) -> None:
    while (await socket.receive()).type in (WSMsgType.TEXT, WSMsgType.BINARY):
        pass


class _Follower(Generic[T]):
    """One client on its way through a feed."""

    def __init__(
        self, request: web.Request, socket: web.WebSocketResponse, source: Source[T]
    ) -> None:
        self.transport, self.socket, self.source = request.transport, socket, source
        self.cursor = 0

    async def run(self, backfill: bool) -> None:
        """Send until the feed is closed or the client gone."""
        live = self.source.live
        # What is committed up to here is read, what comes behind it is heard of: nothing is in
        # both.
        self.cursor = live.attach()
        try:
            with contextlib.suppress(ConnectionError, IronflowError):
                if backfill:
                    async for frames in self.source.backfill(self.cursor):
                        await self.send(frames)
                while not live.is_closed or live.last > self.cursor:
                    await live.wait(self.cursor, self.take)
                    await self.send(await self.next_frames())
                    # A socket that is always ready must not keep the loop to itself.
                    await asyncio.sleep(0)
        finally:
            live.detach()

    async def next_frames(self) -> list[bytes]:
        """Messages behind the cursor, from memory, else from the database."""
        source = self.source
        items = source.live.since(self.cursor)
        if items is None:
            frames, self.cursor = await source.catch_up(self.cursor)
            return frames
        if items:
            self.cursor = items[-1][0]
        return [item.frame for _, item in items if source.is_wanted(item)]

    async def send(self, frames: list[bytes]) -> None:
        """Send messages, as fast as the client reads."""
        for frame in frames:
            await self.socket.send_frame(frame, WSMsgType.TEXT)

    def take(self, items: Published[T]) -> bool:
        """What has just come, while the task sleeps: a few go straight to a socket that is not
        behind.
        """
        transport = self.transport
        if (
            transport is None
            or len(items) > MOST_TAKEN
            or transport.get_write_buffer_size() > MOST_BUFFERED
        ):
            return False
        for seq, item, _ in items:
            if self.source.is_wanted(item):
                transport.write(item.packet)
            self.cursor = seq
        return True
