"""What a user's program does with a workflow server, run by a client in its own environment.

`python scenarios.py URL today|old|ours [PHASE]` prints a line of JSON for each scenario: its name
and what the client saw, or the error that ended it. Nothing here imports ironflow but for `ours`.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
import traceback
from typing import Any

FLAVOURS = ("today", "old", "ours")


class Programs:
    """The scenarios, each a method that answers what it saw."""

    def __init__(self, url: str, flavour: str) -> None:
        self.flavour = flavour
        if flavour == "ours":
            from ironflow.workflows.client import WorkflowClient
            from ironflow.workflows.events import HumanResponseEvent, StartEvent, StopEvent
        elif flavour == "today":
            from llama_agents.client import WorkflowClient
            from workflows.events import HumanResponseEvent, StartEvent, StopEvent
        else:
            from workflows.client import WorkflowClient
            from workflows.events import HumanResponseEvent, StartEvent, StopEvent
        if flavour == "ours":
            self.client: Any = WorkflowClient(base_url=url)
        else:
            import httpx  # type: ignore[import-not-found]

            # As theirs, but for its time-outs: five seconds are soon over on a slow machine.
            self.client = WorkflowClient(httpx_client=httpx.AsyncClient(base_url=url, timeout=60))
        self.start_event, self.stop_event = StartEvent, StopEvent
        self.response_event = HumanResponseEvent
        self.decision: Any = type(
            "Decision",
            (HumanResponseEvent,),
            {"__annotations__": {"response": str}, "__module__": __name__},
        )

    # -- what every client can do ---------------------------------------------------------------

    async def health(self) -> Any:
        return (await self.client.is_healthy()).status

    async def list_workflows(self) -> Any:
        return (await self.client.list_workflows()).workflows

    async def run_with_event(self) -> Any:
        return self.told(
            await self.client.run_workflow("greet", start_event=self.start_event(name="Ada"))
        )

    async def run_with_fields(self) -> Any:
        return self.told(await self.client.run_workflow("greet", start_event={"name": "Bob"}))

    async def run_without_event(self) -> Any:
        return self.told(await self.client.run_workflow("greet"))

    async def run_typed(self) -> Any:
        fields = {"customer": "Ada", "amount": 2}
        return self.told(await self.client.run_workflow("checkout", start_event=fields))

    async def built_in_event_is_loaded(self) -> Any:
        handler = await self.client.run_workflow("greet")
        event = handler.result.load_event()
        return [type(event) is self.stop_event, event.result]

    async def stream(self) -> Any:
        handler = await self.client.run_workflow_nowait("greet", start_event={"name": "Cyd"})
        seen = [self.heard(event) async for event in self.events(handler)]
        return [handler.status, handler.result, seen]

    async def stream_with_internal_events(self) -> Any:
        handler = await self.client.run_workflow_nowait("greet")
        return [
            [event.type, event.value.get("name"), event.value.get("step_state")]
            async for event in self.events(handler, include_internal_events=True)
        ]

    async def stream_of_a_run_that_is_over(self) -> Any:
        handler = await self.client.run_workflow_nowait("greet")
        await self.until_over(handler.handler_id)
        first = [event.type async for event in self.events(handler)]
        return [first, [event.type async for event in self.events(handler)]]

    async def two_readers(self) -> Any:
        handler = await self.client.run_workflow_nowait("gate", start_event={"ticks": 20})

        async def read() -> list[str]:
            return [event.type async for event in self.events(handler)]

        readers = [asyncio.create_task(read()) for _ in range(2)]
        await self.first_event(handler)
        await self.client.send_event(handler.handler_id, {"type": "Go", "value": {"word": "now"}})
        return await asyncio.gather(*readers)

    async def human_in_the_loop(self) -> Any:
        handler = await self.client.run_workflow_nowait("approve", start_event={"name": "it"})
        seen = []
        async for event in self.events(handler):
            seen.append(self.heard(event))
            if "InputRequiredEvent" in (event.types or ()):
                answer = self.decision(response="yes")
                sent = await self.client.send_event(handler.handler_id, answer)
                seen.append(sent.status)
        return [seen, self.told(await self.until_over(handler.handler_id))]

    async def human_answers_a_waiting_step(self) -> Any:
        handler = await self.client.run_workflow_nowait("waiter")
        async for event in self.events(handler):
            if event.type == "Asked":
                answer = self.response_event(response="Dee")
                await self.client.send_event(handler.handler_id, answer)
        return self.told(await self.until_over(handler.handler_id))

    async def failing(self) -> Any:
        return await self.refusal(
            self.client.run_workflow("fails", start_event={"reason": "no luck"})
        )

    async def failing_stream(self) -> Any:
        handler = await self.client.run_workflow_nowait("fails")
        return [self.heard(event) async for event in self.events(handler)][-1][:2]

    async def timed_out(self) -> Any:
        handler = await self.client.run_workflow_nowait("dozes")
        last = [self.heard(event) async for event in self.events(handler)][-1]
        return [last, await self.refusal(self.client.get_handler(handler.handler_id))]

    async def fan_out(self) -> Any:
        return self.told(await self.client.run_workflow("fan", start_event={"count": 5}))

    async def continued_handler(self) -> Any:
        first = await self.client.run_workflow("tally")
        second = await self.client.run_workflow("tally", handler_id=first.handler_id)
        same = first.handler_id == second.handler_id and first.run_id != second.run_id
        return [same, first.result.value, second.result.value]

    async def context_is_continued(self) -> Any:
        state = {"store_type": "in_memory", "state_type": "DictState", "state_module": ""}
        state |= {"state_data": {"_data": {"runs": "41"}}}
        context = {"version": 1, "state": state}
        return self.told(await self.client.run_workflow("tally", context=context))

    async def running_handler_is_refused(self) -> Any:
        handler = await self.client.run_workflow_nowait("gate")
        again = self.client.run_workflow_nowait("gate", handler_id=handler.handler_id)
        return await self.refusal(again)

    async def cancelled(self) -> Any:
        handler = await self.client.run_workflow_nowait("gate")
        done = await self.client.cancel_handler(handler.handler_id)
        last = [self.heard(event) async for event in self.events(handler)][-1]
        found = await self.refusal(self.client.get_handler(handler.handler_id))
        again = await self.refusal(self.client.cancel_handler(handler.handler_id))
        return [done.status, last, found, again]

    async def purged(self) -> Any:
        handler = await self.client.run_workflow_nowait("gate")
        done = await self.client.cancel_handler(handler.handler_id, purge=True)
        return [done.status, await self.refusal(self.client.get_handler(handler.handler_id))]

    async def filtered_list(self) -> Any:
        handler = await self.client.run_workflow_nowait("gate")
        running = await self.client.get_handlers(status=["running"], workflow_name=["gate"])
        ids = [found.handler_id for found in running.handlers]
        others = {found.workflow_name for found in running.handlers} - {"gate"}
        over = await self.client.get_handlers(status=["completed"])
        return [
            handler.handler_id in ids,
            sorted(others),
            {found.status for found in over.handlers} == {"completed"},
            all(found.completed_at for found in over.handlers),
        ]

    async def unknown_names(self) -> Any:
        return [
            await self.refusal(self.client.run_workflow_nowait("nothing")),
            await self.refusal(self.client.get_handler("nothing")),
            await self.refusal(self.client.send_event("nothing", {"type": "Go", "value": {}})),
        ]

    async def refused_events(self) -> Any:
        handler = await self.client.run_workflow_nowait("gate")

        async def send(event: dict[str, Any], **options: Any) -> Any:
            return await self.refusal(self.client.send_event(handler.handler_id, event, **options))

        go = {"type": "Go", "value": {}}
        return [
            await send({"type": "Nothing", "value": {}}),
            await send({"type": "Progress", "value": {"done": "not a number"}}),
            await send(go, step="nothing"),
            await send(go, step="tick"),
        ]

    async def event_after_the_end(self) -> Any:
        handler = await self.client.run_workflow_nowait("greet")
        await self.until_over(handler.handler_id)
        sending = self.client.send_event(
            handler.handler_id, {"type": "Greeting", "value": {"text": ""}}
        )
        return await self.refusal(sending)

    # -- what only some can do ------------------------------------------------------------------

    async def schemas(self) -> Any:
        if self.flavour == "old":
            return None
        schema = await self.client.get_workflow_schema("checkout")
        events = await self.client.get_workflow_events_schema("checkout")
        required = schema.start["required"], sorted(schema.stop["required"])
        return [*required, sorted(event["title"] for event in events.events)]

    async def graph(self) -> Any:
        if self.flavour == "old":
            return None
        graph = (await self.client.get_workflow_graph("approve")).graph
        if self.flavour == "ours":
            nodes = {(node["id"], node["node_type"]) for node in graph["nodes"]}
            edges = {(edge["source"], edge["target"]) for edge in graph["edges"]}
            return [graph["name"], sorted(nodes), sorted(edges)]
        nodes = {(node.id, node.node_type) for node in graph.nodes}
        return [
            graph.name,
            sorted(nodes),
            sorted((edge.source, edge.target) for edge in graph.edges),
        ]

    async def resumed_stream(self) -> Any:
        if self.flavour == "old":
            return None
        handler = await self.client.run_workflow_nowait("gate", start_event={"ticks": 4})
        stream = self.client.get_workflow_events(handler.handler_id)
        numbers = []
        async for event in stream:
            numbers.append(event.value["done"])
            if len(numbers) == 2:
                break
        await stream.aclose()
        rest = self.client.get_workflow_events(
            handler.handler_id, after_sequence=stream.last_sequence
        )
        await self.client.send_event(handler.handler_id, {"type": "Go", "value": {}})
        return [numbers, [event.value.get("done") async for event in rest]]

    async def waited_for(self) -> Any:
        if self.flavour == "old":
            return None
        handler = await self.client.run_workflow_nowait("fan")
        ended = await self.client.wait_for_handler(handler.handler_id, timeout=30)
        return self.told(ended)

    # -- around a server that is killed ---------------------------------------------------------

    async def before_the_kill(self) -> Any:
        ids = {}
        for name in ("approve", "waiter", "gate", "endures"):
            handler = await self.client.run_workflow_nowait(name, start_event={})
            ids[name] = handler.handler_id
            await self.first_event(handler)
        return ids

    async def after_the_kill(self, ids: dict[str, str]) -> Any:
        send = self.client.send_event
        await send(ids["approve"], self.decision(response="go"))
        await send(ids["waiter"], self.response_event(response="Eve"))
        await send(ids["gate"], {"type": "Go", "value": {"word": "open"}})
        found = {name: self.told(await self.until_over(key)) for name, key in ids.items()}
        streams = {}
        for name, key in ids.items():
            streams[name] = [event.type async for event in self.follow(key)]
        return [found, streams]

    # -- what they share ------------------------------------------------------------------------

    def events(self, handler: Any, **options: Any) -> Any:
        return self.follow(handler.handler_id, **options)

    def follow(self, handler_id: str, **options: Any) -> Any:
        return self.client.get_workflow_events(handler_id, **options)

    async def first_event(self, handler: Any) -> Any:
        stream = self.events(handler)
        async for event in stream:
            await stream.aclose()
            return event
        return None

    async def until_over(self, handler_id: str) -> Any:
        async for _ in self.follow(handler_id):
            pass
        return await self.client.get_handler(handler_id)

    def told(self, handler: Any) -> Any:
        result = handler.result
        return [handler.status, result.type, result.value, result.types]

    def heard(self, event: Any) -> Any:
        value = {k: v for k, v in event.value.items() if k != "elapsed_seconds"}
        return [event.type, value, event.types]

    async def refusal(self, asked: Any) -> Any:
        """The status that a request is refused with; 500 stands for a run that ended badly."""
        try:
            handler = await asked
        except Exception as error:  # noqa: BLE001 - each client has its own
            response = getattr(error, "response", None)
            return getattr(response, "status_code", None) or getattr(error, "status", repr(error))
        return 500 if getattr(handler, "status", None) in ("failed", "cancelled") else handler


SCENARIOS = [
    name
    for name, found in vars(Programs).items()
    if inspect.iscoroutinefunction(found)
    and name not in ("first_event", "until_over", "refusal", "before_the_kill", "after_the_kill")
]


async def main() -> None:
    url, flavour, *rest = sys.argv[1:]
    programs = Programs(url, flavour)
    names = [rest[0]] if rest else SCENARIOS
    arguments = [json.loads(text) for text in rest[1:]]

    async def attempt(name: str) -> None:
        try:
            async with asyncio.timeout(90):
                saw = await getattr(programs, name)(*arguments)
            line = {"scenario": name, "saw": saw}
        except Exception:  # noqa: BLE001 - the line says what it was
            line = {"scenario": name, "error": traceback.format_exc()}
        print(json.dumps(line), flush=True)

    await asyncio.gather(*map(attempt, names))


if __name__ == "__main__":
    asyncio.run(main())
