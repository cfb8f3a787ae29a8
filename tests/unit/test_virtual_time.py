"""The jumping clock: it jumps over nothing but idle time, and says so where it cannot go on."""

from __future__ import annotations

import asyncio
import itertools
import socket
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironflow.actors.kernel.virtual_time import (
    START,
    Deadlock,
    VirtualTimeLoop,
    in_virtual_time,
    run_virtual,
    virtual_clock,
)
from ironflow.storage.sqlite.connection import connect, open_connection


def now() -> float:
    return asyncio.get_running_loop().time()


@in_virtual_time
async def test_an_hour_of_timers_passes() -> None:
    clock, begin = virtual_clock(), virtual_clock().now()
    for second in range(3600):
        assert now() == second
        await asyncio.sleep(1)
    assert clock.now() - begin == 3_600_000_000


@in_virtual_time
async def test_time_stands_still_while_something_is_ready() -> None:
    for _ in range(1000):
        await asyncio.sleep(0)
    assert now() == 0


@in_virtual_time
async def test_timers_ring_in_their_order_and_at_their_time() -> None:
    rang: list[tuple[float, str]] = []
    loop = asyncio.get_running_loop()
    for name, at in [("c", 3.25), ("a", 0.5), ("d", 86_400 * 300.0), ("b", 3.0)]:
        loop.call_later(at, lambda name=name: rang.append((now(), name)))
    await asyncio.sleep(86_400 * 301)
    assert rang == [(0.5, "a"), (3.0, "b"), (3.25, "c"), (25_920_000.0, "d")]


@given(st.lists(st.integers(1, 10**13), min_size=1, max_size=20), st.integers(0, 10**13))
def test_a_timer_never_rings_before_the_wall_clock_says_so(delays: list[int], start: int) -> None:
    async def main() -> None:
        clock = virtual_clock()
        for delay in delays:
            due = clock.now() + delay
            await asyncio.sleep(delay / 1_000_000)
            assert clock.now() == due

    run_virtual(main, start=start, limit=float("inf"))


@in_virtual_time
async def test_timeouts_and_their_cancellation() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(30):
            await asyncio.Event().wait()
    assert now() == 30
    async with asyncio.timeout(30):
        await asyncio.sleep(29)
    assert now() == 59


def test_the_wall_clock_can_be_set_without_moving_time() -> None:
    async def main() -> None:
        clock = virtual_clock()
        assert clock.now() == 5_000_000
        clock.step(-3600)
        assert clock.now() == 5_000_000 - 3_600_000_000
        assert now() == 0
        await asyncio.sleep(1.5)
        clock.step(7200.25)
        assert clock.now() == 5_000_000 + 3_600_250_000 + 1_500_000

    run_virtual(main, start=5_000_000)


@in_virtual_time
async def test_threads_are_not_jumped_over() -> None:
    gate = threading.Event()
    late = asyncio.get_running_loop().call_later(5, lambda: None)
    work = asyncio.ensure_future(asyncio.to_thread(gate.wait, 30))
    await asyncio.sleep(0)
    threading.Timer(0.05, gate.set).start()
    assert await work
    assert now() == 0
    late.cancel()


@in_virtual_time
async def test_a_thread_that_nobody_waits_for_any_more_still_holds_time() -> None:
    loop, gate = asyncio.get_running_loop(), threading.Event()
    ended: list[float] = []

    def work() -> None:
        gate.wait(30)
        ended.append(loop.time())

    future = loop.run_in_executor(None, work)
    future.cancel()
    threading.Timer(0.05, gate.set).start()
    await asyncio.sleep(10)
    # Cancelled before a thread took it up, or run to its end before time moved on.
    assert ended in ([], [0.0])
    assert now() == 10


@in_virtual_time
async def test_a_thread_that_is_quicker_than_the_loop_is_none_of_the_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, go, told = asyncio.get_running_loop(), threading.Event(), threading.Event()
    wrap_future = asyncio.wrap_future

    def wrap(work: Any, **options: Any) -> asyncio.Future[Any]:
        future = wrap_future(work, **options)
        work.add_done_callback(lambda _: told.set())
        go.set()
        told.wait()
        return future

    monkeypatch.setattr(asyncio, "wrap_future", wrap)
    assert await loop.run_in_executor(None, go.wait)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await asyncio.sleep(1)


