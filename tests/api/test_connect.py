"""The carriage of the Connect services: codecs, compression, deadlines, errors, hostile bytes."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import sys
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from connect_client import CODECS, Caller
from hypothesis import given
from hypothesis import strategies as st

from ironflow.core.errors import InvalidInput
from ironflow.web.connect.envelopes import TooLarge, gunzip, open_envelope, pack
from ironflow.web.connect.json_codec import decode_json, encode_json
from ironflow.web.connect.proto_codec import decode_proto, encode_proto
from ironflow.web.connect.refusals import STATUSES
from ironflow.web.connect.schema import schema
from ironflow.web.problems import Malformed

GET = "/ironflow.v1.IronflowService/GetFunction"
METHODS = sorted(f"{service}/{method}" for service, method in schema().methods)


@pytest.fixture(params=CODECS)
def caller(request: pytest.FixtureRequest, memory_api: Any) -> Caller:
    return Caller(memory_api.client, request.param)


async def test_an_answer_is_in_the_codec_of_its_request(caller: Caller) -> None:
    answer = await caller.ok("GetFunction", {"id": "echo"})
    assert (answer["id"], answer["status"]) == ("echo", "FUNCTION_STATUS_ACTIVE")


async def test_what_is_not_there_is_said_with_its_kind_and_its_name(caller: Caller) -> None:
    reply = await caller.call("GetFunction", {"id": "none"})
    assert (reply.status, reply.code) == (404, "not_found")
    (detail,) = reply.value["details"]
    assert detail["type"] == "ironflow.v1.ErrorInfo"
    assert detail["debug"] == {"resourceType": "function", "resourceId": "none"}


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/ironflow.v1.IronflowService/NoSuchMethod", "POST"),
        ("/ironflow.v1.KVService/Get", "POST"),
        ("/ironflow.v1.IronflowService", "POST"),
        (GET, "GET"),
        (GET, "PUT"),
    ],
)
async def test_what_is_not_served_is_unimplemented_and_never_a_bare_404(
    memory_api: Any, path: str, method: str
) -> None:
    async with memory_api.client.request(method, path) as response:
        body = await response.json()
        assert response.content_type == "application/json"
    assert (response.status, body["code"]) == (501, "unimplemented"), body


NONSENSE = (b"{", b"[]", b"\xff\xfe", b'"x"', b"null", b'{"id":1,"runId":[]}', b"\x0a\xff\x01")


async def test_bodies_that_make_no_sense_are_never_an_accident(memory_api: Any) -> None:
    for method in METHODS:
        streamed = method.endswith("/Subscribe")
        for body, codec in itertools.product(NONSENSE, CODECS):
            if streamed and body == b"null":
                continue  # a subscription to nothing would be one
            kind = f"application/{'connect+' if streamed else ''}{codec}"
            data = pack(body) if streamed else body
            async with memory_api.client.post(
                f"/ironflow.v1.{method}", data=data, headers={"Content-Type": kind}
            ) as response:
                answer = await response.read()
            assert response.status < 500 or response.status == 501, (method, body, answer)
            if response.status != 200:
                error = json.loads(answer)
                assert response.status == STATUSES[error["code"]]
                assert error["message"]


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Content-Type": "text/plain"}, "unimplemented"),
        ({"Content-Type": "application/connect+json"}, "unimplemented"),
        ({"Content-Type": "application/json", "Content-Encoding": "zstd9"}, "unimplemented"),
        ({"Content-Type": "application/json", "Connect-Timeout-Ms": "soon"}, "invalid_argument"),
        ({"Content-Type": "application/json", "Connect-Timeout-Ms": "-1"}, "invalid_argument"),
        ({"Content-Type": "application/json", "Connect-Timeout-Ms": "9" * 11}, "invalid_argument"),
    ],
)
async def test_headers_that_make_no_sense_are_refused(
    memory_api: Any, headers: dict[str, str], code: str
) -> None:
    async with memory_api.client.post(GET, data=b'{"id":"echo"}', headers=headers) as response:
        assert (await response.json())["code"] == code
        assert response.status == STATUSES[code]


async def test_gzip_that_is_cut_off_or_is_none_is_the_callers_fault(memory_api: Any) -> None:
    whole = gzip.compress(b'{"id": "echo", "padding": "%s"}' % bytes(range(48, 90)) * 9)
    # The connection is closed after it: what follows of such a body could be anything.
    headers = {
        "Content-Type": "application/json",
        "Content-Encoding": "gzip",
        "Connection": "close",
    }
    for body in (whole[:-20], whole[:12], b"plain", whole[:-1] + b"x"):
        async with memory_api.client.post(GET, data=body, headers=headers) as response:
            answer = await response.read()
        assert 400 <= response.status < 500, answer


async def test_a_bomb_is_not_unpacked(memory_api: Any) -> None:
    bomb = gzip.compress(b" " * (64 * 1024 * 1024), 9)
    assert len(bomb) < 100_000
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    async with memory_api.client.post(GET, data=bomb, headers=headers) as response:
        answer = await response.json()
    assert (response.status, answer["code"]) == (429, "resource_exhausted")
    with pytest.raises(TooLarge):
        gunzip(bomb, 1024 * 1024)


async def test_without_a_key_the_refusal_is_an_envelope(memory_api: Any) -> None:
    await memory_api.get("/health")  # the description of the API needs no key yet
    made = await memory_api.post("/api/v1/keys", {"name": "first", "role": "admin"})
    viewer = await memory_api.post(
        "/api/v1/keys",
        {"name": "eyes", "role": "viewer"},
        headers={"Authorization": f"Bearer {made.json['secret']}"},
    )
    for codec in CODECS:
        reply = await Caller(memory_api.client, codec).call("GetFunction", {"id": "echo"})
        assert (reply.status, reply.code) == (401, "unauthenticated")
        eyes = Caller(
            memory_api.client, codec, {"Authorization": f"Bearer {viewer.json['secret']}"}
        )
        assert (await eyes.call("GetFunction", {"id": "echo"})).status == 200
        denied = await eyes.call("DeleteFunction", {"id": "echo"})
        assert (denied.status, denied.code) == (403, "permission_denied")


async def test_a_large_answer_is_compressed_for_who_takes_that(memory_api: Any) -> None:
    caller = Caller(memory_api.client, "json")
    await caller.ok("RegisterFunction", {"id": "wide", "description": "x" * 50_000})
    body, headers = b'{"id":"wide"}', {"Content-Type": "application/json"}
    for accepted, encoding in (("gzip, br", "gzip"), ("identity", None)):
        asked = headers | {"Accept-Encoding": accepted}
        async with memory_api.client.post(GET, data=body, headers=asked) as response:
            assert response.headers.get("Content-Encoding") == encoding
            assert len((await response.json())["description"]) == 50_000


# -- the codecs -----------------------------------------------------------------------------------

_leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",)))
)
_values = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner),
    max_leaves=12,
)
_objects = st.dictionaries(st.text("abc_", max_size=4), _values, max_size=4)


@given(_objects, _values, st.integers(0, 4_000_000_000_000_000), st.integers(-(2**31), 2**31 - 1))
def test_a_message_is_the_same_in_both_codecs(data: Any, value: Any, at: int, version: int) -> None:
    sent = {"input": data, "outputValue": value, "createdAt": at, "version": version}
    raw = encode_json(schema(), "Run", sent)
    plain = decode_json(schema(), "Run", raw)
    assert decode_json(schema(), "Run", encode_json(schema(), "Run", plain)) == plain
    again = decode_proto(schema(), "Run", encode_proto(schema(), "Run", plain))
    assert {key: _loaded(value) for key, value in again.items()} == {
        key: _loaded(value) for key, value in plain.items() if key != "version" or value
    }


def _loaded(value: Any) -> Any:
    return json.loads(bytes(value)) if not isinstance(value, str | int) else value


def test_json_keeps_every_digit_of_a_users_value() -> None:
    text = b'{"data":{"n":12345678901234567890123,"f":1.10}}'
    plain = decode_json(schema(), "TriggerRequest", text)
    assert bytes(plain["data"]) == b'{"n":12345678901234567890123,"f":1.10}'
    assert encode_json(schema(), "TriggerRequest", plain) == text


@st.composite
def garbage(draw: st.DrawFn) -> tuple[bytes, str]:
    """Any bytes, or fields that a message has with any values; and the name of the message."""
    name = draw(st.sampled_from(sorted(schema().messages)))
    fields = [*schema().message(name).by_name, "unknown"]
    values = st.none() | st.booleans() | st.integers(-9, 2**40) | st.text(max_size=5)
    lists = st.lists(values, max_size=2) | st.dictionaries(st.sampled_from(fields), values)
    said = st.dictionaries(st.sampled_from(fields), values | lists, max_size=3)
    return draw(st.binary(max_size=200) | said.map(msgspec.json.encode)), name


def without_defaults(value: Any) -> Any:
    """A message without what protobuf says by leaving it out; users' values as they are."""
    if isinstance(value, msgspec.Raw):
        return msgspec.json.decode(value)
    if isinstance(value, str):
        return "" if value.endswith("_UNSPECIFIED") else value
    if isinstance(value, dict):
        return {key: kept for key, each in value.items() if (kept := without_defaults(each))}
    return [without_defaults(each) for each in value] if isinstance(value, list) else value


@given(garbage())
def test_garbage_is_a_message_or_a_refusal(found: tuple[bytes, str]) -> None:
    data, name = found
    codecs = ((decode_proto, encode_proto), (decode_json, encode_json))
    for decode, _ in codecs:
        try:
            message = decode(schema(), name, data)
        except (InvalidInput, Malformed):
            continue
        for again, encode in codecs:  # what is a message is one in either codec
            carried = again(schema(), name, encode(schema(), name, message))
            assert without_defaults(carried) == without_defaults(message)


@given(st.binary(max_size=60), st.sampled_from([None, "gzip", "br"]))
def test_an_envelope_is_opened_or_refused(data: bytes, encoding: str | None) -> None:
    with suppress(Malformed):
        open_envelope(data, encoding, 1000)
    assert open_envelope(pack(data), encoding, 1000) == data
    assert open_envelope(pack(gzip.compress(data), 1), "gzip", 1000) == data


async def test_the_library_for_protobuf_is_loaded_when_it_is_needed(memory_api: Any) -> None:
    program = (
        "import sys; import ironflow.server, ironflow.web.app, ironflow.web.connect.face;"
        "sys.exit('google.protobuf' in sys.modules)"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    assert await process.wait() == 0
