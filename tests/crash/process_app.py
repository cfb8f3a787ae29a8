"""Functions whose steps compute for ever in processes, served by path."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from ironflow import Context, function


def tell(file: str, *pids: int) -> None:
    """In one piece: whoever waits for it must not see half of it."""
    Path(file + ".part").write_text(" ".join(map(str, pids)))
    os.replace(file + ".part", file)


def burn(file: str) -> str:
    """For ever, the first time."""
    if Path(file).exists():
        return "second time"
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    tell(file, os.getpid(), child.pid)
    while True:
        pass


def stall(file: str) -> str:
    """The same in C, holding the interpreter: no thread of Python can run."""
    if Path(file).exists():
        return "second time"
    tell(file, os.getpid())
    ctypes.PyDLL(None).pause()
    return "unreachable"


@function(id="burn", executor="process", retry={"max_attempts": 3, "initial_delay": 0.01})
async def burning(ctx: Context, call: dict[str, Any]) -> str:
    """One step, by name."""
    step = {"burn": burn, "stall": stall}[call["step"]]
    return str(await ctx.step.run("burn", step, call["file"]))


@function(id="quick")
async def quick(ctx: Context, number: int) -> int:
    """Nothing but one step."""

    async def add() -> int:
        return number + 1

    return int(await ctx.step.run("add", add))


def hold_up(log: str) -> None:
    """Blocks the loop until the server has said so in its log."""
    pause = threading.Event()
    while "is held up" not in Path(log).read_text():
        pause.wait(0.01)


@function(id="careless", executor="loop")
async def careless(ctx: Context, log: str) -> None:
    """One step that blocks the event loop."""
    await ctx.step.run("block", hold_up, log)
