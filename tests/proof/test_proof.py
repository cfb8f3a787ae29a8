"""Two hundred runs wherever a function can be executed: the worker and the ASGI handler of the
unmodified SDK from PyPI, our own worker, our endpoint under aiohttp and under Flask. All at once,
on one server, while server, workers and endpoints are killed with SIGKILL at random instants.

Every run ends right, no step that was recorded runs again, no lane ever holds more than its limit,
no slot stays taken, nothing is parked.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from proof.crew import Client, Crew, Teller, await_the_end, unfinished
from proof.laws import (
    Limit,
    check_nothing_is_left,
    check_side_file,
    check_streams,
    most_at_once,
)

ROUNDS = int(os.environ.get("IRONFLOW_TEST_CRASH_ROUNDS", "1"))
"""How often it is played, each time with another seed."""
FIRST_SEED = int(os.environ.get("IRONFLOW_TEST_CRASH_SEED", "1"))
RUNS = 200
KILLS = 16
LIMITS = {
    "proof-sdk-worker": (Limit(2, "group"),),
    "proof-sdk-asgi": (Limit(2, "group"),),
    "proof-worker": (Limit(6), Limit(2, "group")),
    "proof-aiohttp": (Limit(6), Limit(2, "group")),
    "proof-flask": (Limit(6), Limit(2, "group")),
}


@pytest.fixture
def crew(tmp_path: Path, peer_python: Callable[[str], Path]) -> Iterator[Crew]:
    """Not started yet."""
    made = Crew(tmp_path, peer_python)
    yield made
    made.end()


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + ROUNDS))
def test_everything_is_killed_while_runs_are_under_way(crew: Crew, seed: int) -> None:
    rng = random.Random(seed)
    print(f"IRONFLOW_TEST_CRASH_SEED={seed} plays this again")
    crew.start()
    client = Client(crew, range(RUNS), seed)
    teller = Teller(crew, seed)
    client.start()
    teller.start()
    try:
        victims = len(crew.members) + 2  # the server is twice as likely as anybody else
        for _ in range(KILLS):
            crew.breathe(rng.uniform(0.05, 0.7))
            under_way = len(unfinished(crew.server.db))
            print(f"{under_way} under way, killed:", crew.kill_and_start(rng.randrange(victims)))
        client.join(60)
        assert client.fault is None
        assert len(client.acknowledged) == RUNS
        await_the_end(crew, 90)
    finally:
        client.stopped.set()
        teller.stopped.set()
    teller.join(30)
    assert teller.fault is None
    assert len(teller.told) == RUNS
    check_answers(crew, client, teller)
    check_slots(crew)
    assert crew.server.stop() == 0
    check_streams(crew.server.db)
    check_nothing_is_left(crew.server.db)
    most = most_at_once(crew.server.db, LIMITS)
    assert {lane[0] for lane in most} == set(LIMITS)
    executed = check_side_file(crew.server.db, crew.side_file)
    assert "Traceback" not in crew.server.log.read_text()
    print(f"{sum(executed.values())} executions of {len(executed)} steps")


def check_answers(crew: Crew, client: Client, teller: Teller) -> None:
    """Each run ended with what its body returns, or as it was told."""
    for number, run_id in client.acknowledged.items():
        ended = crew.server.get(f"/api/v1/runs/{run_id}/result?wait=60s")
        if run_id in teller.cancelled:
            assert ended["status"] == "cancelled", (number, run_id, ended)
        else:
            assert ended["status"] == "completed", (number, run_id, ended)
            assert ended["result"] == [number + 5, 9], (number, run_id)


def check_slots(crew: Crew) -> None:
    """Nobody has a run that has ended, and no lane holds or awaits anybody."""
    assert crew.server.get("/api/v1/lanes")["items"] == []
    for worker in crew.server.get("/api/v1/workers")["workers"]:
        assert worker["active_jobs"] == 0, worker
