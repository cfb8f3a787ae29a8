"""Calls every method that is served with the unmodified SDK's clients, and prints one line of JSON:
what was answered, by method. Arguments: the server's URL, and `sync` or `async`.
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import os
import sys
from typing import Any

from ironflow.rpc import AsyncIronflowRPC, IronflowRPC, IronflowRPCError, v1

URL, MODE = sys.argv[1:3]
ANSWERS: dict[str, Any] = {}


class Client:
    """One of the two clients; a call is a method, the name of its request, and JSON."""

    def __init__(self) -> None:
        self.rpc = (IronflowRPC if MODE == "sync" else AsyncIronflowRPC)(URL, api_key="ifkey_none")

    def bind(self, path: str, kind: str, message: dict[str, Any], **options: Any) -> Any:
        namespace, _, name = path.partition(".")
        request = getattr(v1, kind).from_json(json.dumps(message))
        return getattr(getattr(self.rpc, namespace), name)(request, **options)

    async def call(self, path: str, kind: str, message: Any = None, **options: Any) -> Any:
        try:
            answer = self.bind(path, kind, message or {}, **options)
            if inspect.isawaitable(answer):
                answer = await answer
            told = json.loads(answer.to_json()) if hasattr(answer, "to_json") else None
        except IronflowRPCError as error:
            told = {"error": error.code}
        ANSWERS.setdefault(path, []).append(told)
        return told

    async def first(self, number: int, message: dict[str, Any], **options: Any) -> list[Any]:
        """The first messages of a subscription, or the error that ends it."""
        found: list[Any] = []
        stream = self.bind("pubsub.subscribe", "SubscribeRequest", message, **options)
        try:
            if MODE == "sync":
                for event in stream:
                    found.append(json.loads(event.to_json()))
                    if len(found) == number:
                        break
                stream.close()
            else:
                async for event in stream:
                    found.append(json.loads(event.to_json()))
                    if len(found) == number:
                        break
                await stream.aclose()
        except IronflowRPCError as error:
            found.append({"error": error.code})
        return found


async def main() -> None:
    client = Client()
    call = client.call
    await functions(call)
    await events(client)
    await runs(call)
    for path, kind in (
        ("pubsub.list_topics", "ListTopicsRequest"),
        ("projections.list", "ListProjectionsRequest"),
        ("webhooks.list_sources", "ListWebhookSourcesRequest"),
        ("streams.list_streams", "ListStreamsRequest"),
        ("query.execute_sql", "ExecuteSQLRequest"),
    ):
        await call(path, kind)
    closing = client.rpc.close() if MODE == "sync" else client.rpc.aclose()
    if inspect.isawaitable(closing):
        await closing
    print(json.dumps(ANSWERS))


async def functions(call: Any) -> None:
    pull = {"id": f"sdk-{MODE}", "preferredMode": "EXECUTION_MODE_PULL", "metadata": {"n": 1}}
    await call("functions.register", "RegisterFunctionRequest", pull)
    await call("functions.register", "RegisterFunctionRequest", pull)
    await call("functions.register", "RegisterFunctionRequest", pull | {"name": "other"})
    one = {"id": pull["id"]}
    await call("functions.get", "GetFunctionRequest", one)
    await call("functions.get", "GetFunctionRequest", {"id": "nothing"})
    await call("functions.list", "ListFunctionsRequest", {"name": "sdk-"})
    status = one | {"status": "FUNCTION_STATUS_PAUSED"}
    await call("functions.update_status", "UpdateFunctionStatusRequest", status)
    back = {"functionId": pull["id"], "version": "1", "changeReason": "back"}
    await call("functions.rollback", "RollbackFunctionRequest", back)
    await call("functions.list_history", "ListFunctionHistoryRequest", {"functionId": pull["id"]})
    at = {"functionId": pull["id"], "version": "2"}
    await call("functions.get_at_version", "GetFunctionAtVersionRequest", at)
    await call("functions.delete", "DeleteFunctionRequest", one)
    await call(
        "functions.invoke", "InvokeFunctionRequest", {"functionId": "double", "dataValue": 4}
    )


async def events(client: Client) -> None:
    event = {"event": "rpc.go", "data": {"n": 3}, "idempotencyKey": f"k-{MODE}"}
    await client.call("events.emit", "TriggerRequest", event)
    await client.call("events.emit", "TriggerRequest", event)
    await client.call("runs.trigger", "TriggerRequest", event)
    await client.call("pubsub.emit", "EmitRequest", {"event": "rpc.other", "dataValue": [1]})
    batch = {"events": [{"event": "rpc.go", "data": {"n": 1}}, {"event": "not a name"}]}
    await client.call("runs.trigger_batch", "TriggerBatchRequest", batch)
    sync = {"event": "rpc.go", "data": {"n": 21}, "timeoutMs": 20000}
    await client.call("runs.trigger_sync", "TriggerSyncRequest", sync)
    query = {"pattern": "events:rpc.*", "options": {"startAfterSequence": "0"}}
    ANSWERS["pubsub.subscribe"] = [
        await client.first(2, query),
        await client.first(1, {"pattern": "events:quiet.*"}, timeout=0.3),
        await client.first(1, {"pattern": "nothing"}),
    ]


async def runs(call: Any) -> None:
    invoked = {"functionId": "double", "data": {"n": 5}, "timeoutMs": 20000}
    ended = await call("runs.invoke_function_sync", "InvokeFunctionSyncRequest", invoked)
    run_id = ended["result"]["runId"]
    await call("runs.get", "GetRunRequest", {"id": run_id})
    await call("runs.list", "ListRunsRequest", {"functionId": "double", "limit": 2})
    await call("runs.get_steps", "GetRunStepsRequest", {"runId": run_id})
    await call("time_travel.get_run_state_at", "GetRunStateAtRequest", {"runId": run_id})
    await call("time_travel.get_run_timeline", "GetRunTimelineRequest", {"runId": run_id})
    step = {"runId": run_id, "stepId": "double"}
    await call("time_travel.get_step_output_at", "GetStepOutputAtRequest", step)
    await call("audit.get_trail", "GetAuditTrailRequest", {"runId": run_id})
    await call("runs.cancel", "CancelRunRequest", {"id": run_id})
    await call("runs.delete", "DeleteRunRequest", {"id": run_id})
    waiting = (await call("functions.invoke", "InvokeFunctionRequest", {"functionId": "hold"}))[
        "runId"
    ]
    for _ in range(500):
        if (await call("runs.pause", "PauseRunRequest", {"runId": waiting}))["status"] == "paused":
            break
        await asyncio.sleep(0.02)
    state = await call("runs.get_paused_state", "GetPausedStateRequest", {"runId": waiting})
    output = base64.b64encode(b'{"by": "hand"}').decode()
    change = {"runId": waiting, "stepId": state["steps"][0]["id"], "newOutput": output}
    await call("runs.inject_step_output", "InjectStepOutputRequest", change)
    patch = {"stepId": state["steps"][0]["id"], "outputValue": 9, "reason": "patched"}
    await call("runs.patch_step", "PatchStepRequest", patch)
    await call("runs.resume", "ResumeRunRequest", {"runId": waiting})
    await call("runs.cancel", "CancelRunRequest", {"id": waiting, "reason": "enough"})
    await call("runs.delete_many", "DeleteRunsRequest", {"functionId": "hold"})
    await call("runs.redact", "RedactRunRequest", {"runId": run_id})


asyncio.run(main())
# The SDK's HTTP client has threads of its own. One that lets go of a Python object while the
# interpreter ends aborts it, after all was answered.
sys.stdout.flush()
os._exit(0)
