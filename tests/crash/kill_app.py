"""The functions that the crash tests serve. Every execution of a step leaves a line in a side file,
so that a test can tell what really ran, whatever the journal says."""

import os
import time

from ironflow import Context, EventWait, TimerWait, function

SIDE_FILE = os.environ["CRASH_SIDE_FILE"]


def note(run_id: str, step: str) -> None:
    """Append one line, atomically."""
    line = f"{run_id} {step} {os.getpid()} {time.time_ns() // 1000}\n"
    with open(SIDE_FILE, "ab", buffering=0) as file:
        file.write(line.encode())


@function(id="child", retry={"max_attempts": 1, "initial_delay": 0.05})
async def child(ctx: Context, number: int) -> int:
    """Two steps around a short sleep."""

    async def square() -> int:
        note(ctx.run_id, "square")
        return number * number

    value: int = await ctx.step.run("square", square)
    await ctx.step.sleep("rest", 0.02)
    return value


@function(id="mixed", retry={"max_attempts": 4, "initial_delay": 0.05})
async def mixed(ctx: Context, number: int) -> list[object]:
    """A little of everything that can be interrupted."""

    async def work(step: str, value: int) -> int:
        note(ctx.run_id, step)
        return value + 1

    value = number
    for index in range(3):
        value = await ctx.step.run("chain", work, f"chain{index}", value)
    await ctx.step.sleep("nap", 0.05)

    async def branch(item: int) -> int:
        first: int = await ctx.step.run("first", work, f"first{item}", item)
        await ctx.step.sleep("pause", 0.03 * item)
        second: int = await ctx.step.run("second", work, f"second{item}", first)
        return second

    mapped = await ctx.step.map("branches", branch, [1, 2, 3], concurrency=2)
    squared = await ctx.step.invoke("child", child, number)
    await ctx.step.emit("told", "mixed.told", {"run": ctx.run_id})
    heard = await ctx.step.wait_for_event(
        "heard", "mixed.told", match={"data.run": ctx.run_id}, lookback="1h", timeout="5m"
    )
    winner = await ctx.step.wait_any(
        "race", {"timer": TimerWait(0.02), "event": EventWait("never.comes")}
    )
    undone = ctx.uuid()
    last = await ctx.step.run("last", work, "last", value)
    return [last, mapped, squared, heard.data["run"] == ctx.run_id, winner.name, str(undone) != ""]
