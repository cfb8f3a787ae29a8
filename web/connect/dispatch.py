"""Remote procedures over HTTP: which codec a request speaks, its deadline, and its answer.

A unary call is one body and one body back, a server stream one envelope and many back (see
`envelopes`). The answer is in the codec of the request.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

import msgspec
from aiohttp import web
from aiohttp.web_response import ContentCoding

from ironflow.actors.engine import Engine
from ironflow.core.errors import InvalidInput
from ironflow.web.connect.envelopes import Stream, open_envelope
from ironflow.web.connect.json_codec import Plain, decode_json, encode_json
from ironflow.web.connect.refusals import PREFIX, DeadlineExceeded, Unimplemented
from ironflow.web.connect.schema import Schema, schema
from ironflow.web.problems import invalid_body
from ironflow.web.routing import STATE, State
from ironflow.web.whole import read_body

M = TypeVar("M")

COMPRESS_FROM = 16 * 1024
"""Bytes of an answer that are worth compressing for who takes that."""
LONGEST_DEADLINE = 10
"""Digits of a deadline in milliseconds."""


@dataclass(frozen=True, slots=True)
class Codec:
    """One way to write messages."""

    name: str
    decode: Callable[[Schema, str, bytes], Plain]
    encode: Callable[[Schema, str, Mapping[str, Any]], bytes]


@dataclass(slots=True)
class Call(Generic[M]):
    """One call, decoded. `headers` go out with the answer."""

    request: web.Request
    state: State
    message: M
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def engine(self) -> Engine:
        """Where writes and reads go."""
        return self.state.engine


Unary = Callable[[Call[Any]], Awaitable[Mapping[str, Any]]]
Streamed = Callable[[Call[Any]], AsyncGenerator[Mapping[str, Any] | None, None]]
"""Yields None once it listens, then messages."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method that is served: `kind` is the struct that its request is converted to, by the names
    of JSON.
    """

    kind: type
    answer: Unary | None = None
    stream: Streamed | None = None


_JSON = Codec("json", decode_json, encode_json)


async def _codec(name: str) -> Codec:
    if name == "json":
        return _JSON
    # The library is loaded when the first message in it comes, off the loop: it takes 30 ms.
    module = await asyncio.to_thread(_load_protobuf)
    return Codec("proto", module.decode_proto, module.encode_proto)


def _load_protobuf() -> Any:
    module = importlib.import_module("ironflow.web.connect.proto_codec")
    module.message_class("Function")
    return module


def add_service(app: web.Application, service: str, methods: Mapping[str, Method]) -> None:
    """Serve a service: the methods that there are, and a refusal for every other one."""
    for name, method in methods.items():
        handle = _stream(service, name, method) if method.stream else _unary(service, name, method)
        app.router.add_post(f"{PREFIX}{service}/{name}", handle)


def add_refusals(app: web.Application) -> None:
    """Whatever is not served says so, in the protocol's words. After all services."""
    app.router.add_route("*", PREFIX + "{service}/{method}", _refuse_unknown)


async def _refuse_unknown(request: web.Request) -> web.StreamResponse:
    service, method = request.match_info["service"], request.match_info["method"]
    known = schema().methods
    if request.method != "POST" and (service, method) in known:
        raise Unimplemented(f"{service}/{method} is called by POST, not {request.method}")
    if any(service == other for other, _ in known):
        raise Unimplemented(f"{service} has no method {method} on this server")
    raise Unimplemented(f"there is no service {service} on this server")


def _unary(
    service: str, name: str, method: Method
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    answer = method.answer
    assert answer is not None

    async def handle(request: web.Request) -> web.StreamResponse:
        described = schema().methods[service, name]
        _check_encoding(request.headers.get("Content-Encoding"))
        codec = await _codec(_named_codec(request, "application/"))
        try:
            async with asyncio.timeout(_deadline(request)):
                plain = codec.decode(schema(), described.request, await read_body(request))
                message = _convert(plain, method.kind)
                call = Call(request, request.app[STATE], message)
                reply = await answer(call)
        except TimeoutError:
            raise DeadlineExceeded from None
        body = codec.encode(schema(), described.reply, reply)
        response = web.Response(
            body=body, content_type=f"application/{codec.name}", headers=call.headers
        )
        accepted = request.headers.get("Accept-Encoding", "")
        if len(body) >= COMPRESS_FROM and "gzip" in accepted:
            response.enable_compression(ContentCoding.gzip)
        return response

    return handle


def _stream(
    service: str, name: str, method: Method
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    produce = method.stream
    assert produce is not None

    async def handle(request: web.Request) -> web.StreamResponse:
        described = schema().methods[service, name]
        codec = await _codec(_named_codec(request, "application/connect+"))
        encoding = request.headers.get("Connect-Content-Encoding")
        _check_encoding(encoding)
        deadline = _deadline(request)
        data = open_envelope(await read_body(request), encoding, request.client_max_size)
        plain = codec.decode(schema(), described.request, data)
        call = Call(request, request.app[STATE], _convert(plain, method.kind))
        stream = Stream(request, f"application/connect+{codec.name}")
        replies = produce(call)
        try:
            return await stream.send(
                replies, partial(codec.encode, schema(), described.reply), deadline
            )
        finally:
            await replies.aclose()

    return handle


def _convert(plain: Plain, kind: type) -> Any:
    try:
        return msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        raise invalid_body(error) from error


def _named_codec(request: web.Request, prefix: str) -> str:
    name = request.content_type.removeprefix(prefix)
    if name not in ("json", "proto") or name == request.content_type:
        raise _UnknownCodec(
            f"{request.content_type} is not spoken here: send {prefix}json or {prefix}proto"
        )
    return name


class _UnknownCodec(Unimplemented):
    """The body is in no codec of ours."""


def _check_encoding(encoding: str | None) -> None:
    if encoding not in (None, "", "identity", "gzip"):
        raise Unimplemented(f"the compression {encoding} is not spoken here: use gzip")


def _deadline(request: web.Request) -> float | None:
    """Seconds that the caller gives us."""
    text = request.headers.get("Connect-Timeout-Ms")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= LONGEST_DEADLINE):
        raise InvalidInput("Connect-Timeout-Ms", f"{text!r:.40} is not a number of milliseconds")
    return int(text) / 1000
