"""What a start brings back: messages that were not consumed, runs that were not over, timers."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from ironflow.actors.kernel.outbox import decode_row
from ironflow.actors.slots.lines import Ticket
from ironflow.actors.slots.windows import Start
from ironflow.core.crash_points import reach
from ironflow.core.errors import Damaged
from ironflow.core.functions.lanes import lanes_of
from ironflow.storage.ports import LaneRow, RunRow

if TYPE_CHECKING:
    from ironflow.actors.engine import Engine

log = logging.getLogger("ironflow")

RECOVERY_PAGE = 1000


async def recover(engine: Engine) -> None:
    """Bring back everything that the journal says is unfinished.

    All of it is read before any of it goes on: a message may wake a run, and that would take the
    place of one that was running. Its body may still be alive, with a worker or behind an endpoint.
    """
    reader = engine.store.reader
    engine.pool.windows.load(map(Start._make, await reader.starts()))
    lanes, actors = await reader.lanes(), await reader.actors()
    running = [_ticket(row, lanes) async for row in _unfinished(engine, "running")]
    queued = [_ticket(row, lanes) async for row in _unfinished(engine, "queued")]
    messages = await reader.deliveries()
    if actors:
        engine.fleet.queue.expect_workers()
    for ticket in running:
        engine.pool.lanes.hold(ticket.run_id, ticket.lanes)
    for row in messages:
        try:
            message = decode_row(row)
        except Damaged as error:
            log.error("%s; it stays", error)  # noqa: TRY400 - where it was found says nothing
            continue
        engine.environment.outbox.post(row.target, row.id, message)
        reach("recovery.messages")
    for tickets in (running, queued):
        _requeue(engine, tickets, lanes, actors)
    if running or queued:
        log.info("%d unfinished runs go on", len(running) + len(queued))
    reach("recovery.timers")
    await engine.timers.start(reader)


def _requeue(
    engine: Engine,
    tickets: Sequence[Ticket],
    lanes: Mapping[str, LaneRow],
    actors: Mapping[str, tuple[str, str | None]],
) -> None:
    ranked: list[Ticket] = []
    for ticket in tickets:
        run_id = ticket.run_id
        if run_id in actors:
            engine.pool.prefer(run_id, ticket.function_id, *actors[run_id])
        if run_id in lanes:
            ranked.append(ticket)
        else:
            engine.pool.enqueue(ticket)
    for ticket in engine.pool.in_order(ranked):
        engine.pool.enqueue(ticket)


async def _unfinished(
    engine: Engine, status: Literal["queued", "running"]
) -> AsyncIterator[RunRow]:
    after: tuple[int, str] | None = None
    while True:
        rows = await engine.store.reader.unfinished(status, RECOVERY_PAGE, after)
        for row in rows:
            yield row
        reach("recovery.runs")
        if len(rows) < RECOVERY_PAGE:
            return
        after = (rows[-1].created_at, rows[-1].id)


def _ticket(row: RunRow, lanes_by_run: Mapping[str, LaneRow]) -> Ticket:
    """What a run that is not over asks for; one that waits has waited since its row was written."""
    lane = lanes_by_run.get(row.id)
    if lane is None:
        return Ticket(row.id, row.function_id, row.updated_at)
    lanes = lanes_of(lane.lanes, row.started_at is not None)
    return Ticket(row.id, row.function_id, row.updated_at, lanes, lane.priority, lane.share)
