"""A network between a server and our endpoints, without sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from engine_world import play

from ironflow import Endpoint, testing
from ironflow.core.functions import definition as fn
from ironflow.core.remote.breaker import BreakerPolicy
from ironflow.core.remote.push import CallFailure, Reply
from ironflow.core.remote.signatures import HEADER, BadSignature, sign, verify
from ironflow.core.runs.entries import RunOptions
from ironflow.core.runs.retry import RetryPolicy
from ironflow.sdk.function import Function, Registry
from ironflow.sdk.function import function as define

KEY = "secret"
URL = "https://example.com/ironflow"
QUICK = RetryPolicy(max_attempts=3, initial_delay=1.0, jitter=0.0)


class Network:
    """`Caller` without a network: a handler for each URL."""

    def __init__(self) -> None:
        self.handlers: dict[str, Callable[[bytes, dict[str, str]], Awaitable[Reply]]] = {}
        self.calls: list[dict[str, Any]] = []
        self.active = self.most = 0
        self.clock: Any = None

    def check(self, url: str) -> None:
        if "forbidden" in url:
            raise CallFailure("not a public address")

    def check_answer(self, reply: Reply) -> None:
        try:
            verify(reply.signature, reply.body, {"": KEY}, self.clock.now() / 1e6)
        except BadSignature as error:
            raise CallFailure(f"did not sign its answer with our key: {error}") from None

    async def call(self, url: str, body: bytes, seconds: float) -> Reply:
        headers = {HEADER: sign(KEY, body, self.clock.now() // 1_000_000)}
        self.calls.append(json.loads(body))
        self.active += 1
        self.most = max(self.most, self.active)
        try:
            async with asyncio.timeout(seconds):
                return await self.handlers[url](body, headers)
        except TimeoutError as error:
            raise CallFailure(f"did not answer within {seconds:g} s") from error
        finally:
            self.active -= 1

    def serve(self, endpoint: Endpoint, url: str = URL) -> None:
        async def handle(body: bytes, headers: dict[str, str]) -> Reply:
            answer = await endpoint.handle(body, headers)
            return Reply(answer.status, answer.body, signature=answer.headers.get(HEADER))

        self.handlers[url] = handle

    def answer(self, *answers: Any, url: str = URL) -> None:
        """Each call gets the next answer: a dict, a status, an exception, or a coroutine function;
        the last one for ever.
        """
        left = list(answers)

        async def handle(body: bytes, headers: dict[str, str]) -> Reply:
            answer = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, Reply):
                return answer
            if isinstance(answer, int):
                return Reply(answer, b"{}")
            if callable(answer):
                answer = await answer()
            return Reply(200, json.dumps(answer).encode())

        self.handlers[url] = handle


def own(**options: Any) -> Callable[[Any], Function]:
    """A function outside the registry of the process."""

    def wrap(body: Any) -> Function:
        import ironflow.sdk.function as sdk

        before, sdk.registry = sdk.registry, Registry()
        try:
            return define(**options)(body)
        finally:
            sdk.registry = before

    return wrap


def definition(function_id: str = "far", url: str = URL, **facts: Any) -> fn.Definition:
    endpoint = {"url": url, "breaker": BreakerPolicy(failures=3)} | facts.pop("endpoint", {})
    facts.setdefault("options", RunOptions(retry=QUICK))
    return fn.Definition(
        id=function_id,
        name=function_id,
        code="c",
        placement="push",
        endpoint=fn.Endpoint(**endpoint),
        **facts,
    )


def pushed(main: Callable[[testing.World, Network], Awaitable[None]], **options: Any) -> None:
    network = Network()

    async def with_network(world: testing.World) -> None:
        network.clock = world.clock
        await main(world, network)

    options.setdefault("functions", [])
    play(with_network, caller=network, **options)