@in_virtual_time
async def test_an_error_in_a_thread_arrives() -> None:
    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(lambda: 1 // 0)
    assert isinstance(asyncio.get_running_loop(), VirtualTimeLoop)
    assert asyncio.get_running_loop().held == 0


@in_virtual_time
async def test_aiosqlite_is_noticed_without_help() -> None:
    ticks = asyncio.get_running_loop().call_later(0.001, lambda: None)
    async with aiosqlite.connect(":memory:") as database, asyncio.timeout(0.01):
        await database.execute("CREATE TABLE t(x)")
        for x in range(200):
            await database.execute("INSERT INTO t VALUES (?)", (x,))
        rows = await database.execute_fetchall("SELECT count(*) FROM t")
        assert [tuple(row) for row in rows] == [(200,)]
        assert now() == 0
    assert not ticks.cancelled()


@in_virtual_time
async def test_the_storage_connection_holds_time_for_what_it_submits(tmp_path: Path) -> None:
    connection = await connect(lambda: open_connection(str(tmp_path / "db")))
    loop = asyncio.get_running_loop()
    try:
        for _ in range(100):
            future: asyncio.Future[int] = loop.create_future()

            def work(future: asyncio.Future[int] = future) -> None:
                (one,) = connection.raw.execute("SELECT 1").fetchone()
                loop.call_soon_threadsafe(future.set_result, one)

            async with asyncio.timeout(0.01):
                connection.submit(work)
                assert await future == 1
        assert now() == 0
    finally:
        await connection.close()


@in_virtual_time
async def test_held_work_holds_time_until_it_is_released() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    done: asyncio.Future[float] = loop.create_future()

    def finish() -> None:
        done.set_result(loop.time())
        loop.release()

    loop.hold()
    threading.Timer(0.02, loop.call_soon_threadsafe, (finish,)).start()
    async with asyncio.timeout(1):
        assert await done == 0
    with pytest.raises(RuntimeError, match="without hold"):
        loop.release()


def test_a_thread_that_held_nothing_is_reported() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        started = threading.Event()

        def stranger() -> None:
            started.set()
            loop.call_soon_threadsafe(future.set_result, None)

        threading.Thread(target=stranger, name="stranger").start()
        started.wait()
        await future
        await asyncio.sleep(1)

    with pytest.warns(RuntimeWarning, match="thread 'stranger' called the loop"):
        run_virtual(main, grace=0.05)


def test_a_deadlock_names_what_waits() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock, match="nothing is ready") as caught:
        run_virtual(main)
    assert "main" in str(caught.value)
    assert "test_virtual_time.py" in str(caught.value)


def test_a_program_that_never_ends_is_reported() -> None:
    async def main() -> None:
        for _ in itertools.repeat(None):
            await asyncio.sleep(60)

    with pytest.raises(Deadlock, match="not finished after 86460 s of virtual time"):
        run_virtual(main, limit=86_400)


def test_held_work_that_never_ends_is_reported() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        loop.hold()
        await asyncio.sleep(1)

    with pytest.raises(Deadlock, match=r"held work took more than 0\.02 s"):
        run_virtual(main, patience=0.02)


@in_virtual_time
async def test_real_sockets_are_served_before_time_jumps() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        for _ in range(20):
            async with asyncio.timeout(1):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"hello\n")
                assert await reader.readline() == b"hello\n"
                writer.close()
                await writer.wait_closed()
        await asyncio.sleep(3600)
        assert now() >= 3600


@pytest.mark.parametrize("timeout", [None, 1.0])
def test_another_process_is_listened_to_before_time_jumps(timeout: float | None) -> None:
    """Where no timer is set as long as `patience` allows, else for the `grace`."""
    grace = 0.0 if timeout is None else 30.0
    assert run_virtual(lambda: hear_another_process(timeout), grace=grace) == (b"x", 0)


async def hear_another_process(timeout: float | None) -> tuple[bytes, float]:
    """What another process says, and the time by then."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    code = f"import os; os.write({theirs.fileno()}, b'x')"
    with (
        ours,
        theirs,
        subprocess.Popen(  # noqa: ASYNC220 - it blocks for the fork only
            [sys.executable, "-c", code], pass_fds=[theirs.fileno()]
        ) as child,
    ):
        async with asyncio.timeout(timeout):
            said = await asyncio.get_running_loop().sock_recv(ours, 1)
        heard_at = now()
        assert child.wait() == 0
    return said, heard_at


def test_results_errors_and_arguments_pass_through() -> None:
    @in_virtual_time
    async def add(a: int, *, b: int) -> int:
        await asyncio.sleep(1)
        return a + b

    @in_virtual_time
    async def fail() -> None:
        raise LookupError("no")

    assert add(1, b=2) == 3
    assert add.__name__ == "add"
    with pytest.raises(LookupError):
        fail()


def test_tasks_left_over_are_cancelled_and_their_cleanup_runs() -> None:
    cleaned: list[str] = []

    async def background() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(1)
            cleaned.append("yes")

    async def main() -> asyncio.Task[None]:
        task = asyncio.create_task(background())
        await asyncio.sleep(0)
        return task

    assert run_virtual(main).cancelled()
    assert cleaned == ["yes"]


async def test_the_virtual_clock_is_only_where_virtual_time_is() -> None:
    with pytest.raises(TypeError, match="not running in virtual time"):
        virtual_clock()


def test_two_runs_are_alike_and_independent() -> None:
    async def main() -> list[int]:
        clock = virtual_clock()
        moments = [clock.now()]
        for delay in (0.1, 0.2, 0.7):
            await asyncio.sleep(delay)
            moments.append(clock.now())
        return moments

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = run_virtual(main)
    assert first == run_virtual(main)
    assert first == [START, START + 100_000, START + 300_000, START + 1_000_000]
