"""Runs that are paused, suspended, resumed, cancelled, looked for by their client, and followed."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import flow, pause_flow_run, suspend_flow_run
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterName,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events import emit_event
from prefect.events.clients import get_events_client, get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.events.schemas.events import Event, Resource
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.flow_engine import run_flow
from prefect.input import RunInput, receive_input
from prefect.states import Cancelling, Failed, Pending, Running, Scheduled
from scenario import (
    add,
    ask,
    attempts,
    own_id,
    result_of,
    scenario,
    settled,
    states_of,
    two_tasks,
)

# ------------------------------------------------------------------------------- pause and input


class Approval(RunInput):
    """What the flow asks of a person."""

    approved: bool
    amount: int = 1


@flow(name="asks")
async def asking() -> Any:
    attempts["asks"] = own_id()
    answer = await pause_flow_run(wait_for_input=Approval, timeout=60, poll_interval=0.02)
    return own_id(), answer.approved, answer.amount


async def paused(client: PrefectClient, key: str) -> Any:
    """The run whose id the flow noted, once it is paused and its schema is stored."""

    async def look() -> Any:
        run = await client.read_flow_run(attempts[key]) if key in attempts else None
        if run is None or not run.state.is_paused():
            return None
        stored = await client.filter_flow_run_input(
            run.id, key_prefix="paused-", limit=10, exclude_keys=set()
        )
        return run if any(one.key.endswith("-schema") for one in stored) else None

    return await settled(look)


@scenario
async def pause_with_input() -> Any:
    running = asyncio.create_task(asking())
    async with get_client() as client:
        run = await paused(client, "asks")
        details = run.state.state_details
        wrong = await client.resume_flow_run(run.id, run_input={"approved": "perhaps"})
        right = await client.resume_flow_run(run.id, run_input={"approved": True, "amount": 3})
        _, approved, amount = await asyncio.wait_for(running, 30)
        again = await client.resume_flow_run(run.id)
        ended = await client.read_flow_run(run.id)
        return {
            "paused": [run.state_type, run.state_name, details.pause_key, details.pause_reschedule],
            "keyset": sorted(details.run_input_keyset),
            "timeout": details.pause_timeout is not None,
            "wrong": [wrong.status, "boolean" in wrong.details.reason],
            "right": [right.status, right.state.name],
            "answer": [approved, amount],
            "again": [again.status, "paused" in again.details.reason],
            "history": await states_of(client, run.id),
            "run_count": ended.run_count,
        }


@flow(name="waits-in-vain")
async def waiting_in_vain() -> None:
    attempts["in-vain"] = own_id()
    await pause_flow_run(timeout=0.2, poll_interval=0.02)


@scenario
async def pause_timeout() -> Any:
    state = await waiting_in_vain(return_state=True)
    async with get_client() as client:
        run = await client.read_flow_run(attempts["in-vain"])
        return {"local": state.name, "state": [run.state_type, run.state_name]}


@flow(name="suspends")
async def suspending() -> None:
    attempts["suspends"] = own_id()
    await suspend_flow_run(timeout=60)


@scenario
async def suspend_without_deployment() -> Any:
    state = await suspending(return_state=True)
    async with get_client() as client:
        run = await client.read_flow_run(attempts["suspends"])
        return {
            "local": state.name,
            "reason": "Flow run cannot be suspended: " in state.message,
            "state": [run.state_type, run.state_name],
        }


@flow(name="suspends-with-input", persist_result=True)
async def suspending_for_input() -> int:
    attempts["began"] = attempts.get("began", 0) + 1
    answer = await suspend_flow_run(wait_for_input=Approval, timeout=600)
    return answer.amount


async def executed(run_id: Any) -> str:
    """What a new process that takes a scheduled flow run would do; how it ends."""
    async with get_client() as client:
        run = await client.read_flow_run(run_id)
    try:
        await run_flow(suspending_for_input, flow_run=run, return_type="state")
    except BaseException as error:  # noqa: BLE001 - how the engine leaves a suspended flow
        return type(error).__name__
    return "ended"


@scenario
async def suspend_and_resume() -> Any:
    async with get_client() as client:
        flow_id = await client.create_flow(suspending_for_input)
        try:
            deployment = await client.create_deployment(flow_id, name=str(uuid.uuid4()))
        except PrefectHTTPStatusError:  # a deployment may be named before deployments are kept
            deployment = uuid.uuid4()
        body = {"flow_id": str(flow_id), "deployment_id": str(deployment)}
        made = await ask(client, "POST", "/flow_runs/", body)
        run_id = uuid.UUID(made["id"])
        first = await executed(run_id)
        suspended = await client.read_flow_run(run_id)
        wrong = await client.resume_flow_run(run_id, run_input={"amount": 2})
        right = await client.resume_flow_run(run_id, run_input={"approved": True, "amount": 9})
        second = await executed(run_id)
        ended = await client.read_flow_run(run_id)
        return {
            "first": first,
            "suspended": [suspended.state_type, suspended.state_name],
            "reschedule": suspended.state.state_details.pause_reschedule,
            "wrong": wrong.status,
            "right": [right.status, right.state.type, right.state.name],
            "second": second,
            "began": attempts["began"],
            "ended": [ended.state_type, ended.run_count, await result_of(ended.state)],
            "history": await states_of(client, run_id),
        }


class Number(RunInput):
    """What one flow sends to another."""

    value: int


@flow(name="listens")
async def listening() -> Any:
    attempts["listens"] = own_id()
    async for number in receive_input(
        Number, poll_interval=0.05, timeout=20, raise_timeout_error=True
    ):
        return number.value
    return None


@scenario
async def run_inputs() -> Any:
    running = asyncio.create_task(listening())

    async def look() -> bool:
        return "listens" in attempts

    await settled(look)
    run_id = attempts["listens"]
    await Number(value=41).send_to(run_id)
    heard = await asyncio.wait_for(running, 30)
    async with get_client() as client:
        await client.create_flow_run_input(run_id, "plain", "text")
        await client.create_flow_run_input(run_id, "plain-two", "more")
        found = await client.filter_flow_run_input(
            run_id, key_prefix="plain", limit=10, exclude_keys=set()
        )
        both = sorted(one.key for one in found)
        rest = await client.filter_flow_run_input(
            run_id, key_prefix="plain", limit=10, exclude_keys={"plain"}
        )
        text = await client.read_flow_run_input(run_id, "plain")
        await client.delete_flow_run_input(run_id, "plain")
        try:
            await client.read_flow_run_input(run_id, "plain")
            gone = False
        except PrefectHTTPStatusError as error:
            gone = error.response.status_code == 404
        return {
            "heard": heard,
            "keys": both,
            "rest": [one.key for one in rest],
            "text": text,
            "gone": gone,
        }


# -------------------------------------------------------------------------- cancel, client, events


@flow(name="idle")
async def idle() -> None:
    """Is only ever created by the client."""


@scenario
async def cancellation() -> Any:
    async with get_client() as client:
        scheduled = await client.create_flow_run(
            idle, state=Scheduled(scheduled_time=datetime.now(UTC) + timedelta(days=1))
        )
        refused = await client.set_flow_run_state(scheduled.id, Cancelling())
        running = await client.create_flow_run(idle, state=Pending())
        await client.set_flow_run_state(running.id, Running())
        accepted = await client.set_flow_run_state(running.id, Cancelling())
        back = await client.set_flow_run_state(running.id, Running())
        forced = await client.set_flow_run_state(running.id, Failed(), force=True)
        return {
            "scheduled": [refused.status, refused.state.type],
            "running": [accepted.status, accepted.state.type],
            "back": back.status,
            "forced": [forced.status, forced.state.type],
            "history": await states_of(client, running.id),
        }


@scenario
async def client_calls() -> Any:
    mark = f"calls-{uuid.uuid4()}"
    async with get_client() as client:
        first = await client.create_flow_run(idle, name="one", tags=[mark], state=Pending())
        second = await client.create_flow_run(idle, name="two", tags=[mark], state=Pending())
        by_name = await client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=["idle"])),
            flow_run_filter=FlowRunFilter(
                name=FlowRunFilterName(like_="TW"), tags=FlowRunFilterTags(all_=[mark])
            ),
        )
        by_state = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                tags=FlowRunFilterTags(all_=[mark]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PENDING])),
            ),
            sort=FlowRunSort.NAME_ASC,
            limit=1,
            offset=1,
        )
        counted = await ask(
            client, "POST", "/flow_runs/count", {"flow_runs": {"tags": {"all_": [mark]}}}
        )
        await client.update_flow_run(first.id, tags=["renamed"], parameters={"a": [1, None]})
        await client.update_flow_run(first.id, name="uno")
        await client._client.patch(
            f"/flow_runs/{first.id}/labels", json={"team": "data", "cost": 2}
        )
        renamed = await client.read_flow_run(first.id)
        labels = (await ask(client, "GET", f"/flow_runs/{first.id}"))["labels"]
        await client.delete_flow_run(second.id)
        try:
            await client.read_flow_run(second.id)
            missing = "found"
        except ObjectNotFound:
            missing = "ObjectNotFound"
        flow_id = await client.create_flow_from_name("idle")
        flows = await client.read_flows(flow_filter=FlowFilter(name=FlowFilterName(any_=["idle"])))
        one = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[first.id]))
        )
        task_run = await client.create_task_run(
            task=add, flow_run_id=first.id, dynamic_key="0", name="by-hand", state=Pending()
        )
        moved = await client.set_task_run_state(task_run.id, Running())
        return {
            "healthy": await client.api_healthcheck() is None,
            "hello": (await client.hello()).status_code,
            "version": (await ask(client, "GET", "/admin/version")).split(".")[0],
            "by_name": [run.name for run in by_name],
            "by_state": [run.name for run in by_state],
            "counted": counted,
            "renamed": [renamed.name, renamed.tags, renamed.parameters, labels["team"]],
            "missing": missing,
            "flow": [one.flow_id for one in one] == [flow_id] == [each.id for each in flows],
            "task": [moved.status, (await client.read_task_run(task_run.id)).state_name],
        }


@scenario
async def events() -> Any:
    name = f"order.paid.{uuid.uuid4().hex}"
    wanted = EventFilter(event=EventNameFilter(name=[name]))
    early = Event(
        event=name, resource=Resource({"prefect.resource.id": "order.0"}), payload={"n": 0}
    )
    async with get_events_client() as sender:
        await sender.emit(early)
    got: list[int] = []

    async def listen() -> None:
        async with get_events_subscriber(filter=wanted, reconnection_attempts=0) as subscriber:
            async for event in subscriber:
                got.append(event.payload["n"])
                if event.payload["n"] == 0:
                    for number in range(1, 6):
                        emit_event(
                            name,
                            {"prefect.resource.id": f"order.{number}"},
                            payload={"n": number},
                        )
                if len(got) == 6:
                    return

    await asyncio.wait_for(listen(), 30)
    asked = wanted.model_dump(mode="json", exclude_none=True)
    async with get_client() as client:

        async def look() -> Any:
            page = await ask(client, "POST", "/events/filter", {"filter": asked, "limit": 4})
            return page if page["total"] == 6 else None

        page = await settled(look)
        link = page["next_page"]
        path = "/events" + link.split("/api/events", 1)[1]
        following = await ask(client, "GET", path)
        seen = [event["payload"]["n"] for event in [*page["events"], *following["events"]]]
        counts = await ask(
            client,
            "POST",
            "/events/count-by/resource",
            {"filter": asked, "time_unit": "day", "time_interval": 1},
        )
        return {
            "got": sorted(got),
            "total": page["total"],
            "first": len(page["events"]),
            "seen": sorted(seen),
            "end": following["next_page"],
            "by_resource": sorted(each["count"] for each in counts),
        }


@scenario
async def flow_run_events() -> Any:
    """The server's own events of a run's states, as automations and the UI read them."""
    run_id, _ = await two_tasks(1)
    async with get_client() as client:
        wanted = {
            "resource": {"id": [f"prefect.flow-run.{run_id}"]},
            "event": {
                "prefix": ["prefect.flow-run."],
                "exclude_name": ["prefect.flow-run.heartbeat"],
            },
            "order": "ASC",
        }

        async def look() -> Any:
            answer = await ask(client, "POST", "/events/filter", {"filter": wanted, "limit": 50})
            found = answer["events"]
            return found if len(found) >= 3 else None

        found = await settled(look)
        return {
            "names": [event["event"] for event in found],
            "state": found[-1]["resource"]["prefect.state-type"],
            "roles": sorted({each["prefect.resource.role"] for each in found[-1]["related"]}),
        }
