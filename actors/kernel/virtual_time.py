"""A clock that jumps: an event loop on which an hour of timers passes in milliseconds.

`run_virtual(main)` runs a coroutine on a fresh `VirtualTimeLoop`. Whenever nothing is ready and no
outside work is under way, the loop's time jumps to the next timer: sleeps, time-outs and
`call_later` cost no real time. Time stands still during outside work: `run_in_executor`,
`to_thread` and aiosqlite's own calls are noticed without help; anything else in a thread or process
is put between `loop.hold()` and `loop.release()`, which any code may call that finds them on its
loop. Real sockets get a short `grace` before each jump. Where another loop would hang for ever,
`Deadlock` says which tasks wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import selectors
import sys
import threading
import warnings
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import Context
from typing import Any, Final, ParamSpec, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
P = ParamSpec("P")
Ts = TypeVarTuple("Ts")

START: Final = 1_767_225_600_000_000
"""Where virtual time begins unless told otherwise: 2026-01-01T00:00:00Z, in microseconds."""

YEAR: Final = 366 * 24 * 3600.0

THREADED: Final = frozenset({"aiosqlite"})
"""Packages that answer a future of the loop from a thread of their own."""


class Deadlock(RuntimeError):
    """Virtual time cannot go on: everything waits for something that will never come."""


class VirtualClock:
    """The wall clock of a virtual loop; `step` sets it without moving the loop's time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, start: int = START) -> None:
        self._loop, self._start = loop, start
        self._offset = 0

    def now(self) -> int:
        """The present, in microseconds since the epoch."""
        return self._start + self._offset + round(self._loop.time() * 1_000_000)

    def step(self, seconds: float) -> None:
        """Set the wall clock forward or (negative) back, as an administrator or NTP would."""
        self._offset += round(seconds * 1_000_000)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop with a time of its own, which starts at 0 and moves only by jumps.

    `grace` is how long (real seconds) real sockets are listened to before a jump, `patience` how
    long held work may take, `limit` how far (virtual seconds) time may go: what never ends is told.
    """

    def __init__(
        self,
        start: int = START,
        *,
        grace: float = 0.002,
        patience: float = 60.0,
        limit: float = YEAR,
    ) -> None:
        self._present = 0.0
        self._holds = 0
        # What threads have yet to answer. Changed on the loop's thread only.
        self._outside: set[object] = set()
        self._stranger: str | None = None
        self.grace, self.patience, self.limit = grace, patience, limit
        self._selector_of_time = _JumpingSelector(self)
        super().__init__(self._selector_of_time)
        # asyncio runs what is due before `time() + resolution`. Its own nanosecond is lost to
        # rounding after half a year, and then no timer is ever due.
        self._clock_resolution = 1e-6
        self._own_fds = len(self._selector_of_time.get_map())
        self._threads = ThreadPoolExecutor(thread_name_prefix="virtual")
        self.set_default_executor(self._threads)
        self.clock = VirtualClock(self, start)
        self.on_turn: Callable[[], None] | None = None
        """For simulation: called between any two turns of the loop."""
        self.on_rest: Callable[[], None] | None = None
        """For simulation: called when nothing is left to do but to let time pass."""

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._present

    def hold(self) -> None:
        """Outside work begins; time stands still until its release. On the loop's thread only."""
        self._holds += 1

    def release(self) -> None:
        """Outside work has ended and the loop has its result.

        On the loop's thread only; from another one use `call_soon_threadsafe(loop.release)`.
        """
        if self._holds == 0:
            raise RuntimeError("release() without hold()")
        self._holds -= 1

    @property
    def held(self) -> int:
        """How much outside work is under way."""
        return self._holds + len(self._outside)

    def create_future(self) -> asyncio.Future[Any]:
        """A future; one made by a package of `THREADED` holds the time until its thread answers."""
        future = super().create_future()
        module: str = sys._getframe(1).f_globals.get("__name__", "")
        if module.partition(".")[0] in THREADED:
            self._outside.add(future)
        return future

    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """Call back on the loop, from any thread."""
        answer = args[0] if args and isinstance(args[0], asyncio.Future) else None
        if not self.held and threading.get_ident() != getattr(self, "_thread_id", None):
            self._stranger = threading.current_thread().name
        handle = super().call_soon_threadsafe(callback, *args, context=context)
        if answer is not None:
            # On the loop and after the answer: done by the thread, the loop could go to sleep
            # between the two and nobody would wake it. The answer may also have been the last thing
            # that the loop waited for, and it is closed by now.
            with contextlib.suppress(RuntimeError):
                super().call_soon_threadsafe(self._outside.discard, answer)
        return handle

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Run a function in a thread; time stands still until it ends, even if nobody waits."""
        self.hold()  # the thread may be quicker than the next line
        try:
            work = (executor or self._threads).submit(func, *args)
            future = asyncio.wrap_future(work, loop=self)
            self._outside.add(work)
            # Added after wrap_future's own: it runs when the result has been handed to the loop.
            work.add_done_callback(self._let_go)
        finally:
            self.release()
        return future

    def _let_go(self, work: object) -> None:
        """In any thread: `work` is no longer outside. Wakes the loop, which may sleep by now."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            super().call_soon_threadsafe(self._outside.discard, work)

    def set_default_executor(self, executor: Executor) -> None:
        """Where `run_in_executor(None, ...)` runs."""
        if not isinstance(executor, ThreadPoolExecutor):
            raise TypeError("executor must be ThreadPoolExecutor instance")
        super().set_default_executor(executor)
        self._threads = executor

    async def shutdown_default_executor(self, *args: Any, **options: Any) -> None:
        """End the threads of the default executor."""
        self.hold()
        try:
            await super().shutdown_default_executor(*args, **options)
        finally:
            self.release()

    def jump(self, seconds: float) -> None:
        """Move time on. For the selector."""
        if self._stranger is not None:
            name, self._stranger = self._stranger, None
            warnings.warn(
                f"thread {name!r} called the loop while time was free to jump: "
                "put its work between loop.hold() and loop.release()",
                RuntimeWarning,
                stacklevel=2,
            )
        self._present += seconds
        if self._present > self.limit:
            raise Deadlock(
                f"not finished after {self._present:.0f} s of virtual time{self.describe()}"
            )

    @property
    def is_awake(self) -> bool:
        """Whether callbacks are ready to run."""
        ready: Any = getattr(self, "_ready", ())  # asyncio's own queue; it has no public name
        return bool(ready)

    @property
    def has_sockets(self) -> bool:
        """Whether real sockets or pipes are being listened to."""
        return len(self._selector_of_time.get_map()) > self._own_fds

    def describe(self) -> str:
        """The tasks that wait, a line each."""
        lines = []
        for task in asyncio.all_tasks(self):
            frames = task.get_stack(limit=1)
            where = f"{frames[0].f_code.co_filename}:{frames[0].f_lineno}" if frames else "?"
            lines.append(f"\n  {task.get_name()} {task.get_coro()!r} at {where}")
        return "".join(sorted(lines))


