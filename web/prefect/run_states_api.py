"""States that runs have had: the journal has them, in the entries that moved the runs."""

from __future__ import annotations

from ironflow.actors.engine import Engine
from ironflow.core.errors import NotFound
from ironflow.core.prefect.runs import state_text
from ironflow.web.prefect.requests import OfFlowRun, OfTaskRun
from ironflow.web.prefect.routing import Answer, Call, Route

OF_OWNER = "SELECT version FROM run_states WHERE stream = ? AND owner = ? ORDER BY at, version"


async def read_state(call: Call[None, None]) -> Answer:
    """A state by its id."""
    reader = call.engine.store.reader
    query = "SELECT stream, version FROM run_states WHERE id = ?"
    rows = await reader.select(query, (call.path["id"],), quick=True)
    entry = await reader.entry(*rows[0]) if rows else None
    if entry is None:
        raise NotFound("flow run state", call.path["id"])
    return 200, state_text(entry.data)


async def list_states(engine: Engine, stream: str, owner: str) -> list[bytes]:
    """The states of a run, oldest first, each as JSON."""
    reader = engine.store.reader
    found = []
    for (version,) in await reader.select(OF_OWNER, (stream, owner), quick=True):
        entry = await reader.entry(stream, version)
        if entry is not None:
            found.append(state_text(entry.data))
    return found


async def list_flow_run_states(call: Call[OfFlowRun, None]) -> Answer:
    """The states of a flow run, oldest first."""
    id_ = str(call.query.flow_run_id)
    return 200, b"[%b]" % b",".join(await list_states(call.engine, f"run/{id_}", id_))


async def list_task_run_states(call: Call[OfTaskRun, None]) -> Answer:
    """The states of a task run, oldest first."""
    id_ = str(call.query.task_run_id)
    place = await call.engine.prefect.place(id_)
    if place is None:
        return 200, b"[]"
    return 200, b"[%b]" % b",".join(await list_states(call.engine, f"run/{place.owner}", id_))


ROUTES = (
    Route(method="GET", path="/flow_run_states/", handle=list_flow_run_states, query=OfFlowRun),
    Route(method="GET", path="/flow_run_states/{id}", handle=read_state),
    Route(method="GET", path="/task_run_states/", handle=list_task_run_states, query=OfTaskRun),
    Route(method="GET", path="/task_run_states/{id}", handle=read_state),
)
