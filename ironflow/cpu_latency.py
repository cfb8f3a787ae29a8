"""Processors that stay awake while a server falls asleep and wakes thousands of times a second.

A caller alone has the server wait for the disk at every step: for a tenth of a millisecond, in
which the kernel sends the idle processor to sleep. Waking it costs up to half as much again, and
what runs then runs slowly at first: in a virtual machine the processor was given away meanwhile.
Linux lets a process say that it cannot have that ("PM QoS",
https://docs.kernel.org/power/pm_qos_interface.html): for as long as it holds `/dev/cpu_dma_latency`
open with a zero in it, idle processors wait in a loop instead. That costs power, and concerns the
whole machine; so it is asked for only while it pays, and not on large machines.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import struct
import sys
import time
import weakref
from collections.abc import Callable, Iterator

log = logging.getLogger("ironflow")

DEVICE = "/dev/cpu_dma_latency"
NEVER_ASLEEP, AS_USUAL = struct.pack("i", 0), struct.pack("i", 2_000_000_000)
"""Microseconds that waking up may take; the second one is the kernel's default."""

MOST_PROCESSORS = 8
"""Of a machine on which all of them are kept awake for one that works."""
OFTEN, SELDOM = 1000, 400
"""Times a second that the loop's thread falls asleep: from the first one on processors are kept
awake, and until it is below the second one. A caller alone who waits for synced commits has the
thread do so some 3,000 times.
"""
LOOK = 0.25
"""Seconds between two looks at it."""


class CpuLatency:
    """Watches how often the thread of the running loop falls asleep, and asks the kernel."""

    def __init__(
        self,
        descriptor: int,
        count_sleeps: Callable[[], int],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`descriptor` is the opened device, closed at the end; `count_sleeps` gives how often the
        thread fell asleep in its life, `clock` seconds.
        """
        self._descriptor: int | None = descriptor
        self._count_sleeps, self._clock = count_sleeps, clock
        self.is_held = False
        """Whether processors are kept awake now."""
        self._sleeps, self._looked = count_sleeps(), clock()
        self._timer: asyncio.TimerHandle | None = None
        self._was_held = False
        _OPEN.add(self)

    def start(self) -> None:
        """Look from now on."""
        self._timer = asyncio.get_running_loop().call_later(LOOK, self._look)

    def stop(self) -> None:
        """Look no more, let processors sleep, and close the device."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._ask(False)
        self.close()

    def close(self) -> None:
        """Close the device: the kernel takes back what was asked for through it."""
        descriptor, self._descriptor, self.is_held = self._descriptor, None, False
        if descriptor is not None:
            os.close(descriptor)

    def _look(self) -> None:
        sleeps, now = self._count_sleeps(), self._clock()
        rate = (sleeps - self._sleeps) / max(now - self._looked, LOOK / 10)
        self._sleeps, self._looked = sleeps, now
        if self._ask(rate >= (SELDOM if self.is_held else OFTEN)):
            self.start()

    def _ask(self, wanted: bool) -> bool:
        """Have processors stay awake, or not; whether the kernel took it."""
        if self._descriptor is None:
            return False
        if wanted is not self.is_held:
            try:
                os.write(self._descriptor, NEVER_ASLEEP if wanted else AS_USUAL)
            except OSError as error:
                log.warning("processors sleep as usual: %s: %s", DEVICE, error.strerror)
                self.close()
                return False
            self.is_held = wanted
            if wanted and not self._was_held:
                self._was_held = True
                log.info("busy: processors are kept awake meanwhile (see --no-low-latency)")
        return True


_OPEN: weakref.WeakSet[CpuLatency] = weakref.WeakSet()


def _close_in_child() -> None:
    """A request ends when the last process closes the device: a child that was forked, and outlives
    a server that was killed, would keep processors awake for nobody.
    """
    for latency in list(_OPEN):
        latency.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def low_latency(device: str = DEVICE) -> Iterator[CpuLatency | None]:
    """While a server works on the running loop, have processors stay awake whenever that pays; None
    where there is no such device, it is not ours to open, or the machine is a large one.

    The kernel takes the request back when the process ends, however it ends.
    """
    descriptor = _open(device)
    if descriptor is None:
        yield None
        return
    latency = CpuLatency(descriptor, _count_sleeps)
    latency.start()
    try:
        yield latency
    finally:
        latency.stop()


def _open(device: str) -> int | None:
    if sys.platform != "linux":
        return None
    # Not `os.cpu_count`, which says what PYTHON_CPU_COUNT does: it concerns all there are.
    if not 0 < os.sysconf("SC_NPROCESSORS_ONLN") <= MOST_PROCESSORS:
        return None
    try:
        return os.open(device, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _count_sleeps() -> int:
    import resource  # there is none on Windows

    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
