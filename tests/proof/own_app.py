"""What the proof executes with our own SDK:
`python own_app.py work|register worker|aiohttp|flask SERVER PORT`.

Each execution of a step leaves a line in a side file, so that a test can tell what really ran,
whatever the journal says."""

import asyncio
import os
import sys
import time
from typing import Any

from ironflow import Context, Endpoint, Worker, function
from ironflow.core.remote.breaker import BreakerPolicy

SIDE_FILE = os.environ["PROOF_SIDE_FILE"]


def note(run_id: str, step: str) -> None:
    """Append one line, atomically."""
    line = f"{run_id} {step} {os.getpid()} {time.time_ns() // 1000}\n"
    with open(SIDE_FILE, "ab", buffering=0) as file:
        file.write(line.encode())


def first_time(run_id: str) -> bool:
    """Whether this was never asked of the run before, by any process."""
    try:
        os.close(os.open(f"{SIDE_FILE}.{run_id}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


async def body(ctx: Context, order: dict[str, Any]) -> list[Any]:
    """Five steps with a sleep and a wait between them; of one run in five a step fails once."""

    async def work(step: str, value: int) -> int:
        note(ctx.run_id, step)
        await asyncio.sleep(0.004)
        return value + 1

    async def flaky(value: int) -> int:
        note(ctx.run_id, "three")
        if order["number"] % 5 == 0 and first_time(ctx.run_id):
            raise RuntimeError("not this time")
        return value + 1

    value = await ctx.step.run("one", work, "one", order["number"])
    await ctx.step.sleep("nap", order["nap"])
    value = await ctx.step.run("two", work, "two", value)
    value = await ctx.step.run(
        "three", flaky, value, retry={"max_attempts": 9, "initial_delay": 0.05}
    )
    go = await ctx.step.wait_for_event(
        "go", "proof.go", match={"data.run": ctx.run_id}, timeout="10m"
    )
    value = await ctx.step.run("four", work, "four", value)
    value = await ctx.step.run("five", work, "five", value)
    return [value, go.data["sum"]]


def served(place: str) -> Any:
    """The function of a place: two lanes, one of them by a key."""
    limits = [{"limit": 6}, {"limit": 2, "key": "data.group"}]
    options = {"concurrency": limits, "retry": {"max_attempts": 9, "initial_delay": 0.1}}
    return function(id=f"proof-{place}", **options)(body)


def main(place: str, server: str, port: int) -> None:
    """Work or serve until killed."""
    made = served(place)
    if place == "worker":
        Worker(server, functions=[made], concurrency=10, heartbeat=0.5).run()
        return
    endpoint = Endpoint([made], signing_key="proof-key", budget=2.0)
    if place == "aiohttp":
        from aiohttp import web

        app = web.Application(client_max_size=2**25)
        app.router.add_route("*", "/ironflow", endpoint.aiohttp)
        web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)
    else:
        import logging

        from flask import Flask
        from werkzeug.middleware.dispatcher import DispatcherMiddleware
        from werkzeug.serving import run_simple

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        wsgi = DispatcherMiddleware(Flask("proof").wsgi_app, {"/ironflow": endpoint.wsgi})
        run_simple("127.0.0.1", port, wsgi, threaded=True)


def register(place: str, server: str, port: int) -> None:
    """Tell the server where an endpoint is. An outage is over quickly here."""
    endpoint = Endpoint([served(place)], signing_key="proof-key")
    breaker = BreakerPolicy(failures=5, open_for=0.4, longest=1.0)
    url = f"http://127.0.0.1:{port}/ironflow"
    asyncio.run(endpoint.register(url, server, timeout=4.0, concurrency=8, breaker=breaker))


if __name__ == "__main__":
    _, verb, place, server, port = sys.argv
    (register if verb == "register" else main)(place, server, int(port))
