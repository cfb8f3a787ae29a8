"""Workers and their server, killed with SIGKILL at random instants: every run ends right, and no
finished step runs again.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from crash.conftest import HERE, ServerProcess
from crash.test_kill import RUNS, Client, check_journal, check_side_file, expected

HEARTBEAT = 0.4


class WorkerProcess:
    """A worker that a test may kill and start again."""

    def __init__(self, server: ServerProcess, line: list[str], **environment: str) -> None:
        self.server, self.line = server, line
        self.environment = {
            **os.environ,
            "CRASH_SIDE_FILE": str(server.side_file),
            "IRONFLOW_SERVER_URL": f"http://127.0.0.1:{server.port}",
            **environment,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.server.folder / "workers.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.line, cwd=self.server.folder, env=self.environment, stdout=log, stderr=log
            )

    def check(self) -> None:
        """Fail, with what it said, if it has ended by itself."""
        if self.process is not None and (code := self.process.poll()) is not None:
            said = (self.server.folder / "workers.log").read_text(errors="replace")
            pytest.fail(f"{self.line} ended by itself with {code}:\n{said[-4000:]}")

    def kill(self, number: int = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture
def bare_server(tmp_path: Path) -> Iterator[ServerProcess]:
    """Serves nothing itself; not started yet."""
    made = ServerProcess(tmp_path, None, "--worker-lease", "2s")
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait()


@pytest.fixture
def crew(bare_server: ServerProcess) -> Iterator[list[WorkerProcess]]:
    """Whatever is put in here does not outlive the test."""
    workers: list[WorkerProcess] = []
    yield workers
    for worker in workers:
        if worker.process is not None and worker.process.poll() is None:
            worker.process.kill()
            worker.process.wait()


def our_worker(server: ServerProcess) -> WorkerProcess:
    line = [sys.executable, "-m", "ironflow", "worker", str(HERE / "kill_app.py")]
    return WorkerProcess(server, [*line, "--heartbeat", f"{HEARTBEAT}s"])


@pytest.mark.parametrize("seed", [1, 2])
def test_workers_and_server_are_killed_at_random_instants(
    bare_server: ServerProcess, crew: list[WorkerProcess], seed: int
) -> None:
    server, rng = bare_server, random.Random(seed)
    server.start()
    crew += [our_worker(server), our_worker(server)]
    for worker in crew:
        worker.start()
    wait_for_function(server, crew, "mixed")
    client, servers = Client(server), 1
    client.start()
    try:
        for _ in range(6):
            client.stopped.wait(rng.uniform(0.1, 0.8))
            victim = rng.randrange(3)
            if victim == 2:
                server.kill()
                server.start()
                servers += 1
            else:
                crew[victim].kill()
                crew[victim].start()
        client.join(90)
        assert len(client.acknowledged) == RUNS
        for number, run_id in client.acknowledged.items():
            ended = server.get(f"/api/v1/runs/{run_id}/result?wait=60s")
            assert ended["status"] == "completed", (run_id, ended)
            assert ended["result"] == expected(number)
    finally:
        client.stopped.set()
    for worker in crew:
        # One that was just started again may not listen to it yet.
        assert worker.kill(signal.SIGTERM) in (0, -signal.SIGTERM)
    assert server.stop() == 0
    check_journal(server.db)
    check_side_file(server.db, server.side_file, servers)


FOREIGN = """
import asyncio, os, time
from ironflow.worker import Worker, function

def note(ctx, step):
    with open(os.environ["CRASH_SIDE_FILE"], "ab", buffering=0) as file:
        file.write(f"{ctx.run.id} {step} {os.getpid()} {time.time_ns() // 1000}\\n".encode())

@function(id="foreign", retry={"max_attempts": 5, "initial_delay": "50ms"})
async def foreign(ctx):
    async def work(step, value):
        note(ctx, step)
        return value + 1

    value = ctx.event.data["number"]
    for index in range(3):
        value = await ctx.step.run(f"chain{index}", lambda: work(f"chain{index}", value))
    await ctx.step.sleep("nap", "50ms")
    halves = await ctx.step.map(
        "branches", [1, 2], lambda item, step, index: step.run("leaf", lambda: work("leaf", item)))
    go = await ctx.step.wait_for_event("go", event="foreign.go", match="data.number", timeout="5m")
    child = await ctx.step.invoke("foreign-child", {"number": value}, timeout="60s")
    return [value, halves, go.data["sum"], child]

@function(id="foreign-child")
async def child(ctx):
    return await ctx.step.run("square", lambda: ctx.event.data["number"] ** 2)

