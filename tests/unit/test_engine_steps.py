"""Steps: memoized under crashes, called as they are declared, tried again at the right moments."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import Counter
from typing import Any

import msgspec
import pytest
from engine_world import LINGERS, add, play

from ironflow import NonRetryable, RetryPolicy, StepError, TimerWait, function, testing
from ironflow.core.errors import NotSerializable
from ironflow.core.runs.state import StepStatus

SECOND = 1_000_000


# -- shapes: crash at every call, and nothing that was committed runs again ------------------------


@function(id="steps-chain")
async def chain(ctx: Any) -> int:
    total = 0
    for _ in range(5):
        total = await ctx.step.run("inc", add, total)
    return total


@function(id="steps-named")
async def named(ctx: Any) -> list[int]:
    first = await ctx.step.run("a", add, 1, b=10)
    await ctx.step.sleep("nap", "1h")
    second = await ctx.step.run("b", lambda: add(first))
    third = await ctx.step.run("c", lambda: second * 2)
    return [first, second, third]


@function(id="steps-fan")
async def fan(ctx: Any) -> Any:
    async def branch(number: int) -> int:
        one = await ctx.step.run("one", add, number)
        await ctx.step.sleep("nap", number * 10)
        return await ctx.step.run("two", add, one, 100)

    return await ctx.step.map("fan", branch, [1, 2, 3])


@function(id="steps-nested")
async def nested(ctx: Any) -> Any:
    async def inner(number: int) -> Any:
        async def leaf(letter: str) -> str:
            return await ctx.step.run("leaf", lambda: f"{letter}{number}")

        return await ctx.step.map("inner", leaf, ["x", "y"], concurrency=1)

    return await ctx.step.parallel("outer", {"l": lambda: inner(1), "r": lambda: inner(2)})


@function(id="steps-flaky", retry={"max_attempts": 4, "initial_delay": 5})
async def flaky(ctx: Any) -> Any:
    async def sometimes() -> int:
        FAILURES["flaky"] += 1
        if FAILURES["flaky"] < 3:
            raise ValueError(FAILURES["flaky"])
        return 7

    return [await ctx.step.run("sometimes", sometimes), await ctx.step.run("then", add, 1)]


@function(id="steps-child")
async def child(ctx: Any, number: int) -> int:
    await ctx.step.sleep("nap", 60)
    return await ctx.step.run("work", add, number)


@function(id="steps-parent")
async def parent(ctx: Any) -> Any:
    one = await ctx.step.run("before", add, 1)
    two = await ctx.step.invoke("child", "steps-child", one)
    race = await ctx.step.wait_any("race", {"t": TimerWait(5), "u": TimerWait(9)})
    return [two, race.name, await ctx.step.run("after", add, two)]


FAILURES: Counter[str] = Counter()
WIDTH = {fan: 3, nested: 2}
SHAPES = [chain, named, fan, nested, flaky, parent]


def committed_calls(world: testing.World, run_id: str, function_id: str) -> None:
    """No step was called again once its completion was committed."""
    seen: Counter[str] = Counter()
    for entry in world.store.tables.streams[f"run/{run_id}"]:
        if entry.kind == "step.completed":
            seen[msgspec.json.decode(entry.data)["key"]] += 1
    assert not [key for key, count in seen.items() if count > 1]
    versions = [entry.version for entry in world.store.tables.streams[f"run/{run_id}"]]
    assert versions == list(range(1, len(versions) + 1))


@LINGERS
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.id)
def test_a_crash_at_any_call_changes_nothing(shape: Any, after: bool, linger: float) -> None:
    functions = [*SHAPES, child]

    async def smooth(world: testing.World) -> Any:
        FAILURES.clear()
        ended = await world.run(shape)
        assert ended.status == "completed", ended.error
        return ended.result, len(world.calls)

    expected, calls = play(smooth, functions=functions, linger=linger)

    for number in range(1, calls + 1):

        async def crashing(world: testing.World, number: int = number) -> None:
            FAILURES.clear()
            world.crash_at_step(number, after=after)
            run_id = await world.start(shape)
            ended = await world.wait(run_id)
            assert ended.status == "completed", ended.error
            assert ended.result == expected
            committed_calls(world, run_id, shape.id)
            # Only calls that the crash interrupted were made again: of one branch, or of each.
            assert len(world.calls) <= calls + WIDTH.get(shape, 1)

        play(crashing, functions=functions, linger=linger)


@LINGERS
def test_a_result_that_was_committed_is_not_asked_for_again(linger: float) -> None:
    async def main(world: testing.World) -> None:
        def inc(total: int) -> int:
            world.crash_at_step(1)  # at the next call, which is not made then
            return total + 1

        world.mock_step("inc", inc)
        ended = await world.run(chain)
        assert ended.result == 5
        assert ended.executions == 5
        # One call for each step, and one more for each of the four crashes.
        assert len(world.calls) == 5 + 4

    play(main, functions=[chain], linger=linger)


# -- how functions are called ----------------------------------------------------------------------


def test_sync_steps_run_in_a_thread_and_lambdas_may_return_coroutines() -> None:
    here = threading.get_ident()

    @function(id="steps-calls")
    async def calls(ctx: Any) -> Any:
        def where(a: int, *, flag: bool) -> list[Any]:
            return [threading.get_ident() != here, a, flag]

        class Adder:
            async def __call__(self, a: int) -> int:
                return a + 1

        return [
            await ctx.step.run("sync", where, 1, flag=True),
            await ctx.step.run("lambda", lambda: add(1)),
            await ctx.step.run("callable", Adder(), 5),
        ]

    async def main(world: testing.World) -> None:
        assert (await world.run(calls)).result == [[True, 1, True], 2, 6]

    play(main, functions=[calls])


def test_executor_loop_calls_sync_steps_on_the_loop() -> None:
    here = threading.get_ident()

    @function(id="steps-on-loop", executor="loop")
    async def on_loop(ctx: Any) -> Any:
        return await ctx.step.run("where", lambda: threading.get_ident() == here)

    async def main(world: testing.World) -> None:
        assert (await world.run(on_loop)).result is True

    play(main, functions=[on_loop])


# -- retries ---------------------------------------------------------------------------------------


@LINGERS
def test_retries_come_at_the_moments_that_the_policy_computes(linger: float) -> None:
    policy = RetryPolicy(max_attempts=4, initial_delay=10, factor=3, max_delay=60, jitter=0.5)
    moments: list[int] = []

    @function(id="steps-backoff")
    async def backoff(ctx: Any) -> Any:
        async def fail() -> None:
            moments.append(int(world_of[0].clock.now()))
            raise ValueError("always")

        try:
            await ctx.step.run("fail", fail, retry=policy)
        except StepError as error:
            return [error.step, error.kind, error.reason, error.attempts]

    world_of: list[testing.World] = []

    async def main(world: testing.World) -> None:
        world_of.append(world)
        run_id = await world.start(backoff)
        await world.advance(1)
        await world.crash()  # in the first pause
        ended = await world.wait(run_id)
        assert ended.result == ["fail", "ValueError", "always", 4]
        delays = [policy.delay(n, f"{run_id}/fail") for n in (1, 2, 3)]
        expected = [int(delay * SECOND) for delay in delays]
        assert [b - a for a, b in itertools.pairwise(moments)] == expected
        assert ended.steps["fail"].status is StepStatus.FAILED

    play(main, functions=[backoff], linger=linger)


@LINGERS
def test_the_default_is_three_attempts_a_second_and_two_apart(linger: float) -> None:
    @function(id="steps-default")
    async def default(ctx: Any) -> None:
        def fail() -> None:
            raise OSError("no")

        await ctx.step.run("fail", fail)

    async def main(world: testing.World) -> None:
        run_id = await world.start(default)
        ended = await world.wait(run_id)
        assert len(world.calls) == 3
        assert ended.status == "failed"
        assert ended.error is not None
        assert (ended.error.kind, ended.error.code) == ("StepError", "step_failed")
        assert ended.error.message == "step 'fail' failed after 3 attempts: OSError: no"
        run = await world.state(run_id)
        seed = f"{run_id}/fail"
        pauses = sum(int(RetryPolicy().delay(n, seed) * SECOND) for n in (1, 2))
        assert run.ended_at is not None
        assert run.ended_at - run.created_at == pauses
        assert 2.7 * SECOND <= pauses <= 3.3 * SECOND

    play(main, functions=[default], linger=linger)


@pytest.mark.parametrize(
    ("error", "retry", "attempts"),
    [
        (NonRetryable("stop"), 5, 1),
        (KeyError("k"), {"max_attempts": 5, "no_retry_on": ["LookupError"]}, 1),
        (KeyError("k"), {"max_attempts": 2, "initial_delay": 1}, 2),
        (ValueError("v"), False, 1),
        (SystemExit(3), 5, 1),
        (asyncio.CancelledError(), 5, 1),
    ],
)
def test_what_is_not_tried_again(error: BaseException, retry: Any, attempts: int) -> None:
    @function(id="steps-final")
    async def final(ctx: Any) -> Any:
        async def fail() -> None:
            raise error

        def fail_in_thread() -> None:
            raise error

        raised = []
        for fn in (fail, fail_in_thread):
            try:
                await ctx.step.run("fail", fn, retry=retry)
            except StepError as failure:
                raised.append([failure.kind, failure.attempts])
        return raised

    async def main(world: testing.World) -> None:
        ended = await world.run(final)
        assert ended.result == [[type(error).__name__, attempts]] * 2

    play(main, functions=[final])


@LINGERS
def test_a_step_that_takes_too_long_fails_by_its_timeout_each_attempt(linger: float) -> None:
    @function(id="steps-slow")
    async def slow(ctx: Any) -> Any:
        async def work() -> None:
            await asyncio.sleep(100)

        async def own() -> None:
            raise TimeoutError("mine")

        found = []
        for name, fn in (("work", work), ("own", own)):
            try:
                await ctx.step.run(name, fn, timeout="5s", retry={"max_attempts": 2, "jitter": 0})
            except StepError as error:
                found.append([error.kind, error.attempts])
        return found

    async def main(world: testing.World) -> None:
        run_id = await world.start(slow)
        ended = await world.wait(run_id)
        assert ended.result == [["StepTimeout", 2], ["TimeoutError", 2]]
        run = await world.state(run_id)
        assert run.ended_at is not None
        assert run.ended_at - run.created_at == (5 + 1 + 5 + 1) * SECOND

    play(main, functions=[slow], linger=linger)


@LINGERS
def test_replay_raises_the_very_error_of_the_first_time(linger: float) -> None:
    seen: list[tuple[str, str, dict[str, Any]]] = []

    class Odd:
        pass

    @function(id="steps-errors")
    async def errors(ctx: Any) -> None:
        def explode() -> None:
            raise ValueError("bad\nnews")

        steps = {
            "fails": explode,
            "odd": lambda: {"list": [1, {"deep": Odd()}]},
            "key": lambda: {1: 2, "ok": float("nan")},
        }
        for name, fn in steps.items():
            try:
                await ctx.step.run(name, fn, retry=False)
            except Exception as error:  # noqa: BLE001
                facts = {k: v for k, v in vars(error).items() if not k.startswith("__")}
                seen.append((type(error).__name__, str(error), facts))
        await ctx.step.sleep("nap", "1d")

    async def main(world: testing.World) -> None:
        run_id = await world.start(errors)
        await world.advance("1h")
        await world.crash()
        await world.wait(run_id)
        assert len(seen) == 6
        assert seen[:3] == seen[3:]
        assert [kind for kind, _, _ in seen[:3]] == [
            "StepError",
            "NotSerializable",
            "NotSerializable",
        ]

    play(main, functions=[errors], linger=linger)


def test_what_cannot_be_stored_names_the_step_and_the_path_at_once() -> None:
    @function(id="steps-odd")
    async def odd(ctx: Any) -> None:
        await ctx.step.run("make", lambda: {"orders": [1, {"when": object()}]})

    async def main(world: testing.World) -> None:
        ended = await world.run(odd)
        assert len(world.calls) == 1  # trying again would not help
        assert ended.status == "failed"
        assert ended.error is not None
        assert ended.error.kind == "NotSerializable"
        assert "'make'" in ended.error.message
        assert "$.orders[1].when" in ended.error.message

    play(main, functions=[odd])


def test_a_result_of_the_function_that_cannot_be_stored_fails_the_run() -> None:
    @function(id="steps-odd-result", retry=3)
    async def odd_result(ctx: Any) -> Any:
        return {"x": {1, object()}}

    async def main(world: testing.World) -> None:
        ended = await world.run(odd_result)
        assert ended.status == "failed"
        assert ended.executions == 1
        assert ended.error is not None
        assert ended.error.kind == NotSerializable.__name__
        assert "steps-odd-result" in ended.error.message

    play(main, functions=[odd_result])
