"""Task runs: create, look at, list and move those that a client does not only report."""

from __future__ import annotations

from collections.abc import Awaitable

from ironflow.actors.prefect.doors import Ask
from ironflow.core.prefect.filters import BodyShape
from ironflow.core.prefect.resources import TASK_RUNS
from ironflow.core.prefect.states import StateCreate
from ironflow.web.prefect import answers
from ironflow.web.prefect.requests import SetState, TaskRunCreate, TaskRunUpdate
from ironflow.web.prefect.routing import Answer, Call, Route

_FILTERS = ("flows", "flow_runs", "task_runs", "deployments")
FILTER = BodyShape(TASK_RUNS, _FILTERS)
COUNT = BodyShape(TASK_RUNS, _FILTERS, sorted=False, paged="")
PAGINATE = BodyShape(TASK_RUNS, _FILTERS, paged="page")


def create_task_run(call: Call[None, TaskRunCreate]) -> Awaitable[Answer]:
    """Create a task run, or find it by its keys."""
    state = call.body.state or StateCreate(type="PENDING")
    return call.engine.prefect.create_task_run(call.body.info(), state)


def ask_for_task_run(call: Call[None, TaskRunCreate]) -> Ask | None:
    """The same on the fast path, where nothing must be looked up for it."""
    state = call.body.state or StateCreate(type="PENDING")
    return call.engine.prefect.ask_for_task_run(call.body.info(), state)


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


def set_state(call: Call[None, SetState]) -> Awaitable[Answer]:
    """Propose a state."""
    body = call.body
    return call.engine.prefect.set_task_run_state(
        call.path["id"], body.state, force=bool(body.force)
    )


def ask_for_state(call: Call[None, SetState]) -> Ask | None:
    """The same on the fast path, where nothing must be looked up for it."""
    body = call.body
    return call.engine.prefect.ask_for_task_run_state(
        call.path["id"], body.state, force=bool(body.force)
    )


_RUN = "/task_runs/{id}"
ROUTES = (
    Route(
        method="POST",
        path="/task_runs/",
        handle=create_task_run,
        body=TaskRunCreate,
        fast=True,
        ask=ask_for_task_run,
    ),
    *answers.list_routes("/task_runs", filter=FILTER, count=COUNT, paginate=PAGINATE),
    answers.history_route("/task_runs", COUNT),
    answers.state_route(_RUN, set_state, ask_for_state),
    Route(method="GET", path=_RUN, handle=read_task_run, fast=True),
    Route(method="PATCH", path=_RUN, handle=update_task_run, body=TaskRunUpdate),
    Route(method="DELETE", path=_RUN, handle=delete_task_run),
)
