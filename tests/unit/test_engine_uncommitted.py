"""Nothing rests on what is on its way to the disk and may never get there."""

from __future__ import annotations

import asyncio
from typing import Any

from engine_world import is_clean, play

from ironflow import Context, function, testing
from ironflow.core.clock import derive_id
from ironflow.core.errors import StorageFull


async def work() -> str:
    await asyncio.sleep(1)
    return "done"


@function(id="worked-on")
async def worked_on(ctx: Context) -> str:
    return str(await ctx.step.run("work", work))


def test_a_cancel_that_could_not_be_written_does_not_reach_the_body_that_is_being_started() -> None:
    async def main(world: testing.World) -> None:
        refused = 0

        def fault(batches: Any) -> Exception | None:
            nonlocal refused
            kinds = {entry.kind for batch in batches for entry in batch.entries}
            if refused or "run.cancel_requested" not in kinds:
                return None
            assert "run.created" not in kinds
            refused += 1
            return StorageFull("full")

        world.store.journal.fault = fault
        world.store.journal.delay = lambda: 0.01
        run_id = derive_id("invoke", "worked-on", "one")
        start = asyncio.create_task(world.start(worked_on, idempotency_key="one"))
        await asyncio.sleep(0.005)  # the run is on its way to the disk, the cancel stands behind it
        cancel = asyncio.create_task(world.cancel(run_id))
        await asyncio.wait([start, cancel])
        assert isinstance(cancel.exception(), testing.StorageError)
        assert start.result() == run_id
        ended = await world.wait(run_id)
        assert (refused, ended.status, ended.result) == (1, "completed", "done")
        is_clean(world)

    play(main, functions=[worked_on])
