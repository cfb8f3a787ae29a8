"""Notices when something holds up the event loop, and says which function did it.

A thread asks the loop for a sign of life a few times a second. When none comes within the
threshold, it reads the stack of the loop's thread: the frames of the SDK on it know the run and the
step, the innermost frame of the user's own is the line that is executing. Nothing is measured and
nothing is wrapped while all is well; the code that is watched does not know of it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import sysconfig
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import FrameType
from typing import ClassVar, NamedTuple

from ironflow.core.blockages import Blockage
from ironflow.core.clock import Clock
from ironflow.sdk.execution import Branch, Execution, Place, current_branch

log = logging.getLogger("ironflow.watchdog")

SILENCE = 60.0
"""Seconds between two log lines of the same culprit."""
SAMPLES = 5
"""Looks at the stack in each further stretch as long as the threshold."""
FOREIGN = tuple(
    sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
"""Where code lies that the user has not written."""
RUNS_THE_LOOP = ("run", "run_forever", "run_until_complete")
_ASYNCIO = os.path.dirname(asyncio.__file__) + os.sep
STARVED = "the process got no processor time"


ADVICE = 'let it compute in a step with executor="process", or block in one with "thread"'


class Work(ABC):
    """Base of what stands in a frame of ours while somebody's code is executed for a run, where
    that is no `Execution`.
    """

    advice: ClassVar[str]
    """What to do about code that holds up the loop here."""

    @abstractmethod
    def whose(self) -> tuple[str, str, str]:
        """The function, the run and the step."""


class Culprit(NamedTuple):
    """Who holds the loop, as far as it can be told."""

    place: str
    function_id: str = ""
    run_id: str = ""
    step: str = ""
    advice: str = ADVICE

    def __str__(self) -> str:
        if not self.function_id:
            return self.place
        step = f", step {self.step!r}" if self.step else ", between its steps"
        return f"function {self.function_id!r} (run {self.run_id}{step}) at {self.place}"


class Watchdog:
    """Watches the running loop. `threshold` in seconds; `report` is called on the loop."""

    def __init__(
        self, threshold: float, clock: Clock, report: Callable[[Blockage], object]
    ) -> None:
        self._threshold, self._clock, self._report = threshold, clock, report
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._sign, self._stop = threading.Event(), threading.Event()
        self._said: dict[tuple[str, str, str], float] = {}
        self._thread = threading.Thread(target=self._watch, name="ironflow-watchdog", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End. Does not wait for the thread."""
        self._stop.set()
        self._sign.set()

    # -- in the thread ----------------------------------------------------------------------------

    def _watch(self) -> None:
        # Half the threshold: whatever holds the loop for one and a half of it is noticed for sure.
        while not self._stop.wait(self._threshold / 2):
            self._sign.clear()
            asked = time.monotonic()
            try:
                self._loop.call_soon_threadsafe(self._sign.set)
            except RuntimeError:
                return  # the loop is closed
            if self._sign.wait(self._threshold) or self._stop.is_set():
                continue
            self._observe(asked)

    def _observe(self, asked: float) -> None:
        """Until the loop goes on: look who holds it."""
        at = self._clock.now()
        seen = Counter([self._look()])
        said = self._say(seen)
        while not self._sign.wait(self._threshold / SAMPLES):
            seen[self._look()] += 1
            said = said or self._say(seen)
        if self._stop.is_set():
            return
        seconds = time.monotonic() - asked
        culprit = seen.most_common(1)[0][0]
        if said:
            log.warning("the event loop goes on after %.2f s", seconds)
        found = Blockage(
            at, seconds, culprit.place, culprit.function_id, culprit.run_id, culprit.step
        )
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._report, found)

    def _say(self, seen: Counter[Culprit]) -> bool:
        """Log who it is, unless that was said a moment ago."""
        culprit = next(reversed(seen))
        if culprit.place == STARVED:
            return False
        key = culprit.function_id, culprit.step, culprit.place
        now = time.monotonic()
        if self._said.get(key, -SILENCE) > now - SILENCE:
            return False
        self._said = {k: t for k, t in self._said.items() if t > now - SILENCE}
        self._said[key] = now
        log.warning(
            "the event loop is held up: for more than %g s nothing else could run than %s; %s",
            self._threshold,
            culprit,
            culprit.advice,
        )
        return True

    def _look(self) -> Culprit:
        frame = sys._current_frames().get(self._watched)
        if frame is None:
            return Culprit("?")
        task = asyncio.current_task(self._loop)
        frames = list(_outwards(frame))
        if task is None and not any(_is_users(f) for f in frames):
            return Culprit(STARVED if _is_foreign(frame) else _line(frame))
        place = _line(next((f for f in frames if _is_users(f)), frame))
        found = _from_context(task) or _from_frames(frames)
        if found is None:
            return _working(frames, place) or Culprit(place)
        execution, step = found
        return Culprit(place, execution.function.id, execution.run_id, step)


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    """The frames of what the loop executes, the innermost first. The program that runs the loop
    waits for it, and is never who holds it up.
    """
    while frame is not None:
        yield frame
        if frame.f_code.co_name in RUNS_THE_LOOP and frame.f_code.co_filename.startswith(_ASYNCIO):
            return
        frame = frame.f_back


def _from_context(task: asyncio.Task[object] | None) -> tuple[Execution, str] | None:
    """The run and step that a task belongs to; also one that a step has started itself."""
    if task is None or sys.version_info < (3, 12):
        return None
    branch = task.get_context().get(current_branch)
    return None if branch is None else (branch.execution, branch.busy or "")


def _from_frames(frames: list[FrameType]) -> tuple[Execution, str] | None:
    """The same from what the SDK's own frames on the stack hold, the innermost first."""
    execution, step = None, ""
    for frame in frames:
        if not str(frame.f_globals.get("__name__", "")).startswith("ironflow.sdk."):
            continue
        for value in frame.f_locals.values():
            if isinstance(value, Place) and not step:
                step = value.name
            elif isinstance(value, Branch) and execution is None:
                execution, step = value.execution, step or value.busy or ""
            elif isinstance(value, Execution) and execution is None:
                execution = value
    return None if execution is None else (execution, step)


def _working(frames: list[FrameType], place: str) -> Culprit | None:
    """The work that one of our frames is at, the innermost one's."""
    for frame in frames:
        if not str(frame.f_globals.get("__name__", "")).startswith("ironflow."):
            continue
        for value in frame.f_locals.values():
            if isinstance(value, Work):
                return Culprit(place, *value.whose(), advice=value.advice)
    return None


def _is_users(frame: FrameType) -> bool:
    own = str(frame.f_globals.get("__name__", ""))
    return not own.startswith("ironflow.") and not _is_foreign(frame)


def _is_foreign(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    return file.startswith(FOREIGN) or file.startswith("<frozen")


def _line(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
