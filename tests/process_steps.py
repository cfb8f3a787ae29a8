"""Steps that tests run in processes, at the top of a module where a process finds them."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ironflow import NonRetryable, is_cancelled


@dataclass
class Order:
    id: str
    amount: int


class Awkward(Exception):
    """Cannot be unpickled: its constructor wants more than its message."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"{name} {number}")


class Unwilling(NonRetryable):
    """The same, and final."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"{name} {number}")
        self.held = threading.Lock()  # what cannot be pickled


class Secret:
    def __reduce__(self) -> str:
        raise TypeError("not out of here")


def pid(*_: object) -> int:
    return os.getpid()


def double(order: Order) -> Order:
    return Order(order.id, 2 * order.amount)


async def later(value: str) -> str:
    await asyncio.sleep(0)
    return f"{value} in {os.getpid()}"


def burn(file: str) -> None:
    """Computes for ever, and tells its pid and that of a process it has started."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    write(file, f"{os.getpid()} {child.pid}")
    while True:
        pass


def ignore_sigterm(file: str) -> None:
    """Will not end, whatever it is told."""
    write(file, str(os.getpid()))
    while True:
        try:
            time.sleep(600)
        except SystemExit:
            continue


def ask_whether_cancelled(file: str) -> str:
    """Ends when it learns that its run is to."""
    write(file, str(os.getpid()))
    while not is_cancelled():
        time.sleep(0.01)
    return "tidied up"


async def await_for_ever(file: str) -> None:
    """Ends as a task does."""
    write(file, str(os.getpid()))
    await asyncio.Event().wait()


def cancelled_now() -> bool:
    return is_cancelled()


def burn_the_first_time(file: str) -> str:
    if not Path(file).exists():
        burn(file)
    return "second time"


def stall_in_c(file: str) -> None:
    """Holds the interpreter for ever: no thread of Python runs."""
    write(file, str(os.getpid()))
    ctypes.PyDLL(None).pause()


def die(how: str, file: str) -> str:
    """Takes its process down, the first time."""
    if Path(file).exists():
        return "lived"
    write(file, "")
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), getattr(signal, how))
    time.sleep(60)
    return "unreachable"


def fail(kind: str) -> None:
    raise {
        "value": ValueError("too small"),
        "awkward": Awkward("mail", 5),
        "unwilling": Unwilling("mail", 5),
        "final": NonRetryable("never"),
        "exit": SystemExit(4),
        "interrupt": KeyboardInterrupt(),
    }[kind]


def unsendable() -> Any:
    return Secret()


def large(size: int) -> str:
    return "x" * size


def write(file: str, text: str) -> None:
    """In one piece: whoever waits for it must not see half of it."""
    Path(file + ".part").write_text(text)
    os.replace(file + ".part", file)


def stop_iteration() -> None:
    raise StopIteration("enough")
