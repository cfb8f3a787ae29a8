"""A server killed with SIGKILL under event-driven workflows, at random instants: every run goes on
where it stood, whatever its age, also while it waits for somebody, and nobody is told twice.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RUNS = 4
SECONDS = 60.0


def expected(number: int) -> list[object]:
    return [4 * number + 6, 4, "yes"]


def told(server: Any, handler: str) -> list[dict[str, Any]]:
    """The whole public stream of a run that has ended, or what there is of it after a moment."""
    text = server.text(f"/events/{handler}?sse=false&after_sequence=-1")
    return [json.loads(line) for line in text.splitlines() if line]


@pytest.mark.parametrize("seed", [1, 2])
def test_every_run_goes_on_where_it_stood(make_server: Callable[..., Any], seed: int) -> None:
    rng = random.Random(seed)
    server = make_server("workflow_app.py")
    server.start()
    names = [f"h{number}" for number in range(RUNS)]
    for number, name in enumerate(names):
        body = {"handler_id": name, "start_event": {"number": number}}
        server.post("/workflows/mixed/run-nowait", body)
        if number % 2:
            server.process_pause()
            server.kill()
            server.start()
    for _ in range(2):
        for _ in range(rng.randrange(1, 4)):
            server.process_pause()
        server.kill()
        server.start()
    for name in names:
        answer = {"event": {"type": "HumanResponseEvent", "value": {"response": "yes"}}}
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            why = server.get(f"/handlers/{name}")
            run = server.get(f"/api/v1/runs/{why['run_id']}/why")
            if any(reason["kind"] == "event" for reason in run["reasons"]):
                break
            server.process_pause()
        server.post(f"/events/{name}", answer)
        if rng.random() < 0.5:
            server.kill()  # `sent` has been said: the answer is not lost
            server.start()
    for number, name in enumerate(names):
        end = time.monotonic() + SECONDS
        while (found := server.get(f"/results/{name}"))["status"] == "running":
            assert time.monotonic() < end, server.log.read_text()
            server.process_pause()
        assert found["status"] == "completed", found
        assert found["result"] == expected(number)
        events = told(server, name)
        texts = Counter(e["value"]["text"] for e in events if e["type"] == "Told")
        assert texts == {
            "split": 1,
            **{f"work {number + n} {k}": 1 for n in range(4) for k in range(3)},
        }
        assert [e["type"] for e in events].count("InputRequiredEvent") == 1
        assert events[-1]["type"] == "StopEvent"
    drawn = server.cli("workflows", "draw", "--run", name, "--server", server.url)
    assert drawn.count('["work') == 4
    assert server.kills >= RUNS // 2 + 2


DYING = """
import asyncio, os, signal, sys
from ironflow.workflows import Workflow, step
from ironflow.workflows.events import StartEvent, StopEvent

class Dying(Workflow):
    @step
    async def one(self, ev: StartEvent) -> StopEvent:
        if life < 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return StopEvent(result=life)

async def main():
    return await Dying().run(db=sys.argv[1], key="k")

for life in range(9):
    child = os.fork()
    if not child:
        assert asyncio.run(main()) == 8
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == (-9 if life < 8 else 0), (life, status)
"""


def test_a_program_without_a_server_that_dies_again_and_again_is_never_paused(
    tmp_path: Path,
) -> None:
    """There is nobody else who could tell its run to go on."""
    line = [sys.executable, "-c", DYING, str(tmp_path / "a.db")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
