"""Endpoints and the server that calls them, killed with SIGKILL at random instants: every run ends
right, and no finished step runs again.
"""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from crash.conftest import HERE, ServerProcess
from crash.test_kill import RUNS, Client, check_journal, expected
from crash.test_workers import WorkerProcess, crew_wait, wait_for_function

APP = str(HERE / "endpoint_app.py")


@pytest.fixture
def pushing_server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that may call endpoints on this machine; not started yet."""
    options = ["--push-networks", "127.0.0.0/8", "--signing-key", "crash-key"]
    made = ServerProcess(tmp_path, None, *options)
    made.options = (*options, "--public-url", f"http://127.0.0.1:{made.port}")
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait()


@pytest.fixture
def crew() -> Iterator[list[WorkerProcess]]:
    """Whatever is put in here does not outlive the test."""
    endpoints: list[WorkerProcess] = []
    yield endpoints
    for endpoint in endpoints:
        if endpoint.process is not None and endpoint.process.poll() is None:
            endpoint.process.kill()
            endpoint.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_up(server: ServerProcess, endpoint: WorkerProcess, port: int) -> None:
    while True:
        endpoint.check()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ironflow", timeout=5):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            crew_wait(0.05, server)


@pytest.mark.parametrize("framework", ["aiohttp", "flask", "asgi"])
def test_endpoints_and_server_are_killed_at_random_instants(
    pushing_server: ServerProcess, crew: list[WorkerProcess], framework: str
) -> None:
    server, rng, port = pushing_server, random.Random(framework), free_port()
    server.start()
    crew.append(WorkerProcess(server, [sys.executable, APP, framework, str(port)]))
    crew[0].start()
    wait_until_up(server, crew[0], port)
    url = f"http://127.0.0.1:{port}/ironflow"
    line = [sys.executable, APP, "register", url, f"http://127.0.0.1:{server.port}"]
    done = subprocess.run(
        line, env=crew[0].environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    client = Client(server)
    client.start()
    try:
        for victim in (0, 1, 0, 1):
            client.stopped.wait(rng.uniform(0.2, 0.8))
            if victim:
                server.kill()
                server.start()
            else:
                crew[0].kill()
                crew[0].start()
                wait_until_up(server, crew[0], port)
        client.join(90)
        assert len(client.acknowledged) == RUNS
        for breaker in server.get("/api/v1/circuit-breakers")["items"]:
            key = urllib.request.quote(breaker["key"], safe="")
            server.post(f"/api/v1/circuit-breakers/{key}/reset", {})
        for number, run_id in client.acknowledged.items():
            ended = server.get(f"/api/v1/runs/{run_id}/result?wait=60s")
            assert ended["status"] == "completed", (run_id, ended)
            assert ended["result"] == expected(number)
    finally:
        client.stopped.set()
    assert server.stop() == 0
    check_journal(server.db)


def ironflow(server: ServerProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, for this server."""
    line = [sys.executable, "-m", "ironflow", *arguments]
    line += ["--server", f"http://127.0.0.1:{server.port}"]
    return subprocess.run(line, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("framework", ["aiohttp", "flask", "asgi"])
def test_the_server_registers_what_an_endpoint_serves(
    tmp_path: Path, crew: list[WorkerProcess], framework: str
) -> None:
    # Keys are being rotated: the endpoint has only the old one.
    options = ["--push-networks", "127.0.0.0/8", "--signing-key", "new-key", "--signing-key-id"]
    server = ServerProcess(tmp_path, None, *options, "2026-11", "--old-signing-key", "crash-key")
    try:
        server.start()
        port = free_port()
        crew.append(WorkerProcess(server, [sys.executable, APP, framework, str(port)]))
        crew[0].start()
        wait_until_up(server, crew[0], port)
        url = f"http://127.0.0.1:{port}/ironflow"
        dry = ironflow(server, "endpoints", "add", url, "--dry-run", "--json")
        assert {one["change"] for one in json.loads(dry.stdout)["differences"]} == {"new"}
        assert ironflow(server, "endpoints", "ls", "--json").stdout == ""
        assert ironflow(server, "endpoints", "add", url, "--concurrency", "3").returncode == 0
        listed = json.loads(ironflow(server, "endpoints", "ls", "--json").stdout)
        assert listed["url"] == url
        assert {(f["id"], f["concurrency"], f["breaker"]) for f in listed["functions"]} == {
            ("mixed", 3, "closed"), ("child", 3, "closed"),
        }  # fmt: skip
        run_id = server.post("/api/v1/functions/child/invoke", {"input": 1})["run_id"]
        assert server.get(f"/api/v1/runs/{run_id}/result?wait=60s")["status"] == "completed"
        checked = ironflow(server, "endpoints", "check")
        assert (checked.returncode, "is as registered" in checked.stdout) == (0, True)
        refused = ironflow(server, "endpoints", "add", "http://10.1.2.3/ironflow")
        assert (refused.returncode, "not a public address" in refused.stderr) == (2, True)
        crew[0].kill()
        gone = ironflow(server, "endpoints", "sync")
        assert (gone.returncode, "cannot be reached" in gone.stderr) == (1, True)
        assert server.stop() == 0
    finally:
        if server.process is not None and server.process.poll() is None:
            server.process.kill()
            server.process.wait()


FOREIGN = """
import asyncio, os, sys
from ironflow.serve import register, serve
from ironflow.worker import function

@function(id="foreign-push", triggers=[{"event": "foreign.push"}])
async def foreign(ctx):
    one = await ctx.step.run("one", lambda: ctx.event.data["n"] + 1)
    await ctx.step.sleep("nap", "50ms")
    go = await ctx.step.wait_for_event("go", event="foreign.go", match="data.n", timeout="5m")
    kid = await ctx.step.invoke("foreign-kid", {"n": one})
    return [one, go.data["sum"], kid]

@function(id="foreign-kid")
async def kid(ctx):
    return await ctx.step.run("square", lambda: ctx.event.data["n"] ** 2)

if sys.argv[1] == "register":
    asyncio.run(register([foreign, kid], endpoint_url=sys.argv[2], server_url=sys.argv[3]))
    os._exit(0)  # its HTTP client may abort the interpreter on its way out
else:
    import uvicorn
    uvicorn.run(serve([foreign, kid]), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""


def test_the_unmodified_sdk_is_called(
    pushing_server: ServerProcess,
    crew: list[WorkerProcess],
    peer_python: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    server, port = pushing_server, free_port()
    script = tmp_path / "foreign.py"
    script.write_text(FOREIGN)
    python = str(peer_python("ironflow-py"))
    server.start()
    endpoint = WorkerProcess(
        server, [python, str(script), str(port)], IRONFLOW_SIGNING_KEY="crash-key"
    )
    crew.append(endpoint)
    endpoint.start()
    wait_until_up(server, crew[0], port)
    line = [python, str(script), "register", f"http://127.0.0.1:{port}/",
            f"http://127.0.0.1:{server.port}"]  # fmt: skip
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    wait_for_function(server, crew, "foreign-push")
    emitted = server.post("/api/v1/events", {"name": "foreign.push", "data": {"n": 4}})
    (run_id,) = emitted["run_ids"]
    while "go:0" not in {s["key"] for s in server.get(f"/api/v1/runs/{run_id}/steps")["items"]}:
        crew_wait(0.05, server)
    endpoint.kill()
    server.kill()
    server.start()
    endpoint.start()
    wait_until_up(server, crew[0], port)
    server.post("/api/v1/events", {"name": "foreign.go", "data": {"n": 4, "sum": 9}})
    ended = server.get(f"/api/v1/runs/{run_id}/result?wait=60s")
    assert (ended["status"], ended["result"]) == ("completed", [5, 9, 25]), ended
    assert server.stop() == 0
    check_journal(server.db)
