"""Compressed bodies: unpacked to what they were, no further than a body may be large, and never at
once."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given, settings
from hypothesis import strategies as st

from ironflow.storage.memory.store import MemoryStore
from ironflow.web import bodies

BOMB = gzip.compress(b" " * 40_000_000, 9)


def request(encoding: str, most: int = 2**40) -> web.Request:
    return make_mocked_request("POST", "/", {"Content-Encoding": encoding}, client_max_size=most)


def deflate_without_head(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@given(st.lists(st.tuples(st.binary(max_size=50), st.integers(1, 20_000)), max_size=4))
@settings(deadline=None, max_examples=40)
async def test_what_was_packed_is_unpacked(parts: list[tuple[bytes, int]]) -> None:
    data = b"".join(part * count for part, count in parts)
    for encoding, packed in (
        ("gzip", gzip.compress(data)),
        ("X-GZIP", b"".join(gzip.compress(part * count) for part, count in parts)),
        ("deflate", zlib.compress(data)),
        ("deflate", deflate_without_head(data)),
        ("identity", data),
    ):
        assert await bodies.unpack(request(encoding), packed) == data
        if packed and encoding != "identity":
            assert await bodies.unpack(request(encoding, max(len(data), 1)), packed) == data
            for wrong in (packed[:-1], packed + b"x"):
                with pytest.raises(web.RequestPayloadError):
                    await bodies.unpack(request(encoding), wrong)
            if len(data) > 1:
                with pytest.raises(web.HTTPRequestEntityTooLarge):
                    await bodies.unpack(request(encoding, len(data) - 1), packed)


async def test_others_have_their_turn_while_a_body_is_unpacked() -> None:
    unpacking = asyncio.create_task(bodies.unpack(request("gzip"), BOMB))
    turns = 0
    while not unpacking.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 40_000_000 / bodies.PIECE / 3
    assert len(await unpacking) == 40_000_000


async def test_no_body_is_a_thousand_files() -> None:
    many = gzip.compress(b"") * (bodies.MOST_MEMBERS + 1)
    with pytest.raises(web.RequestPayloadError):
        await bodies.unpack(request("gzip"), many)


PLACES = [
    ("/api/v1/events", 413),
    ("/api/v1/functions/echo/invoke", 413),
    ("/api/flow_runs/filter", 413),
    ("/api/events", 413),
    ("/ironflow.v1.IronflowService/GetFunction", 429),
    ("/workflows/none/run", 404),
    ("/health", 405),
    ("/nothing", 404),
]


async def test_a_bomb_is_refused_wherever_it_is_sent_to(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked: list[int] = []
    pieces = bodies._pieces

    def counted(body: bytes, bits: int) -> Any:
        for piece in pieces(body, bits):
            unpacked.append(len(piece))
            yield piece

    monkeypatch.setattr(bodies, "_pieces", counted)
    async with serve(MemoryStore(), body_limit=2_000_000) as api:
        for path, status in PLACES:
            unpacked.clear()
            headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
            async with api.client.post(path, data=BOMB, headers=headers) as answer:
                assert answer.status == status, path
            assert sum(unpacked) <= 2_000_000 + bodies.PIECE
            assert bool(unpacked) is (status in (413, 429)), "what nobody reads is not unpacked"
        packed = gzip.compress(b'{"name": "door.opened", "data": 1}')
        for encoding, status in (("gzip", 201), ("zstd", 415), ("deflate", 400)):
            headers = {"Content-Encoding": encoding}
            assert (await api.post("/api/v1/events", packed, headers=headers)).status == status
