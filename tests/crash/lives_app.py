"""Lives of a process that are cheap to begin: everything is imported once, and each life is a fork.

A line on stdin begins one: `FOLDER POINT PURPOSE` (POINT is `name:count`, or `-`). Its pid is
answered, and when it has ended its exit status. A life works on the database in the folder and
notes, in files there, what it was answered (`notes`) and which steps it executed (`side`)."""

import asyncio
import logging
import os
import sys
import time

from ironflow import Context, TimerWait, embedded, function
from ironflow.core import crash_points
from ironflow.core.errors import IronflowError
from ironflow.storage.ports import RetentionRule, RunFilter
from ironflow.storage.sqlite import retention as sqlite_retention

CLIENTS, RUNS_OF_A_CLIENT = 4, 2
sqlite_retention.CHUNK_STREAMS = 3  # several chunks in a small database
files: dict[str, int] = {}


def note(file: str, *words: object) -> None:
    os.write(files[file], (" ".join(map(str, words)) + "\n").encode())


@function(id="child", retry=1, executor="loop")
async def child(ctx: Context, number: int) -> int:
    await ctx.step.sleep("rest", 0.003)
    return await ctx.step.run("square", work, ctx.run_id, "square", number * number)  # type: ignore[no-any-return]


@function(id="lives", retry=1, executor="loop")
async def lives(ctx: Context, number: int) -> list[object]:
    first = await ctx.step.run("first", work, ctx.run_id, "first", number)
    await ctx.step.sleep("nap", 0.004)
    pair = await ctx.step.map("pair", lambda n: part(ctx, n), [0, 1])
    squared = await ctx.step.invoke("child", child, number)
    await ctx.step.emit("tell", "lives.told", {"run": ctx.run_id})
    heard = await ctx.step.wait_for_event(
        "heard", "lives.told", match={"data.run": ctx.run_id}, lookback="1h"
    )
    winner = await ctx.step.wait_any("race", {"a": TimerWait(0.002), "b": TimerWait(3600)})
    return [first, pair, squared, heard.name, winner.name]


async def part(ctx: Context, number: int) -> int:
    await ctx.step.sleep("nap", 0.002)
    return await ctx.step.run("part", work, ctx.run_id, f"pair/{number}/part", number)  # type: ignore[no-any-return]


def work(run_id: str, key: str, value: int) -> int:
    note("side", run_id, key, os.getpid(), time.time_ns() // 1000)
    return value


async def client(engine: "embedded.Engine", life: int, name: int) -> None:
    for number in range(RUNS_OF_A_CLIENT):
        key = f"{life}-{name}-{number}"
        created = await engine.invoke("lives", b"3", idempotency_key=key)
        note("notes", "created", created.run_id)
        run = await engine.wait(created.run_id)
        assert run is not None
        note("notes", "ended", created.run_id)


async def live(folder: str, purpose: str) -> None:
    async with embedded.open_engine(f"{folder}/lives.db", linger=0.002) as engine:
        if purpose == "work":
            clients = (client(engine, os.getpid(), name) for name in range(CLIENTS))
            await asyncio.gather(*clients)
        elif purpose == "retain":
            rules = [RetentionRule(kind=kind, max_count=4) for kind in ("completed", "events")]
            await engine.store.retire(rules, engine.clock.now(), dry_run=False)
        else:
            # On a slow machine lives are short: runs that were in several of them without getting
            # anywhere have been paused, and go on when they are told to.
            states = ("queued", "running", "waiting", "paused")
            while rows := await engine.store.reader.runs(RunFilter(statuses=states), 1000):
                for row in rows:
                    if row.status == "paused":
                        await engine.resume(row.id)
                for row in rows:
                    await engine.wait(row.id, 0.3)  # it may be paused only now


def begin(folder: str, point: str, purpose: str) -> int:
    """A life: the pid of a fork that lives it."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        for name in ("notes", "side"):
            files[name] = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        if point != "-":
            crash_points.arm(point)
        asyncio.run(live(folder, purpose))
        code = 0
    except IronflowError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def main() -> None:
    logging.disable(logging.CRITICAL)
    for line in sys.stdin:
        pid = begin(*line.split())
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
