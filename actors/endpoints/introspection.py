"""Functions that the server finds by asking an endpoint what it serves, and how what is registered
differs from that.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Literal

import msgspec

from ironflow.core.errors import Conflict, EndpointFailed, InvalidInput
from ironflow.core.functions.definition import Definition, Endpoint, compile_spec
from ironflow.core.remote.push import CallFailure, Introduction, Question, Reply

if TYPE_CHECKING:
    from ironflow.actors.engine import Engine

ASK_SECONDS = 10.0
"""How long an endpoint may take to say what it serves."""

Change = Literal["new", "changed", "same", "moved", "gone"]


class Difference(msgspec.Struct, frozen=True):
    """A function of an endpoint. `new`: nobody knew of it; `changed`: it differs from what is
    registered; `moved`: it was executed elsewhere (`before`); `gone`: it is registered for this
    endpoint, which serves it no more. `code` is what is there, `registered` what is known here.
    """

    function_id: str
    change: Change
    code: str | None
    registered: str | None
    before: str | None = None


class Survey(msgspec.Struct, frozen=True):
    """What an endpoint serves, compared with what is registered for it."""

    url: str
    endpoint: Endpoint
    sdk: str
    definitions: tuple[Definition, ...]
    differences: tuple[Difference, ...]

    @property
    def drifts(self) -> bool:
        """Whether anything differs."""
        return any(one.change != "same" for one in self.differences)


async def survey(
    engine: Engine, url: str, *, timeout: float | None = None, concurrency: int | None = None
) -> Survey:
    """Ask an endpoint what it serves. `timeout` (seconds of one call) and `concurrency` (calls at
    once, of each function) are as they are registered, unless they are given.

    Raises `InvalidInput` for an address that is never called, `EndpointFailed` when it does not
    answer as an endpoint.
    """
    introduction = await _ask(engine, url)
    known = {definition.id: definition for _, definition in await engine.functions()}
    mine = {d.id: d for d in known.values() if d.endpoint is not None and d.endpoint.url == url}
    before = next((d.endpoint for d in mine.values() if d.endpoint is not None), Endpoint(url=url))
    endpoint = msgspec.structs.replace(
        before,
        reports="commands",
        timeout=before.timeout if timeout is None else timeout,
        concurrency=before.concurrency if concurrency is None else concurrency,
    )
    found = [_decode(url, raw, endpoint) for raw in introduction.functions]
    differences = [_compare(definition, known.get(definition.id)) for definition in found]
    served = {definition.id for definition in found}
    differences += [
        Difference(definition.id, "gone", None, definition.code)
        for definition in mine.values()
        if definition.placement == "push" and definition.id not in served
    ]
    return Survey(url, endpoint, introduction.sdk, tuple(found), tuple(differences))


async def register_found(engine: Engine, found: Survey) -> None:
    """Register what an endpoint serves. Functions that it serves no more stay as they are: their
    runs wait behind its breaker until somebody serves them.

    Raises `Conflict`, before anything is registered, for a function that the server executes.
    """
    for definition in found.definitions:
        if engine.host.local.spec(definition.id) is not None:
            raise Conflict(f"function {definition.id} is executed by the server itself")
    for definition, difference in zip(found.definitions, found.differences, strict=False):
        if difference.change != "same":
            await engine.register_remote(definition)


async def _ask(engine: Engine, url: str) -> Introduction:
    caller = engine.endpoints.caller
    if caller is None:
        raise InvalidInput("url", "this process calls no endpoints")
    try:
        caller.check(url)
    except CallFailure as failure:
        raise InvalidInput("url", str(failure)) from None
    question = Question(introspect=secrets.token_urlsafe(18))
    try:
        reply = await caller.call(url, msgspec.json.encode(question), ASK_SECONDS)
        if reply.status != 200:
            raise CallFailure(f"answered {reply.status}{_meaning(reply)}")
        caller.check_answer(reply)
    except CallFailure as failure:
        raise EndpointFailed(url, str(failure)) from None
    try:
        introduction = msgspec.json.decode(reply.body, type=Introduction)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EndpointFailed(url, f"does not say what it serves: {error}") from None
    if introduction.introspect != question.introspect:
        raise EndpointFailed(url, "answered something else than what it was asked")
    return introduction


def _meaning(reply: Reply) -> str:
    """What a refusal is likely to mean."""
    if reply.status == 401:
        return ": it refuses our signature; do both sides have the same key?"
    if reply.status in (400, 404, 405):
        return (
            ": it does not say what it serves; an endpoint of ironflow.Endpoint does, "
            "others have to be registered by themselves"
        )
    return ""


def _decode(url: str, raw: msgspec.Raw, endpoint: Endpoint) -> Definition:
    try:
        definition = msgspec.json.decode(raw, type=Definition)
        definition = msgspec.structs.replace(definition, placement="push", endpoint=endpoint)
        compile_spec(definition, lambda data: None)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidInput) as error:
        raise EndpointFailed(url, f"has a function that makes no sense: {error}") from None
    return definition


def _compare(definition: Definition, known: Definition | None) -> Difference:
    if known is None:
        return Difference(definition.id, "new", definition.code, None)
    if known.placement != "push" or known.endpoint is None:
        change: Change = "moved"
        before: str | None = known.placement
    elif definition.endpoint is not None and known.endpoint.url != definition.endpoint.url:
        change, before = "moved", known.endpoint.url
    else:
        change, before = ("same" if known == definition else "changed"), None
    return Difference(definition.id, change, definition.code, known.code, before)
