"""Work for the power-loss tests: an engine on a database file, and a note of all that it answers.

Notes go to a file in the same folder, so that the recorder puts them into the one order of things:
what is noted had been acknowledged before anything that the log says later."""

import asyncio
import os
import sys

from ironflow import Context, embedded, function
from ironflow.storage.sqlite import connection

FOLDER, DURABILITY, CLIENTS = sys.argv[1], sys.argv[2], 12
# Small, so that the log is folded into the database again and again while the power may go.
connection.CHECKPOINT_PAGES = 40
NOTES = os.open(f"{FOLDER}/notes", os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def note(*words: object) -> None:
    os.write(NOTES, (" ".join(map(str, words)) + "\n").encode())


@function(id="power", retry=1, executor="loop")
async def power(ctx: Context, number: int) -> str:
    """Steps of different size, a short sleep, branches."""
    for index in range(3):
        await ctx.step.run(f"step-{index}", lambda: "x" * (100 + 3000 * (number % 3)))
        note("step", ctx.run_id, f"step-{index}")
    await ctx.step.sleep("nap", 0.005)

    async def branch(item: int) -> int:
        return await ctx.step.run("one", lambda: item)  # type: ignore[no-any-return]

    await ctx.step.map("branches", branch, [1, 2])
    note("step", ctx.run_id, "branches/1/one")
    return f"done {number}"


async def client(engine: "embedded.Engine", name: int) -> None:
    number = name
    while True:
        created = await engine.invoke("power", str(number).encode())
        note("created", created.run_id)
        run = await engine.wait(created.run_id)
        note("ended", created.run_id, run.status.value if run is not None else "?")
        await engine.emit("power.told", b'{"n": 1}', idempotency_key=f"{number}")
        number += CLIENTS


async def main() -> None:
    async with embedded.open_engine(f"{FOLDER}/power.db", durability=DURABILITY) as engine:
        print("up", flush=True)
        await asyncio.gather(*(client(engine, name) for name in range(CLIENTS)))


if __name__ == "__main__":
    asyncio.run(main())
