"""Bodies of requests that are compressed (`Content-Encoding`).

aiohttp would unpack them as they come, also those that nobody reads, and as much at a time as a
body may be large: a bomb of 200 kB held the event loop up for a second. So connections leave
bodies as they are (`web.patience`), and whoever reads one has it unpacked here: in pieces between
which others have their turn, and no further than a body may be large.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator

from aiohttp import hdrs, web

from ironflow.core.errors import IronflowError

TAKEN = 64 * 1024
"""Compressed bytes that are looked at at a time."""
PIECE = 256 * 1024
"""Bytes that are unpacked at a time: a millisecond at most."""
MOST_MEMBERS = 1024
"""Gzip files in one body, one behind the other."""

_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


class UnknownEncoding(IronflowError):
    """A body is compressed in a way that is not known here."""

    code = "unsupported_encoding"
    status = 415

    def __init__(self, encoding: str) -> None:
        super().__init__(f"the body has the encoding {encoding[:40]!r}: use gzip, deflate or none")


def is_packed(request: web.Request) -> bool:
    """Whether a body is not what it stands for."""
    return hdrs.CONTENT_ENCODING in request.headers


async def unpack(request: web.Request, body: bytes) -> bytes:
    """What `body`, as it came with `request`, stands for. Raises `HTTPRequestEntityTooLarge`,
    `RequestPayloadError` for one that is damaged, `UnknownEncoding`.
    """
    encoding = request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower()
    if encoding in ("", "identity") or not body:
        return body
    if encoding in ("gzip", "x-gzip"):
        bits = _GZIP
    elif encoding == "deflate":
        bits = _ZLIB if body[0] & 0xF == zlib.DEFLATED else _RAW
    else:
        raise UnknownEncoding(encoding)
    most, parts, size = request.client_max_size, list[bytes](), 0
    try:
        for part in _pieces(body, bits):
            size += len(part)
            if 0 < most < size:
                raise web.HTTPRequestEntityTooLarge(most, size)
            parts.append(part)
            if len(parts) % 2 == 0:
                await asyncio.sleep(0)
    except zlib.error as error:
        raise web.RequestPayloadError(f"it is no {encoding}: {error}") from error
    return b"".join(parts)


def _pieces(body: bytes, bits: int) -> Iterator[bytes]:
    """What is unpacked, piece by piece. Raises `zlib.error`."""
    decoder, members = zlib.decompressobj(bits), 1
    for start in range(0, len(body), TAKEN):
        rest = body[start : start + TAKEN]
        while rest:
            if decoder.eof:
                members += 1
                if bits != _GZIP or members > MOST_MEMBERS:
                    raise zlib.error("there is more behind its end")
                decoder = zlib.decompressobj(bits)
            piece = decoder.decompress(rest, PIECE)
            yield piece
            # Of a full piece there may be more, although all of its bytes were taken.
            while len(piece) == PIECE and not (decoder.unconsumed_tail or decoder.eof):
                piece = decoder.decompress(b"", PIECE)
                yield piece
            rest = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
    if not decoder.eof:
        raise zlib.error("it ends too early")
