"""Processes that are measured: started on free ports, awaited until they answer, looked at through
/proc, and ended with everything that they started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
MIB = 1024 * 1024
START_SECONDS = 60.0
"""After which a process that does not answer is given up."""
LOOK_EVERY = 0.005
"""Seconds between two looks whether a process that starts answers."""


class Process:
    """One process group; its output goes to a file, of which the end is shown when it fails."""

    def __init__(
        self,
        name: str,
        line: Sequence[str | Path],
        folder: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        self.started = time.perf_counter()
        with self.log.open("ab") as output:
            self.popen = subprocess.Popen(
                [str(part) for part in line],
                cwd=folder,
                env={**_environment(), **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pids(self) -> list[int]:
        """The process and all that descend from it."""
        children: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    children.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
        found = [self.popen.pid]
        for pid in found:
            found.extend(children.get(pid, ()))
        return found

    def cpu(self) -> float:
        """Seconds of CPU so far, of the process and its descendants."""
        ticks = 0
        for pid in self.pids:
            with contextlib.suppress(OSError):
                fields = _stat(pid)
                ticks += int(fields[11]) + int(fields[12])
        return ticks / TICKS

    def rss(self) -> float:
        """Resident memory in MiB, of the process and its descendants."""
        pages = 0
        for pid in self.pids:
            with contextlib.suppress(OSError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * PAGE / MIB

    async def answers(self, port: int, request: bytes) -> float:
        """Wait until `request` is answered with a status below 400; seconds since the start.

        Raises `RuntimeError` with the end of its output when it ends or takes too long.
        """
        while time.perf_counter() - self.started < START_SECONDS:
            if self.popen.poll() is not None:
                raise RuntimeError(
                    f"{self.name} ended with {self.popen.returncode}:\n{self.tail()}"
                )
            if await _is_answered(port, request):
                return time.perf_counter() - self.started
            await asyncio.sleep(LOOK_EVERY)
        raise RuntimeError(f"{self.name} does not answer:\n{self.tail()}")

    def kill(self) -> None:
        """SIGKILL, at once."""
        self._signal(signal.SIGKILL)
        self.popen.wait()

    def stop(self) -> None:
        """Ask it to end, and see to it."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(10)
        self.kill()

    def tail(self) -> str:
        """The end of what it said."""
        return self.log.read_text(errors="replace")[-3000:]

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, number)


@contextlib.asynccontextmanager
async def running(*processes: Process) -> AsyncIterator[None]:
    """End the processes afterwards, the last one first."""
    try:
        yield
    finally:
        for process in reversed(processes):
            process.stop()


class Meter:
    """CPU seconds of processes, or of this one, from the moment it is made."""

    def __init__(self, *processes: Process) -> None:
        self._read: Callable[[], float] = (
            (lambda: sum(process.cpu() for process in processes))
            if processes
            else time.process_time
        )
        self._began = self._read()

    def seconds(self) -> float:
        """CPU seconds since then."""
        return self._read() - self._began


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def own_rss() -> float:
    """Resident memory of this process now, in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / MIB


def _environment() -> dict[str, str]:
    """Ours, but compiled modules are kept, as they are wherever a server is started twice."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


async def _is_answered(port: int, request: bytes) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(request)
        line = await asyncio.wait_for(reader.readline(), 5.0)
        return line[9:12].isdigit() and int(line[9:12]) < 400
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat behind the name: state, parent, ..."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2 :].split()