Worker(functions=[foreign, child], heartbeat_interval="500ms", checkpoint_interval="20ms",
       reconnect_delay="100ms").run()
"""


def test_the_unmodified_sdk_works_through_kills(
    bare_server: ServerProcess,
    crew: list[WorkerProcess],
    peer_python: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    server, rng = bare_server, random.Random(7)
    script = tmp_path / "foreign.py"
    script.write_text(FOREIGN)
    server.start()
    line = [str(peer_python("ironflow-py")), str(script)]
    crew += [WorkerProcess(server, line), WorkerProcess(server, line)]
    for worker in crew:
        worker.start()
    ids = start_foreign(server, crew)
    for victim in (0, 2, 1, 0):
        crew_wait(rng.uniform(0.3, 0.9), server)
        if victim == 2:
            server.kill()
            server.start()
        else:
            crew[victim].kill()
            crew[victim].start()
    for number, run_id in ids.items():
        while "go:0" not in {s["key"] for s in server.get(f"/api/v1/runs/{run_id}/steps")["items"]}:
            crew_wait(0.05, server)
        server.post("/api/v1/events", {"name": "foreign.go", "data": {"number": number, "sum": 9}})
    for number, run_id in ids.items():
        ended = server.get(f"/api/v1/runs/{run_id}/result?wait=60s")
        assert ended["status"] == "completed", (run_id, ended, server.get(f"/api/v1/runs/{run_id}"))
        assert ended["result"] == [number + 3, [2, 3], 9, (number + 3) ** 2]
    for worker in crew:
        worker.kill(signal.SIGTERM)
    assert server.stop() == 0
    check_journal(server.db)


def start_foreign(server: ServerProcess, crew: Iterable[WorkerProcess]) -> dict[int, str]:
    """Runs of the foreign function, once a worker has registered it."""
    ids: dict[int, str] = {}
    wait_for_function(server, crew, "foreign")
    while len(ids) < 10:
        body: dict[str, Any] = {"input": {"number": len(ids)}}
        answer = server.post("/api/v1/functions/foreign/invoke", body)
        ids[len(ids)] = str(answer["run_id"])
    return ids


def wait_for_function(
    server: ServerProcess, crew: Iterable[WorkerProcess], function_id: str
) -> None:
    """Until one of the workers has registered it; a worker that ends before that fails the test,
    with what it said.
    """
    while function_id not in {f["id"] for f in server.get("/api/v1/functions")["items"]}:
        for worker in crew:
            worker.check()
        crew_wait(0.05, server)


def crew_wait(seconds: float, server: ServerProcess) -> None:
    """A pause between two kills; the server's own process is what could end it early."""
    assert server.process is not None
    try:
        server.process.wait(seconds)
    except subprocess.TimeoutExpired:
        return
    pytest.fail("the server ended by itself")


THROTTLED = """
from ironflow.worker import Worker, function

@function(id="foreign", concurrency={"limit": 2, "key": "data.org"},
          throttle={"limit": 3, "period": "1s", "key": "data.org"})
async def foreign(ctx):
    return await ctx.step.run("work", lambda: ctx.event.data["n"])

Worker(functions=[foreign], heartbeat_interval="500ms").run()
"""


