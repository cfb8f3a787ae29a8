"""The stories of the golden journals: functions, what is done from outside while they run, and how
they end. A story that was recorded is never changed: a new one is added beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import golden_workflows

from ironflow import EventWait, NonRetryable, RunWait, StepError, TimerWait, WaitTimeout, testing
from ironflow.sdk.function import Function, define
from ironflow.storage.ports import RunFilter

Play = Callable[[testing.World], Awaitable[str]]


class Story(NamedTuple):
    """`play` starts the run that the story is about and answers its id. When a journal is played on
    from its middle, `events` are emitted and `orders` given again, as long as they are needed.
    """

    name: str
    functions: list[Function]
    play: Play
    events: tuple[tuple[str, Any], ...] = ()
    orders: tuple[str, ...] = ()
    capacity: int = 1000
    again: Callable[[testing.World, str], Awaitable[None]] | None = None
    """What else comes from outside, again when a journal is played on."""


async def give(value: Any = None) -> Any:
    return value


async def refuse() -> None:
    raise NonRetryable("refused")


class Flaky:
    """Fails at its first call; a process that starts later finds it in order."""

    failures = 1

    @classmethod
    async def give(cls, value: Any) -> Any:
        if cls.failures:
            cls.failures -= 1
            raise ValueError("not yet")
        return value


# -- functions ------------------------------------------------------------------------------------


async def steps(ctx: Any, number: int) -> Any:
    ctx.now()
    first = await ctx.step.run("first", give, number)
    again = await ctx.step.run("again", Flaky.give, first + 1)
    await ctx.step.sleep("short", 1)
    await ctx.step.sleep("long", 3600)
    large = await ctx.step.run("large", give, "x" * 66_000)
    return [first, again, len(large), await ctx.step.run("first", give, 3)]


async def attempts(ctx: Any) -> Any:
    await ctx.step.run("once", give, 1)
    if ctx.attempt == 1:
        raise ValueError("the first attempt")
    return "the second attempt"


async def blocker(ctx: Any, seconds: float) -> None:
    await ctx.step.run("block", asyncio.sleep, seconds)


async def waits(ctx: Any) -> Any:
    event = await ctx.step.wait_for_event("event", "golden.event", match="data.n == 1")
    try:
        await ctx.step.wait_for_event("silence", "golden.never", timeout=30)
    except WaitTimeout as error:
        silence = error.step
    past = await ctx.step.wait_for_event("past", "golden.>", lookback="2d")
    race = {"timer": TimerWait(5), "event": EventWait("golden.never")}
    winner = await ctx.step.wait_any("race", race)
    await ctx.step.emit("emit", "golden.told", {"n": 2})
    both = await ctx.step.wait_all("all", {"a": TimerWait(1), "b": TimerWait(2)})
    return [event.data["n"], silence, past.name[:6], winner.name, sorted(both)]


async def branches(ctx: Any) -> Any:
    async def good(number: int) -> Any:
        await ctx.step.sleep("nap", number)
        return await ctx.step.run("work", give, number)

    async def bad() -> None:
        await ctx.step.sleep("nap", 2)
        await ctx.step.run("refuse", refuse)

    mapped = await ctx.step.map("map", good, [1, 5, 9], concurrency=2)
    try:
        await ctx.step.parallel("failing", [lambda: good(600), bad])
    except StepError as error:
        return [mapped, error.reason]


async def kid(ctx: Any, number: int) -> int:
    await ctx.step.sleep("nap", number)
    return await ctx.step.run("double", give, number * 2)  # type: ignore[no-any-return]


async def family(ctx: Any) -> Any:
    one = await ctx.step.invoke("one", "golden-kid", 10)
    await ctx.step.invoke("apart", "golden-kid", 5, detached=True)
    race = {"slow": RunWait("golden-kid", 10_000), "timer": TimerWait(3)}
    winner = await ctx.step.wait_any("race", race)
    return [one, winner.name]


async def saga(ctx: Any) -> Any:
    for number in range(3):
        await ctx.step.run(f"do-{number}", give, number)
        ctx.step.compensate(f"undo-{number}", give, number)
    await ctx.step.sleep("rest", 60)
    await ctx.step.run("refuse", refuse)


async def patient(ctx: Any) -> Any:
    await ctx.step.run("do", give, 1)
    ctx.step.compensate("undo", give, 1)
    await ctx.step.sleep("rest", 100 * 86_400)


async def worker(ctx: Any) -> Any:
    for number in range(3):
        await ctx.step.run(f"work-{number}", asyncio.sleep, 10, number)
    return "worked"


async def mended(ctx: Any) -> Any:
    await ctx.step.run("once", give, 1)
    return await ctx.step.run("pick", Mended.pick)


class Mended:
    """What is broken until somebody mends it."""

    broken = True

    @classmethod
    async def pick(cls) -> str:
        if cls.broken:
            raise NonRetryable("broken")
        return "mended"


async def late(ctx: Any) -> Any:
    await ctx.step.sleep("too long", 500)


async def scheduled(ctx: Any, slot: Any) -> Any:
    return await ctx.step.run("work", give, slot["scheduled_at"])


async def listener(ctx: Any, data: Any) -> Any:
    return await ctx.step.run("hear", give, data["n"])


async def successor(ctx: Any, data: Any) -> Any:
    ctx.step.compensate("undo", asyncio.sleep, 5)
    for number in range(2):
        await ctx.step.run(f"work-{number}", asyncio.sleep, 10, number)
    return data["n"]


async def gatherer(ctx: Any, data: Any) -> Any:
    taken = [event.name for event in ctx.events]
    return [await ctx.step.run("keep", give, data), taken]


# -- from outside ---------------------------------------------------------------------------------


def start(function_id: str, value: Any = None, then: Callable[..., Any] | None = None) -> Play:
    async def play(world: testing.World) -> str:
        run_id = await world.start(function_id, value, idempotency_key=f"the {function_id}")
        if then is not None:
            await then(world, run_id)
        return run_id

    return play


async def crowd(world: testing.World, run_id: str) -> None:
    await world.start("golden-blocker", 200)


async def tell(world: testing.World, run_id: str) -> None:
    await world.advance(20)
    await world.emit("golden.event", {"n": 1})


async def cancel(world: testing.World, run_id: str) -> None:
    await world.advance(20)
    await world.cancel(run_id)


async def cancel_at_work(world: testing.World, run_id: str) -> None:
    await world.advance(15)
    await world.cancel(run_id, "enough")


async def pause(world: testing.World, run_id: str) -> None:
    await world.advance(15)
    await world.pause(run_id)
    await world.advance(60)
    await world.resume(run_id)


async def change(world: testing.World, run_id: str) -> None:
    await world.advance(15)
    await world.pause(run_id)
    await world.advance(60)
    engine = world.engine
    await engine.patch_step(
        run_id, "work-0", b'"other"', reason="by hand", by="apikey:1", injected=True
    )
    await engine.resume(run_id, "work-1")


async def crash(world: testing.World, run_id: str) -> None:
    await world.advance(15)
    await world.crash()


async def mend(world: testing.World, run_id: str) -> None:
    await world.wait(run_id)
    Mended.broken = False
    await world.retry(run_id)


async def start_by_event(world: testing.World) -> str:
    return (await world.emit("golden.listened", {"n": 7}, idempotency_key="one")).run_ids[0]


async def start_successor(world: testing.World) -> str:
    """The run that takes the place of another one."""
    await world.emit("golden.succeeded", {"n": 1}, idempotency_key="one")
    await world.advance(15)
    emitted = await world.emit("golden.succeeded", {"n": 2}, idempotency_key="two")
    return emitted.run_ids[0]


async def start_gathered(world: testing.World) -> str:
    """The run of three events that waited for one another."""
    for n in range(3):
        emitted = await world.emit("golden.gathered", {"n": n}, idempotency_key=f"the {n}")
        await world.advance(2)
    await world.advance(20)
    return emitted.outcomes[0].run_id


async def start_by_schedule(world: testing.World) -> str:
    await world.advance("61m")
    rows = await world.store.reader.runs(RunFilter(function_id="golden-scheduled"), 1)
    return rows[0].id


def _made(fn: Any, name: str, **options: Any) -> Function:
    return define(fn, id=f"golden-{name}", executor="loop", **options)


TWICE = {"max_attempts": 2, "initial_delay": 10}
UNDO_ALWAYS = ["failed", "cancelled", "timed_out"]

STORIES = [
    Story("steps", [_made(steps, "steps", retry=TWICE)], start("golden-steps", 1)),
    Story(
        "attempts",
        [_made(attempts, "attempts", retry=TWICE), _made(blocker, "blocker")],
        start("golden-attempts", None, crowd),
        capacity=1,
    ),
    Story(
        "waits",
        [_made(waits, "waits")],
        start("golden-waits", None, tell),
        events=(("golden.event", {"n": 1}),),
    ),
    Story("branches", [_made(branches, "branches", retry=1)], start("golden-branches")),
    Story("family", [_made(family, "family"), _made(kid, "kid")], start("golden-family")),
    Story("saga", [_made(saga, "saga", retry=1)], start("golden-saga")),
    Story(
        "cancelled",
        [_made(patient, "patient", compensate_on=UNDO_ALWAYS)],
        start("golden-patient", None, cancel),
        orders=("cancel",),
    ),
    Story(
        "cancelled-at-work",
        [_made(worker, "worker")],
        start("golden-worker", None, cancel_at_work),
        orders=("cancel",),
    ),
    Story(
        "paused",
        [_made(worker, "worker")],
        start("golden-worker", None, pause),
        orders=("resume",),
    ),
    Story(
        "changed",
        [_made(worker, "changed")],
        start("golden-changed", None, change),
        orders=("resume",),
    ),
    Story("crashed", [_made(worker, "worker")], start("golden-worker", None, crash)),
    Story(
        "mended",
        [_made(mended, "mended", retry=1)],
        start("golden-mended", None, mend),
        orders=("retry",),
    ),
    Story("late", [_made(late, "late", timeout=60, retry=1)], start("golden-late")),
    Story("scheduled", [_made(scheduled, "scheduled", cron="0 * * * *")], start_by_schedule),
    Story(
        "workflow",
        golden_workflows.functions(),
        golden_workflows.start,
        again=golden_workflows.answer,
    ),
    Story("listener", [_made(listener, "listener", on="golden.listened")], start_by_event),
    Story(
        "successor",
        [
            _made(
                successor,
                "successor",
                on="golden.succeeded",
                compensate_on=UNDO_ALWAYS,
                flow_control={"singleton": {"mode": "cancel"}},
            )
        ],
        start_successor,
    ),
    Story(
        "debounced",
        [
            _made(
                gatherer,
                "debounced",
                on="golden.gathered",
                flow_control={"debounce": {"period": 10}},
            )
        ],
        start_gathered,
    ),
    Story(
        "batched",
        [
            _made(
                gatherer,
                "batched",
                on="golden.gathered",
                flow_control={"batch": {"size": 5, "wait": 10}},
            )
        ],
        start_gathered,
    ),
]
