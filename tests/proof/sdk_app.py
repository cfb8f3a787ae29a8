"""What the proof executes with the `ironflow-py` SDK from PyPI, in that one's own environment:
`python sdk_app.py work|register sdk-worker|sdk-asgi SERVER PORT`. The same body as in `own_app`."""

import asyncio
import os
import sys
import time

from ironflow.serve import register, serve
from ironflow.worker import Worker, function

SIDE_FILE = os.environ["PROOF_SIDE_FILE"]


def note(run_id, step):
    line = f"{run_id} {step} {os.getpid()} {time.time_ns() // 1000}\n"
    with open(SIDE_FILE, "ab", buffering=0) as file:
        file.write(line.encode())


def first_time(run_id):
    try:
        os.close(os.open(f"{SIDE_FILE}.{run_id}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def served(place):
    @function(
        id=f"proof-{place}",
        concurrency={"limit": 2, "key": "group"},
        retry={"max_attempts": 9, "initial_delay": "100ms"},
        circuit_breaker={
            "failure_threshold": 5, "open_duration": "400ms", "max_open_duration": "1s"
        },
    )  # fmt: skip
    async def body(ctx):
        order = ctx.event.data

        async def work(step, value):
            note(ctx.run.id, step)
            await asyncio.sleep(0.004)
            return value + 1

        async def flaky(value):
            note(ctx.run.id, "three")
            if order["number"] % 5 == 0 and first_time(ctx.run.id):
                raise RuntimeError("not this time")
            return value + 1

        value = await ctx.step.run("one", lambda: work("one", order["number"]))
        await ctx.step.sleep("nap", order["nap"])
        value = await ctx.step.run("two", lambda: work("two", value))
        value = await ctx.step.run("three", lambda: flaky(value))
        go = await ctx.step.wait_for_event(
            "go", event="proof.go", match="data.run", match_value=ctx.run.id, timeout="10m"
        )
        value = await ctx.step.run("four", lambda: work("four", value))
        value = await ctx.step.run("five", lambda: work("five", value))
        return [value, go.data["sum"]]

    return body


if __name__ == "__main__":
    _, verb, place, server, port = sys.argv
    if place == "sdk-worker":
        Worker(
            functions=[served(place)], server_url=server, heartbeat_interval="500ms",
            checkpoint_interval="20ms", reconnect_delay="100ms",
        ).run()  # fmt: skip
    elif verb == "work":
        import uvicorn

        app = serve([served(place)])
        uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")
    else:
        url = f"http://127.0.0.1:{port}/"
        asyncio.run(register([served(place)], endpoint_url=url, server_url=server))
        os._exit(0)  # its HTTP client may abort the interpreter on its way out
