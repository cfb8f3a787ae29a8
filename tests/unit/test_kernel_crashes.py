"""The actor kernel by example: what becomes of an actor that fails, and of its mailbox."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import warnings

import pytest
from talker import Call, Crash, CrashWith, Later, Say, Talker, build, now, settle

from ironflow.actors.kernel.actor import Actor, Behavior, Restart
from ironflow.actors.kernel.virtual_time import in_virtual_time
from ironflow.core.errors import Conflict, Gone, StorageError, StorageFull


@in_virtual_time
async def test_a_crashed_actor_starts_again_though_nobody_asks_for_it() -> None:
    system, journal = build()
    system.ref("talker", "a").tell(Crash())
    await asyncio.sleep(1)
    assert journal.starts == [("talker/a", 0.0), ("talker/a", 0.0)]
    assert journal.stops == ["talker/a"]
    (actor,) = system.statistics()
    assert (actor.state, actor.restarts, actor.handled) == ("ready", 1, 1)
    await system.stop()


@in_virtual_time
async def test_the_pause_before_a_restart_doubles() -> None:
    system, journal = build(restart=Restart(burst=8, period=60.0, pause=0.1))
    journal.start_errors = [RuntimeError() for _ in range(8)]
    ref = system.ref("talker", "a")
    assert await ref.ask(Say("at last")) == "at last"
    starts = [round(at, 3) for _, at in journal.starts]
    pauses = [round(b - a, 3) for a, b in itertools.pairwise(starts)]
    assert pauses == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    await system.stop()


@in_virtual_time
async def test_slow_failing_starts_escalate_too() -> None:
    system, _ = build()
    starts: list[float] = []

    class Slow(Actor):
        async def start(self) -> None:
            starts.append(now())
            await asyncio.sleep(25)
            raise RuntimeError("no")

    system.register(Behavior("slow", Slow, restart=Restart(burst=3, period=30.0)))
    with pytest.raises(Gone, match="crashed too often, last: RuntimeError"):
        await system.ref("slow").ask(Say(), timeout=None)
    assert len(starts) == 4
    await system.stop()


@in_virtual_time
async def test_a_start_that_succeeds_forgives_those_that_failed() -> None:
    system, journal = build(restart=Restart(burst=3, period=30.0), idle_after=None)
    ref = system.ref("talker", "a")
    journal.start_errors = [RuntimeError("no") for _ in range(3)]
    assert await ref.ask(Say("up"), timeout=None) == "up"
    await asyncio.sleep(60)
    journal.start_errors = [RuntimeError("no") for _ in range(2)]
    ref.tell(Crash())
    assert await ref.ask(Say("up again"), timeout=None) == "up again"
    await system.stop()


@in_virtual_time
async def test_crashes_far_apart_do_not_escalate() -> None:
    system, journal = build(restart=Restart(burst=2, period=10.0), idle_after=None)
    for _ in range(30):
        system.ref("talker", "a").tell(Crash())
        await asyncio.sleep(5.1)
    assert len(journal.starts) == 31
    assert system.statistics()[0].restarts == 30
    await system.stop()


@in_virtual_time
async def test_a_crash_loop_ends_the_mailbox_and_the_next_message_begins_anew() -> None:
    system, journal = build(restart=Restart(burst=2, period=10.0))
    ref = system.ref("talker", "a")
    for _ in range(3):
        ref.tell(Crash())
    asking = asyncio.ensure_future(ref.ask(Say("never said"), timeout=None))
    with pytest.raises(Gone, match="talker/a crashed too often, last: ZeroDivisionError"):
        await asking
    assert journal.said == []
    assert not system.is_live("talker/a")
    assert await ref.ask(Say("anew")) == "anew"
    assert system.statistics_by_kind()["talker"].restarts == 3
    await system.stop()


@in_virtual_time
async def test_a_storage_failure_is_no_crash_and_its_asks_learn_the_reason() -> None:
    system, journal = build(restart=Restart(burst=1, period=1000.0, pause=0.1))
    ref = system.ref("talker", "a")
    for _ in range(20):
        asking = asyncio.ensure_future(ref.ask(Later(), timeout=None))
        await settle(system)
        ref.tell(CrashWith(StorageFull("the disk is full")))
        with pytest.raises(StorageFull, match="the disk is full"):
            await asking
        assert system.statistics()[0].state == "resting"
        await asyncio.sleep(0.2)
    assert len(journal.starts) == 21
    assert system.statistics()[0].restarts == 20
    assert await ref.ask(Say("alive")) == "alive"
    await system.stop()


@in_virtual_time
async def test_asks_do_not_wait_for_a_journal_that_cannot_be_read_but_tells_do() -> None:
    system, journal = build(restart=Restart(burst=1, period=1000.0, pause=0.1))
    journal.start_errors = [StorageError("no disk") for _ in range(12)]
    ref = system.ref("talker", "a")
    ref.tell(Say("told"))
    with pytest.raises(StorageError, match="no disk"):
        await ref.ask(Say("asked"), timeout=None)
    await asyncio.sleep(0.05)
    with pytest.raises(StorageError, match="no disk"):
        await ref.ask(Say("asked again"), timeout=None)
    await asyncio.sleep(60)
    assert journal.said == [("talker/a", "told")]
    starts = [at for _, at in journal.starts]
    pauses = [round(b - a, 3) for a, b in itertools.pairwise(starts)]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0]
    await system.stop()


@in_virtual_time
async def test_an_actor_that_cannot_even_be_made() -> None:
    system, _ = build()

    def make() -> Actor:
        raise LookupError("no plan")

    system.register(Behavior("plan", make, restart=Restart(burst=2)))
    with pytest.raises(Gone, match=r"crashed too often, last: LookupError\('no plan'\)"):
        await system.ref("plan").ask(Say(), timeout=None)
    await system.stop()


@in_virtual_time
async def test_a_start_that_awaits_something_cancelled_is_a_crash() -> None:
    system, journal = build()
    journal.start_errors = [asyncio.CancelledError()]
    assert await system.ref("talker", "a").ask(Say("up"), timeout=None) == "up"
    assert [round(at, 3) for _, at in journal.starts] == [0.0, 0.1]
    await system.stop()


@in_virtual_time
async def test_a_coroutine_that_is_dropped_before_it_began_is_closed_quietly() -> None:
    system, _ = build()
    ref = system.ref("talker", "a")
    await settle(system)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        def crash(actor: Talker) -> object:
            # The coroutine's task is made when this returns, and dropped before its first step.
            asyncio.get_running_loop().call_soon(actor.cell.crash, ZeroDivisionError("now"))
            return actor.wait(60)

        def crash_first(actor: Talker) -> object:
            actor.cell.crash(ZeroDivisionError("now"))
            return actor.wait(60)

        with pytest.raises(Gone):
            await ref.ask(Call(crash), timeout=None)
        with pytest.raises(Gone):
            await ref.ask(Call(crash_first), timeout=None)
        await settle(system)
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
    await system.stop()


@in_virtual_time
async def test_a_new_life_waits_for_the_cleanup_of_the_last() -> None:
    system, journal = build()
    ended: list[float] = []

    async def tidy() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(2)
            ended.append(now())

    ref = system.ref("talker", "a")
    actor = await ref.ask(Call(lambda actor: actor))
    asking = asyncio.ensure_future(ref.ask(Call(lambda _: tidy()), timeout=None))
    await asyncio.sleep(1)
    actor.cell.crash(ZeroDivisionError())
    with pytest.raises(Gone):
        await asking
    assert now() == 1
    assert await ref.ask(Say("next")) == "next"
    assert ended == [3.0]
    assert journal.starts[1:] == [("talker/a", 3.0)]
    await system.stop()


@in_virtual_time
async def test_a_cleanup_that_never_ends_holds_nothing_up_for_long() -> None:
    system, _ = build()

    async def stubborn() -> None:
        while now() < 1000:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                continue

    ref = system.ref("talker", "a")
    actor = await ref.ask(Call(lambda actor: actor))
    ref.tell(Call(lambda _: stubborn()))
    await asyncio.sleep(1)
    actor.cell.crash(ZeroDivisionError())
    assert await ref.ask(Say("next")) == "next"
    assert now() == 6
    ref.tell(Call(lambda _: stubborn()))
    await asyncio.sleep(1)
    await system.stop()
    assert now() == 12


@in_virtual_time
async def test_crashes_are_logged_with_their_traceback_and_refusals_are_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "ironflow.actors")
    system, _ = build()

    def refuse(actor: Talker) -> object:
        raise Conflict("no")

    system.ref("talker", "a").tell(Call(refuse))
    system.ref("talker", "a").tell(CrashWith(StorageError("later")))
    system.ref("talker", "a").tell(Crash())
    await asyncio.sleep(1)
    (record,) = caplog.records
    assert record.getMessage() == "talker/a crashed: ZeroDivisionError('crash')"
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError
    await system.stop()
