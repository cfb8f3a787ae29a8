"""What a run records and sees again: values of steps, time, chance and ids, and its own code."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pydantic
import pytest
from engine_world import LINGERS, add, play

from ironflow import function, testing
from ironflow.actors.runs import batch as run_batch
from ironflow.core.runs.entries import StepCompleted

# -- values ----------------------------------------------------------------------------------------


@dataclass
class Point:
    x: int
    when: datetime


class Row(msgspec.Struct):
    id: UUID
    data: bytes


class Order(pydantic.BaseModel):
    number: int
    price: Decimal


VALUES: list[Any] = [
    None,
    1.5,
    "snow ☃",
    [1, [2, {"a": None}]],
    Point(1, datetime(2026, 2, 3, 4, 5, tzinfo=UTC)),
    Row(UUID(int=5), b"\x00\xff"),
    Order(number=3, price=Decimal("1.10")),
    {"mixed": [Row(UUID(int=1), b""), timedelta(seconds=3)], "$odd": 1},
    datetime(2026, 1, 1, tzinfo=UTC),
    UUID(int=77),
    b"bytes",
]


@LINGERS
def test_values_are_the_same_live_and_replayed(linger: float) -> None:
    lives: list[list[Any]] = []

    @function(id="steps-values")
    async def values(ctx: Any) -> None:
        got = [await ctx.step.run(f"v{n}", lambda v=v: v) for n, v in enumerate(VALUES)]
        got.append(await ctx.step.run("tuple", lambda: (1, (2,))))
        lives.append(got)
        await ctx.step.sleep("nap", "1d")

    async def main(world: testing.World) -> None:
        run_id = await world.start(values)
        await world.advance(5)
        await world.crash()
        assert (await world.wait(run_id)).status == "completed"
        assert len(lives) == 2
        for live in lives:
            assert live == [*VALUES, [1, [2]]]
            assert [type(v) for v in live] == [*map(type, VALUES), list]

    play(main, functions=[values], linger=linger)


@LINGERS
def test_a_value_that_is_changed_later_is_remembered_as_it_was(linger: float) -> None:
    @function(id="steps-alias")
    async def alias(ctx: Any) -> Any:
        shared = {"n": 1}
        first = await ctx.step.run("a", lambda: shared)
        shared["n"] = 2
        first["n"] += 10
        await ctx.step.sleep("nap", "1d")
        return first

    async def main(world: testing.World) -> None:
        assert (await world.run(alias)).result == {"n": 11}

    play(main, functions=[alias], linger=linger)


@LINGERS
def test_large_values_lie_in_blobs_once(linger: float) -> None:
    big = "x" * 200_000

    @function(id="steps-big")
    async def large(ctx: Any, text: str) -> str:
        first = await ctx.step.run("same", lambda: text)
        second = await ctx.step.run("again", lambda: text)
        await ctx.step.sleep("nap", "1d")
        return first + second[:1]

    async def main(world: testing.World) -> None:
        run_id = await world.start(large, big)
        await world.advance(5)
        await world.crash()
        ended = await world.wait(run_id)
        assert ended.result == big + "x"
        assert ended.steps["same"].result is not None
        assert ended.steps["same"].result.blob == ended.steps["again"].result.blob is not None  # type: ignore[union-attr]
        entries = world.store.tables.streams[f"run/{run_id}"]
        assert max(len(entry.data) for entry in entries) < 5000
        assert len(world.store.tables.rows["blobs"]) == 2  # the text, and the result

    play(main, functions=[large], linger=linger)


# -- recorded time, chance and ids -----------------------------------------------------------------


@LINGERS
def test_now_random_and_uuid_are_recorded(linger: float) -> None:
    seen: list[Any] = []

    @function(id="steps-recorded")
    async def recorded(ctx: Any) -> None:
        seen.append([ctx.now(), ctx.random(), ctx.random(), ctx.uuid(), ctx.now()])
        await ctx.step.sleep("nap", "1d")
        seen.append(ctx.now())

    async def main(world: testing.World) -> None:
        start = world.now()
        run_id = await world.start(recorded)
        await world.advance(5)
        await world.crash()
        await world.wait(run_id)
        first, second, late = seen
        assert first == second
        assert first[0] == start
        assert first[1] != first[2]
        assert 0 <= first[1] < 1
        assert isinstance(first[3], UUID)
        assert late == start + timedelta(days=1)

    play(main, functions=[recorded], linger=linger)


def test_an_id_given_to_a_step_is_recorded_before_the_step_runs() -> None:
    keys: list[UUID] = []

    @function(id="steps-payment")
    async def payment(ctx: Any) -> None:
        key = ctx.uuid()

        async def charge() -> None:
            keys.append(key)

        await ctx.step.run("charge", charge)

    async def main(world: testing.World) -> None:
        world.crash_at_step(1, after=True)
        assert (await world.run(payment)).status == "completed"
        assert len(keys) == 2
        assert keys[0] == keys[1]

    play(main, functions=[payment])


@LINGERS
def test_logs_are_silent_while_replaying(linger: float, caplog: pytest.LogCaptureFixture) -> None:
    @function(id="steps-logs")
    async def logs(ctx: Any) -> None:
        ctx.log.info("begin")
        await ctx.step.run("a", add, 1)
        ctx.log.info("middle")
        await ctx.step.sleep("nap", "1d")
        ctx.log.info("end")

    caplog.set_level("INFO", "ironflow.run.steps-logs")

    async def main(world: testing.World) -> None:
        run_id = await world.start(logs)
        await world.advance(5)
        await world.crash()
        await world.wait(run_id)
        records = [r for r in caplog.records if r.name == "ironflow.run.steps-logs"]
        assert {r.run_id for r in records} == {run_id}  # type: ignore[attr-defined]
        assert [r.message for r in records][-1] == "end"
        assert [r.message for r in records].count("begin") == 1

    play(main, functions=[logs], linger=linger)


# -- determinism -----------------------------------------------------------------------------------


@LINGERS
@pytest.mark.parametrize("swallow", [False, True])
def test_code_that_left_its_history_fails_with_both_names(swallow: bool, linger: float) -> None:
    version = ["old"]

    @function(id="steps-drift")
    async def drift(ctx: Any) -> str:
        await ctx.step.run("first", add, 1)
        try:
            await ctx.step.run("charge" if version[0] == "old" else "refund", add, 1)
        except Exception:
            if not swallow:
                raise
        await ctx.step.sleep("nap", "1d")
        return "went on"

    async def main(world: testing.World) -> None:
        run_id = await world.start(drift)
        await world.advance(5)
        version[0] = "new"
        await world.crash()
        ended = await world.wait(run_id)
        assert ended.status == "failed"
        assert ended.error is not None
        assert ended.error.kind == "NonDeterminism"
        assert "'charge'" in ended.error.message
        assert "'refund'" in ended.error.message
        assert world.calls == [("steps-drift", "first"), ("steps-drift", "charge")]

    play(main, functions=[drift], linger=linger)


@LINGERS
def test_a_step_that_became_a_sleep_is_noticed(linger: float) -> None:
    version = ["old"]

    @function(id="steps-kind")
    async def kind(ctx: Any) -> None:
        if version[0] == "old":
            await ctx.step.run("it", add, 1)
        else:
            await ctx.step.sleep("it", 5)
        await ctx.step.sleep("nap", "1d")

    async def main(world: testing.World) -> None:
        run_id = await world.start(kind)
        await world.advance(5)
        version[0] = "new"
        await world.crash()
        error = (await world.wait(run_id)).error
        assert error is not None
        assert error.kind == "NonDeterminism"
        assert "(run)" in error.message
        assert "(sleep)" in error.message

    play(main, functions=[kind], linger=linger)


def test_code_that_swallows_every_signal_cannot_end_the_run_early() -> None:
    @function(id="steps-greedy")
    async def greedy(ctx: Any) -> str:
        try:
            await ctx.step.sleep("nap", "1d")
        except BaseException:  # noqa: BLE001 - what this test is about
            return "too early"
        return "in time"

    async def main(world: testing.World) -> None:
        start = world.now()
        ended = await world.run(greedy)
        assert ended.result == "in time"
        assert world.now() - start == timedelta(days=1)

    play(main, functions=[greedy], linger=0)


def test_ctx_inside_a_step_is_refused_clearly() -> None:
    @function(id="steps-misuse", retry=False)
    async def misuse(ctx: Any) -> Any:
        async def inner() -> Any:
            return await ctx.step.run("inside", add, 1)

        return await ctx.step.run("outside", inner)

    async def main(world: testing.World) -> None:
        ended = await world.run(misuse)
        assert ended.status == "failed"
        assert ended.error is not None
        assert "'inside'" in ended.error.message

    play(main, functions=[misuse])


def test_names_of_every_kind_are_kept_apart() -> None:
    names = ["a", "a/b", "a#1", "a%2Fb", "@compensate", "ä☃", "x" * 200]

    @function(id="steps-names")
    async def many(ctx: Any) -> list[str]:
        return [await ctx.step.run(name, lambda n=name: n) for name in names for _ in range(2)]

    async def main(world: testing.World) -> None:
        ended = await world.run(many)
        assert ended.result == [name for name in names for _ in range(2)]
        assert len(ended.steps) == 2 * len(names)

    play(main, functions=[many])


@pytest.mark.parametrize("name", ["", "x" * 201])
def test_a_step_needs_a_name(name: str) -> None:
    @function(id="steps-nameless", retry=False)
    async def nameless(ctx: Any) -> None:
        await ctx.step.run(name, add, 1)

    async def main(world: testing.World) -> None:
        error = (await world.run(nameless)).error
        assert error is not None
        assert "1 to 200" in error.message

    play(main, functions=[nameless])


# -- what cannot be recorded -----------------------------------------------------------------------


def test_a_run_whose_report_its_actor_cannot_digest_fails_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fault of ours. Were its body only let go of, it would come to the same report for ever."""
    encode = run_batch.encode_entry
    calls: list[int] = []

    def stumble(entry: Any) -> bytes:
        if isinstance(entry, StepCompleted):
            raise TypeError("no such value")
        return encode(entry)

    monkeypatch.setattr(run_batch, "encode_entry", stumble)

    @function(id="records-undigested")
    async def undigested(ctx: Any) -> Any:
        return await ctx.step.run("one", lambda: calls.append(1))

    async def main(world: testing.World) -> None:
        run = await world.wait(await world.start(undigested))
        assert run.status == "failed"
        assert run.error is not None
        assert "what the run reports cannot be recorded" in run.error.message
        assert calls == [1]

    testing.run(main, functions=[undigested])