def test_the_unmodified_sdk_is_throttled(
    bare_server: ServerProcess,
    crew: list[WorkerProcess],
    peer_python: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    server = bare_server
    script = tmp_path / "throttled.py"
    script.write_text(THROTTLED)
    server.start()
    crew.append(WorkerProcess(server, [str(peer_python("ironflow-py")), str(script)]))
    crew[0].start()
    wait_for_function(server, crew, "foreign")
    shown = server.get("/api/v1/functions/foreign")["flow_control"]
    assert shown["throttle"] == {"limit": 3, "period": 1.0, "key": "data.org"}
    path = "/api/v1/functions/foreign/invoke"
    bodies = [{"input": {"org": "a", "n": number}} for number in range(7)]
    ids = [server.post(path, body)["run_id"] for body in bodies]
    lost = server.post(path, {"input": {"n": 9}})["run_id"]
    runs = [server.get(f"/api/v1/runs/{run_id}/result?wait=60s") for run_id in ids]
    assert [run["result"] for run in runs] == list(range(7))
    begun = [server.get(f"/api/v1/runs/{run_id}")["started_at"] for run_id in ids]
    moments = sorted(map(datetime.fromisoformat, begun))
    for first, last in zip(moments, moments[3:], strict=False):
        assert last - first >= timedelta(seconds=1)
    failed = server.get(f"/api/v1/runs/{lost}/result?wait=60s")
    assert failed["error"]["code"] == "THROTTLE_KEY_UNRESOLVED"


def test_a_supervisor_keeps_its_workers_alive_and_ends_with_them(
    bare_server: ServerProcess, crew: list[WorkerProcess]
) -> None:
    server = bare_server
    server.start()
    line = [sys.executable, "-m", "ironflow", "worker", str(HERE / "kill_app.py")]
    line += ["--processes", "2", "--id", "pair", "--heartbeat", f"{HEARTBEAT}s"]
    watcher = WorkerProcess(server, line)
    crew.append(watcher)
    watcher.start()
    assert wait_for_crew(server, 2) == {"pair-1", "pair-2"}
    before = workers_of(watcher)
    assert len(before) == 2
    victim = before.pop()
    os.kill(victim, signal.SIGKILL)
    log = server.folder / "workers.log"
    while b"was killed by SIGKILL; again in" not in log.read_bytes():
        crew_wait(0.05, server)
    while len(workers_of(watcher) - {victim}) < 2:
        crew_wait(0.05, server)
    assert wait_for_crew(server, 2) == {"pair-1", "pair-2"}
    lines = log.read_text().splitlines()
    assert {line[:4] for line in lines if "runs 2 function(s)" in line} == {"[1] ", "[2] "}
    # SIGTERM drains all of them.
    left = workers_of(watcher)
    assert watcher.kill(signal.SIGTERM) == 0
    assert not [pid for pid in left if is_alive(pid)]
    wait_for_crew(server, 0)
    # And nobody is left behind by one that is killed.
    watcher.start()
    wait_for_crew(server, 2)
    left = workers_of(watcher)
    watcher.kill()
    while any(is_alive(pid) for pid in left):
        crew_wait(0.05, server)
    wait_for_crew(server, 0)
    assert server.stop() == 0


def test_a_cancel_reaches_a_process_of_a_worker_and_each_rung_is_told(
    bare_server: ServerProcess, crew: list[WorkerProcess], tmp_path: Path
) -> None:
    server, script, pids = bare_server, tmp_path / "deaf.py", tmp_path / "pids"
    script.write_text(DEAF)
    server.start()
    line = [sys.executable, "-m", "ironflow", "worker", str(script), "--cancel-grace", "300ms"]
    worker = WorkerProcess(server, [*line, "--id", "wharf"], PIDS=str(pids))
    crew.append(worker)
    worker.start()
    wait_for_function(server, crew, "deaf")
    run_id = server.post("/api/v1/functions/deaf/invoke", {})["run_id"]
    while not pids.exists() or not pids.read_text():
        crew_wait(0.05, server)
    (pid,) = [int(word) for word in pids.read_text().split()]
    server.post(f"/api/v1/runs/{run_id}/cancel", {})
    ended = server.get(f"/api/v1/runs/{run_id}/result?wait=60s")
    assert ended["status"] == "cancelled"
    assert not is_alive(pid)
    told = server.get(f"/api/v1/runs/{run_id}")["cancel"]
    assert [text.partition(", at ")[0] for text in told] == [
        "worker wharf was asked to end it",
        f"process {pid} of step 'stand' was asked to end it",
        f"process {pid} of step 'stand' got SIGTERM",
        f"process {pid} of step 'stand' was killed",
    ]
    why = server.get(f"/api/v1/runs/{run_id}/why")
    assert [reason["text"] for reason in why["reasons"] if reason["kind"] == "cancel"] == told
    assert worker.kill(signal.SIGTERM) == 0
    assert server.stop() == 0


DEAF = """
import os, time
from ironflow import function

def stand():
    with open(os.environ["PIDS"], "w") as file:
        file.write(str(os.getpid()))
    while True:
        try:
            time.sleep(600)
        except SystemExit:
            pass

@function(id="deaf", executor="process")
async def deaf(ctx):
    await ctx.step.run("stand", stand)
"""


def workers_of(watcher: WorkerProcess) -> set[int]:
    """The processes that a supervisor has started and that live."""
    assert watcher.process is not None
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(watcher.process.pid)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return {int(word) for word in listed.stdout.split() if is_alive(int(word))}


def is_alive(pid: int) -> bool:
    """Whether a process is there, and more than a zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def wait_for_crew(server: ServerProcess, number: int) -> set[str]:
    """The workers that are online, once there are so many."""
    while True:
        workers = server.get("/api/v1/workers")["workers"]
        found = {worker["id"] for worker in workers if worker["status"] == "online"}
        if len(found) == number:
            return found
        crew_wait(0.05, server)
