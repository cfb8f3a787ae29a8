"""Hostile requests to the workflow paths: none is answered with a 5xx, and the server lives on."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

from hypothesis import given, settings
from hypothesis import strategies as st
from workflow_server.http_client import Http, serving

from ironflow.workflows.server import WorkflowServer

NAMES = "StartEvent Order Go os.system builtins.exec ironflow.workflows.events.StopEvent"
NASTY = st.sampled_from(
    [
        *NAMES.split(),
        *["%00", "..", "null", "NaN", "{}", "[1]", "💥"],
        "",
        "\x00",
        "\ud800",
        "9" * 400,
        "a" * 3000,
    ]
)
FIELDS = (
    "start_event kwargs handler_id context event step type value data qualified_name types "
    "__is_pydantic _data customer amount version state"
)
KEYS = st.sampled_from(FIELDS.split())
PARAMETERS = (
    "after_sequence sse include_internal acquire_timeout limit cursor status workflow_name purge "
    "include_results"
)
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), NASTY
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(KEYS, NASTY), inner, max_size=5)
    ),
    max_leaves=12,
)
BODIES = st.lists(
    st.one_of(
        JSON,
        st.fixed_dictionaries({}, optional={"start_event": JSON, "kwargs": JSON, "context": JSON}),
        st.fixed_dictionaries({"event": JSON}, optional={"step": JSON}),
        st.binary(max_size=40),
    ),
    min_size=25,
    max_size=25,
)
QUERIES = st.lists(st.tuples(st.sampled_from(PARAMETERS.split()), NASTY), max_size=4)


def encode(body: Any) -> bytes:
    """JSON as an attacker writes it: lone surrogates and all."""
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def escape(text: str) -> str:
    """Text as it stands in an address."""
    return quote(text.encode("utf-8", "replace"), safe="")


async def post(http: Http, path: str, body: bytes) -> int:
    """The status of an answer; what is refused says why."""
    async with http.session.post(http.server.url + path, data=body) as response:
        text = await response.read()
        answer = json.loads(text)
        if response.status >= 400:
            is_end = response.status == 500 and answer.get("status") in ("failed", "cancelled")
            assert is_end or (response.status < 500 and answer["detail"]), (path, body, text)
        return response.status


@settings(max_examples=12)
@given(bodies=BODIES, names=st.lists(NASTY, min_size=3, max_size=3), query=QUERIES)
def test_no_request_is_a_5xx(
    bodies: list[Any], names: list[str], query: list[tuple[str, str]]
) -> None:
    async def attack() -> None:
        async with serving(WorkflowServer(db="memory")) as http:
            gate = await http.start("gate", ticks=0)
            for body in map(encode, bodies):
                for path in ("checkout/run-nowait", "tally/run"):
                    await post(http, f"/workflows/{path}", body)
                await post(http, f"/events/{gate}", body)
            text = "&".join(
                f"{name}={quote(value.encode('utf-8', 'replace'))}" for name, value in query
            )
            for name in [quote(name.encode("utf-8", "replace"), safe="") or "x" for name in names]:
                await post(http, f"/workflows/{name}/run", b"{}")
                await post(http, f"/events/{name}", b'{"event": {"type": "Go", "value": {}}}')
                await post(http, f"/handlers/{name}/cancel?{text}", b"")
                for path in (
                    f"/handlers/{name}",
                    f"/results/{name}",
                    f"/events/{name}",
                    "/handlers",
                ):
                    async with http.session.get(f"{http.server.url}{path}?{text}") as response:
                        assert response.status < 500, (path, text)
            assert (await http.get("/health"))[1]["status"] == "healthy"

    asyncio.run(attack())


async def test_huge_bodies_are_413_and_deep_ones_400() -> None:
    server = WorkflowServer(db="memory", settings={"body_limit": 100_000})
    async with serving(server) as http:
        handler_id = await http.start("gate", ticks=0)
        huge = json.dumps({"start_event": {"name": "x" * 200_000}, "event": "x"}).encode()
        for path in (
            "/workflows/greet/run",
            "/workflows/greet/run-nowait",
            f"/events/{handler_id}",
        ):
            assert await post(http, path, huge) == 413
            assert await post(http, path, b'{"event":' * 9000 + b"1" + b"}" * 9000) == 400
        for size in (200, 20_000):
            deep = b'{"start_event":{"name":' + b"[" * size + b"]" * size + b"}}"
            assert await post(http, "/workflows/greet/run", deep) < 500
