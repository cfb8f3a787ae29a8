"""The whole surface of the unmodified `ironflow-py` SDK from PyPI against a real server: its worker
that asks for work, and its ASGI handler under uvicorn that is called.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from proof.crew import BREATH, OPTIONS, Member, free_port
from server_process import ServerProcess

from ironflow.core.clock import SECOND, SystemClock
from ironflow.core.runs.commands import TimerFired
from ironflow.storage.sqlite.store import open_sqlite

APP = str(Path(__file__).parent / "surface_app.py")
PATIENCE = 60.0
"""Seconds after which something that should come is given up."""


class Surface:
    """A server and the SDK beside it, in one of the two modes."""

    def __init__(self, mode: str, python: str, folder: Path, server: ServerProcess | None) -> None:
        self.mode, self.python, self.folder = mode, python, folder
        self.server = server
        self.side_file = folder / "side.txt"
        self.side_file.touch()
        self.port = free_port()
        self.members: list[Member] = []

    def spawn(self, url: str) -> Member:
        """Another process with the SDK in it."""
        environment = {
            **os.environ,
            "PROOF_SIDE_FILE": str(self.side_file),
            "IRONFLOW_SIGNING_KEY": "proof-key",
            "IRONFLOW_NO_DISCOVERY": "1",
        }
        line = [self.python, APP, self.mode, url, str(self.port)]
        port = self.port if self.mode == "push" else 0
        member = Member(self.mode, line, self.folder, environment, port)
        member.start()
        self.members.append(member)
        return member

    def start(self) -> None:
        """Until the functions are known."""
        assert self.server is not None
        self.server.start()
        member = self.spawn(self.server.url)
        self.until(member.is_up)
        if self.mode == "push":
            line = [self.python, APP, "register", self.server.url, str(self.port)]
            done = subprocess.run(
                line, cwd=self.folder, env=member.environment, capture_output=True, text=True,
                check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
        self.until(lambda: "every-minute" in self.known())

    def known(self) -> set[str]:
        return {one["id"] for one in self.get("/api/v1/functions")["items"]}

    def get(self, path: str) -> Any:
        assert self.server is not None
        return self.server.get(path)

    def post(self, path: str, body: object) -> Any:
        assert self.server is not None
        return self.server.post(path, body)

    def until(self, holds: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < end, "it did not come to that"
            assert self.server is not None
            assert self.server.process is not None
            try:
                self.server.process.wait(BREATH)
            except subprocess.TimeoutExpired:
                continue
            pytest.fail("the server ended by itself")

    def run(self, function_id: str, value: Any = None) -> str:
        return str(self.post(f"/api/v1/functions/{function_id}/invoke", {"input": value})["run_id"])

    def end(self, run_id: str) -> Any:
        return self.get(f"/api/v1/runs/{run_id}/result?wait=60s")

    def emit(self, name: str, data: Any) -> Any:
        return self.post("/api/v1/events", {"name": name, "data": data})

    def status(self, run_id: str) -> Any:
        return self.get(f"/api/v1/runs/{run_id}")["status"]

    def steps(self, run_id: str) -> dict[str, str]:
        return {s["key"]: s["status"] for s in self.get(f"/api/v1/runs/{run_id}/steps")["items"]}

    def notes(self, run_id: str) -> list[str]:
        lines = self.side_file.read_text().splitlines()
        return [line.split(" ", 1)[1] for line in lines if line.startswith(f"{run_id} ")]

    def note(self, run_id: str, what: str) -> None:
        with self.side_file.open("ab", buffering=0) as file:
            file.write(f"{run_id} {what}\n".encode())

    def close(self) -> None:
        processes = [member.process for member in self.members]
        if self.server is not None:
            processes.append(self.server.process)
        for process in processes:
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()


@pytest.fixture(scope="module", params=["pull", "push"])
def surface(
    request: pytest.FixtureRequest,
    peer_python: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Surface]:
    """At the end nothing was an error in the server's log."""
    folder = tmp_path_factory.mktemp("surface")
    server = ServerProcess(folder, None, *OPTIONS)
    made = Surface(request.param, str(peer_python("ironflow-py")), folder, server)
    made.start()
    yield made
    metrics = server.text("/metrics")
    made.close()
    log = server.log.read_text()
    assert "Traceback" not in log
    assert "error" not in log
    faults = [line for line in metrics.splitlines() if 'status="5' in line]
    assert [line for line in faults if '"/ready"' not in line] == []  # it was not up yet


