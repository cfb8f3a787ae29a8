"""Many clients write at once: "database is locked" reaches nobody, all are answered, and all that
they were told is there.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from compat.prefect.servers import Ironflow
from scenarios.prefect_life import Caller, soon

AT_ONCE = 48
LIVES = 5


async def test_many_clients_write_at_once(tmp_path: Path) -> None:
    server = Ironflow(tmp_path)
    await asyncio.to_thread(server.start)
    try:
        flow_id = server.ask("POST", "/flows/", {"name": "crowd"}).body["id"]
        callers = [Caller(server.port, flow_id, soon) for _ in range(AT_ONCE)]

        async def lives(one: Caller) -> None:
            for _ in range(LIVES):
                await one.life()  # raises for every answer that is a refusal

        await asyncio.gather(*map(lives, callers))
        for one in callers:
            one.close()
        assert sum(one.refused for one in callers) == 0
        total = AT_ONCE * LIVES
        completed = {"state": {"type": {"any_": ["COMPLETED"]}}}
        ask = server.ask
        assert ask("POST", "/flow_runs/count", {"flow_runs": completed}).body == total
        assert ask("POST", "/task_runs/count", {"task_runs": completed}).body == 2 * total
        runs = ask("POST", "/flow_runs/filter", {"limit": 200, "sort": "START_TIME_DESC"}).body
        assert {(run["run_count"], run["state_name"]) for run in runs} == {(1, "Completed")}
        moves = {"filter": {"event": {"prefix": ["prefect.flow-run."]}}, "limit": 1}
        assert ask("POST", "/events/filter", moves).body["total"] == 4 * total
        by_event = ask("POST", "/events/count-by/event", {"filter": moves["filter"]}).body
        assert Counter({each["label"]: each["count"] for each in by_event}) == Counter(
            {
                f"prefect.flow-run.{name}": total
                for name in ("Scheduled", "Pending", "Running", "Completed")
            }
        )
    finally:
        server.stop()
    assert "locked" not in server.log.read_text()
