"""Messages in a stream: a byte of flags, four of length, and the message.

The last envelope of an answer says how it ended: `{}`, or `{"error": {...}}`, under status 200.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any

import msgspec
from aiohttp import web

from ironflow.core.errors import IronflowError
from ironflow.web.connect.refusals import DeadlineExceeded, envelope
from ironflow.web.problems import Malformed, describe
from ironflow.web.stream import LIVE

COMPRESSED, END = 1, 2
HEAD = 5
"""Bytes before the message."""


class TooLarge(IronflowError):
    """The message is larger than this server takes."""

    code = "resource_exhausted"
    status = 413


def open_envelope(data: bytes, encoding: str | None, limit: int) -> bytes:
    """The one message of a request, unpacked; at most `limit` bytes of it. Raises `Malformed`,
    `TooLarge`.
    """
    if len(data) < HEAD:
        raise Malformed("the body is not an envelope: it has fewer than 5 bytes")
    flags, size = data[0], int.from_bytes(data[1:HEAD], "big")
    if size != len(data) - HEAD:
        raise Malformed(f"the envelope has {len(data) - HEAD} bytes and says {size}")
    if flags & ~COMPRESSED:
        raise Malformed(f"the flags {flags:#04x} are not those of a message")
    message = data[HEAD:]
    if not flags & COMPRESSED:
        return message
    if encoding != "gzip":
        raise Malformed("a compressed message needs Connect-Content-Encoding: gzip")
    return gunzip(message, limit)


def gunzip(data: bytes, limit: int) -> bytes:
    """Gzip, unpacked, however large it claims to be. Raises `Malformed`, `TooLarge`."""
    decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        message = decoder.decompress(data, limit + 1)
    except zlib.error as error:
        raise Malformed(f"the message is not gzip: {error}") from error
    if len(message) > limit:
        raise TooLarge(f"the message is larger than {limit} bytes")
    if not decoder.eof:
        raise Malformed("the message is not gzip: it ends too early")
    return message


def pack(data: bytes, flags: int = 0) -> bytes:
    """An envelope."""
    return bytes([flags]) + len(data).to_bytes(4, "big") + data


class Stream:
    """The answer to one call: envelopes, each sent at once."""

    def __init__(self, request: web.Request, content_type: str) -> None:
        self.request = request
        self.response = web.StreamResponse(
            headers={"Content-Type": content_type, "Cache-Control": "no-store"}
        )

    async def send(
        self,
        messages: AsyncIterator[Mapping[str, Any] | None],
        encode: Callable[[Mapping[str, Any]], bytes],
        deadline: float | None,
    ) -> web.StreamResponse:
        """Send until there is no more, the caller is gone, or `deadline` seconds have passed."""
        end = b"{}"
        try:
            async with asyncio.timeout(deadline):
                async for message in messages:
                    await self._begin()
                    if message is not None:
                        await self.response.write(pack(encode(message)))
        except TimeoutError:
            end = _failure(DeadlineExceeded("the deadline of this stream has passed"))
        except ConnectionError:
            return self.response  # nobody is there to read it
        except IronflowError as error:
            end = _failure(error)
        with suppress(ConnectionError):
            await self._begin()
            await self.response.write(pack(end, END))
        return self.response

    async def _begin(self) -> None:
        if not self.response.prepared:
            self.request[LIVE] = True
            await self.response.prepare(self.request)


def _failure(error: IronflowError) -> bytes:
    return msgspec.json.encode({"error": envelope(error, describe(error))})
