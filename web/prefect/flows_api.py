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
    return await call.engine.prefect.create_flow(body.name, body.tags, body.labels)


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


async def filter_flows(call: Bodies) -> Answer:
    """Flows that match."""
    return 200, await answers.list_whole(call.engine, parse_selection(call.body, FILTER))


async def count_flows(call: Bodies) -> Answer:
    """How many flows match."""
    return 200, await answers.count(call.engine, parse_selection(call.body, COUNT))


async def paginate_flows(call: Bodies) -> Answer:
    """A page of the flows that match."""
    selection = parse_selection(call.body, PAGINATE)
    results = await answers.list_whole(call.engine, selection)
    return 200, await answers.page(call.engine, selection, results)


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


def _query(path: str, handle: Any) -> Route:
    return Route(method="POST", path=path, handle=handle, body=dict, optional_body=True)


ROUTES = (
    Route(method="POST", path="/flows/", handle=create_flow, body=FlowCreate),
    _query("/flows/filter", filter_flows),
    _query("/flows/count", count_flows),
    _query("/flows/paginate", paginate_flows),
    _query("/flows/bulk_delete", delete_flows),
    Route(method="GET", path="/flows/name/{name}", handle=read_flow_by_name),
    Route(method="GET", path="/flows/{id}", handle=read_flow),
    Route(method="PATCH", path="/flows/{id}", handle=update_flow, body=FlowUpdate),
    Route(method="DELETE", path="/flows/{id}", handle=delete_flow),
)
