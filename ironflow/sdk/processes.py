"""Steps in processes of their own: a pool for functions that compute for long, or may have to be
killed.

A step's function and arguments are pickled, called in a worker process, and its result or exception
comes back. Unlike a thread a process can be stopped: a time-out kills it, together with whatever it
has started; a cancel asks it to end, then terminates it, then kills it. One that dies by itself
(out of memory, a crash in C) fails the attempt and not the server. Processes are started when they
are first needed, used again, and ended after a while without work.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from ironflow.core.errors import InvalidInput, NonRetryable, NotSerializable, StepProcessLost
from ironflow.core.runs.entries import CancelRung
from ironflow.modules import loaded_files
from ironflow.sdk import process_worker
from ironflow.sdk.process_worker import Answer, Done, Raised, Setup, Unfit
from ironflow.sdk.threads import contain

IDLE_SECONDS = 60.0
"""How long a process without work is kept."""
DEATH_SECONDS = 0.5
"""How long one whose socket is closed may take to be dead."""
BOOTSTRAP = (
    "import sys; from multiprocessing.connection import Connection; "
    "connection = Connection(int(sys.argv[1])); sys.path[:] = connection.recv(); "
    "from ironflow.sdk.process_worker import main; main(connection)"
)
Logs = tuple[str, str]


class Job:
    """One call: what is called, who waits for it, and where it is under way."""

    __slots__ = ("args", "ended", "fn", "future", "kwargs", "step", "worker")

    def __init__(
        self,
        step: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        future: asyncio.Future[Any],
    ) -> None:
        self.step, self.fn, self.args, self.kwargs = step, fn, args, kwargs
        self.future = future
        self.worker: Worker | None = None
        self.ended = threading.Event()


class ProcessPool:
    """At most `limit` processes (0: one a core). Used on the loop's thread only."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, limit: int = 0, logs: Logs | None = None
    ) -> None:
        self._loop, self._limit, self._logs = loop, limit or os.cpu_count() or 1, logs
        self._workers: list[Worker] = []
        self._idle: list[Worker] = []
        self._waiting: deque[Job] = deque()
        self._closed = False

    async def call(
        self,
        step: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        on_rung: Callable[[CancelRung, int], object],
        grace: Callable[[], float],
    ) -> Any:
        """Call `fn` in a process, when one is free. Cancelled, the process is made to end that
        first: it is asked to, gets SIGTERM after `grace()` seconds and SIGKILL after as many
        again; at once when that is 0. `on_rung` is told of each, with the process.

        Raises what `fn` raises, `InvalidInput` when the call cannot be sent, `NotSerializable` when
        its result cannot, `StepProcessLost` when the process died.
        """
        if process_worker.loading_main:
            raise _unfit(
                step,
                "the main script starts runs when it is loaded, and processes have to load it; "
                'put that below `if __name__ == "__main__":`',
            )
        job = Job(step, fn, args, kwargs, self._loop.create_future())
        self._waiting.append(job)
        # On a loop of virtual time, time stands still while a process works.
        virtual: Any = self._loop if hasattr(self._loop, "hold") else None
        if virtual is not None:
            virtual.hold()
        self._assign()
        try:
            return await asyncio.shield(job.future)
        except asyncio.CancelledError:
            # Cancelled once more while the process ends, nobody is there for what comes of it.
            job.future.add_done_callback(lambda future: future.cancelled() or future.exception())
            if job.worker is None:
                self._waiting.remove(job)
            elif not job.future.done():
                await self._end(job, job.worker, on_rung, grace())
            raise
        finally:
            if virtual is not None:
                virtual.release()

    async def _end(
        self, job: Job, worker: Worker, on_rung: Callable[[CancelRung, int], object], grace: float
    ) -> None:
        """Make a process end its call; the next attempt must not overlap with what is left of
        it.
        """
        ladder: tuple[tuple[CancelRung, Callable[[], bool]], ...] = (
            ("asked", worker.ask_to_end),
            ("terminated", worker.terminate),
        )
        try:
            for rung, tell in ladder:
                if grace > 0 and not job.ended.is_set() and tell():
                    on_rung(rung, worker.pid or 0)
                    # By the clock on the wall, also where the loop's time jumps.
                    await self._loop.run_in_executor(None, job.ended.wait, grace)
        finally:
            if not job.ended.is_set():
                on_rung("killed", worker.pid or 0)
                worker.kill()
        await asyncio.wait([job.future])

    def close(self) -> None:
        """Kill every process; what they were doing is lost."""
        self._closed = True
        for worker in self._workers:
            worker.close()
        self._workers.clear()
        self._idle.clear()

    @property
    def pids(self) -> list[int]:
        """The processes there are."""
        return [pid for worker in self._workers if (pid := worker.pid) is not None]

    def _assign(self) -> None:
        while self._waiting and not self._closed:
            if self._idle:
                worker = self._idle.pop()
            elif len(self._workers) < self._limit:
                worker = Worker(self._logs, self._report)
                self._workers.append(worker)
                worker.start()
            else:
                return
            job = self._waiting.popleft()
            job.worker = worker
            worker.jobs.put(job)

    def _report(self, worker: Worker, job: Job, result: Any, error: BaseException | None) -> None:
        """In a worker's thread: hand the outcome to the loop."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._settle, worker, job, result, error)

    def _settle(self, worker: Worker, job: Job, result: Any, error: BaseException | None) -> None:
        if not job.future.done():
            if error is not None:
                job.future.set_exception(error)
            else:
                job.future.set_result(result)
        if not self._closed:
            self._idle.append(worker)
            self._assign()


class Worker(threading.Thread):
    """A thread with a process: it starts the process, waits for it, kills and reaps it."""

    def __init__(self, logs: Logs | None, report: Callable[..., None]) -> None:
        super().__init__(name="ironflow-process", daemon=True)
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._logs, self._report = logs, report
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._socket: socket.socket | None = None
        self._lifeline = -1
        """The end of a pipe that is open for as long as this process lives."""
        self._doomed = False
        self._sending = threading.Lock()

    # -- on the loop's thread ---------------------------------------------------------------------

    def ask_to_end(self) -> bool:
        """Tell the process that its call is to end; False when that cannot be told."""
        return self._tell(process_worker.CANCEL)

    def terminate(self) -> bool:
        """Have the process and whatever it has started get SIGTERM. It is not used again."""
        self._doomed = True
        return self._tell(process_worker.TERMINATE)

    def _tell(self, word: bytes) -> bool:
        connection = self._connection
        if connection is None:
            return False
        try:
            with self._sending:
                connection.send_bytes(word)
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """Let the thread kill the process and whatever that has started. Does not block."""
        self._doomed = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread

    def close(self) -> None:
        """Kill the process and end the thread."""
        self.kill()
        self.jobs.put(None)

    @property
    def pid(self) -> int | None:
        """The process, if there is one."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    # -- in the thread ----------------------------------------------------------------------------

    def run(self) -> None:
        """Perform jobs until told to end."""
        while True:
            try:
                job = self.jobs.get(timeout=IDLE_SECONDS if self._process is not None else None)
            except queue.Empty:
                self._end()
                continue
            if job is None:
                self._end()
                return
            result, error = None, None
            try:
                result = contain(self._perform, job)
            except BaseException as raised:  # noqa: BLE001 - travels to the loop
                error = raised
            job.ended.set()
            if self._doomed:
                self._end()
            self._report(self, job, result, error)
            del job, result, error

    def _perform(self, job: Job) -> Any:
        if self._doomed:  # by a cancel that came when its job had just ended
            self._end()
        request = dump_call(job)
        try:
            connection = self._connect()
            if self._doomed:
                raise EOFError
            with self._sending:
                connection.send_bytes(request)
            answer: Answer = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError) as error:
            code = self._end()
            if code is None:
                raise StepProcessLost(job.step, f"could not be started: {error}") from error
            raise StepProcessLost(job.step, describe_exit(code)) from None
        return take(job.step, job.fn, answer)

    def _connect(self) -> Connection:
        """The connection to the process, which is started if there is none."""
        if self._connection is None:
            ours, theirs = socket.socketpair()
            lifeline, self._lifeline = os.pipe()
            with theirs, os.fdopen(lifeline, "rb"):
                self._socket = ours
                self._connection = Connection(os.dup(ours.fileno()))
                self._process = subprocess.Popen(
                    [sys.executable, "-c", BOOTSTRAP, str(theirs.fileno()), "ironflow-step"],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno(), lifeline],
                    # A group of its own, so that a kill reaches what a step has started, and the
                    # terminal's Ctrl-C is left to us.
                    start_new_session=True,
                )
            self._connection.send(sys.path)
            setup = Setup(lifeline, loaded_files(), main_module(), self._logs)
            self._connection.send(tuple(setup))
        return self._connection

    def _end(self) -> int | None:
        """Kill and reap the process; its exit code."""
        process, self._process = self._process, None
        code = None
        if process is not None:
            try:
                # One that died of itself has closed the socket just before.
                code = process.wait(0 if self._doomed else DEATH_SECONDS)
            except subprocess.TimeoutExpired:
                _kill(process.pid)
                code = process.wait()
        if self._connection is not None and self._socket is not None:
            self._connection.close()
            self._socket.close()
            os.close(self._lifeline)
        self._connection = self._socket = None
        self._doomed = False
        return code


