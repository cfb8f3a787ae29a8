"""What a start brings back: messages that were not consumed, runs that were not over, timers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from ironflow.actors.kernel.outbox import decode_row
from ironflow.actors.slots.lines import Ticket
from ironflow.actors.slots.windows import Start
from ironflow.core.crash_points import reach
from ironflow.core.errors import Damaged
from ironflow.core.lanes import lanes_of
from ironflow.storage.ports import LaneRow, RunRow

if TYPE_CHECKING:
    from ironflow.actors.engine import Engine

log = logging.getLogger("ironflow")

RECOVERY_PAGE = 1000


async def recover(engine: Engine) -> None:
    """Bring back everything that the journal says is unfinished."""
    for row in await engine.store.reader.deliveries():
        try:
            message = decode_row(row)
        except Damaged as error:
            log.error("%s; it stays", error)  # noqa: TRY400 - where it was found says nothing
            continue
        engine.environment.outbox.post(row.target, row.id, message)
        reach("recovery.messages")
    await _recover_runs(engine)
    reach("recovery.timers")
    await engine.timers.start(engine.store.reader)


async def _recover_runs(engine: Engine) -> None:
    reader = engine.store.reader
    engine.pool.windows.load(map(Start._make, await reader.starts()))
    lanes, actors = await reader.lanes(), await reader.actors()
    if actors:
        engine.fleet.queue.expect_workers()
    # Those that were running first: their bodies may still be alive, with a worker or behind
    # an endpoint, so nobody else may get their places in lanes.
    total = await _requeue(engine, "running", lanes, actors)
    total += await _requeue(engine, "queued", lanes, actors)
    if total:
        log.info("%d unfinished runs go on", total)


async def _requeue(
    engine: Engine,
    status: Literal["queued", "running"],
    lanes: Mapping[str, LaneRow],
    actors: Mapping[str, tuple[str, str | None]],
) -> int:
    after: tuple[int, str] | None = None
    total = 0
    ranked: list[Ticket] = []
    while True:
        rows = await engine.store.reader.unfinished(status, RECOVERY_PAGE, after)
        for row in rows:
            if row.id in actors:
                engine.pool.prefer(row.id, row.function_id, *actors[row.id])
            ticket = _ticket(row, lanes.get(row.id))
            if row.id in lanes:
                ranked.append(ticket)
            else:
                engine.pool.enqueue(ticket)
        total += len(rows)
        reach("recovery.runs")
        if len(rows) < RECOVERY_PAGE:
            break
        after = (rows[-1].created_at, rows[-1].id)
    for ticket in engine.pool.in_order(ranked):
        engine.pool.enqueue(ticket)
    return total


def _ticket(row: RunRow, lane: LaneRow | None) -> Ticket:
    """What a run that is not over asks for; one that waits has waited since its row was written."""
    if lane is None:
        return Ticket(row.id, row.function_id, row.updated_at)
    lanes = lanes_of(lane.lanes, row.started_at is not None)
    return Ticket(row.id, row.function_id, row.updated_at, lanes, lane.priority, lane.share)
