"""Health, readiness, statistics, actors, index, and the API's description."""

from __future__ import annotations

import gc
import re
import weakref
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from ironflow.storage.memory.store import MemoryStore
from ironflow.web.app import ROUTES
from ironflow.web.prefect.routing import is_ours

ROOT = Path(__file__).parents[2]
NOT_THERE = {"/api/v1/secrets", "/api/v1/capacity/", "/api/v1/audit/settings"}
"""Paths of which the documentation says that there are none."""


async def test_index_links_lead_somewhere(memory_api: Any) -> None:
    index = (await memory_api.get("/")).json
    assert (index["name"], index["version"]) == ("ironflow", "1.2.3")
    for name, link in index["links"].items():
        if name != "stream":
            assert (await memory_api.get(link)).status == 200


async def test_of_a_server_that_was_stopped_nothing_is_kept(serve: Any) -> None:
    async def live() -> weakref.ref[Any]:
        async with serve(MemoryStore()) as api:
            await api.get("/api/v1/runs")
            return weakref.ref(api.engine)

    engine = await live()
    gc.collect()
    assert engine() is None


async def test_health_and_readiness(api: Any) -> None:
    assert (await api.get("/health")).json == {
        "status": "healthy",
        "version": "1.2.3",
        "loaded_workflows": 0,
        "active_workflows": 0,
        "idle_workflows": 0,
    }
    assert (await api.get("/ready")).json == {"status": "ready", "issues": []}


async def test_statistics_count_what_is_there(api: Any) -> None:
    await api.end("echo")
    await api.end("fails")
    run_id = await api.start("waits")
    await api.reach(run_id, "waiting")
    numbers = (await api.get("/api/v1/statistics")).json
    assert numbers["version"] == "1.2.3"
    assert numbers["uptime"] >= 0
    assert numbers["runs"] == {
        "queued": 0,
        "running": 0,
        "waiting": 1,
        "paused": 0,
        "completed": 1,
        "failed": 1,
        "cancelled": 0,
    }
    assert (numbers["slots"]["capacity"], numbers["slots"]["active"]) == (1000, 0)
    assert numbers["waiters"] == 1
    assert numbers["journal"]["last_seq"] == api.engine.store.journal.last_seq
    assert numbers["actors"]["run"]["handled"] > 0


async def test_live_actors_are_listed(memory_api: Any) -> None:
    run_id = await memory_api.start("gated")
    await memory_api.shelf.entered.wait()
    page = (await memory_api.get("/api/v1/actors")).json
    addresses = [actor["address"] for actor in page["items"]]
    assert f"run/{run_id}" in addresses
    assert page["total"] == len(addresses)
    runs = (await memory_api.get("/api/v1/actors?kind=run&limit=1")).json
    assert [actor["address"] for actor in runs["items"]] == [f"run/{run_id}"]
    assert (await memory_api.get("/api/v1/actors?limit=1")).json["total"] == page["total"]
    assert (await memory_api.get("/api/v1/actors?limit=1001")).status == 422


async def test_paths_in_the_documentation_are_served(memory_api: Any) -> None:
    document = (await memory_api.get("/openapi.json")).json
    served = [re.sub(r"\{\w+\}", "{}", path) for path in document["paths"]]
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    said = {path for page in pages for path in re.findall(r"/api/v1/[\w{}/-]+", page.read_text())}
    assert len(said) > 30
    assert said >= NOT_THERE
    for path in said - NOT_THERE:
        known = re.sub(r"\{\w+\}|\bRUN\b", "{}", path.rstrip("/"))
        assert any(one == known or one.startswith(f"{known}/") for one in served), path


async def test_the_description_is_valid_openapi(memory_api: Any) -> None:
    document = (await memory_api.get("/openapi.json")).json
    OpenAPIV31SpecValidator(document).validate()
    assert document["openapi"].startswith("3.1")
    assert document["info"]["version"] == "1.2.3"


async def test_every_route_is_described_and_every_description_is_served(memory_api: Any) -> None:
    document = (await memory_api.get("/openapi.json")).json
    described = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method in operations
    }
    served = {
        (route.method, route.resource.canonical)
        for route in memory_api.client.app.router.routes()
        if route.method != "HEAD"
        and route.resource is not None
        and not is_ours(route.resource.canonical)  # Prefect's API is described by Prefect
        # Remote procedures are described by docs/protocol.md: OpenAPI has no word for them.
        and not route.resource.canonical.startswith("/ironflow.v1.")
    }
    assert described == served
    assert {(route.method, route.path) for route in ROUTES} <= described
    names = [op["operationId"] for ops in document["paths"].values() for op in ops.values()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("path", "name", "schema"),
    [
        ("/api/v1/runs", "limit", {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}),
        ("/api/v1/runs", "since", {"type": "string", "format": "date-time"}),
        ("/api/v1/runs", "function_id", {"type": "string"}),
        ("/api/v1/events", "name", {"type": "array", "items": {"type": "string"}}),
        ("/api/v1/runs/{run_id}", "run_id", {"type": "string"}),
    ],
)
async def test_parameters_are_described(
    memory_api: Any, path: str, name: str, schema: dict[str, Any]
) -> None:
    document = (await memory_api.get("/openapi.json")).json
    parameters = document["paths"][path]["get"]["parameters"]
    (found,) = [p for p in parameters if p["name"] == name]
    assert found["schema"] == schema
    assert found["in"] == ("path" if name == "run_id" else "query")