def test_steps_sleeps_and_what_a_body_is_told(surface: Surface) -> None:
    assert surface.emit("surface.steps", {"n": 1, "wanted": False})["run_ids"] == []
    (run_id,) = surface.emit("surface.steps", {"n": 2, "wanted": True})["run_ids"]
    ended = surface.end(run_id)
    assert ended["result"] == [
        {"n": 2, "text": "ü", "big": 2**53 + 1}, "slept", [1, None, 2.5], [0, 1],
        "surface.steps", "api", 1,
    ], ended  # fmt: skip
    assert set(surface.steps(run_id).values()) == {"completed"}


def test_branches_run_in_parallel_and_collect_what_failed(surface: Surface) -> None:
    ended = surface.end(surface.run("branches"))
    assert ended["result"] == [["one", "one"], [10, 21, 32], "one", "a branch failed"], ended


def test_waits_for_events_of_its_own_and_with_a_value(surface: Surface) -> None:
    surface.emit("surface.go", {"id": 7})  # before anybody waits: it does not count
    run_id = surface.run("hears", {"id": 7})
    surface.until(lambda: "own:0" in surface.steps(run_id))
    surface.emit("surface.go", {"id": 8})
    surface.emit("surface.go", {"id": 7})
    surface.until(lambda: "told:0" in surface.steps(run_id))
    surface.emit("surface.go", {"other": 8})
    surface.emit("surface.go", {"other": 7})
    ended = surface.end(run_id)
    assert ended["result"] == ["surface.go", 7, "api", True, {"other": 7}, "20"], ended


def test_a_wait_in_vain_fails_the_run_at_once(surface: Surface) -> None:
    run_id = surface.run("waits-in-vain")
    assert surface.end(run_id)["status"] == "failed"
    assert surface.get(f"/api/v1/runs/{run_id}")["attempt"] == 1


def test_functions_invoke_one_another(surface: Surface) -> None:
    ended = surface.end(surface.run("parent"))
    assert ended["status"] == "completed", ended
    good, bad, nobody, slow, started = ended["result"]
    assert good == 25
    assert bad == ["bad-child", True, False]
    assert nobody[0] == "nobody"
    assert slow == ["slow-child", True, False]
    assert surface.end(started)["result"] == 36


@pytest.mark.parametrize(("how", "attempts"), [("at once", 1), ("at last", 2)])
def test_a_saga_is_undone_in_reverse_when_it_fails_for_good(
    surface: Surface, how: str, attempts: int
) -> None:
    run_id = surface.run("saga", {"how": how})
    ended = surface.end(run_id)
    assert ended["status"] == "failed"
    assert ended["error"]["message"] == ("sold out" if attempts == 1 else "try again")
    assert surface.notes(run_id) == [
        "book flight", "book hotel", "book car", "undo car", "undo flight"
    ]  # fmt: skip
    steps = surface.steps(run_id)
    undone = {key.split(":")[1]: status for key, status in steps.items() if "compensate" in key}
    assert undone == {"car": "completed", "hotel": "failed", "flight": "completed"}
    assert surface.get(f"/api/v1/runs/{run_id}")["attempt"] == attempts


def test_a_run_whose_attempts_are_used_up_is_kept_until_it_is_mended(surface: Surface) -> None:
    run_id = surface.run("exhausted")
    surface.until(lambda: surface.status(run_id) == "paused")
    assert surface.notes(run_id) == ["kept", "tried", "tried"]
    surface.note(run_id, "mended")
    surface.post(f"/api/v1/runs/{run_id}/resume", {})
    assert surface.end(run_id)["result"] == "mended"
    assert surface.notes(run_id).count("kept") == 1


def test_a_failure_says_itself_when_it_is_to_be_tried_again(surface: Surface) -> None:
    run_id = surface.run("retries")  # the policy of its own would wait for ten minutes
    assert surface.end(run_id)["result"] == [1, "at last", 3, 5]
    assert surface.notes(run_id).count("first") == 1


@pytest.mark.parametrize(
    ("function_id", "value", "code"),
    [
        ("too-slow", None, "step_timeout"),
        ("schema", {"n": -1}, "validation_error"),
        ("bad-child", None, "no_order"),
        ("unencodable", None, "serialization_error"),
    ],
)
def test_failures_keep_their_codes(
    surface: Surface, function_id: str, value: Any, code: str
) -> None:
    ended = surface.end(surface.run(function_id, value))
    assert (ended["status"], ended["error"]["code"]) == ("failed", code), ended


def test_a_schema_converts_what_the_body_sees(surface: Surface) -> None:
    assert surface.end(surface.run("schema", {"n": 3}))["result"] == {"n": 300}


