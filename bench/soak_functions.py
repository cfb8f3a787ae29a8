"""What the soak serves: a little of everything, each with a result that can be foretold."""

from __future__ import annotations

import hashlib
from typing import Any

from ironflow import CancelOn, Context, NonRetryable, function

QUICK = {"max_attempts": 3, "initial_delay": 0.05}


def digest(text: str, rounds: int) -> str:
    """Computes for a while."""
    value = text.encode()
    for _ in range(rounds):
        value = hashlib.sha256(value).digest()
    return value.hex()


async def add(value: int, more: int) -> int:
    return value + more


def add_in_thread(value: int, more: int) -> int:
    return value + more


@function(id="chain", retry=QUICK)
async def chain(ctx: Context, number: int) -> int:
    """Steps on the loop and in threads, a short sleep, branches, a child."""
    value = number
    for _ in range(5):
        value = await ctx.step.run("add", add, value, 1)
    value = await ctx.step.run("add in a thread", add_in_thread, value, 1)
    await ctx.step.sleep("nap", 0.05)

    async def branch(more: int) -> int:
        await ctx.step.sleep("rest", 0.01 * more)
        return int(await ctx.step.run("more", add, value, more))

    branches = await ctx.step.map("branches", branch, [1, 2, 3])
    doubled = await ctx.step.invoke("child", child, value)
    return sum(branches) + int(doubled)


@function(id="child", retry=QUICK)
async def child(ctx: Context, number: int) -> int:
    """Twice its input."""
    return int(await ctx.step.run("double", add, number, number))


@function(id="crunch", executor="process", retry=QUICK)
async def crunch(ctx: Context, text: str) -> str:
    """A step that computes in a process."""
    return str(await ctx.step.run("digest", digest, text, 20_000))


@function(id="ordered", on="soak.ordered", retry=QUICK)
async def ordered(ctx: Context, order: dict[str, Any]) -> int:
    """Started by an event."""
    return int(await ctx.step.run("price", add, order["number"], 100))


@function(id="answered", retry=QUICK)
async def answered(ctx: Context, name: str) -> Any:
    """Waits for its event."""
    found = await ctx.step.wait_for_event(
        "answer", "soak.answer", match={"data.name": name}, timeout="1h", lookback="10m"
    )
    return found.data["value"]


@function(id="sleeper", retry=QUICK)
async def sleeper(ctx: Context, seconds: float) -> float:
    """Sleeps."""
    await ctx.step.sleep("long", seconds)
    return seconds


@function(id="doomed", retry=QUICK, cancel_on=CancelOn("soak.call_off", match="data.name"))
async def doomed(ctx: Context, what: dict[str, str]) -> None:
    """Waits for what never comes; is cancelled by request or by an event."""
    await ctx.step.wait_for_event("never", "soak.never", timeout="10d")


@function(id="faulty", retry=QUICK)
async def faulty(ctx: Context, number: int) -> None:
    """Fails, and undoes."""
    kept = await ctx.step.run("do", add, number, 1)
    ctx.step.compensate("undo", add, kept, -1)
    await ctx.step.run("refuse", refuse)


def refuse() -> None:
    raise NonRetryable("as it should")


@function(id="ticks", cron="*/5 * * * * *")
async def ticks(ctx: Context) -> str:
    """Every five seconds."""
    return str(await ctx.step.run("tick", digest, "tick", 1))
