"""Singleton functions on virtual time: at most one run that has not ended, for each key."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine_world import is_clean, play, runs_of

from ironflow import InvokeError, NonRetryable, function, testing
from ironflow.core.errors import Conflict, IdempotencyConflict
from ironflow.core.runs.explain import explain, wake_sources

BEGUN: list[str] = []
ENDED: list[str] = []


@function(id="only", on="go", flow_control={"singleton": {"key": "data.org"}})
async def only(ctx: Any, data: Any) -> Any:
    await ctx.step.sleep("work", 60)
    return data["n"]


@function(
    id="newest",
    on="go",
    flow_control={"singleton": {"mode": "cancel"}},
    compensate_on=["cancelled", "failed"],
)
async def newest(ctx: Any, data: Any) -> Any:
    async def undo() -> None:
        await asyncio.sleep(7)
        ENDED.append(ctx.run_id)

    BEGUN.append(ctx.run_id)
    await ctx.step.run("book", lambda: 1)
    ctx.step.compensate("book", undo)
    await ctx.step.sleep("work", 60)
    return data["n"]


async def go(world: testing.World, n: int, org: object = "a", **options: Any) -> Any:
    return await world.emit("go", {"n": n, "org": org}, **options)


def outcome(emitted: Any) -> tuple[str, str]:
    (found,) = emitted.outcomes
    return found.fate, found.run_id


def test_a_second_run_is_skipped_and_the_first_one_given_back() -> None:
    async def main(world: testing.World) -> None:
        first = await go(world, 1)
        fate, run_id = outcome(first)
        assert (fate, first.run_ids) == ("started", (run_id,))
        second = await go(world, 2)
        assert outcome(second) == ("skipped", run_id)
        assert second.run_ids == ()
        other = await go(world, 3, "b")
        assert outcome(other)[0] == "started"
        created = await world.engine.invoke("only", b'{"n": 4, "org": "a"}')
        assert (created.fate, created.run_id, created.created) == ("skipped", run_id, False)
        _, run = await world.engine.invoke_and_wait("only", b'{"n": 4, "org": "a"}')
        assert run is not None
        assert (run.id, run.status) == (run_id, "completed")
        third = await go(world, 5)
        assert outcome(third)[0] == "started"
        assert outcome(await go(world, 6)) == ("skipped", third.run_ids[0])
        await world.advance(200)
        results = [(await world.wait(run.id)).result for run in await runs_of(world, "only")]
        assert sorted(results) == [1, 3, 5]
        is_clean(world)
        assert await world.store.reader.intakes("singleton") == []

    play(main, functions=[only])


def test_emits_and_invocations_at_the_same_moment_start_one() -> None:
    async def main(world: testing.World) -> None:
        body = b'{"n": 0, "org": "a"}'
        asks = [go(world, n) for n in range(20)]
        asks += [world.engine.invoke("only", body) for _ in range(20)]
        await asyncio.gather(*asks)
        assert len(await runs_of(world, "only")) == 1

    play(main, functions=[only])


def test_cancel_ends_the_older_run_and_the_new_one_begins_after_its_unwind() -> None:
    async def main(world: testing.World) -> None:
        BEGUN.clear(), ENDED.clear()
        (first,) = (await go(world, 1)).run_ids
        await world.advance(5)
        (second,) = (await go(world, 2)).run_ids
        await world.advance(3)
        run = await world.state(second)
        assert run.status == "waiting"
        assert [source.name for source in wake_sources(run)] == [first]
        assert f"run {first}" in explain(run, world.clock.now()).summary
        assert BEGUN.count(second) == 0
        await world.advance(5)
        assert (await world.state(first)).status == "cancelled"
        assert [first] == ENDED
        assert (await world.wait(second)).result == 2
        assert f"run {second} takes its place" in str((await world.state(first)).reason)
        await world.advance(100)
        is_clean(world)

    play(main, functions=[newest])


def test_of_many_that_wait_only_the_newest_begins() -> None:
    async def main(world: testing.World) -> None:
        (first,) = (await go(world, 0)).run_ids
        await world.advance(5)
        ids = [(await go(world, n)).run_ids[0] for n in range(1, 5)]
        await world.advance(0.1)
        waiting = [r.id for r in await runs_of(world, "newest") if r.status == "waiting"]
        assert waiting == [ids[-1]]
        assert (await world.wait(ids[-1])).result == 4
        states = [(await world.state(run_id)).status for run_id in [first, *ids]]
        assert states == ["cancelled"] * 4 + ["completed"]
        assert [(await world.state(i)).started_at for i in ids[:-1]] == [None] * 3
        await world.advance(100)
        is_clean(world)

    play(main, functions=[newest])


def test_one_that_waits_can_be_paused_resumed_and_cancelled() -> None:
    async def main(world: testing.World) -> None:
        (first,) = (await go(world, 0)).run_ids
        await world.advance(5)
        (second,) = (await go(world, 1)).run_ids
        await world.pause(second)
        assert await world.resume(second) == "waiting"
        await world.pause(second)
        await world.advance(20)
        assert (await world.state(first)).status == "cancelled"
        assert (await world.state(second)).status == "paused"
        assert await world.resume(second) in ("queued", "running")
        assert (await world.wait(second)).result == 1
        (third,) = (await go(world, 2)).run_ids
        await world.advance(1)
        (fourth,) = (await go(world, 3)).run_ids
        assert await world.cancel(fourth) == "cancelled"
        await world.advance(20)
        assert (await world.state(third)).status == "cancelled"
        assert outcome(await go(world, 4))[0] == "started"
        await world.advance(200)
        is_clean(world)

    play(main, functions=[newest])


def test_a_retry_is_let_in_only_when_nobody_is_there() -> None:
    @function(id="fails", on="go", flow_control={"singleton": {}})
    async def fails(ctx: Any, data: Any) -> Any:
        await ctx.step.sleep("work", 10)
        if data["n"] == 0:
            await ctx.step.run("refuse", refuse)
        return data["n"]

    fail = [True]

    def refuse() -> None:
        if fail[0]:
            raise NonRetryable("no")

    async def main(world: testing.World) -> None:
        (first,) = (await go(world, 0)).run_ids
        assert (await world.wait(first)).status == "failed"
        (second,) = (await go(world, 1)).run_ids
        with pytest.raises(Conflict, match=second):
            await world.retry(first)
        await world.wait(second)
        fail[0] = False
        await world.retry(first)
        assert outcome(await go(world, 2)) == ("skipped", first)
        with pytest.raises(Conflict, match="not failed"):
            await world.retry(first)
        assert (await world.wait(first)).status == "completed"
        with pytest.raises(Conflict):
            await world.retry(first)
        assert outcome(await go(world, 3))[0] == "started"
        await world.advance(100)
        is_clean(world)

    play(main, functions=[fails])


def test_times_of_a_schedule_are_skipped_while_a_run_is_under_way() -> None:
    @function(id="tick", cron="* * * * *", flow_control={"singleton": {}})
    async def tick(ctx: Any) -> None:
        await ctx.step.sleep("long", 150)

    async def main(world: testing.World) -> None:
        await world.advance(10 * 60 + 1)
        runs = await runs_of(world, "tick")
        assert [(run.created_at // 60_000_000) % 60 for run in runs] == [1, 4, 7, 10]
        assert sum(n for (_, fate), n in world.engine.environment.fates.items()
                   if fate == "skipped") == 6  # fmt: skip

    play(main, functions=[tick])


def test_a_child_that_is_skipped_is_a_failure_that_its_parent_may_handle() -> None:
    @function(id="only-parent")
    async def parent(ctx: Any, n: int) -> Any:
        try:
            return await ctx.step.invoke("child", only, {"n": n, "org": "a"})
        except InvokeError as error:
            return str(error)

    async def main(world: testing.World) -> None:
        first = await world.start("only-parent", 1)
        await world.advance(1)
        (child,) = await runs_of(world, "only")
        second = await world.run("only-parent", 2)
        assert child.id in second.result
        assert (await world.wait(first)).result == 1
        await world.advance(100)
        is_clean(world)

    play(main, functions=[parent, only])


def test_an_idempotency_key_is_answered_the_same_for_ever() -> None:
    async def main(world: testing.World) -> None:
        body, invoke = b'{"n": 1, "org": "a"}', world.engine.invoke
        first = await invoke("only", body, idempotency_key="x")
        skipped = await invoke("only", body, idempotency_key="y")
        assert (skipped.run_id, skipped.fate) == (first.run_id, "skipped")
        again = await invoke("only", body, idempotency_key="x")
        assert (again.run_id, again.created, again.fate) == (first.run_id, False, "started")
        with pytest.raises(IdempotencyConflict):
            await invoke("only", b'{"n": 2, "org": "a"}', idempotency_key="x")
        await world.advance(100)
        late = await invoke("only", body, idempotency_key="y")
        assert (late.run_id, late.fate) == (first.run_id, "skipped")
        assert len(await runs_of(world, "only")) == 1
        event = await go(world, 1, idempotency_key="e")
        assert await go(world, 1, idempotency_key="e") == type(event)(
            event.event_id, event.run_ids, False, event.intakes, event.outcomes
        )

    play(main, functions=[only])


def test_a_debounced_singleton_is_both() -> None:
    @function(id="calm", on="go", flow_control={"debounce": {"period": 10}, "singleton": {}})
    async def both(ctx: Any, data: Any) -> Any:
        await ctx.step.sleep("work", 60)
        return data["n"]

    async def main(world: testing.World) -> None:
        for n in range(3):
            await go(world, n)
        await world.advance(15)
        (run,) = await runs_of(world, "calm")
        last = await go(world, 9)
        await world.advance(15)
        (known,) = await world.store.reader.outcomes([last.event_id])
        assert (known.fate, known.run_id) == ("skipped", run.id)
        assert (await world.wait(run.id)).result == 2
        await world.advance(100)
        assert len(await runs_of(world, "calm")) == 1
        is_clean(world)

    play(main, functions=[both])


@pytest.mark.parametrize("mode", ["only", "newest"])
@pytest.mark.parametrize("number", range(1, 26))
def test_a_crash_at_any_commit_neither_doubles_nor_blocks(number: int, mode: str) -> None:
    async def main(world: testing.World) -> None:
        world.crash_at_commit(number)
        ids = []
        for n in range(3):
            while True:
                try:
                    emitted = await go(world, n, idempotency_key=f"k{n}")
                    break
                except (testing.Gone, testing.StorageError):
                    await world.advance(0.1)
            ids.append(emitted)
            await world.advance(4)
        await world.advance(300)
        runs = await runs_of(world, mode)
        statuses = [run.status for run in runs]
        if mode == "only":
            assert statuses == ["completed"]
        else:
            assert statuses == ["cancelled", "cancelled", "completed"]
        assert all([(await world.state(run.id)).is_terminal for run in runs])
        assert await world.store.reader.intakes("singleton") == []
        is_clean(world)

    play(main, functions=[only if mode == "only" else newest])
