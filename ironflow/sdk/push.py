"""Functions behind HTTP: an `Endpoint` serves them wherever requests can be answered.

    endpoint = Endpoint([welcome], signing_key=...)
    app = endpoint.asgi            # Starlette, FastAPI, uvicorn
    app = endpoint.wsgi            # Flask, gunicorn
    app.router.add_post("/ironflow", endpoint.aiohttp)
    handler = endpoint.aws_lambda

The server sends each execution as a signed request. The body runs in ironflow's own executor, as
many steps as the budget allows; what happened travels back with the answer, or step by step where
the server can be reached (its `public_url`).
"""

from __future__ import annotations

import asyncio
import base64
import os
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from ironflow.core.clock import SECOND, Clock, Ids, SystemClock
from ironflow.core.errors import ConfigError, NotFound
from ironflow.core.messages import Message
from ironflow.core.remote.breaker import BreakerPolicy
from ironflow.core.remote.push import Introduction, Invocation, Question
from ironflow.core.remote.reports import Report, Shadow, encode_report
from ironflow.core.remote.signatures import (
    HEADER,
    TOLERANCE,
    BadSignature,
    Key,
    Seen,
    sign_with,
    verify,
)
from ironflow.core.runs import commands as c
from ironflow.core.runs.state import Run
from ironflow.discovery import ENVIRONMENT, KEY, Found, locate
from ironflow.sdk.executor import Executor
from ironflow.sdk.function import Function, Registry
from ironflow.version import VERSION

BUDGET = 7.0
"""Seconds after which a body is let go of at its next step: the server waits for ten."""
LARGEST_BODY = 32 * 1024 * 1024
"""Bytes of a request."""
JSON = {"Content-Type": "application/json"}

Asgi = Callable[
    [
        Mapping[str, Any],
        Callable[[], Awaitable[Mapping[str, Any]]],
        Callable[[Mapping[str, Any]], Awaitable[None]],
    ],
    Awaitable[None],
]

_encode = msgspec.json.Encoder().encode


class Response(NamedTuple):
    """An answer, for whatever framework there is."""

    status: int
    headers: dict[str, str]
    body: bytes


class _Recorded(Invocation, frozen=True, kw_only=True, omit_defaults=True):
    record: Run | msgspec.UnsetType = msgspec.UNSET


_decode = msgspec.json.Decoder(_Recorded).decode