class _JumpingSelector(selectors.DefaultSelector):
    """Where a loop would sleep, virtual time jumps."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        loop = self._loop
        if loop.on_turn is not None:
            loop.on_turn()
        if timeout is not None and timeout <= 0:
            return super().select(0)
        # What the callback began is ready now, whatever the loop thought when it asked.
        if loop.is_awake:
            return super().select(0)
        # First whether work is held, then what is ready: a thread wakes the loop before it lets go.
        if loop.held:
            ready = super().select(loop.patience)
            if not ready:
                raise Deadlock(f"held work took more than {loop.patience:g} s{loop.describe()}")
            return ready
        ready = super().select(loop.grace if loop.has_sockets else 0)
        if ready:
            return ready
        if loop.on_rest is not None:
            loop.on_rest()
            if loop.is_awake:
                return []
        if timeout is not None:
            loop.jump(timeout)
            return []
        if loop.has_sockets:
            ready = super().select(loop.patience)
        if not ready:
            raise Deadlock(f"nothing is ready, no timer is set, no work is held{loop.describe()}")
        return ready


def run_virtual(
    main: Callable[[], Coroutine[Any, Any, T]],
    start: int = START,
    *,
    grace: float = 0.002,
    patience: float = 60.0,
    limit: float = YEAR,
) -> T:
    """Run `main()` to its end in virtual time and return its result.

    `start` is the wall clock's beginning in microseconds, `virtual_clock()` the clock inside; for
    the rest see `VirtualTimeLoop`.
    """

    def make_loop() -> VirtualTimeLoop:
        return VirtualTimeLoop(start, grace=grace, patience=patience, limit=limit)

    with asyncio.Runner(loop_factory=make_loop) as runner:
        return runner.run(main())


def virtual_clock() -> VirtualClock:
    """The clock of the virtual loop that is running."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualTimeLoop):
        raise TypeError("not running in virtual time: use run_virtual or @in_virtual_time")
    return loop.clock


def in_virtual_time(
    test: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, T]:
    """Make an `async def` test a plain one in virtual time; its fixtures must not be async."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_virtual(lambda: test(*args, **kwargs))

    return run
