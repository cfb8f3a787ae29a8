"""Processors are kept awake while a server falls asleep very often, and only then."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from ironflow import cpu_latency
from ironflow.actors.kernel.virtual_time import in_virtual_time
from ironflow.cpu_latency import (
    DEVICE,
    LOOK,
    MOST_PROCESSORS,
    OFTEN,
    SELDOM,
    CpuLatency,
    low_latency,
)
from ironflow.tuning import tuned_process

try:
    import uvloop
except ImportError:  # Windows
    uvloop = None

AWAKE, ASLEEP = 0, 2_000_000_000
LOOPS = [asyncio.new_event_loop, *([uvloop.new_event_loop] if uvloop else [])]


class Thread:
    """A thread that falls asleep `often` times a second."""

    def __init__(self, device: Path) -> None:
        device.touch()
        self.device, self.often = device, 0.0
        self._slept, self._since = 0.0, 0.0

    def count_sleeps(self) -> int:
        now = asyncio.get_running_loop().time()
        self._slept += self.often * (now - self._since)
        self._since = now
        return round(self._slept)

    async def sleep(self, often: float, looks: float = 2.5) -> list[int]:
        """What the device was told until some looks later."""
        self.count_sleeps()
        self.often = often
        await asyncio.sleep(looks * LOOK)
        return self.told()

    def told(self) -> list[int]:
        said = self.device.read_bytes()
        return [number for (number,) in struct.iter_unpack("i", said)]

    def watched(self, flags: int = os.O_WRONLY) -> CpuLatency:
        descriptor = os.open(self.device, flags)
        return CpuLatency(descriptor, self.count_sleeps, asyncio.get_running_loop().time)


@in_virtual_time
async def test_processors_are_awake_while_a_server_is_busy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ironflow")
    thread = Thread(tmp_path / "device")
    latency = thread.watched()
    latency.start()
    assert await thread.sleep(OFTEN * 0.9) == []
    assert await thread.sleep(OFTEN * 1.1) == [AWAKE]
    assert latency.is_held
    # A little less does not let them sleep, and a little more again says nothing new.
    assert await thread.sleep(SELDOM * 1.1) == [AWAKE]
    assert await thread.sleep(OFTEN * 3) == [AWAKE]
    assert await thread.sleep(SELDOM * 0.9) == [AWAKE, ASLEEP]
    assert await thread.sleep(OFTEN * 0.9) == [AWAKE, ASLEEP]
    assert await thread.sleep(OFTEN * 3) == [AWAKE, ASLEEP, AWAKE]
    latency.stop()
    said = [record.getMessage() for record in caplog.records]
    assert said == ["busy: processors are kept awake meanwhile (see --no-low-latency)"]  # once


@in_virtual_time
async def test_one_that_stops_lets_them_sleep(tmp_path: Path) -> None:
    thread = Thread(tmp_path / "device")
    latency = thread.watched()
    latency.start()
    assert await thread.sleep(OFTEN * 3) == [AWAKE]
    latency.stop()
    assert thread.told() == [AWAKE, ASLEEP]
    assert await thread.sleep(OFTEN * 3) == [AWAKE, ASLEEP]  # it does not look any more
    latency.stop()
    assert thread.told() == [AWAKE, ASLEEP]


@in_virtual_time
async def test_a_kernel_that_refuses_is_asked_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    thread = Thread(tmp_path / "device")
    latency = thread.watched(os.O_RDONLY)  # so that writing fails
    latency.start()
    await thread.sleep(OFTEN * 3, looks=5)
    assert not latency.is_held
    assert [record.getMessage() for record in caplog.records] == [
        f"processors sleep as usual: {DEVICE}: Bad file descriptor"
    ]
    latency.stop()


@in_virtual_time
async def test_a_kernel_that_takes_nothing_back_is_left(tmp_path: Path) -> None:
    thread = Thread(tmp_path / "device")
    read, write = os.pipe()  # a device that vanishes
    latency = CpuLatency(write, thread.count_sleeps, asyncio.get_running_loop().time)
    latency.start()
    await thread.sleep(OFTEN * 3)
    assert (latency.is_held, os.read(read, 9)) == (True, struct.pack("i", AWAKE))
    os.close(read)
    await thread.sleep(0)
    assert not latency.is_held
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(write)  # the kernel takes it back for one that closes the device
    latency.stop()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_a_child_that_was_forked_holds_nothing(tmp_path: Path) -> None:
    thread = Thread(tmp_path / "device")
    descriptor = os.open(thread.device, os.O_WRONLY)
    latency = CpuLatency(descriptor, int)
    child = os.fork()
    if not child:
        try:
            os.fstat(descriptor)
        except OSError:
            latency.stop()  # as a child that leaves its blocks does: the number may be another's
            os._exit(7)
        os._exit(1)
    _, status = os.waitpid(child, 0)  # noqa: ASYNC222 - it ends at once
    assert os.waitstatus_to_exitcode(status) == 7
    os.fstat(descriptor)
    latency.stop()


@pytest.mark.parametrize("make_loop", LOOPS)
def test_a_loop_that_is_closed_too_early_lets_them_sleep(
    make_loop: Callable[[], asyncio.AbstractEventLoop],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: 1)
    device = tmp_path / "device"
    device.touch()

    async def serve() -> None:
        with low_latency(str(device)) as latency:
            assert latency is not None
            latency._ask(True)
            asyncio.get_running_loop().stop()
            await asyncio.Event().wait()

    loop = make_loop()
    serving = serve()
    task = loop.create_task(serving)
    loop.run_forever()
    loop.close()
    assert device.read_bytes() == struct.pack("i", AWAKE)
    serving.close()
    assert device.read_bytes() == struct.pack("ii", AWAKE, ASLEEP)
    task._log_destroy_pending = False  # type: ignore[attr-defined]


async def test_where_there_is_no_device_nothing_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with low_latency(str(tmp_path / "none")) as latency:
        assert latency is None
    device = tmp_path / "device"
    device.touch()
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # what PYTHON_CPU_COUNT says
    monkeypatch.setattr(os, "sysconf", lambda name: MOST_PROCESSORS + 1)
    with low_latency(str(device)) as latency:
        assert latency is None  # a large machine
    monkeypatch.setattr(os, "sysconf", lambda name: MOST_PROCESSORS)
    with low_latency(str(device)) as latency:
        assert latency is not None
        assert not latency.is_held


async def test_this_kernel_takes_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_latency, "LOOK", 0.001)
    slept = iter(range(0, 10**9, 10**6))
    monkeypatch.setattr(cpu_latency, "_count_sleeps", lambda: next(slept))
    with low_latency() as latency:
        if latency is None:  # not Linux, not ours to open, or a large machine
            count = os.sysconf("SC_NPROCESSORS_ONLN")
            assert not os.access(DEVICE, os.W_OK) or count > MOST_PROCESSORS
            return
        while not latency.is_held:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
        with open(DEVICE, "rb", buffering=0) as device:  # noqa: ASYNC230 - answers at once
            assert struct.unpack("i", device.read(4)) == (AWAKE,)
    assert not latency.is_held


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux counts for a thread")
async def test_a_thread_that_waits_has_slept() -> None:
    before = cpu_latency._count_sleeps()
    for _ in range(100):
        await asyncio.to_thread(int)
    assert cpu_latency._count_sleeps() > before


@pytest.mark.parametrize("wanted", [True, False])
async def test_a_server_may_be_told_not_to(wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(cpu_latency, "_open", asked.append)
    with tuned_process(keep_awake=wanted):
        assert asked == [DEVICE] * wanted
