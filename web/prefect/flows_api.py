"""Flows: what is run, known by its name."""

from __future__ import annotations

from typing import Any

from ironflow.core.errors import NotFound
from ironflow.core.prefect.filters import BodyShape, parse_selection
from ironflow.core.prefect.resources import FLOWS
from ironflow.web.prefect import answers
from ironflow.web.prefect.requests import FlowCreate, FlowUpdate
from ironflow.web.prefect.routing import Answer, Call, Route

_FILTERS = ("flows", "flow_runs", "task_runs", "deployments", "work_pools")
FILTER = BodyShape(FLOWS, _FILTERS)
COUNT = BodyShape(FLOWS, _FILTERS, sorted=False, paged="")
PAGINATE = BodyShape(FLOWS, _FILTERS, paged="page")
BULK = BodyShape(FLOWS, ("flows",), sorted=False, most=50)

Bodies = Call[None, dict[str, Any]]


async def create_flow(call: Call[None, FlowCreate]) -> Answer:
    """Create a flow, or find it by its name."""
    body = call.body
    return await call.engine.prefect.create_flow(body.name, body.tags, body.labels or {})


async def read_flow(call: Call[None, None]) -> Answer:
    """A flow by its id."""
    return 200, await call.engine.prefect.read_flow("id", call.path["id"])


async def read_flow_by_name(call: Call[None, None]) -> Answer:
    """A flow by its name."""
    return 200, await call.engine.prefect.read_flow("name", call.path["name"])


async def update_flow(call: Call[None, FlowUpdate]) -> Answer:
    """Give a flow other tags."""
    await call.engine.prefect.change_flow(call.path["id"], call.body.tags)
    return 204, None


async def delete_flow(call: Call[None, None]) -> Answer:
    """Delete a flow and its runs."""
    await call.engine.prefect.delete_flow(call.path["id"])
    return 204, None


async def delete_flows(call: Bodies) -> Answer:
    """Delete the flows that match, up to a limit."""
    answers.read_limit(call, 50)
    deleted = []
    for flow_id in await answers.find_ids(call.engine, parse_selection(call.body, BULK)):
        try:
            await call.engine.prefect.delete_flow(flow_id)
        except NotFound:
            continue  # someone else was faster
        deleted.append(flow_id)
    return 200, {"deleted": deleted}


ROUTES = (
    Route(method="POST", path="/flows/", handle=create_flow, body=FlowCreate, fast=True),
    *answers.list_routes(
        "/flows", filter=FILTER, count=COUNT, paginate=PAGINATE, listing=answers.list_whole
    ),
    answers.query_route("/flows/bulk_delete", delete_flows),
    Route(method="GET", path="/flows/name/{name}", handle=read_flow_by_name),
    Route(method="GET", path="/flows/{id}", handle=read_flow, fast=True),
    Route(method="PATCH", path="/flows/{id}", handle=update_flow, body=FlowUpdate),
    Route(method="DELETE", path="/flows/{id}", handle=delete_flow),
)