def _kill(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def main_module() -> tuple[str, str] | None:
    """How a process finds what this one's main module defines; None when ironflow is the main."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        is_ours = spec.name == "__main__" or spec.name.split(".")[0] == "ironflow"
        return None if is_ours else ("name", spec.name)
    path = getattr(main, "__file__", None)
    return None if path is None else ("path", os.path.abspath(path))


def dump_call(job: Job) -> bytes:
    """The call as it is sent. Raises `InvalidInput` saying what of it cannot be."""
    name = _name(job.fn)
    try:
        function = pickle.dumps(job.fn)
    except Exception as error:
        inside = "<locals>" in name or "<lambda>" in name
        why = "it is defined inside a function" if inside else f"{type(error).__name__}: {error}"
        raise _unfit(
            job.step, f"{name} cannot be imported there ({why}); define it at the top of a module"
        ) from error
    try:
        arguments = pickle.dumps((job.args, job.kwargs))
    except Exception as error:
        reason = f"its arguments cannot be sent there: {type(error).__name__}: {error}"
        raise _unfit(job.step, reason) from error
    return pickle.dumps((function, arguments))


def take(step: str, fn: Callable[..., Any], answer: Answer) -> Any:
    """The result in an answer. Raises what the call raised."""
    match answer:
        case Done(result):
            return pickle.loads(result)
        case Raised():
            raise _restore(answer)
        case Unfit("result", kind, reason):
            raise NotSerializable(
                f"step {step!r}", "$", kind, f"it cannot leave the process: {reason}"
            )
        case Unfit(part, kind, reason):
            what = _name(fn) if part == "function" else "what its arguments hold"
            raise _unfit(step, f"{what} cannot be loaded there: {kind}: {reason}")


def _restore(answer: Raised) -> BaseException:
    error: BaseException | None = None
    if answer.error is not None:
        with suppress(Exception):
            error = pickle.loads(answer.error)
    if not isinstance(error, BaseException):
        # Of the same names, for a retry policy knows exceptions by theirs.
        kind: type[Exception] = NonRetryable if answer.final else Exception
        for name in reversed(answer.kinds):
            kind = type(name, (kind,), {"__module__": "ironflow.process"})
        error = kind(answer.message)
    error.__cause__ = _RemoteTrace(answer.trace)
    return error


class _RemoteTrace(Exception):
    """The traceback in the process, as text: frames do not travel."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def describe_exit(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended by itself with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (by hand, or the system was out of memory)" if -code == signal.SIGKILL else ""
    return f"was killed by {name}{hint}"


def _unfit(step: str, reason: str) -> InvalidInput:
    return InvalidInput("executor", f"step {step!r} cannot run in a process: {reason}")


def _name(fn: Callable[..., Any]) -> str:
    name = getattr(fn, "__qualname__", None)
    return f"{getattr(fn, '__module__', '?')}.{name}" if name else repr(fn)
