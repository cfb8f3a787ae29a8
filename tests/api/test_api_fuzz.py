"""Hostile requests, sent as raw bytes: none may cause a 5xx, and the server must live on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironflow.storage.memory.store import MemoryStore
from ironflow.storage.ports import Store
from ironflow.storage.sqlite.store import open_sqlite

Send = Callable[..., int]

NASTY = st.sampled_from(
    [
        "\x00",
        "\ud800",
        "\udfff",
        "\x7f",
        "%00",
        "%",
        "%zz",
        "..",
        "/",
        "\\",
        "'",
        '"',
        "null",
        "NaN",
        "-1",
        "9" * 400,
        "1e400",
        "💥",
        "\u202e",
        "a" * 5000,
        "00000000-0000-7000-8000-000000000000",
        "WzEsIngiXQ",
        "{}",
        "[]",
        "*",
        ">",
        "order.>",
        "2026-13-45T99:00:00Z",
        "9999-12-31T23:59:59.999999-23:59",
        "0001-01-01T00:00:00+23:59",
    ]
)
TEXT = st.one_of(NASTY, st.text(max_size=30), st.lists(NASTY, max_size=3).map("".join))
KEYS = st.sampled_from(["name", "data", "input", "idempotency_key", "reason", "x", "$blob", ""])
JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(min_value=-(2**80), max_value=2**80),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(KEYS | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
FRAGMENTS = st.sampled_from(
    [
        b"{", b"}", b"[", b"]", b":", b",", b'"', b'"name"', b'"input"', b'"data"', b"null", b"NaN",
        b"Infinity", b"1e999", b"-", b"9" * 500, b'"\\ud800"', b'"\\u0000"', b"\x00", b"\xff",
        b"\xef\xbb\xbf", b"[" * 3000, b'{"a":' * 3000, b"]" * 3000, b" ", b"\n", b"//",
    ]
)  # fmt: skip
BODIES = st.one_of(
    JSON.map(lambda value: msgspec.json.encode(value, enc_hook=str)),
    st.fixed_dictionaries({}, optional={"name": TEXT, "data": JSON, "idempotency_key": TEXT}).map(
        lambda value: msgspec.json.encode(_scrub(value))
    ),
    st.lists(FRAGMENTS, max_size=8).map(b"".join),
    st.sampled_from([b'{"name":"a","data":%s}', b'{"input":%s}', b"[%s]"]).flatmap(
        lambda frame: FRAGMENTS.map(lambda part: frame % part)
    ),
    st.binary(max_size=50),
)
POSTS = st.sampled_from(
    [
        "/api/v1/events",
        "/api/v1/events/batch",
        "/api/v1/functions/echo/invoke",
        "/api/v1/functions/order/invoke",
        "/api/v1/functions/waits/invoke",
    ]
)
GETS = st.sampled_from(
    ["/api/v1/runs", "/api/v1/events", "/api/v1/functions", "/api/v1/actors", "/ready", "/"]
)
PARAMETERS = st.sampled_from(
    [
        "limit", "cursor", "since", "until", "status", "name", "source", "function_id", "event_id",
        "event_name", "parent_id", "idempotency_key", "full", "after", "kind", "wait", "other",
    ]
)  # fmt: skip
PLACES = st.sampled_from(
    [
        "/api/v1/runs/{}",
        "/api/v1/runs/{}/steps",
        "/api/v1/runs/{}/history",
        "/api/v1/runs/{}/result",
        "/api/v1/runs/{}/why",
        "/api/v1/events/{}",
        "/api/v1/functions/{}",
        "/{}",
    ]
)
MORE = settings(max_examples=150)


def _scrub(value: Any) -> Any:
    """Without lone surrogates, which no encoder of JSON takes."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_scrub(key): _scrub(item) for key, item in value.items()}
    return value


