"""Answers leave after the commit that they rest on, also those of requests that change nothing."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import msgspec
from engine_world import play

from ironflow import function, testing
from ironflow.actors.runs.record import record
from ironflow.core.errors import Conflict, NotFound


@function(id="answers-sleeper")
async def sleeper(ctx: Any) -> None:
    await ctx.step.sleep("nap", 60)


def test_a_repeated_request_is_answered_when_the_first_one_is_durable() -> None:
    async def main(world: testing.World) -> None:
        world.store.journal.delay = lambda: 1.0
        asked = [
            asyncio.ensure_future(world.engine.invoke("answers-sleeper", idempotency_key="same"))
            for _ in range(2)
        ]
        await world.advance(0.5)
        assert not any(request.done() for request in asked)
        await world.crash()
        # Neither was told of a run that does not exist now.
        for request in asked:
            with suppress(testing.Gone, testing.StorageError):
                created = await request
                raise AssertionError(f"{created} was acknowledged and is lost")
        assert await world.store.reader.count_runs() == {}

    play(main, functions=[sleeper])


def test_a_repeated_order_is_answered_when_the_first_one_is_durable() -> None:
    async def main(world: testing.World) -> None:
        run_id = await world.start(sleeper)
        await world.advance(5)
        world.store.journal.delay = lambda: 1.0
        asked = [asyncio.ensure_future(world.pause(run_id)) for _ in range(2)]
        await world.advance(0.5)
        assert not any(request.done() for request in asked)
        assert await asyncio.gather(*asked) == ["paused", "paused"]
        assert (await world.state(run_id)).status == "paused"

    play(main, functions=[sleeper])


def test_a_refusal_of_the_first_refuses_what_was_asked_with_it() -> None:
    async def main(world: testing.World) -> None:
        world.store.journal.delay = lambda: 1.0
        world.store.journal.fault = lambda _: testing.StorageError("no")
        asked = [
            asyncio.ensure_future(world.engine.invoke("answers-sleeper", idempotency_key="same"))
            for _ in range(2)
        ]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(answer, testing.StorageError) for answer in found), found
        world.store.journal.fault = None
        with suppress(NotFound):
            await world.state("none")

    play(main, functions=[sleeper])


def test_a_refusal_waits_for_what_it_rests_on() -> None:
    async def main(world: testing.World) -> None:
        run_id = await world.start(sleeper)
        await world.advance(5)
        world.store.journal.delay = lambda: 1.0
        asked = [asyncio.ensure_future(world.cancel(run_id)) for _ in range(2)]
        await world.advance(0.5)
        assert not any(request.done() for request in asked)
        first, second = await asyncio.gather(*asked, return_exceptions=True)
        assert first == "cancelled"
        assert isinstance(second, Conflict)

    play(main, functions=[sleeper])


def test_a_body_does_not_know_of_an_end_that_is_not_durable() -> None:
    refused: list[bytes] = []

    @function(id="answers-branches")
    async def branches(ctx: Any) -> None:
        async def branch(number: int) -> None:
            await ctx.step.sleep("nap", 10)
            await ctx.step.run("work", lambda: number)

        await ctx.step.map("both", branch, [0, 1])

    def refuse_the_second_end(batches: list[Any]) -> Exception | None:
        for entry in [entry for batch in batches for entry in batch.entries]:
            if entry.kind == "wait.ended" and b"both/1/nap" in entry.data and not refused:
                refused.append(entry.data)
                return testing.StorageError("no")
        return None

    async def main(world: testing.World) -> None:
        # Each change a commit of its own: the end of the first nap wakes the body, while that of
        # the second is still on its way, and then refused.
        world.store.journal._limit = 1
        world.store.journal.fault = refuse_the_second_end
        ended = await world.run(branches)
        assert ended.status == "completed"
        assert refused
        story = [
            (entry.kind, key)
            for entry in world.store.tables.streams[f"run/{ended.run_id}"]
            if (key := msgspec.json.decode(entry.data).get("key"))
        ]
        for branch in ("both/0", "both/1"):
            end, work = ("wait.ended", f"{branch}/nap"), ("step.completed", f"{branch}/work")
            assert story.index(end) < story.index(work), story

    play(main, functions=[branches], linger=1000.0)


def test_a_body_elsewhere_is_handed_what_is_durable() -> None:
    async def main(world: testing.World) -> None:
        run_id = await world.start(sleeper)
        await world.advance(59)
        world.store.journal.delay = lambda: 3.0
        await world.advance(2)  # the timer has rung, and the end of the nap is not durable yet
        actor: Any = world.engine.system.cell(f"run/{run_id}").actor
        assert actor.run.steps["nap"].status == "completed"
        known = record(actor)
        assert (known.steps["nap"].status, known.steps["nap"].ended_at) == ("waiting", None)
        assert list(known.open) == ["nap"]
        await world.advance(2)
        assert record(actor).steps["nap"].status == "completed"

    play(main, functions=[sleeper], linger=1000.0)