def test_a_run_that_waits_is_cancelled_by_request_and_by_an_event(surface: Surface) -> None:
    by_hand, by_event, neither = (surface.run("cancelled", {"id": n}) for n in (21, 22, 23))
    for run_id in (by_hand, by_event, neither):
        surface.until(lambda run_id=run_id: "go:0" in surface.steps(run_id))
    surface.post(f"/api/v1/runs/{by_hand}/cancel", {"reason": "enough"})
    surface.emit("surface.drop", {"id": 22})
    surface.emit("surface.go", {"id": 23})
    assert surface.end(by_hand)["status"] == "cancelled"
    assert surface.end(by_event)["status"] == "cancelled"
    assert surface.end(neither)["status"] == "completed"
    assert surface.notes(by_hand) == surface.notes(by_event) == ["before"]


def test_a_run_that_executes_is_cancelled_and_begins_nothing_more(surface: Surface) -> None:
    run_id = surface.run("long")
    surface.until(lambda: "a" in surface.notes(run_id))
    surface.post(f"/api/v1/runs/{run_id}/cancel", {"reason": "enough"})
    assert surface.end(run_id)["status"] == "cancelled"
    if surface.mode == "pull":  # it learns of it with its next report, and lets go of the body
        surface.note(run_id, "a may end")
        surface.until(lambda: surface.get("/api/v1/workers")["workers"][0]["active_jobs"] == 0)
    else:
        for name in "abc":  # nothing tells an endpoint; its answer comes too late
            surface.note(run_id, f"{name} may end")
    assert surface.status(run_id) == "cancelled"
    assert surface.end(surface.run("schema", {"n": 1}))["result"] == {"n": 100}


@pytest.mark.parametrize("surface", ["pull"], indirect=True)
def test_a_checkpoint_survives_the_worker_and_a_drain_ends_what_runs(surface: Surface) -> None:
    """An endpoint has no checkpoints: what it did travels with its answer."""
    run_id = surface.run("long")
    surface.until(lambda: "a" in surface.notes(run_id))
    surface.note(run_id, "a may end")
    surface.until(lambda: surface.steps(run_id).get("a:0") == "completed")
    surface.until(lambda: "b" in surface.notes(run_id))
    assert surface.server is not None
    old = surface.members[-1]
    old.kill()
    new = surface.spawn(surface.server.url)
    surface.until(lambda: surface.notes(run_id).count("b") == 2)
    assert surface.notes(run_id).count("a") == 1
    # SIGTERM: what runs may end, and is reported; nothing new is taken.
    assert new.process is not None
    new.process.send_signal(signal.SIGTERM)
    for name in "bc":
        surface.note(run_id, f"{name} may end")
    assert new.process.wait(PATIENCE) == 0
    assert surface.end(run_id)["result"] == ["a", "b", "c", 1]
    late = surface.run("schema", {"n": 2})
    surface.spawn(surface.server.url)
    assert surface.end(late)["result"] == {"n": 200}


class ShiftedClock(SystemClock):
    """The system's clock, set forward."""

    shift = 0

    def now(self) -> int:
        return super().now() + self.shift


async def test_a_cron_trigger_starts_runs(
    serve: Any, peer_python: Callable[[str], Path], tmp_path: Path
) -> None:
    python = await asyncio.to_thread(peer_python, "ironflow-py")
    clock = ShiftedClock()
    surface = Surface("pull", str(python), tmp_path, None)
    async with serve(await open_sqlite(tmp_path / "cron.db"), clock=clock) as api:
        try:
            worker = surface.spawn(str(api.client.make_url("")).rstrip("/"))
            timers: list[Any] = []
            while not timers or not api.engine.fleet.workers:
                assert worker.is_up()
                rows = await api.engine.store.reader.timers(2**62, 100)
                timers = [row for row in rows if row.target == "schedule/every-minute"]
                await asyncio.sleep(BREATH)
            clock.shift = 61 * SECOND
            api.engine.system.at("schedule/every-minute").post(TimerFired(timers[0].name))
            runs: list[Any] = []
            while not [run for run in runs if run["status"] == "completed"]:
                assert worker.is_up()
                runs = (await api.get("/api/v1/runs?function_id=every-minute")).json["items"]
                await asyncio.sleep(BREATH)
            run = (await api.get(f"/api/v1/runs/{runs[0]['id']}")).json
            assert run["result"] == ["cron", "ironflow.cron"]
        finally:
            surface.close()
