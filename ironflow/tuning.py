"""A process that is there for one server is set up for it: threads, garbage, and where its memory
lies.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from collections import Counter
from collections.abc import Iterator
from threading import Thread

from ironflow.cpu_latency import low_latency

SWITCH_INTERVAL = 0.0005
"""Seconds until the journal's thread gets the interpreter from a busy loop; 0.005 would stretch
every commit.
"""

COLLECT_AFTER = (20_000, 10, 10)
"""New objects before the youngest are looked at, and how many such looks before the older ones
are."""

SHIFT = 21
"""Two mebibytes, as a power of two: a huge page on x86-64, and on ARM whose pages have 4 KiB."""
ENOUGH = 64
"""Objects of modules from which on a block of this size is taken for a part of the heap."""
_COLLAPSE = 25
"""`MADV_COLLAPSE` (Linux 6.1, man 2 madvise): have this in a huge page, now."""


@contextlib.contextmanager
def tuned_process(*, keep_awake: bool = False) -> Iterator[None]:
    """While a process is there for servers, on the running loop: its threads hand over sooner, its
    garbage collector looks less often, and never again at what start-up has made, and that lies in
    huge pages. `keep_awake`: processors do not sleep while it is busy (`ironflow.cpu_latency`).

    The engine makes thousands of objects a second and next to no cycles; by default the collector
    walks through all live runs again and again, for 8 % of the CPU of a step at 256 runs at once.
    """
    _TUNING.begin()
    try:
        with low_latency() if keep_awake else contextlib.nullcontext():
            yield
    finally:
        _TUNING.end()


class _Tuning:
    """What the servers of a process share: the first one sets it, the last one takes it back."""

    def __init__(self) -> None:
        self._servers = 0

    def begin(self) -> None:
        self._servers += 1
        if self._servers > 1:
            return
        self._interval, self._thresholds = sys.getswitchinterval(), gc.get_threshold()
        self._was_frozen = gc.get_freeze_count() > 0
        sys.setswitchinterval(SWITCH_INTERVAL)
        gc.freeze()  # and no look at it now: that would be 20 ms in which the first request waits
        gc.set_threshold(*COLLECT_AFTER)
        Thread(target=use_huge_pages, name="ironflow-pages", daemon=True).start()

    def end(self) -> None:
        self._servers -= 1
        if self._servers:
            return
        gc.set_threshold(*self._thresholds)
        if not self._was_frozen:  # else there is no telling whose it is
            gc.unfreeze()
        sys.setswitchinterval(self._interval)


_TUNING = _Tuning()


def use_huge_pages() -> int:
    """Have the heap as it is now in huge pages, where Linux gives some; how many.

    What a server comes by for one step lies all over some fifteen thousand small pages, and after
    every wait for the disk or a caller the processor looks up anew where they are. Of large ones
    there are a dozen: 2 to 3 % less CPU for a caller alone, for a few mebibytes.
    """
    if sys.platform != "linux":
        return 0
    try:
        madvise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return 0
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    # Whatever stands in `sys.modules`: users put other things there than modules.
    names = [getattr(module, "__dict__", {}) for module in list(sys.modules.values())]
    places = [id(value) >> SHIFT for each in names for value in list(each.values())]
    blocks = [block for block, count in Counter(places).items() if count >= ENOUGH]
    return sum(madvise(block << SHIFT, 1 << SHIFT, _COLLAPSE) == 0 for block in blocks)
