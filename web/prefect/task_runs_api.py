"""Task runs: create, look at, list and move those that a client does not only report."""

from __future__ import annotations

from typing import Any

from ironflow.core.prefect.filters import BodyShape, parse_selection
from ironflow.core.prefect.resources import TASK_RUNS
from ironflow.core.prefect.states import StateCreate
from ironflow.web.prefect import answers
from ironflow.web.prefect.requests import SetState, TaskRunCreate, TaskRunUpdate
from ironflow.web.prefect.routing import Answer, Call, Route

_FILTERS = ("flows", "flow_runs", "task_runs", "deployments")
FILTER = BodyShape(TASK_RUNS, _FILTERS)
COUNT = BodyShape(TASK_RUNS, _FILTERS, sorted=False, paged="")
PAGINATE = BodyShape(TASK_RUNS, _FILTERS, paged="page")

Bodies = Call[None, dict[str, Any]]


async def create_task_run(call: Call[None, TaskRunCreate]) -> Answer:
    """Create a task run, or find it by its keys."""
    state = call.body.state or StateCreate(type="PENDING")
    return await call.engine.prefect.create_task_run(call.body.info(), state)


async def read_task_run(call: Call[None, None]) -> Answer:
    """A task run."""
    return 200, await call.engine.prefect.read_task_run(call.path["id"])


async def update_task_run(call: Call[None, TaskRunUpdate]) -> Answer:
    """Rename a task run."""
    if call.body.name:
        await call.engine.prefect.rename_task_run(call.path["id"], call.body.name)
    else:
        await call.engine.prefect.read_task_run(call.path["id"])
    return 204, None


async def delete_task_run(call: Call[None, None]) -> Answer:
    """Delete a task run."""
    await call.engine.prefect.delete_task_run(call.path["id"])
    return 204, None


async def set_state(call: Call[None, SetState]) -> Answer:
    """Propose a state."""
    body = call.body
    return await call.engine.prefect.set_task_run_state(
        call.path["id"], body.state, force=body.force
    )


async def filter_task_runs(call: Bodies) -> Answer:
    """Task runs that match."""
    return 200, await answers.list_runs(call.engine, parse_selection(call.body, FILTER))


async def count_task_runs(call: Bodies) -> Answer:
    """How many task runs match."""
    return 200, await answers.count(call.engine, parse_selection(call.body, COUNT))


async def paginate_task_runs(call: Bodies) -> Answer:
    """A page of the task runs that match."""
    selection = parse_selection(call.body, PAGINATE)
    results = await answers.list_runs(call.engine, selection)
    return 200, await answers.page(call.engine, selection, results)


async def read_history(call: Bodies) -> Answer:
    """Task runs by interval and state."""
    return await answers.count_by_interval(call, COUNT)


def _query(path: str, handle: Any) -> Route:
    return Route(method="POST", path=path, handle=handle, body=dict, optional_body=True)


_RUN = "/task_runs/{id}"
ROUTES = (
    Route(method="POST", path="/task_runs/", handle=create_task_run, body=TaskRunCreate),
    _query("/task_runs/filter", filter_task_runs),
    _query("/task_runs/count", count_task_runs),
    _query("/task_runs/paginate", paginate_task_runs),
    Route(method="POST", path="/task_runs/history", handle=read_history, body=dict),
    Route(method="POST", path=f"{_RUN}/set_state", handle=set_state, body=SetState),
    Route(method="GET", path=_RUN, handle=read_task_run),
    Route(method="PATCH", path=_RUN, handle=update_task_run, body=TaskRunUpdate),
    Route(method="DELETE", path=_RUN, handle=delete_task_run),
)
