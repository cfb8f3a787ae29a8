"""What is said to flow runs: inputs under keys, and the word that lets a paused one go on."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from aiohttp import web

from ironflow.core.errors import Conflict, NotFound
from ironflow.core.prefect.faults import Fault, Refusal
from ironflow.web.prefect.requests import InputCreate, InputFilter, Resume
from ironflow.web.prefect.routing import Answer, Call, Result, Route

KEY = re.compile(r"[^\s/?#%\x00-\x1f\x7f]{1,300}")
"""Keys stand in paths of requests."""
_encode = msgspec.json.Encoder().encode
_parse = msgspec.json.Decoder().decode


async def resume(call: Call[None, Resume]) -> Answer:
    """Let a paused flow run go on; what it asked for becomes one of its inputs."""
    given = call.body.run_input
    run_input = None if given is None else _encode(given).decode()
    return await call.engine.prefect.resume_flow_run(call.path["id"], run_input)


async def create_input(call: Call[None, InputCreate]) -> Answer:
    """Keep an input for a flow run."""
    body = call.body
    if not KEY.fullmatch(body.key):
        text = "must have 1 to 300 characters, no white space and none of / ? # %"
        raise call.invalid([Fault(("body", "key"), "value_error", text, body.key)])
    try:
        await call.engine.prefect.add_input(call.path["id"], body.key, body.value, body.sender)
    except Conflict as error:
        raise Refusal(409, error.message) from error
    return 201, None


async def filter_inputs(call: Call[None, InputFilter]) -> Answer:
    """Inputs of a flow run whose keys begin with a prefix, oldest first."""
    body, reader = call.body, call.engine.store.reader
    rows = await reader.select(
        "SELECT body FROM run_inputs WHERE flow_run_id = ? AND substr(key, 1, ?) = ? "
        "AND key NOT IN (SELECT value FROM json_each(?)) ORDER BY created_at, key LIMIT ?",
        (
            call.path["id"],
            len(body.prefix),
            body.prefix,
            _encode(body.exclude_keys).decode(),
            min(body.limit, 200),
        ),
        quick=True,
    )
    return 200, b"[%b]" % b",".join([row[0] for row in rows])


async def read_input(call: Call[None, None]) -> Result:
    """The value of an input, as it was given."""
    rows = await call.engine.store.reader.select(
        "SELECT value FROM run_inputs WHERE flow_run_id = ? AND key = ?",
        (call.path["id"], call.path["key"]),
        quick=True,
    )
    if not rows:
        raise NotFound("flow run input", call.path["key"])
    value: str = rows[0][0]
    kind = "application/json"
    try:
        _parse(value)
    except (msgspec.DecodeError, RecursionError):
        kind = "text/plain"  # clients keep JSON there, but need not
    return web.Response(text=value, content_type=kind)


async def delete_input(call: Call[None, None]) -> Answer:
    """Forget an input."""
    await call.engine.prefect.remove_input(call.path["id"], call.path["key"])
    return 204, None


_RUN = "/flow_runs/{id}"
_INPUT: dict[str, Any] = {"path": f"{_RUN}/input/{{key}}"}
ROUTES = (
    Route(method="POST", path=f"{_RUN}/resume", handle=resume, body=Resume, optional_body=True),
    Route(method="POST", path=f"{_RUN}/input", handle=create_input, body=InputCreate),
    Route(method="POST", path=f"{_RUN}/input/filter", handle=filter_inputs, body=InputFilter),
    Route(method="GET", handle=read_input, **_INPUT),
    Route(method="DELETE", handle=delete_input, **_INPUT),
)
