"""Several worker processes under one that watches over them: it starts again what dies, tells all
of them to end when it is told so, and marks the lines of each.

They outlive it only as long as their running steps take: each holds the end of a pipe that closes
with it, and drains then.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
from asyncio.subprocess import PIPE, Process
from typing import BinaryIO

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between a death and the next start, doubling, each between half and all of it."""
GOOD_LIFE = 60.0
"""Seconds after which a process counts as having worked: the next pause is short again."""
WRONG_USAGE = 2
"""Exit code with which the next one would end, too."""


class Supervisor:
    """Keeps processes of a command line alive until it is told to end."""

    def __init__(self, line: list[str], name: str, number: int, *, prefix: bool) -> None:
        """The processes get `--id NAME-1` and so on; `prefix`: lines that they write are marked."""
        self.line, self.name, self.number, self.prefix = line, name, number, prefix
        self.code = 0
        self._processes: dict[int, Process] = {}
        self._ending = asyncio.Event()
        self._lifeline, self._held = os.pipe()

    async def run(self) -> int:
        """Until every process has ended after a signal; the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.end, number)
        await asyncio.gather(*(self._keep(place) for place in range(1, self.number + 1)))
        return self.code

    def end(self, number: int = signal.SIGTERM) -> None:
        """Start nothing any more, and pass the signal on: the first one drains, a second ends."""
        self._ending.set()
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    async def _keep(self, place: int) -> None:
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE
        while not self._ending.is_set():
            began = loop.time()
            code = await self._run_once(place)
            if self._ending.is_set():
                return
            if code == WRONG_USAGE:
                self.code = WRONG_USAGE
                self.end()
                return
            if loop.time() - began >= GOOD_LIFE:
                pause = FIRST_PAUSE
            seconds = pause * random.uniform(0.5, 1.0)
            pause = min(pause * 2, LONGEST_PAUSE)
            self._say(f"worker process {place} {describe(code)}; again in {seconds:.1f} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), seconds)

    async def _run_once(self, place: int) -> int:
        own = ["--id", f"{self.name}-{place}", "--lifeline", str(self._lifeline)]
        process = await asyncio.create_subprocess_exec(
            *self.line,
            *own,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            pass_fds=[self._lifeline],
            # A terminal's Ctrl-C is for the one who watches, and passed on.
            start_new_session=True,
        )
        self._processes[place] = process
        if self._ending.is_set():  # told so while it was being started
            process.terminate()
        try:
            await asyncio.gather(
                self._copy(place, process.stdout, sys.stdout.buffer),
                self._copy(place, process.stderr, sys.stderr.buffer),
            )
            return await process.wait()
        finally:
            del self._processes[place]

    async def _copy(
        self, place: int, source: asyncio.StreamReader | None, target: BinaryIO
    ) -> None:
        """Lines as they come, whole, and marked with whose they are."""
        mark = f"[{place}] ".encode() if self.prefix else b""
        while source is not None and (line := await _line(source)):
            target.write(mark + line if line.endswith(b"\n") else mark + line + b"\n")
            target.flush()

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


async def _line(source: asyncio.StreamReader) -> bytes:
    """A line, or as much of a very long one as is there; empty at the end."""
    try:
        return await source.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        return await source.read(error.consumed or 1)


def describe(code: int) -> str:
    """How a process ended."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