def _percent(text: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


@pytest.fixture(params=["memory", "sqlite"])
def send(request: pytest.FixtureRequest, serve: Any, tmp_path: Path) -> Iterator[Send]:
    """Sends raw bytes and gives the status; at the end the server must still be well."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def start() -> Any:
            memory = request.param == "memory"
            store: Store = MemoryStore() if memory else await open_sqlite(tmp_path / "fuzz.db")
            return await stack.enter_async_context(serve(store))

        api = runner.run(start())

        async def exchange(method: str, target: str, headers: bytes, body: bytes) -> int:
            reader, writer = await asyncio.open_connection(api.client.host, api.client.port)
            try:
                path = target.encode("utf-8", "surrogateescape")
                writer.write(b"%s %s HTTP/1.1\r\nHost: x\r\n" % (method.encode(), path))
                writer.write(b"Connection: close\r\n%s" % headers)
                writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
                answer = await asyncio.wait_for(reader.read(), 30)
            finally:
                writer.close()
                await writer.wait_closed()
            head, _, content = answer.partition(b"\r\n\r\n")
            status = int(head.split(b" ", 2)[1])
            assert b"Traceback" not in content
            if b"json" in head:
                msgspec.json.decode(content)
            return status

        yield lambda method, target, body=b"", headers=b"": runner.run(
            exchange(method, target, headers, body)
        )

        async def still_well() -> None:
            assert (await api.get("/ready")).status == 200
            assert (await api.end("echo", "alive"))["result"] == "alive"
            for kind, total in api.engine.system.statistics_by_kind().items():
                assert total.restarts == 0, f"an actor of kind {kind} crashed"
            await stack.aclose()

        runner.run(still_well())


def test_bodies(send: Send) -> None:
    @MORE
    @given(POSTS, BODIES)
    def law(path: str, body: bytes) -> None:
        assert send("POST", path, body) < 500

    law()


def test_queries(send: Send) -> None:
    @MORE
    @given(GETS, st.lists(st.tuples(PARAMETERS, TEXT), max_size=3))
    def law(path: str, pairs: list[tuple[str, str]]) -> None:
        query = "&".join(f"{name}={_percent(text)}" for name, text in pairs)
        assert send("GET", f"{path}?{query}") < 500

    law()


def test_ids(send: Send) -> None:
    @MORE
    @given(PLACES, TEXT)
    def law(place: str, text: str) -> None:
        assert send("GET", place.format(_percent(text))) < 500

    law()


def test_raw_targets_and_headers(send: Send) -> None:
    raw = st.binary(max_size=20).map(
        lambda data: data.translate(None, b" \r\n\t\x00").decode("utf-8", "surrogateescape")
    )
    line = st.binary(max_size=30).map(lambda data: data.translate(None, b"\r\n\x00"))

    @MORE
    @given(raw, line)
    def law(target: str, value: bytes) -> None:
        assert send("GET", "/" + target) < 500
        headers = b"Idempotency-Key: %s\r\n" % value
        assert send("POST", "/api/v1/events", b'{"name":"a"}', headers) < 500

    law()


@pytest.mark.parametrize(
    "body",
    [
        b'{"name":"order.x","data":' + b"9" * 400 + b"}",
        b'{"name":"order.x","data":' + b"9" * 300 + b"}",
        b'{"name":"order.x","data":{"amount":"\\ud800"}}',
        b'{"name":"order.x","data":{"amount":"\\u0000"}}',
        b'{"name":"order.x","data":' + b"[" * 64 + b"]" * 64 + b"}",
        b'{"name":"order.x","data":' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"name":"order.x","data":' + b"[" * 200_000 + b"}",
        b'{"name":"order.x","data":' + b'{"a":' * 2000 + b"1" + b"}" * 2000 + b"}",
        b'{"name":"order.x","data":{"amount":1e400}}',
        b'{"name":"order.x","data":{"amount":-0}}',
        b'{"name":"order.x","data":{"amount":' + b"1" * 5000 + b"}}",
        b'{"name":"order.x","data":{"amount":12,"amount":"12"}}',
        b'{"name":"order.x","data":{"\\u0000":1,"":{"amount":[12]}}}',
    ],
)
def test_known_bombs(send: Send, body: bytes) -> None:
    assert send("POST", "/api/v1/events", body) < 500
    assert send("POST", "/api/v1/events/batch", b"[" + body + b"]") < 500
    invoke = body.replace(b'"name":"order.x","data"', b'"input"')
    for function_id in ("echo", "order"):
        assert send("POST", f"/api/v1/functions/{function_id}/invoke?wait=10s", invoke) < 500
    assert send("GET", "/api/v1/events") == 200
    assert send("GET", "/api/v1/runs") == 200
