"""The graph of a flow run: its task runs and subflows, and what each of them needed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from ironflow.core.clock import SECOND
from ironflow.core.prefect.bodies import (
    estimated_run_time,
    moment,
)
from ironflow.core.prefect.runs import History, TaskRun
from ironflow.core.prefect.states import State, micros
from ironflow.web.prefect.routing import Answer, Call, Route
from ironflow.web.prefect.run_states_api import list_states

ENCLOSING = "__parents__"
"""The name under which a task run's inputs have the task runs that it was called in."""
MOST_NODES = 10_000


class GraphQuery(msgspec.Struct, frozen=True):
    """Only what has gone on since a moment."""

    since: datetime | None = None


class _Edge(msgspec.Struct):
    id: str


class _Node(msgspec.Struct):
    kind: str
    id: str
    label: str
    state_type: str | None
    start_time: str | None
    end_time: str | None
    parents: list[_Edge]
    children: list[_Edge]
    encapsulating: list[_Edge]
    artifacts: list[Any]


class _Graph(msgspec.Struct):
    start_time: str | None
    end_time: str | None
    root_node_ids: list[str]
    nodes: list[tuple[str, _Node]]
    artifacts: list[Any]
    states: list[msgspec.Raw]


class _GraphState(msgspec.Struct):
    id: str
    timestamp: str
    type: str
    name: str


class _TaskInput(msgspec.Struct):
    """What a task run took from another one: `input_type` is `task_run`, and `id` which."""

    input_type: str = ""
    id: str = ""


class _Dependency(msgspec.Struct):
    id: str
    name: str
    upstream_dependencies: list[dict[str, str]]
    state: State | None
    expected_start_time: str | None
    start_time: str | None
    end_time: str | None
    total_run_time: float
    estimated_run_time: float
    untrackable_result: bool


_decode_inputs = msgspec.json.Decoder(dict[str, list[_TaskInput]]).decode
_decode_state = msgspec.json.Decoder(_GraphState).decode
_encode = msgspec.json.Encoder().encode


def needs(task: TaskRun) -> tuple[list[str], list[str]]:
    """The task runs whose results a task run took, and those that it was called in."""
    took: dict[str, None] = {}
    within: dict[str, None] = {}
    try:
        inputs = _decode_inputs(bytes(task.info.task_inputs))
    except msgspec.ValidationError:
        return [], []  # of a client that says it in another way
    for name, found in inputs.items():
        wanted = within if name == ENCLOSING else took
        wanted.update((item.id, None) for item in found if item.input_type == "task_run")
    return list(took), list(within)


def _node_id(task: TaskRun) -> tuple[str, str]:
    child = task.state.state_details.child_flow_run_id if task.state is not None else None
    return ("task-run", task.info.id) if child is None else ("flow-run", str(child))


def draw(history: History, states: list[bytes], since: int | None) -> _Graph:
    """The graph of a flow run. Nodes are in the order in which they began."""
    run = history.flow_run
    ids = {task.info.id: _node_id(task)[1] for task in history.tasks.values()}
    nodes: dict[str, _Node] = {}
    order = sorted(
        history.tasks.values(), key=lambda t: t.started_at or t.expected_at or t.created_at
    )
    for task in order:
        ended = task.ended_at
        if since is not None and ended is not None and ended < since:
            continue
        took, within = needs(task)
        kind, id_ = _node_id(task)
        nodes[id_] = _Node(
            kind,
            id_,
            task.info.name,
            task.type,
            moment(task.started_at or task.expected_at),
            moment(ended),
            [_Edge(ids[parent]) for parent in took if parent in ids],
            [],
            [_Edge(ids[parent]) for parent in within if parent in ids],
            [],
        )
        if len(nodes) == MOST_NODES:
            break
    for node in nodes.values():
        for edge in node.parents:
            if edge.id in nodes:
                nodes[edge.id].children.append(_Edge(node.id))
    return _Graph(
        moment(run.started_at) if run is not None else None,
        moment(run.ended_at) if run is not None else None,
        [id_ for id_, node in nodes.items() if not node.parents],
        list(nodes.items()),
        [],
        [msgspec.Raw(_encode(_decode_state(state))) for state in states],
    )


async def read_graph(call: Call[GraphQuery, None]) -> Answer:
    """The graph of a flow run."""
    flow_run_id = call.path["id"]
    history = await call.engine.flow_run(flow_run_id)
    states = await list_states(call.engine, f"run/{flow_run_id}", flow_run_id)
    since = call.query.since
    # Clients mean "from the beginning" by the year 1.
    start = None if since is None or since.year < 1970 else micros(since)
    return 200, _encode(draw(history, states, start))


async def read_dependencies(call: Call[None, None]) -> Answer:
    """The task runs of a flow run with what each of them needed, as a list."""
    history, now = await call.engine.flow_run(call.path["id"]), call.engine.clock.now()
    found = []
    for task in history.tasks.values():
        state = task.state
        at = state.at if state is not None else None
        found.append(
            _Dependency(
                task.info.id,
                task.info.name,
                [{"input_type": "task_run", "id": id_} for id_ in needs(task)[0]],
                state,
                moment(task.expected_at),
                moment(task.started_at),
                moment(task.ended_at),
                task.run_time / SECOND,
                estimated_run_time(task.type, at, task.run_time, now) / SECOND,
                state is not None and state.state_details.untrackable_result,
            )
        )
    return 200, _encode(found)


ROUTES = (
    Route(method="GET", path="/flow_runs/{id}/graph", handle=read_dependencies),
    Route(method="GET", path="/flow_runs/{id}/graph-v2", handle=read_graph, query=GraphQuery),
)
