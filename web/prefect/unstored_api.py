"""Reads of what is not stored here: deployments, pools, blocks, variables, artifacts, automations,
limits. A list of them is empty, one by its name is not found, and no limit holds anybody up.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from ironflow.core.prefect.faults import InvalidRequest, Refusal
from ironflow.core.prefect.filters import BodyShape, parse_page, parse_selection
from ironflow.core.prefect.resources import DEPLOYMENTS
from ironflow.web.prefect.routing import Answer, Call, Handle, Route

_EVERYTHING = ("flows", "flow_runs", "task_runs", "deployments", "work_pools", "work_pool_queues")
_DEPLOYMENTS = BodyShape(DEPLOYMENTS, _EVERYTHING)
_DEPLOYMENT_COUNT = BodyShape(DEPLOYMENTS, _EVERYTHING, paged="")
_DEPLOYMENT_PAGES = BodyShape(DEPLOYMENTS, _EVERYTHING, paged="page")
Name = Annotated[str, msgspec.Meta(min_length=1)]


class SlotsBody(msgspec.Struct, frozen=True):
    """Slots of limits that are asked for or given back."""

    names: list[Name]
    slots: Annotated[int, msgspec.Meta(gt=0)]
    mode: Literal["concurrency", "rate_limit"] = "concurrency"


class ReleaseBody(msgspec.Struct, frozen=True):
    """A lease that is given back."""

    lease_id: str


class RenewBody(msgspec.Struct, frozen=True):
    """For how long a lease is wanted, in seconds."""

    lease_duration: Annotated[float, msgspec.Meta(ge=60, le=86_400)] = 300.0


class TagSlotsBody(msgspec.Struct, frozen=True):
    """Slots of the limits of tags that a task run takes or gives back."""

    names: list[str]
    task_run_id: str


def _nothing(what: str) -> Handle:
    async def read_nothing(call: Call[Any, Any]) -> Answer:
        """There is none of that name."""
        raise Refusal(404, f"{what} not found")

    return read_nothing


async def list_nothing(call: Call[None, dict[str, Any]]) -> Answer:
    """None are stored; limit and offset are checked all the same."""
    *_, faults = parse_page(call.body)
    if faults:
        raise InvalidRequest(faults, call.body)
    return 200, []


async def count_nothing(call: Call[None, Any]) -> Answer:
    """None are stored."""
    return 200, 0


async def filter_deployments(call: Call[None, dict[str, Any]]) -> Answer:
    """None are stored; filters are checked all the same."""
    parse_selection(call.body, _DEPLOYMENTS)
    return 200, []


async def count_deployments(call: Call[None, dict[str, Any]]) -> Answer:
    """None are stored; filters are checked all the same."""
    parse_selection(call.body, _DEPLOYMENT_COUNT)
    return 200, 0


async def paginate_deployments(call: Call[None, dict[str, Any]]) -> Answer:
    """None are stored; filters are checked all the same."""
    asked = parse_selection(call.body, _DEPLOYMENT_PAGES)
    return 200, {"results": [], "count": 0, "limit": asked.limit, "pages": 0, "page": asked.page}


async def take_slots(call: Call[None, SlotsBody]) -> Answer:
    """Names without a limit are passed over, and there are no limits."""
    return 200, []


async def take_slots_on_lease(call: Call[None, SlotsBody]) -> Answer:
    """A lease of nothing: there are no limits."""
    return 200, {"lease_id": call.engine.ids.new(), "limits": []}


async def give_back(call: Call[None, ReleaseBody]) -> Answer:
    """Giving back a lease that holds nothing changes nothing."""
    return 204, None


async def renew_lease(call: Call[None, RenewBody]) -> Answer:
    """A lease that holds nothing need not be renewed, and cannot."""
    raise Refusal(410, "Lease not found - it may have expired or been revoked")


async def read_empty_list(call: Call[None, None]) -> Answer:
    """None are stored, and there is nothing to check."""
    return 200, []


def _filter(path: str, handle: Handle = list_nothing) -> Route:
    return Route(method="POST", path=path, handle=handle, body=dict, optional_body=True)


def _get(path: str, what: str) -> Route:
    return Route(method="GET", path=path, handle=_nothing(what))


_V2 = "/v2/concurrency_limits"
ROUTES = (
    _filter("/deployments/filter", filter_deployments),
    _filter("/deployments/count", count_deployments),
    _filter("/deployments/paginate", paginate_deployments),
    _get("/deployments/{id}", "Deployment"),
    _get("/deployments/name/{flow_name}/{deployment_name}", "Deployment"),
    _filter("/work_pools/filter"),
    _filter("/work_pools/count", count_nothing),
    _get("/work_pools/{name}", "Work pool"),
    _filter("/work_queues/filter"),
    _get("/work_queues/{id}", "Work queue"),
    _filter("/artifacts/filter"),
    _filter("/artifacts/count", count_nothing),
    _filter("/artifacts/latest/filter"),
    _filter("/artifacts/latest/count", count_nothing),
    _get("/artifacts/{id}", "Artifact"),
    _get("/artifacts/{key}/latest", "Artifact"),
    _filter("/automations/filter"),
    _filter("/automations/count", count_nothing),
    Route(
        method="GET",
        path="/automations/related-to/{resource_id}",
        handle=read_empty_list,
        text=("resource_id",),
    ),
    _get("/automations/{id}", "Automation"),
    _filter("/variables/filter"),
    _filter("/variables/count", count_nothing),
    _get("/variables/{id}", "Variable"),
    _get("/variables/name/{name}", "Variable"),
    _filter("/block_types/filter"),
    _get("/block_types/{id}", "Block type"),
    _get("/block_types/slug/{slug}", "Block type"),
    _get("/block_types/slug/{slug}/block_documents", "Block type"),
    _get("/block_types/slug/{slug}/block_documents/name/{name}", "Block document"),
    _filter("/block_schemas/filter"),
    _get("/block_schemas/{id}", "Block schema"),
    _get("/block_schemas/checksum/{checksum}", "Block schema"),
    _filter("/block_documents/filter"),
    _filter("/block_documents/count", count_nothing),
    _get("/block_documents/{id}", "Block document"),
    Route(method="GET", path="/block_capabilities/", handle=read_empty_list),
    _get("/collections/views/{view}", "View"),
    _filter("/task_workers/filter"),
    _filter("/concurrency_limits/filter"),
    _get("/concurrency_limits/{id}", "Concurrency limit"),
    _get("/concurrency_limits/tag/{tag}", "Concurrency limit"),
    Route(
        method="POST", path="/concurrency_limits/increment", handle=take_slots, body=TagSlotsBody
    ),
    Route(
        method="POST", path="/concurrency_limits/decrement", handle=take_slots, body=TagSlotsBody
    ),
    _filter(f"{_V2}/filter"),
    Route(method="POST", path=f"{_V2}/increment", handle=take_slots, body=SlotsBody),
    Route(
        method="POST",
        path=f"{_V2}/increment-with-lease",
        handle=take_slots_on_lease,
        body=SlotsBody,
    ),
    Route(method="POST", path=f"{_V2}/decrement", handle=take_slots, body=SlotsBody),
    Route(method="POST", path=f"{_V2}/decrement-with-lease", handle=give_back, body=ReleaseBody),
    Route(
        method="POST", path=f"{_V2}/leases/{{lease_id}}/renew", handle=renew_lease, body=RenewBody
    ),
    _get(f"{_V2}/{{id_or_name}}", "Concurrency limit"),
)
