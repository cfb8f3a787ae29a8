"""The inside of a process that runs steps for `ironflow.sdk.processes`.

It is handed one call at a time over a socket and answers what came of it. It never outlives its
parent: a thread reads the socket all the time and ends the process, with whatever its step has
started, when the other side is gone; on Linux the kernel does so, even while a C extension holds
the interpreter.
"""

from __future__ import annotations

import asyncio
import fcntl
import inspect
import io
import logging
import os
import pickle
import queue
import runpy
import select
import signal
import sys
import threading
import traceback
import types
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from ironflow.core.errors import NonRetryable
from ironflow.logs import configure_logging
from ironflow.modules import load_module
from ironflow.sdk.cancellation import asked

CANCEL, TERMINATE = b"cancel", b"terminate"
"""Words beside calls: the one that is under way is to end; it and what it has started get
SIGTERM.
"""
loading_main = False
"""Whether the parent's main module is being loaded: it must not start runs of its own then."""


class Setup(NamedTuple):
    """What a fresh process has to know of its parent."""

    lifeline: int
    """The reading end of a pipe of which the parent keeps the writing end for as long as it
    lives.
    """
    modules: dict[str, str]
    """Files of the modules that were loaded by path, by name."""
    main: tuple[str, str] | None
    """The parent's main module: `name` or `path`, and which."""
    logs: tuple[str, str] | None
    """Format and level of log lines, where ironflow writes them."""


class Done(NamedTuple):
    """The pickled result of a call."""

    result: bytes


class Raised(NamedTuple):
    """What a call raised: pickled where that can be undone, and in words."""

    error: bytes | None
    kinds: tuple[str, ...]
    """Names of its class and those above, up to `Exception`, the nearest first."""
    message: str
    trace: str
    final: bool
    """Whether it is a `NonRetryable`."""


class Unfit(NamedTuple):
    """The call cannot be made (`part`: function, arguments) or its result cannot be sent."""

    part: str
    kind: str
    reason: str


Answer = Done | Raised | Unfit


def main(connection: Connection) -> None:
    """Serve calls until the parent is gone. Never returns."""
    setup = Setup(*connection.recv())
    _end_with_parent(setup.lifeline)
    _leave_signals_to_the_parent()
    if setup.logs is not None:
        configure_logging(*setup.logs)
    calls: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(connection, calls), daemon=True).start()
    loader = Loader(setup)
    while True:
        request = calls.get()
        current.begin()
        try:
            answer = perform(request, loader)
        except (SystemExit, asyncio.CancelledError) as error:  # SIGTERM, at an awkward moment
            answer = raised(error)
        finally:
            current.end()
        connection.send_bytes(pickle.dumps(answer))


class Current:
    """The call that is under way, for those that may interrupt it."""

    def __init__(self) -> None:
        self._busy = self._terminating = False
        self._task: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None

    def begin(self) -> None:
        """A call begins."""
        asked.clear()
        self._busy = True

    def end(self) -> None:
        """It is over: what was meant for it has no effect any more."""
        self._busy, self._task = False, None

    def follow(self, task: asyncio.Task[Any]) -> None:
        """The call is async."""
        self._task = (task.get_loop(), task)
        if asked.is_set():
            task.cancel()

    def ask_to_end(self) -> None:
        """In another thread: whoever asks is told, and what is async is cancelled."""
        asked.set()
        if (found := self._task) is not None:
            loop, task = found
            with suppress(RuntimeError):  # it has ended
                loop.call_soon_threadsafe(task.cancel)

    def terminate(self) -> None:
        """In another thread: this process and whatever it has started get SIGTERM."""
        self._terminating = True
        os.killpg(0, signal.SIGTERM)

    def on_signal(self, *_: object) -> None:
        """A service manager signals the whole group, too: the parent decides what becomes of
        us.
        """
        if self._terminating and self._busy:
            self._terminating = False
            raise SystemExit(128 + signal.SIGTERM)


current = Current()


def _end_with_parent(lifeline: int) -> None:
    """Have the kernel kill this process group when the parent's end of a pipe is closed."""
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # closed before that
        os.killpg(0, signal.SIGKILL)


