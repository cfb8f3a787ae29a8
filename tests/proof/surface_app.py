"""Everything that the `ironflow-py` SDK offers to a function, in that one's own environment:
`python surface_app.py pull|push|register SERVER PORT`. What happens outside of steps' results is
noted in a file, a line each."""

import asyncio
import os
import sys
import time
from datetime import UTC, datetime, timedelta

from ironflow.serve import register, serve
from ironflow.worker import (
    InvokeError,
    NonRetryableError,
    RetryAfterError,
    StepError,
    Worker,
    function,
)

FILE = os.environ["PROOF_SIDE_FILE"]
FAIL = {"max_attempts": 2, "initial_delay": "20ms", "on_exhausted": "fail"}
MADE = []


def note(run_id, what):
    with open(FILE, "ab", buffering=0) as file:
        file.write(f"{run_id} {what}\n".encode())


def noted(run_id, what):
    with open(FILE) as file:
        return sum(line.split(" ", 1) == [run_id, f"{what}\n"] for line in file)


def add(**options):
    def wrap(handler):
        made = function(**options)(handler)
        MADE.append(made)
        return made

    return wrap


@add(id="steps", triggers=[{"event": "surface.steps", "expression": "event.data.wanted"}])
async def steps(ctx):
    step, n = ctx.step, ctx.event.data["n"]
    plain = await step.run("plain", lambda: {"n": n, "text": "ü", "big": 2**53 + 1})
    blocking = await step.run("blocking", lambda: time.sleep(0.001) or "slept")
    awaited = await step.run("odd:name\\here", lambda: asyncio.sleep(0, [1, None, 2.5]))
    twice = [await step.run("twice", lambda i=i: i) for i in range(2)]
    await step.sleep("nap", "20ms")
    moment = datetime.now(UTC) + timedelta(milliseconds=200)
    if not noted(ctx.run.id, "slept until"):
        await step.sleep_until("until", moment)
        note(ctx.run.id, "slept until")
    return [plain, blocking, awaited, twice, ctx.event.name, ctx.event.source, ctx.run.attempt]


@add(id="branches")
async def branches(ctx):
    async def one(step):
        await step.sleep("nap", "10ms")
        return await step.run("leaf", lambda: "one")

    async def bad(step):
        raise ValueError("a branch failed")

    first = await ctx.step.parallel("block", [one, one], concurrency=1)
    mapped = await ctx.step.map(
        "items", [1, 2, 3], lambda item, step, index: step.run("leaf", lambda: item * 10 + index)
    )
    collected = await ctx.step.parallel("collect", [one, bad], on_error="collect")
    return [first, mapped, collected[0], str(collected[1])]


@add(id="hears")
async def waits(ctx):
    own = await ctx.step.wait_for_event("own", event="surface.go", match="data.id", timeout="5m")
    told = await ctx.step.wait_for_event(
        "told", event="surface.go", match="data.other", match_value="7", timeout="5m"
    )
    return [own.name, own.data["id"], own.source, bool(own.id), told.data, str(own.timestamp)[:2]]


@add(id="waits-in-vain", retry=FAIL)
async def waits_in_vain(ctx):
    await ctx.step.wait_for_event("never", event="surface.never", timeout="50ms")


@add(id="child")
async def child(ctx):
    return await ctx.step.run("square", lambda: ctx.event.data["n"] ** 2)


@add(id="bad-child", retry=FAIL)
async def bad_child(ctx):
    raise NonRetryableError("no such order", code="NO_ORDER")


@add(id="slow-child")
async def slow_child(ctx):
    await ctx.step.sleep("long", "10m")


@add(id="parent")
async def parent(ctx):
    found = [await ctx.step.invoke("child", {"n": 5})]
    for name, timeout in (("bad-child", "30s"), ("nobody", "30s"), ("slow-child", "60ms")):
        try:
            found.append(await ctx.step.invoke(name, {"n": 1}, timeout=timeout))
        except InvokeError as error:
            found.append([error.function_id, bool(error.child_run_id), error.retryable])
    started = await ctx.step.invoke_async("child", {"n": 6})
    return [*found, started.run_id]