class Endpoint:
    """Serves functions over HTTP."""

    def __init__(
        self,
        functions: Iterable[Function],
        *,
        signing_key: str | Mapping[str, str] | None = None,
        insecure: bool = False,
        tolerance: float = TOLERANCE,
        budget: float = BUDGET,
        max_steps: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`signing_key` is the server's (IRONFLOW_SIGNING_KEY when not given, and while keys are
        rotated IRONFLOW_OLD_SIGNING_KEY beside it), or several by their names; without one requests
        are refused unless `insecure`. `tolerance` and `budget` in seconds; `max_steps` in one
        invocation, None for as many as the budget allows. Raises `ConfigError`.
        """
        self._registry = Registry()
        for function in functions:
            self._registry.add(function)
        if not len(self._registry):
            raise ConfigError("functions: this endpoint has none to serve")
        self._keys = _keys_of(signing_key)
        if not self._keys and not insecure:
            raise ConfigError(
                "signing_key: none is given; anyone could run these functions "
                "(insecure=True allows that)"
            )
        self._tolerance, self._budget, self._max_steps = tolerance, budget, max_steps
        self._clock = clock or SystemClock()
        self._seen, self._seeing = Seen(tolerance), threading.Lock()

    # -- one request ------------------------------------------------------------------------------

    async def handle(
        self, body: bytes, headers: Mapping[str, str], method: str = "POST"
    ) -> Response:
        """Answer a request: POST runs an execution, GET says which functions are here."""
        if method == "GET":
            return self._list_functions()
        if method != "POST":
            return _refuse(405, "METHOD_NOT_ALLOWED", "POST runs a function, GET lists them")
        if len(body) > LARGEST_BODY:
            return _refuse(413, "TOO_LARGE", f"the body is larger than {LARGEST_BODY} bytes")
        try:
            self._check(body, headers)
            invocation = _decode(body)
        except BadSignature as error:
            return _refuse(401, error.code, str(error))
        except msgspec.ValidationError as error:
            if (question := _decode_question(body)) is not None:
                return self._introduce(question)
            return _refuse(400, "VALIDATION_ERROR", str(error))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return _refuse(400, "INVALID_JSON", f"the body is not JSON: {error}")
        if self._registry.get(invocation.function_id) is None:
            text = f"function {invocation.function_id!r} is not served here"
            return _refuse(404, "FUNCTION_NOT_FOUND", text)
        if invocation.record is msgspec.UNSET:
            return _refuse(400, "VALIDATION_ERROR", "the run's record is missing")
        reports = await self._execute(invocation, invocation.record)
        return Response(200, dict(JSON), _encode({"status": "reports", "reports": reports}))

    def _check(self, body: bytes, headers: Mapping[str, str]) -> None:
        if self._keys:
            found = next((v for k, v in headers.items() if k.lower() == HEADER.lower()), None)
            now = self._clock.now() / 1e6
            verify(found, body, self._keys, now, self._tolerance)
            with self._seeing:  # WSGI servers have many threads
                self._seen.take(found or "", now)

    def _introduce(self, question: Question) -> Response:
        """What is here, whole and signed, for a server that registers it."""
        found = [msgspec.Raw(_encode(f.spec.definition)) for f in self._registry.all()]
        introduction = Introduction(
            introspect=question.introspect, functions=tuple(found), sdk=VERSION
        )
        body, headers = _encode(introduction), dict(JSON)
        if self._keys:
            headers[HEADER] = sign_with(self._keys, body, self._clock.now() // SECOND)
        return Response(200, headers, body)

    def _list_functions(self) -> Response:
        functions = [
            {"id": f.id, "name": f.spec.definition.name, "code": f.spec.definition.code}
            for f in self._registry.all()
        ]
        facts = {"functions": functions, "signed": bool(self._keys)}
        return Response(200, dict(JSON), _encode(facts))

    async def _execute(self, invocation: _Recorded, run: Run) -> list[Report]:
        executor = Executor(self._registry, self._clock, Ids(self._clock), linger=0.0)
        executor.is_remote = True
        shadow = Shadow(run, self._clock)
        effects = _Collected(self, invocation, shadow)
        executor.start(shadow.assignment(invocation.execution_seq, effects))
        task = executor.task(run.id)
        try:
            if task is not None:
                await asyncio.wait([task])
        finally:
            await executor.drain(0.0)
            await effects.close()
        return effects.reports

    # -- frameworks -------------------------------------------------------------------------------

    @property
    def asgi(self) -> Asgi:
        """An ASGI application."""

        # A plain function: servers look at its signature to tell ASGI 3 from ASGI 2.
        async def app(
            scope: Mapping[str, Any],
            receive: Callable[[], Awaitable[Mapping[str, Any]]],
            send: Callable[[Mapping[str, Any]], Awaitable[None]],
        ) -> None:
            await self._answer_asgi(scope, receive, send)

        return app

    async def _answer_asgi(
        self,
        scope: Mapping[str, Any],
        receive: Callable[[], Awaitable[Mapping[str, Any]]],
        send: Callable[[Mapping[str, Any]], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            part = message.get("body", b"")
            size += len(part)
            if size <= LARGEST_BODY + 1:
                parts.append(part)
            if not message.get("more_body"):
                break
        headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in scope["headers"]}
        body = b"".join(parts) if size <= LARGEST_BODY else b"x" * (LARGEST_BODY + 1)
        answer = await self.handle(body, headers, scope["method"])
        raw = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in answer.headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": raw})
        await send({"type": "http.response.body", "body": answer.body})

    def wsgi(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """A WSGI application."""
        length = environ.get("CONTENT_LENGTH") or "0"
        size = int(length) if length.isdigit() else 0
        body = environ["wsgi.input"].read(min(size, LARGEST_BODY + 1)) if size else b""
        headers = {
            key[5:].replace("_", "-"): value
            for key, value in environ.items()
            if key.startswith("HTTP_")
        }
        answer = asyncio.run(self.handle(body, headers, environ["REQUEST_METHOD"]))
        start_response(f"{answer.status} {_phrase(answer.status)}", list(answer.headers.items()))
        return [answer.body]

    async def aiohttp(self, request: Any) -> Any:
        """A handler of aiohttp."""
        from aiohttp import web

        answer = await self.handle(await request.read(), request.headers, request.method)
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    def aws_lambda(self, event: Mapping[str, Any], context: object = None) -> dict[str, Any]:
        """A handler of AWS Lambda, behind a function URL or an API gateway (payloads 1.0 and
        2.0).
        """
        http = event.get("requestContext", {}).get("http", {})
        method = http.get("method") or event.get("httpMethod") or "POST"
        text = event.get("body") or ""
        body = base64.b64decode(text) if event.get("isBase64Encoded") else text.encode()
        answer = asyncio.run(self.handle(body, event.get("headers") or {}, method))
        return {
            "statusCode": answer.status,
            "headers": answer.headers,
            "body": answer.body.decode(),
            "isBase64Encoded": False,
        }

    # -- registration -----------------------------------------------------------------------------

    async def register(
        self,
        url: str,
        server_url: str | None = None,
        *,
        timeout: float = 10.0,
        concurrency: int = 10,
        breaker: BreakerPolicy | None = None,
    ) -> None:
        """Tell the server that these functions are at `url`. Once a deployment is enough. `timeout`
        in seconds of one call, `concurrency` calls at once, `breaker` when nothing is sent any
        more. Raises `ConfigError` when the server refuses them, `Gone` when nothing answers.
        """
        import aiohttp

        from ironflow.sdk.link import Link, Refused

        server = server_url or (await asyncio.to_thread(locate)).url
        where: dict[str, Any] = {
            "url": url,
            "timeout": timeout,
            "concurrency": concurrency,
            "reports": "commands",
        }
        if breaker is not None:
            where["breaker"] = msgspec.to_builtins(breaker)
        async with aiohttp.ClientSession() as session:
            link = Link(server, "", session)
            for function in self._registry.all():
                definition = msgspec.to_builtins(function.spec.definition)
                definition |= {"placement": "push", "endpoint": where}
                try:
                    await link.request("PUT", f"/api/v1/functions/{function.id}", definition)
                except Refused as refusal:
                    raise ConfigError(f"{server} refuses {function.id}: {refusal.detail}") from None

    @property
    def budget(self) -> float:
        """Seconds of one invocation."""
        return self._budget

    @property
    def max_steps(self) -> int | None:
        """Steps of one invocation."""
        return self._max_steps


class _Collected:
    """`ironflow.core.runs.execution.Effects` of one invocation: what happened is answered with it,
    or reported at once where the server can be reached.
    """

    def __init__(self, endpoint: Endpoint, invocation: _Recorded, shadow: Shadow) -> None:
        self._lease = (invocation.job_id, invocation.execution_seq, invocation.lease_token)
        self._shadow, self._values = shadow, invocation.values
        callback = invocation.callback
        self._callback = callback if callback is not msgspec.UNSET else None
        self._loop = asyncio.get_running_loop()
        self._ends_at = self._loop.time() + endpoint.budget
        self._steps_left = endpoint.max_steps
        self._session: Any = None
        self.reports: list[Report] = []

    async def ask(self, command: Message[Any]) -> Any:
        """Record a command; the directive."""
        if self._callback is not None:
            directive = await self._tell(self._callback, command)
        else:
            directive = self._decide(command)
        if directive == "go" and isinstance(command, c.RecordStep) and self._is_over():
            return "suspend"
        return directive

    def _decide(self, command: Message[Any]) -> Any:
        """The server's decision, taken here: it will take the same one."""
        directive = self._shadow.follow(command)
        self.reports.append(encode_report(*self._lease, command))
        return directive

    def _is_over(self) -> bool:
        if self._steps_left is not None:
            self._steps_left -= 1
            if self._steps_left <= 0:
                return True
        return self._loop.time() >= self._ends_at

    async def _tell(self, callback: str, command: Message[Any]) -> Any:
        from ironflow.sdk.link import RemoteEffects

        return await RemoteEffects(await self._link(callback), *self._lease, self._shadow).ask(
            command
        )

    async def _link(self, callback: str) -> Any:
        import aiohttp

        from ironflow.sdk.link import Link

        if self._session is None:
            self._session = aiohttp.ClientSession()
            path = "/api/v1/executions/commands"
            # No file is looked for: what there is to say stands in variables, and is read for
            # every invocation.
            found = Found(callback, os.environ.get(KEY, ""), os.environ.get(ENVIRONMENT, ""))
            self._made = Link(callback, "", self._session, path, found)
        return self._made

    async def blob(self, digest: str) -> bytes:
        """A large value."""
        raw = self._values.get(digest)
        if raw is not None:
            return bytes(raw)
        if self._callback is None:
            raise NotFound("stored value", digest)
        from ironflow.sdk.link import RemoteEffects

        link = await self._link(self._callback)
        return await RemoteEffects(link, *self._lease, self._shadow).blob(digest)

    def leave(self, lost: str | None = None) -> None:
        """The body is out of memory."""
        left = c.ExecutionLeft(self._lease[1])
        self.reports.append(encode_report(*self._lease, left))

    async def close(self) -> None:
        """Close connections."""
        if self._session is not None:
            await self._session.close()


def _keys_of(given: str | Mapping[str, str] | None) -> list[Key]:
    """The keys that are taken, the one in use first."""
    if isinstance(given, Mapping):
        return [Key(secret, name) for name, secret in given.items()]
    if given is not None:
        return [Key(given)] if given else []
    names = ("IRONFLOW_SIGNING_KEY", "IRONFLOW_OLD_SIGNING_KEY")
    return [Key(secret) for name in names if (secret := os.environ.get(name))]


def _decode_question(body: bytes) -> Question | None:
    try:
        return msgspec.json.decode(body, type=Question)
    except msgspec.ValidationError:
        return None


def _refuse(status: int, code: str, message: str) -> Response:
    return Response(status, dict(JSON), _encode({"error": {"code": code, "message": message}}))


def _phrase(status: int) -> str:
    from http import HTTPStatus

    return HTTPStatus(status).phrase
