"""A client of the Prefect actors, without HTTP."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from ironflow import testing
from ironflow.core.errors import Gone, StorageError
from ironflow.core.prefect.commands import Reply
from ironflow.core.prefect.events import Event
from ironflow.core.prefect.runs import FlowRunInfo, FlowRunPolicy, TaskRunInfo
from ironflow.core.prefect.states import StateCreate, StateDetails
from ironflow.storage.relational.tables import NAMES

DAY = 86_400


def create(kind: Any, name: str | None = None, **details: Any) -> StateCreate:
    return StateCreate(type=kind, name=name, state_details=StateDetails(**details))


def read(reply: Reply | bytes) -> Any:
    return msgspec.json.decode(reply if isinstance(reply, bytes) else reply.body)


class Client:
    """Asks as a Prefect client does, and asks again when the server has gone away."""

    def __init__(self, world: testing.World) -> None:
        self.world = world
        self.flow_id = ""

    async def ask(self, call: Callable[[Any], Awaitable[Any]]) -> Any:
        for _ in range(20):
            try:
                return await call(self.world.engine.prefect)
            except (Gone, StorageError):
                await self.world.advance(1)
        raise AssertionError("the server does not come back")

    async def flow_run(self, state: StateCreate | None = None, **facts: Any) -> str:
        flow = read(await self.ask(lambda doors: doors.create_flow("nightly", [], {})))
        self.flow_id = flow["id"]
        policy = facts.pop("policy", FlowRunPolicy())
        made = await self.ask(
            lambda doors: doors.create_flow_run(
                FlowRunInfo(id="", name="", flow_id=self.flow_id, **facts),
                policy,
                state or create("PENDING"),
            )
        )
        run_id: str = read(made)["id"]
        return run_id

    async def task_run(self, flow_run_id: str | None, key: str, state: Any = "PENDING") -> str:
        made = await self.ask(
            lambda doors: doors.create_task_run(
                TaskRunInfo(id="", name="", flow_run_id=flow_run_id, task_key=key, dynamic_key="0"),
                create(state),
            )
        )
        task_run_id: str = read(made)["id"]
        return task_run_id

    async def move(self, run_id: str, kind: Any, name: str | None = None, **details: Any) -> Any:
        """Propose a state under one transition id, however often it must be asked."""
        transition = f"00000000-0000-4000-8000-{random.getrandbits(48):012x}"

        async def call(doors: Any) -> Reply:
            state = create(kind, name, transition_id=transition, **details)
            reply: Reply = await doors.set_flow_run_state(run_id, state)
            return reply

        return read(await self.ask(call))

    async def move_task(self, task_run_id: str, kind: Any, **details: Any) -> Any:
        return read(
            await self.ask(
                lambda doors: doors.set_task_run_state(task_run_id, create(kind, **details))
            )
        )

    async def see(self, run_id: str) -> Any:
        return read(await self.ask(lambda doors: doors.read_flow_run(run_id)))

    async def see_task(self, task_run_id: str) -> Any:
        return read(await self.ask(lambda doors: doors.read_task_run(task_run_id)))

    async def names(self, run_id: str) -> list[str]:
        rows = await self.world.store.reader.entries(f"run/{run_id}")
        return [
            msgspec.json.decode(row.data)["state"]["name"]
            for row in rows
            if row.kind == "flow_run.moved"
        ]


def report(task_run_id: str, flow_run_id: str | None, kind: str, at: int, **task: Any) -> Event:
    related = () if flow_run_id is None else (
        {
            "prefect.resource.id": f"prefect.flow-run.{flow_run_id}",
            "prefect.resource.role": "flow-run",
        },
    )  # fmt: skip
    task = {"name": "t-0", "task_key": "t", "dynamic_key": task_run_id, "run_count": 1, **task}
    payload = {"task_run": task, "validated_state": {"type": kind, "state_details": {}}}
    return Event(
        id=f"{task_run_id[:-6]}{at % 10**6:06d}",
        event=f"prefect.task-run.{kind.title()}",
        occurred=at,
        received=at,
        resource={
            "prefect.resource.id": f"prefect.task-run.{task_run_id}",
            "prefect.orchestration": "client",
        },
        related=related,
        payload=msgspec.json.encode(payload),
    )


TASK = "00000000-0000-4000-8000-0000000000aa"


async def counts(world: testing.World) -> dict[str, int]:
    return {
        name: (await world.store.reader.select(f"SELECT count(*) FROM {name}"))[0][0]
        for name in sorted(NAMES)
    }
