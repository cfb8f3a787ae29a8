"""Random programs of durable operations, and what each must come to.

A program is data: a list of operations that one durable function interprets. `expect` says what the
program answers, whatever is done to the process that executes it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextvars import ContextVar
from functools import cache
from typing import Any

from ironflow.core.errors import InvokeError, NonRetryable, StepError, WaitTimeout
from ironflow.sdk.context import Context
from ironflow.sdk.function import Function, Registry, define
from ironflow.sdk.waits import EventWait, RunWait, TimerWait

PROGRAM, SAGA, HASTY, LISTENER, HOURLY = (
    "sim-program",
    "sim-saga",
    "sim-hasty",
    "sim-listener",
    "sim-hourly",
)
CALM, BULK, NEWEST = "sim-calm", "sim-bulk", "sim-newest"
"""Ticks are debounced into one, taken in batches, and take the place of the one before."""
TICK, DONE = "sim.tick", "sim.done"
LARGE = "x" * 70_000
"""More than an entry holds itself."""

calls: ContextVar[Counter[str]] = ContextVar("ironflow_simulated_calls")
"""How often what fails at first was called: the outside world, which no crash takes back."""

Operation = list[Any]


# -- the functions --------------------------------------------------------------------------------


async def _program(ctx: Context, operations: list[Any]) -> Any:
    """Perform the operations in turn."""
    return await _perform_all(ctx, operations)


async def _saga(ctx: Context, order: dict[str, Any]) -> Any:
    """Steps with compensations, and at the end a failure, if the order says so."""
    for number in range(order["steps"]):
        await ctx.step.run(f"do-{number}", _do, number)
        ctx.step.compensate(f"undo-{number}", _do, number)
        await ctx.step.sleep(f"rest-{number}", order["rest"])
    if order["fails"]:
        await ctx.step.run("fail", _fail)
    return order["steps"]


async def _hasty(ctx: Context, seconds: float) -> str:
    """Sleep, within a time limit of 60 seconds."""
    await ctx.step.sleep("sleep", seconds)
    return "in time"


async def _listener(ctx: Context, data: Any) -> Any:
    """Started by every tick."""
    return await ctx.step.run("hear", _give, data["n"])


async def _calm(ctx: Context, data: Any) -> Any:
    """Started by the last of several ticks."""
    return await ctx.step.run("hear", _give, data["n"])


async def _bulk(ctx: Context, ticks: list[Any]) -> Any:
    """Started by several ticks at once."""
    return await ctx.step.run("count", _give, len(ticks))


async def _newest(ctx: Context, data: Any) -> Any:
    """Started by every tick; the older one makes way."""
    ctx.step.compensate("undo", _do, 1)
    await ctx.step.run("do", _do, 1)
    await ctx.step.sleep("rest", 20)
    return data["n"]


async def _hourly(ctx: Context, slot: dict[str, str]) -> str:
    """Started by its schedule."""
    return str(await ctx.step.run("work", _give, slot["scheduled_at"]))


@cache
def functions() -> Registry:
    """The functions of the simulator, known to nobody else."""
    made = Registry()
    retry = {"max_attempts": 20, "initial_delay": 1, "factor": 1}
    options: dict[str, dict[str, Any]] = {
        PROGRAM: {"fn": _program, "retry": retry, "cancel_on": "sim.cancel-all"},
        SAGA: {
            "fn": _saga,
            "retry": 1,
            "compensate_on": ["failed", "cancelled", "timed_out"],
            "concurrency": [2, {"limit": 1, "key": "data.steps"}],
            "flow_control": {"priority": "data.steps", "fairness": {"key": "data.steps"}},
        },
        HASTY: {"fn": _hasty, "retry": 1, "timeout": 60},
        LISTENER: {
            "fn": _listener,
            "on": {"event": TICK, "if": "event.data.n % 3 == 0"},
            "flow_control": {
                "priority": "data.n % 2",
                "throttle": {"limit": 1, "period": "2m"},
            },
        },
        HOURLY: {"fn": _hourly, "cron": "7 * * * *"},
        CALM: {
            "fn": _calm,
            "on": TICK,
            "flow_control": {"debounce": {"period": 10, "max_wait": 60}},
        },
        BULK: {"fn": _bulk, "on": TICK, "flow_control": {"batch": {"size": 3, "wait": 45}}},
        NEWEST: {
            "fn": _newest,
            "on": TICK,
            "compensate_on": ["cancelled"],
            "flow_control": {"singleton": {"mode": "cancel"}},
        },
    }
    for function_id, facts in options.items():
        made.add(define(facts.pop("fn"), id=function_id, executor="loop", **facts))
    return made


def served(hourly: bool) -> Registry:
    """What a simulated process serves."""
    made = Registry()
    for function in functions().all():
        if hourly or function.id != HOURLY:
            made.add(function)
    return made


def _function(function_id: str) -> Function:
    found = functions().get(function_id)
    assert isinstance(found, Function)
    return found


# -- operations -----------------------------------------------------------------------------------


async def _perform_all(ctx: Context, operations: list[Operation]) -> list[Any]:
    return [await _perform(ctx, *operation) for operation in operations]


async def _perform(ctx: Context, kind: str, *rest: Any) -> Any:
    match kind, rest:
        case "step", (seconds, value):
            return await ctx.step.run("step", asyncio.sleep, seconds, value)
        case "sync", (value,):
            return await ctx.step.run("sync", _give, value)
        case "large", ():
            return len(await ctx.step.run("large", _give, LARGE))
        case "flaky", (failures, value):
            key = str(ctx.uuid())
            return await ctx.step.run("flaky", _flaky, key, failures, value)
        case "attempts", (failures,):
            _fail_at_first(f"{ctx.run_id}/{ctx.uuid()}", failures)
            return "at last"
        case "values", ():
            values = [ctx.random(), str(ctx.uuid()), ctx.now().isoformat()]
            return values == await ctx.step.run("values", _give, values)
        case "sleep", (seconds,):
            return await ctx.step.sleep("sleep", seconds)
        case "event", ():
            return (await ctx.step.wait_for_event("event", TICK, match="data.n > 0")).name
        case "past", ():
            return (await ctx.step.wait_for_event("past", "sim.*", lookback="2h")).name[:4]
        case "silence", (seconds,):
            try:
                await ctx.step.wait_for_event("silence", "never.comes", timeout=seconds)
            except WaitTimeout as error:
                return error.step
        case "emit", (value,):
            return len(await ctx.step.emit("emit", DONE, {"n": 0, "value": value}))
        case _:
            return await _perform_compound(ctx, kind, rest)


async def _perform_compound(ctx: Context, kind: str, rest: tuple[Any, ...]) -> Any:
    program = _function(PROGRAM)
    match kind, rest:
        case "race", (first, second, child):
            waits: dict[str, Any] = {"a": TimerWait(first), "b": TimerWait(second)}
            waits["e"] = EventWait("never.comes")
            if child is not None:
                waits["c"] = RunWait(program, [["sleep", 10_000_000], *child])
            return (await ctx.step.wait_any("race", waits)).name
        case "all", (first, child):
            both: dict[str, Any] = {"a": TimerWait(first), "c": RunWait(program, child)}
            return (await ctx.step.wait_all("all", both))["c"]
        case "parallel", (branches, width):
            return await ctx.step.map(
                "block", lambda each: _perform_all(ctx, each), branches, concurrency=width
            )
        case "failing", (seconds, branches):
            return await _fail_fast(ctx, seconds, branches)
        case "invoke", (operations,):
            return await ctx.step.invoke("invoke", program, operations)
        case "detached", (operations,):
            return len(await ctx.step.invoke("detached", program, operations, detached=True))
        case "hopeless", ():
            try:
                await ctx.step.invoke(
                    "hopeless", _function(SAGA), {"steps": 1, "rest": 0, "fails": True}
                )
            except InvokeError:
                return "failed"
        case _:
            raise ValueError(f"no operation {kind} {rest}")


async def _fail_fast(ctx: Context, seconds: float, branches: list[list[Operation]]) -> str | None:
    async def failing() -> None:
        await ctx.step.sleep("sleep", seconds)
        await ctx.step.run("fail", _fail)

    work = [lambda each=each: _perform_all(ctx, each) for each in branches]
    try:
        await ctx.step.parallel("block", [*work, failing])
    except StepError as error:
        return error.reason
    return None


def _give(value: Any) -> Any:
    return value


async def _do(number: int) -> int:
    await asyncio.sleep(0.01)
    return number


async def _fail() -> None:
    raise NonRetryable("no")


def _flaky(key: str, failures: int, value: int) -> int:
    _fail_at_first(key, failures)
    return value


def _fail_at_first(key: str, failures: int) -> None:
    counter = calls.get()
    counter[key] += 1
    if counter[key] <= failures:
        raise ValueError(f"call {counter[key]}")


# -- what they come to ----------------------------------------------------------------------------


def expect(operations: list[Operation]) -> list[Any]:
    """What a program answers; a set holds the answers that are all right."""
    return [_answer(*operation) for operation in operations]


def _answer(kind: str, *rest: Any) -> Any:
    simple = {
        "sleep": None, "event": TICK, "past": "sim.", "silence": "silence", "large": len(LARGE),
        "attempts": "at last", "values": True, "emit": 36, "detached": 36, "failing": "no",
        "hopeless": "failed",
    }  # fmt: skip
    match kind:
        case "step" | "sync" | "flaky":
            return rest[-1]
        case "race":
            # Set forward or down for long, both are due; on a full disk the second may be recorded.
            return {"a", "b"}
        case "all" | "invoke":
            return expect(rest[-1])
        case "parallel":
            return [expect(branch) for branch in rest[0]]
        case _:
            return simple[kind]


def matches(expected: Any, found: Any) -> bool:
    """Whether an answer is one of those that are all right."""
    if isinstance(expected, set):
        return found in expected
    if isinstance(expected, list):
        return (
            isinstance(found, list)
            and len(found) == len(expected)
            and all(map(matches, expected, found))
        )
    return bool(expected == found)


# -- chance ---------------------------------------------------------------------------------------

_SECONDS = (0, 0.5, 1, 3, 7, 100)


def draw_program(rng: random.Random) -> list[Operation]:
    """A program of one to five operations."""
    return [_draw(rng, depth=0) for _ in range(rng.randint(1, 5))]


def draw_saga(rng: random.Random) -> dict[str, Any]:
    """The input of a saga."""
    return {
        "steps": rng.randint(0, 3),
        "rest": rng.choice(_SECONDS[:5]),
        "fails": rng.random() < 0.6,
    }


def _draw(rng: random.Random, depth: int) -> Operation:
    small, seconds = rng.randint(0, 9), rng.choice(_SECONDS)
    if depth >= 2 or rng.random() < 0.65:
        return rng.choice(
            [
                ["step", seconds, small],
                ["step", seconds, small],
                ["sync", small],
                ["flaky", rng.randint(1, 2), small],
                ["sleep", seconds],
                ["sleep", seconds],
                ["event"],
                ["past"],
                ["silence", seconds],
                ["emit", small],
                ["values"],
                ["large"],
                ["attempts", rng.randint(1, 2)],
                ["hopeless"],
            ]
            if depth == 0
            else [
                ["step", seconds, small],
                ["sync", small],
                ["flaky", rng.randint(1, 2), small],
                ["sleep", seconds],
                ["event"],
                ["silence", seconds],
                ["emit", small],
            ]
        )

    def sequence() -> list[Operation]:
        return [_draw(rng, depth + 1) for _ in range(rng.randint(0, 3))]

    several = [sequence() for _ in range(rng.randint(1, 4))]
    child = sequence() if rng.random() < 0.5 else None
    return rng.choice(
        [
            ["parallel", several, rng.choice((None, 1, 2))],
            # No other wait may fail or end at the very moment of the failing branch.
            ["failing", rng.choice((0.3, 2.3)), several],
            ["invoke", sequence()],
            ["detached", sequence()],
            ["all", seconds, sequence()],
            ["race", rng.choice((1, 300)), 60, child],
        ]
    )