@add(id="saga", retry=FAIL)
async def saga(ctx):
    for name in ("flight", "hotel", "car"):
        await ctx.step.run(name, lambda name=name: note(ctx.run.id, f"book {name}"))
        undo = lambda name=name: note(ctx.run.id, f"undo {name}")  # noqa: E731
        ctx.step.compensate(name, undo if name != "hotel" else lambda: 1 / 0)
    if ctx.event.data["how"] == "at once":
        raise NonRetryableError("sold out", code="SOLD_OUT")
    raise RuntimeError("try again")


@add(id="exhausted", retry={"max_attempts": 2, "initial_delay": "20ms"})
async def exhausted(ctx):
    await ctx.step.run("kept", lambda: note(ctx.run.id, "kept"))
    if noted(ctx.run.id, "mended") == 0:
        note(ctx.run.id, "tried")
        raise RuntimeError("still broken")
    return "mended"


@add(id="retries", retry={"max_attempts": 5, "initial_delay": "10m"})
async def retries(ctx):
    def flaky():
        note(ctx.run.id, "flaky")
        if noted(ctx.run.id, "flaky") < 3:
            raise RetryAfterError("not yet", "30ms")
        return "at last"

    first = await ctx.step.run("first", lambda: note(ctx.run.id, "first") or 1)
    return [first, await ctx.step.run("flaky", flaky), ctx.run.attempt, ctx.run.max_attempts]


@add(id="too-slow", retry={**FAIL, "max_attempts": 1}, step_timeout="30ms")
async def too_slow(ctx):
    try:
        await ctx.step.run("slow", lambda: asyncio.sleep(60))
    except StepError as error:  # pragma: no cover - a time-out has a class of its own
        raise AssertionError from error


def positive(data):
    if data["n"] < 0:
        raise ValueError("n is negative")
    return {"n": data["n"] * 100}


@add(id="schema", schema=positive)
async def schema(ctx):
    return ctx.event.data


@add(id="cancelled", cancel_on=[{"event": "surface.drop", "match": "data.id"}])
async def cancelled(ctx):
    await ctx.step.run("before", lambda: note(ctx.run.id, "before"))
    await ctx.step.wait_for_event("go", event="surface.go", match="data.id", timeout="5m")
    await ctx.step.run("after", lambda: note(ctx.run.id, "after"))


@add(id="long")
async def long(ctx):
    async def work(name):
        note(ctx.run.id, name)
        while not noted(ctx.run.id, f"{name} may end"):  # noqa: ASYNC110 - a file cannot tell
            await asyncio.sleep(0.01)
        return name

    done = [await ctx.step.run(name, lambda name=name: work(name)) for name in ("a", "b", "c")]
    return [*done, ctx.run.attempt]


@add(id="unencodable", retry=FAIL)
async def unencodable(ctx):
    return await ctx.step.run("set", lambda: {1, 2})


def never(data):
    raise ValueError("a cron run is not checked")


@add(id="every-minute", triggers=[{"cron": "* * * * *"}], schema=never)
async def every_minute(ctx):
    note("cron", "ran")
    return [ctx.event.source, ctx.event.name]


if __name__ == "__main__":
    _, mode, server, port = sys.argv
    if mode == "pull":
        Worker(
            functions=MADE, server_url=server, heartbeat_interval="500ms",
            checkpoint_interval="10ms", reconnect_delay="100ms",
        ).run()  # fmt: skip
    elif mode == "push":
        import uvicorn

        uvicorn.run(serve(MADE), host="127.0.0.1", port=int(port), log_level="warning")
    else:
        url = f"http://127.0.0.1:{port}/"
        asyncio.run(register(MADE, endpoint_url=url, server_url=server))
        os._exit(0)  # its HTTP client may abort the interpreter on its way out
