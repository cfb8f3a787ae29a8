"""Our own endpoint: what it refuses, signatures and keys, how it introduces itself."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from push_network import KEY, URL, Network, own, pushed

from ironflow import Endpoint, testing
from ironflow.actors.endpoints.introspection import register_found, survey
from ironflow.core.errors import ConfigError, Conflict, EndpointFailed, InvalidInput
from ironflow.core.functions import definition as fn
from ironflow.core.remote.push import CallFailure, Reply
from ironflow.core.remote.signatures import HEADER, BadSignature, Key, Seen, sign, sign_with, verify


@own(id="tiny")
async def tiny(ctx: Any) -> str:
    return "done"


async def test_what_an_endpoint_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IRONFLOW_SIGNING_KEY", raising=False)
    with pytest.raises(ConfigError, match="signing_key"):
        Endpoint([tiny])
    with pytest.raises(ConfigError, match="functions"):
        Endpoint([], signing_key=KEY)
    endpoint = Endpoint([tiny], signing_key={"old": "a", "new": KEY})
    now = int(endpoint._clock.now() / 1e6)
    for body, header, status, code in (
        (b"{}", None, 401, "SIGNATURE_MISSING"),
        (b"{}", "t=1,v1=00", 401, "SIGNATURE_INVALID"),
        (b"{}", "gibberish", 401, "SIGNATURE_INVALID"),
        (b"{}", sign(KEY, b"{ }", now), 401, "SIGNATURE_INVALID"),
        (b"{}", sign(KEY, b"{}", now - 301), 401, "SIGNATURE_INVALID"),
        (b"{}", sign("other", b"{}", now), 401, "SIGNATURE_INVALID"),
        (b"{}", sign(KEY, b"{}", now, "old"), 401, "SIGNATURE_INVALID"),
        (b"{}", sign("a", b"{}", now, "old"), 400, "VALIDATION_ERROR"),
        (b"{", sign(KEY, b"{", now), 400, "INVALID_JSON"),
    ):
        headers = {} if header is None else {HEADER.lower(): header}
        answer = await endpoint.handle(body, headers)
        error = json.loads(answer.body)["error"]
        assert (answer.status, error["code"]) == (status, code), header
    assert (await endpoint.handle(b"", {}, "PUT")).status == 405
    listed = json.loads((await endpoint.handle(b"", {}, "GET")).body)
    assert ([f["id"] for f in listed["functions"]], listed["signed"]) == (["tiny"], True)


def test_signatures() -> None:
    header = sign(KEY, b"body", 1000, "k1")
    verify(header, b"body", {"k1": KEY}, 1000 + 299)
    with pytest.raises(BadSignature):
        verify(header, b"body", {"k2": KEY}, 1000)
    with pytest.raises(BadSignature):
        verify(header, b"body", {}, 1000)
    for text in ("t=,v1=x", "t=٣,v1=x", "t=99999999999999,v1=x", "v1=x", "t=1000"):
        with pytest.raises(BadSignature):
            verify(text, b"body", {"k1": KEY}, 1000)


def test_either_key_will_do_while_keys_are_rotated() -> None:
    new, old = Key("new-secret", "2026-11"), Key("old-secret", "2026-05")
    header = sign_with([new, old], b"body", 1000)
    # A receiver that knows of one digest only reads the last one: that of the key in use.
    assert dict(part.split("=") for part in header.split(","))["kid"] == "2026-11"
    for keys in ([new], [old], [new, old], [Key("new-secret")], [Key("old-secret")]):
        verify(header, b"body", keys, 1000)
    verify(sign_with([old], b"body", 1000), b"body", [new, old], 1000)
    for other in ([Key("other")], [Key("new-secret", "2025")], []):
        with pytest.raises(BadSignature):
            verify(header, b"body", other, 1000)
    # One of them has no name: then names say nothing.
    verify(
        sign_with([new, Key("old-secret")], b"body", 1000), b"body", {"mine": "old-secret"}, 1000
    )
    many = ",".join(["t=1000", *(f"v1={number}" for number in range(9)), header.split(",", 1)[1]])
    with pytest.raises(BadSignature):
        verify(many, b"body", [new], 1000)


def test_a_signature_is_taken_once() -> None:
    seen = Seen(tolerance=300, most=3)
    seen.take(sign(KEY, b"1", 1000), 1000)
    with pytest.raises(BadSignature, match="taken before"):
        seen.take(sign(KEY, b"1", 1000, "other name"), 1299)
    for number in range(2, 5):
        seen.take(sign(KEY, b"%d" % number, 1000), 1000)
    seen.take(sign(KEY, b"1", 1000), 1000)  # the oldest one made room
    for number in range(100):
        seen.take(sign(KEY, b"%d" % number, 2000), 2000)


async def test_a_request_that_is_sent_again_is_refused() -> None:
    endpoint = Endpoint([tiny], signing_key=KEY)
    now = int(endpoint._clock.now() / 1e6)
    question = b'{"introspect":"0123456789"}'
    headers = {HEADER: sign(KEY, question, now)}
    answer = await endpoint.handle(question, headers)
    assert answer.status == 200
    verify(answer.headers[HEADER], answer.body, {"": KEY}, now)
    again = await endpoint.handle(question, headers)
    assert (again.status, json.loads(again.body)["error"]["code"]) == (401, "SIGNATURE_REPLAYED")
    later = {HEADER: sign(KEY, question, now + 1)}
    assert (await endpoint.handle(question, later)).status == 200


def test_the_environment_has_two_keys_while_they_are_rotated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("IRONFLOW_SIGNING_KEY", "new")
    monkeypatch.setenv("IRONFLOW_OLD_SIGNING_KEY", "old")
    endpoint = Endpoint([tiny])
    assert endpoint._keys == ["new", "old"]


def test_the_server_asks_an_endpoint_what_it_serves() -> None:
    @own(id="far", on="far.go", retry=2)
    async def far(ctx: Any) -> str:
        return "one"

    @own(id="far")
    async def mended(ctx: Any) -> str:
        return "two"

    async def main(world: testing.World, network: Network) -> None:
        engine = world.engine
        network.serve(Endpoint([far, tiny], signing_key=KEY, clock=world.clock))
        found = await survey(engine, URL, timeout=3.0)
        assert {(d.function_id, d.change) for d in found.differences} == {
            ("far", "new"), ("tiny", "new"),
        }  # fmt: skip
        assert not await engine.functions()
        await register_found(engine, found)
        _, definition = await engine.function("far")
        assert definition.options == far.definition.options
        assert definition.endpoint == fn.Endpoint(url=URL, timeout=3.0, reports="commands")
        (run_id,) = (await engine.emit("far.go")).run_ids
        assert (await world.wait(run_id)).result == "one"
        assert not (await survey(engine, URL)).drifts
        # Another deployment: one function was changed, one is gone; settings stay as they were.
        network.serve(Endpoint([mended], signing_key=KEY, clock=world.clock))
        found = await survey(engine, URL)
        assert [(d.function_id, d.change) for d in found.differences] == [
            ("far", "changed"), ("tiny", "gone"),
        ]  # fmt: skip
        changed = found.differences[0]
        assert (changed.registered, changed.code) == (far.definition.code, mended.definition.code)
        await register_found(engine, found)
        row, definition = await engine.function("far")
        assert (row.version, definition.endpoint.timeout) == (2, 3.0)
        assert (await world.wait(await world.start("far"))).result == "two"
        # And another address.
        other = "https://other.example/"
        network.serve(Endpoint([mended], signing_key=KEY, clock=world.clock), other)
        (moved,) = (await survey(engine, other)).differences
        assert (moved.change, moved.before) == ("moved", URL)

    pushed(main)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (401, "answered 401: it refuses our signature"),
        (405, "answered 405: it does not say what it serves"),
        (500, "answered 500"),
        (CallFailure("cannot be reached"), "cannot be reached"),
        (Reply(200, b"{}"), "did not sign its answer"),
        ("garbage", "does not say what it serves"),
        ('{"introspect":"of yesterday","functions":[]}', "something else"),
        ('{"introspect":"of yesterday","functions":[{"id":1}]}', "something else"),
    ],
)
def test_an_endpoint_that_cannot_be_trusted_registers_nothing(answer: Any, reason: str) -> None:
    async def main(world: testing.World, network: Network) -> None:
        said = answer
        if isinstance(answer, str):
            body = answer.encode()
            said = Reply(200, body, signature=sign(KEY, body, world.clock.now() // 1_000_000))
        network.answer(said)
        with pytest.raises(EndpointFailed, match=reason):
            await survey(world.engine, URL)
        with pytest.raises(InvalidInput, match="not a public address"):
            await survey(world.engine, "https://forbidden/")
        assert not await world.engine.functions()

    pushed(main)


def test_a_function_of_the_server_itself_is_not_given_away() -> None:
    async def main(world: testing.World, network: Network) -> None:
        network.serve(Endpoint([tiny, extra], signing_key=KEY, clock=world.clock))
        found = await survey(world.engine, URL)
        with pytest.raises(Conflict, match="tiny"):
            await register_found(world.engine, found)
        assert {d.id for _, d in await world.engine.functions()} == {"tiny"}

    @own(id="extra")
    async def extra(ctx: Any) -> None:
        return None

    pushed(main, functions=[tiny])


def test_a_lambda_introduces_itself() -> None:
    endpoint = Endpoint([tiny], signing_key=KEY)
    question = b'{"introspect":"0123456789"}'
    now = int(endpoint._clock.now() / 1e6)
    event = {
        "requestContext": {"http": {"method": "POST"}},
        "headers": {HEADER.lower(): sign(KEY, question, now)},
        "body": base64.b64encode(question).decode(),
        "isBase64Encoded": True,
    }
    answer = endpoint.aws_lambda(event)
    assert answer["statusCode"] == 200
    verify(answer["headers"][HEADER], answer["body"].encode(), {"": KEY}, now)
    (introduced,) = json.loads(answer["body"])["functions"]
    assert introduced["id"] == "tiny"
