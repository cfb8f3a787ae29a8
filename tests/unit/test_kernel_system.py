"""The actor kernel by example: services, the root, the end of a system, its statistics."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from talker import Call, Crash, Later, Say, Talker, Wait, build, now

from ironflow.actors.kernel.actor import Actor, Behavior, Ensure, Ref, Restart
from ironflow.actors.kernel.virtual_time import in_virtual_time
from ironflow.core.errors import Gone, StorageError


@in_virtual_time
async def test_services_start_in_order_each_finished_before_the_next() -> None:
    system, _ = build()
    log: list[str] = []

    class Service(Actor):
        async def start(self) -> None:
            log.append(f"{self.key} starting")
            await asyncio.sleep(1)
            log.append(f"{self.key} up")

        def stop(self) -> None:
            log.append(f"{self.key} down")

    system.register(Behavior("service", Service, idle_after=None))
    services: list[Ref] = [system.ref("service", key) for key in "abc"]
    await system.start(services)
    assert log == [f"{key} {state}" for key in "abc" for state in ("starting", "up")]
    log.clear()
    await system.ref("service", "y").ask(Ensure())
    await system.ref("service", "z").ask(Ensure())
    log.clear()
    await system.stop()
    assert log == ["z down", "y down", "c down", "b down", "a down"]


@in_virtual_time
async def test_a_service_that_cannot_start_stops_the_start() -> None:
    system, journal = build(restart=Restart(burst=1, period=10.0))
    journal.start_errors = [RuntimeError("no") for _ in range(2)]
    with pytest.raises(Gone, match="crashed too often"):
        await system.start([system.ref("talker", "a"), system.ref("talker", "b")])
    await system.stop()

    system, journal = build()
    journal.start_errors = [StorageError("no disk")]
    with pytest.raises(StorageError, match="no disk"):
        await system.start([system.ref("talker", "a"), system.ref("talker", "b")])
    assert not system.is_live("talker/b")
    await system.stop()


@in_virtual_time
async def test_messages_to_a_service_wait_for_its_restart() -> None:
    system, journal = build(restart=Restart(burst=0, period=10.0), idle_after=None)
    one, two = system.ref("talker", "one"), system.ref("talker", "two")
    await system.start([one, two])
    one.tell(Crash())
    two.tell(Wait(3600))
    two.tell(Say("kept"))
    await asyncio.sleep(1)
    assert journal.said == [("talker/two", "kept")]
    assert await two.ask(Say("up")) == "up"
    addresses = [address for address, _ in journal.starts]
    assert addresses == ["talker/one", "talker/two"] * 2
    await system.stop()


@in_virtual_time
async def test_a_restarted_service_is_up_before_it_sees_to_its_mailbox() -> None:
    """Else a message that asks a later service would wait for it, and it for the message."""
    system, journal = build(restart=Restart(burst=0, period=10.0), idle_after=None)
    one, two, three = (system.ref("talker", key) for key in ("one", "two", "three"))
    await system.start([one, two, three])
    journal.start_seconds = 1.0
    one.tell(Crash())
    await asyncio.sleep(0.5)
    two.tell(Call(lambda _: three.ask(Say("asked by two"), timeout=None)))
    await asyncio.sleep(5)
    assert journal.said == [("talker/three", "asked by two")]
    assert [address for address, _ in journal.starts[3:]] == [
        "talker/one",
        "talker/two",
        "talker/three",
    ]
    await system.stop()


@in_virtual_time
async def test_a_restart_of_services_outlasts_a_journal_that_cannot_be_read() -> None:
    system, journal = build(restart=Restart(burst=0, period=10.0, pause=0.1), idle_after=None)
    one, two = system.ref("talker", "one"), system.ref("talker", "two")
    await system.start([one, two])
    journal.start_errors = [StorageError("no disk") for _ in range(5)]
    one.tell(Crash())
    await asyncio.sleep(20)
    assert {actor.address: actor.state for actor in system.statistics()} == {
        "root/": "ready",
        "talker/one": "ready",
        "talker/two": "ready",
    }
    assert journal.starts[-1][0] == "talker/two"
    await system.stop()


@in_virtual_time
async def test_the_root_gives_up_once_and_refuses_everything_new() -> None:
    fatal: list[str] = []
    system, _ = build(on_fatal=fatal.append, restart=Restart(burst=0, period=10.0), idle_after=None)
    service = system.ref("talker", "service")
    await system.start([service])
    for _ in range(4):
        service.post(Crash())
        await asyncio.sleep(1)
    assert fatal == ["talker/service cannot be kept alive: ZeroDivisionError('crash')"]
    assert system.is_stopped
    for address in ("talker/service", "talker/other"):
        with pytest.raises(Gone, match="cannot be kept alive"):
            await system.at(address).ask(Ensure())
    await system.stop()


@in_virtual_time
async def test_stop_ends_every_ask_every_task_and_every_timer() -> None:
    system, journal = build(bound=10, restart=Restart(burst=9, pause=5.0))
    ref = system.ref("talker", "a")
    cleaned: list[float] = []

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.5)
            cleaned.append(now())

    asking = [
        asyncio.ensure_future(question)
        for question in (
            ref.ask(Later(), timeout=None),
            ref.ask(Call(lambda _: work()), timeout=None),
            ref.ask(Say("waits in the mailbox"), timeout=None),
            system.ref("talker", "resting").ask(Later(), timeout=None),
        )
    ]
    await asyncio.sleep(1)
    resting = next(actor for actor, _ in journal.kept if actor.key == "resting")
    resting.cell.crash(StorageError("gone"))
    asking.append(asyncio.ensure_future(resting.system.at(resting.address).ask(Say())))
    await asyncio.sleep(0)
    await system.stop()
    assert cleaned == [1.5]
    ended = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(error) for error in ended] == [Gone, Gone, Gone, StorageError, Gone]
    assert [str(ended[0]), str(ended[2])] == ["talker/a has stopped"] * 2
    assert journal.said == []
    assert system.statistics() == []
    with pytest.raises(Gone, match="the actor system has stopped"):
        ref.tell(Say())
    with pytest.raises(Gone):
        await ref.ask(Say())
    await system.stop()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert all(
        handle.cancelled()
        for handle in asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    )


@in_virtual_time
async def test_an_actor_may_stop_the_system() -> None:
    system, journal = build()

    async def stop(actor: Talker) -> str:
        await actor.system.stop()
        return "never heard"

    with pytest.raises(Gone, match="has stopped"):
        await system.ref("talker", "a").ask(Call(stop), timeout=None)
    assert journal.stops == ["talker/a"]
    assert now() == 0


@in_virtual_time
async def test_later_sends_after_a_while_unless_cancelled_or_stopped() -> None:
    system, journal = build(bound=1)
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    ref = system.ref("talker", "a")
    system.later(10, ref, Say("ten"))
    system.later(20, ref, Say("twenty")).cancel()
    system.later(30, ref, Say("thirty"))
    await asyncio.sleep(9)
    ref.tell(Wait(5))
    await asyncio.sleep(4)
    assert system.statistics()[0].mailbox == 2  # beyond its bound: a timer is never refused
    assert journal.said == []
    await asyncio.sleep(2)
    assert journal.said == [("talker/a", "ten")]
    await asyncio.sleep(10)
    await system.stop()
    await asyncio.sleep(10)
    assert journal.said == [("talker/a", "ten")]
    assert complaints == []


@in_virtual_time
async def test_statistics() -> None:
    system, _ = build(bound=100, idle_after=60.0)
    for key, messages in (("a", 1), ("b", 3)):
        for _ in range(messages):
            await system.ref("talker", key).ask(Say())
    system.ref("talker", "b").tell(Crash())
    system.ref("talker", "c").tell(Wait(1000))
    for _ in range(4):
        system.ref("talker", "c").tell(Say())
    await asyncio.sleep(7)
    found = {actor.address: actor for actor in system.statistics()}
    a, b, c = (found[f"talker/{key}"] for key in "abc")
    assert (a.state, a.mailbox, a.handled, a.restarts, a.idle) == ("ready", 0, 1, 0, 7.0)
    assert (b.state, b.mailbox, b.handled, b.restarts) == ("ready", 0, 4, 1)
    assert (c.state, c.mailbox, c.handled) == ("busy", 5, 1)
    total = system.statistics_by_kind()["talker"]
    assert (total.live, total.mailbox, total.deepest) == (3, 5, 5)
    assert (total.handled, total.restarts) == (6, 1)
    await asyncio.sleep(100)
    total = system.statistics_by_kind()["talker"]
    assert (total.live, total.handled, total.restarts) == (1, 6, 1)
    await system.stop()
    total = system.statistics_by_kind()["talker"]
    assert (total.live, total.mailbox, total.handled, total.restarts) == (0, 0, 6, 1)