def _leave_signals_to_the_parent() -> None:
    """A service manager signals the whole group: the parent drains, and kills us when it is over.

    Handlers, for an ignored signal would be ignored by what a step starts, too.
    """
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, current.on_signal)


def _read(connection: Connection, calls: queue.SimpleQueue[bytes]) -> None:
    try:
        while True:
            word = connection.recv_bytes()
            if word == CANCEL:
                current.ask_to_end()
            elif word == TERMINATE:
                current.terminate()
            else:
                calls.put(word)
    except (EOFError, OSError):
        _flush()
        # What a step has started in this session is of no use to anyone now.
        os.killpg(0, signal.SIGKILL)


def _flush() -> None:
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue


class Loader:
    """Finds what a call names, in modules that the parent has loaded by path or run as its main."""

    def __init__(self, setup: Setup) -> None:
        self._files, self._main = dict(setup.modules), setup.main

    def load(self, data: bytes) -> Any:
        """Unpickle."""
        return _Unpickler(self, data).load()

    def prepare(self, module: str) -> None:
        """Make a module importable."""
        path = self._files.pop(module.partition(".")[0], None)
        if path is not None:
            load_module(path)
        if module == "__main__" and self._main is not None:
            (kind, name), self._main = self._main, None
            sys.modules["__main__"] = _load_main(kind, name)


def _load_main(kind: str, name: str) -> types.ModuleType:
    """The parent's main module, under another name: the guard of a script keeps it from starting
    again.
    """
    global loading_main  # noqa: PLW0603 - for the pool that an unguarded script would make here
    run: Any = runpy.run_module if kind == "name" else runpy.run_path
    made = sys.modules["__mp_main__"] = types.ModuleType("__mp_main__")
    loading_main = True
    try:
        made.__dict__.update(run(name, run_name="__mp_main__"))
    finally:
        loading_main = False
    return made


class _Unpickler(pickle.Unpickler):
    def __init__(self, loader: Loader, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._loader = loader

    def find_class(self, module: str, name: str) -> Any:
        self._loader.prepare(module)
        return super().find_class(module, name)


def perform(request: bytes, loader: Loader) -> Answer:
    """Make one call; what came of it."""
    function, arguments = pickle.loads(request)
    try:
        fn = loader.load(function)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a user's module raises
        return Unfit("function", type(error).__name__, _text(error))
    try:
        args, kwargs = loader.load(arguments)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a user's class raises
        return Unfit("arguments", type(error).__name__, _text(error))
    try:
        result = fn(*args, **kwargs)
        if inspect.isawaitable(result):
            result = asyncio.run(_awaited(result))
    except (Exception, SystemExit, KeyboardInterrupt, asyncio.CancelledError) as error:  # noqa: BLE001
        return raised(error)
    try:
        return Done(pickle.dumps(result))
    except Exception as error:  # noqa: BLE001 - a user's class may raise anything
        return Unfit("result", type(result).__qualname__, f"{type(error).__name__}: {_text(error)}")
    finally:
        del result, args, kwargs


async def _awaited(result: Any) -> Any:
    task = asyncio.current_task()
    assert task is not None
    current.follow(task)
    return await result


def raised(error: BaseException) -> Raised:
    """An exception as it travels."""
    kinds = [k.__name__ for k in type(error).__mro__ if issubclass(k, Exception)]
    data = None
    # Any other would interrupt the server's loop instead of failing the step.
    if isinstance(error, Exception | SystemExit):
        try:
            pickled = pickle.dumps(error)
            pickle.loads(pickled)
            data = pickled
        except Exception:  # noqa: BLE001 - an exception's own code may raise anything
            data = None
    # Without the frames of ours that called it.
    inner = error.__traceback__.tb_next if error.__traceback__ is not None else None
    trace = "".join(traceback.format_exception(type(error), error, inner))
    return Raised(
        data,
        tuple(kinds[:-1]) or (type(error).__name__,),
        _text(error),
        trace,
        isinstance(error, NonRetryable),
    )


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a user's class
        return ""
