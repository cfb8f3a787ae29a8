"""Flow runs: create, look at, list, move, and what is said to them while they run."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import msgspec

from ironflow.actors.prefect.doors import Ask
from ironflow.core.errors import NotFound
from ironflow.core.prefect.commands import ChangeFlowRun
from ironflow.core.prefect.filters import BodyShape, parse_selection
from ironflow.core.prefect.resources import FLOW_RUNS
from ironflow.core.prefect.runs import GivenLabels
from ironflow.core.prefect.states import StateCreate
from ironflow.web.prefect import answers
from ironflow.web.prefect.requests import (
    BulkSetState,
    FlowRunCreate,
    FlowRunUpdate,
    SetState,
    pack,
    pack_parameters,
)
from ironflow.web.prefect.routing import Answer, Call, Route

_FILTERS = ("flows", "flow_runs", "task_runs", "deployments", "work_pools", "work_pool_queues")
FILTER = BodyShape(FLOW_RUNS, _FILTERS)
COUNT = BodyShape(FLOW_RUNS, _FILTERS, sorted=False, paged="")
HISTORY = BodyShape(FLOW_RUNS, (*_FILTERS[:-1], "work_queues"), sorted=False, paged="")
PAGINATE = BodyShape(FLOW_RUNS, _FILTERS, paged="page")
BULK = BodyShape(FLOW_RUNS, ("flow_runs",), sorted=False, most=50)

Bodies = Call[None, dict[str, Any]]


async def create_flow_run(call: Call[None, FlowRunCreate]) -> Answer:
    """Create a flow run, or find it by its idempotency key."""
    body = call.body
    state = body.state or StateCreate(type="PENDING")
    return await call.engine.prefect.create_flow_run(body.info(), body.empirical_policy, state)


def ask_for_flow_run(call: Call[None, FlowRunCreate]) -> Ask | None:
    """The same on the fast path, where nothing must be looked up for it."""
    body = call.body
    state = body.state or StateCreate(type="PENDING")
    return call.engine.prefect.ask_for_flow_run(body.info(), body.empirical_policy, state)


async def read_flow_run(call: Call[None, None]) -> Answer:
    """A flow run."""
    return 200, await call.engine.prefect.read_flow_run(call.path["id"])


async def update_flow_run(call: Call[None, FlowRunUpdate]) -> Answer:
    """Edit a flow run."""
    body, unset = call.body, msgspec.UNSET
    change = ChangeFlowRun(
        name=body.name or unset,
        flow_version=body.flow_version,
        parameters=unset if body.parameters is unset else pack_parameters(body.parameters),
        policy=body.empirical_policy,
        tags=body.tags,
        infrastructure_pid=body.infrastructure_pid,
        job_variables=pack(body.job_variables) if isinstance(body.job_variables, dict) else unset,
    )
    await call.engine.prefect.change_flow_run(call.path["id"], change)
    return 204, None


async def update_labels(call: Call[None, GivenLabels]) -> Answer:
    """Add labels to a flow run."""
    await call.engine.prefect.change_flow_run(call.path["id"], ChangeFlowRun(labels=call.body))
    return 204, None


async def delete_flow_run(call: Call[None, None]) -> Answer:
    """Delete a flow run and everything of it."""
    await call.engine.prefect.delete_flow_run(call.path["id"])
    return 204, None


def set_state(call: Call[None, SetState]) -> Awaitable[Answer]:
    """Propose a state."""
    body = call.body
    return call.engine.prefect.set_flow_run_state(
        call.path["id"], body.state, force=bool(body.force)
    )


def ask_for_state(call: Call[None, SetState]) -> Ask:
    """The same on the fast path."""
    body = call.body
    return call.engine.prefect.ask_for_flow_run_state(
        call.path["id"], body.state, force=bool(body.force)
    )


# -- lists ----------------------------------------------------------------------------------------


async def read_lateness(call: Bodies) -> Answer:
    """How late flow runs began, on average."""
    selection = parse_selection(call.body, COUNT)
    return 200, await answers.average_lateness(call.engine, selection)


# -- many at once ---------------------------------------------------------------------------------


async def delete_flow_runs(call: Bodies) -> Answer:
    """Delete the flow runs that match, up to a limit."""
    answers.read_limit(call, 50)
    deleted = []
    for flow_run_id in await answers.find_ids(call.engine, parse_selection(call.body, BULK)):
        try:
            await call.engine.prefect.delete_flow_run(flow_run_id)
        except NotFound:
            continue  # someone else was faster
        deleted.append(flow_run_id)
    return 200, {"deleted": deleted}


async def set_states(call: Bodies) -> Answer:
    """Propose a state for the flow runs that match, up to a limit."""
    answers.read_limit(call, 50)
    selection = parse_selection(call.body, BULK)
    wanted = call.decode_again(BulkSetState)
    results = []
    for flow_run_id in await answers.find_ids(call.engine, selection):
        # Decoded anew for each: a state becomes part of the run that it is proposed for.
        state = call.decode_again(BulkSetState).state
        try:
            reply = await call.engine.prefect.set_flow_run_state(
                flow_run_id, state, force=bool(wanted.force)
            )
        except NotFound:
            continue
        results.append(b'{"flow_run_id":"%b",%b' % (flow_run_id.encode(), reply.body[1:]))
    return 200, b'{"results":[%b]}' % b",".join(results)


_RUN = "/flow_runs/{id}"
ROUTES = (
    Route(
        method="POST",
        path="/flow_runs/",
        handle=create_flow_run,
        body=FlowRunCreate,
        fast=True,
        ask=ask_for_flow_run,
    ),
    *answers.list_routes("/flow_runs", filter=FILTER, count=COUNT, paginate=PAGINATE),
    answers.history_route("/flow_runs", HISTORY),
    answers.query_route("/flow_runs/lateness", read_lateness),
    answers.query_route("/flow_runs/bulk_delete", delete_flow_runs),
    Route(method="POST", path="/flow_runs/bulk_set_state", handle=set_states, body=dict),
    answers.state_route(_RUN, set_state, ask_for_state),
    Route(method="GET", path=_RUN, handle=read_flow_run, fast=True),
    Route(method="PATCH", path=_RUN, handle=update_flow_run, body=FlowRunUpdate),
    Route(method="DELETE", path=_RUN, handle=delete_flow_run),
    Route(method="PATCH", path=f"{_RUN}/labels", handle=update_labels, body=GivenLabels),
)
