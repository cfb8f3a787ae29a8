"""A plain client of the Connect services: each call in JSON or in gzipped protobuf."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

from google.protobuf import json_format

from ironflow.web.connect.proto_codec import message_class
from ironflow.web.connect.schema import schema

CODECS = ("json", "proto")
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Reply:
    """What came back: `status`, `headers`, and the message or error as JSON has it."""

    def __init__(self, status: int, headers: Any, value: Any) -> None:
        self.status, self.headers, self.value = status, headers, value

    @property
    def code(self) -> str:
        return str(self.value["code"]) if self.status != 200 else "ok"


class Caller:
    """Calls methods in one codec."""

    def __init__(
        self, client: Any, codec: str = "json", headers: Mapping[str, str] = NOTHING
    ) -> None:
        self.client, self.codec, self.headers = client, codec, headers

    def encode(self, service: str, method: str, message: Mapping[str, Any]) -> bytes:
        if self.codec == "json":
            return json.dumps(dict(message)).encode()
        kind = message_class(schema().methods[service, method].request)
        return json_format.ParseDict(dict(message), kind()).SerializeToString()

    def decode(self, service: str, method: str, data: bytes) -> Any:
        if self.codec == "json":
            return json.loads(data)
        kind = message_class(schema().methods[service, method].reply)
        return json_format.MessageToDict(kind.FromString(data))

    async def call(
        self,
        method: str,
        message: Mapping[str, Any] = NOTHING,
        headers: Mapping[str, str] = NOTHING,
    ) -> Reply:
        """`method` is `Method` of IronflowService, or `Service/Method`."""
        service, _, name = f"IronflowService/{method}".rpartition("/")
        service = service.rpartition("/")[2]
        body = self.encode(service, name, message)
        sent = {"Content-Type": f"application/{self.codec}", **self.headers, **headers}
        if self.codec == "proto":
            body = gzip.compress(body)
            sent |= {"Content-Encoding": "gzip", "Connect-Protocol-Version": "1"}
        path = f"/ironflow.v1.{service}/{name}"
        async with self.client.post(path, data=body, headers=sent) as response:
            data = await response.read()
            if response.status == 200:
                assert response.content_type == f"application/{self.codec}"
                return Reply(200, response.headers, self.decode(service, name, data))
            assert response.content_type == "application/json", data
            return Reply(response.status, response.headers, json.loads(data))

    async def ok(self, method: str, message: Mapping[str, Any] = NOTHING) -> Any:
        reply = await self.call(method, message)
        assert reply.status == 200, reply.value
        return reply.value

    async def fail(self, method: str, message: Mapping[str, Any] = NOTHING) -> tuple[str, str]:
        """The code and the message of an error."""
        reply = await self.call(method, message)
        assert reply.status not in (200, 500), reply.value
        return reply.code, str(reply.value["message"])


class Streaming:
    """One server stream: messages as they come, then how it ended."""

    def __init__(self, caller: Caller, response: Any, service: str, name: str) -> None:
        self.caller, self.response = caller, response
        self.service, self.name = service, name

    async def next(self) -> Any:
        """The next message, or `{"end": ...}` at the end."""
        head = await self.response.content.readexactly(5)
        data = await self.response.content.readexactly(int.from_bytes(head[1:], "big"))
        if head[0] & 2:
            return {"end": json.loads(data)}
        return self.caller.decode(self.service, self.name, data)

    async def take(self, number: int) -> list[Any]:
        return [await self.next() for _ in range(number)]


@asynccontextmanager
async def stream(
    caller: Caller,
    method: str,
    message: Mapping[str, Any],
    headers: Mapping[str, str] = NOTHING,
) -> AsyncIterator[Streaming]:
    """Open a server stream: one envelope, gzipped where the codec is protobuf."""
    service, _, name = method.partition("/")
    body, flags = caller.encode(service, name, message), 0
    sent = {"Content-Type": f"application/connect+{caller.codec}", **headers}
    if caller.codec == "proto":
        body, flags = gzip.compress(body), 1
        sent["Connect-Content-Encoding"] = "gzip"
    envelope = bytes([flags]) + len(body).to_bytes(4, "big") + body
    path = f"/ironflow.v1.{service}/{name}"
    async with caller.client.post(path, data=envelope, headers=sent) as response:
        assert response.status == 200
        assert response.content_type == f"application/connect+{caller.codec}"
        yield Streaming(caller, response, service, name)
