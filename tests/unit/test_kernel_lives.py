"""The actor kernel by example: how actors start, leave and come back."""

from __future__ import annotations

import asyncio
import gc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from talker import Call, Later, Say, build, now, settle

from ironflow.actors.kernel.actor import Actor, Behavior, Ensure, Restart
from ironflow.actors.kernel.system import SWEEP_SECONDS
from ironflow.actors.kernel.virtual_time import in_virtual_time
from ironflow.core.errors import Gone


@in_virtual_time
async def test_an_idle_actor_leaves_nothing_and_comes_back() -> None:
    system, journal = build(idle_after=60.0)
    ref = system.ref("talker", "a")
    await ref.ask(Say("first"))
    await asyncio.sleep(59.9)
    assert system.is_live("talker/a")
    await asyncio.sleep(0.2)
    assert not system.is_live("talker/a")
    assert system.statistics() == []
    assert journal.stops == ["talker/a"]
    gc.collect()
    assert [life() for life in journal.lives] == [None]
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert await ref.ask(Say("second")) == "second"
    assert len(journal.starts) == 2
    await system.stop()


@in_virtual_time
async def test_every_message_puts_idleness_off() -> None:
    system, journal = build(idle_after=10.0)
    for _ in range(20):
        system.ref("talker", "busy").tell(Say())
        await asyncio.sleep(6)
    system.ref("talker", "other").tell(Say())
    assert journal.stops == []
    await asyncio.sleep(9)
    assert journal.stops == ["talker/busy"]
    await asyncio.sleep(2)
    assert journal.stops == ["talker/busy", "talker/other"]


@in_virtual_time
async def test_actors_leave_one_by_one_each_at_its_time() -> None:
    system, journal = build(idle_after=10.0)
    system.register(Behavior("short", Actor, idle_after=2.0))
    system.ref("talker", "a").tell(Say())
    await asyncio.sleep(4)
    system.ref("talker", "b").tell(Say())
    system.ref("short").tell(Ensure())
    await asyncio.sleep(2.5)
    assert not system.is_live("short/")
    assert journal.stops == []
    await asyncio.sleep(4)
    assert journal.stops == ["talker/a"]
    await asyncio.sleep(3)
    assert journal.stops == ["talker/a"]
    await asyncio.sleep(1.5)
    assert journal.stops == ["talker/a", "talker/b"]


@in_virtual_time
async def test_without_live_actors_no_timer_is_left() -> None:
    system, _ = build(idle_after=60.0)
    system.register(Behavior("kept", Actor, idle_after=None))
    await system.ref("kept").ask(Ensure())
    await system.ref("talker", "a").ask(Ensure())
    await asyncio.sleep(120)
    assert [actor.address for actor in system.statistics()] == ["kept/"]
    pending = [
        handle
        for handle in asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
        if not handle.cancelled()
    ]
    assert pending == []
    await system.stop()


IDLE = {"brief": 0.0, "short": 2.0, "long": 10.0, "longer": 60.0}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(IDLE)),
            st.sampled_from("abc"),
            st.floats(0, 20, allow_subnormal=False),
        ),
        max_size=30,
    )
)
@settings(deadline=None, max_examples=40)
def test_whoever_comes_when_each_leaves_in_time(steps: list[tuple[str, str, float]]) -> None:
    """Not before it was idle for as long as its kind may be, nor a look or two later."""

    async def live() -> None:
        system, _ = build()
        for kind, seconds in IDLE.items():
            system.register(Behavior(kind, Actor, idle_after=seconds))
        spoken: dict[str, float] = {}

        def look() -> None:
            for address, at in spoken.items():
                idle, after = system.loop.time() - at, IDLE[address.partition("/")[0]]
                if idle < after - 0.01:
                    assert system.is_live(address), (address, idle)
                elif idle > after + 2 * SWEEP_SECONDS + 0.01:
                    assert not system.is_live(address), (address, idle)

        for kind, key, pause in steps:
            await system.ref(kind, key).ask(Ensure())
            spoken[f"{kind}/{key}"] = system.loop.time()
            await asyncio.sleep(pause)
            look()
        await asyncio.sleep(max(IDLE.values()) + 2 * SWEEP_SECONDS + 0.1)
        look()
        assert system.statistics() == []
        await system.stop()

    in_virtual_time(live)()


@in_virtual_time
async def test_many_idle_actors_all_leave() -> None:
    system, journal = build(idle_after=5.0)
    await asyncio.gather(*(system.ref("talker", str(n)).ask(Ensure()) for n in range(3000)))
    assert len(system.statistics()) == 3000
    await asyncio.sleep(12)
    assert system.statistics() == []
    assert len(journal.stops) == 3000


@in_virtual_time
async def test_an_actor_that_is_not_quiet_stays() -> None:
    system, journal = build(idle_after=5.0)
    await system.ref("talker", "a").ask(Ensure())
    journal.busy = True
    await asyncio.sleep(600)
    assert system.is_live("talker/a")
    journal.busy = False
    await asyncio.sleep(7)
    assert not system.is_live("talker/a")


@in_virtual_time
async def test_an_actor_that_owes_an_answer_stays() -> None:
    system, journal = build(idle_after=5.0)
    asking = asyncio.ensure_future(system.ref("talker", "a").ask(Later(), timeout=None))
    await asyncio.sleep(600)
    actor, envelope = journal.kept.pop()
    actor.cell.answer(envelope, "at last")
    assert await asking == "at last"
    del actor
    await asyncio.sleep(12)
    assert not system.is_live("talker/a")


@in_virtual_time
async def test_leave_when_quiet_waits_for_what_is_owed() -> None:
    system, journal = build()
    ref = system.ref("talker", "a")
    asking = asyncio.ensure_future(ref.ask(Later()))
    await settle(system)
    ref.tell(Call(lambda actor: actor.cell.leave_when_quiet()))
    await asyncio.sleep(1)
    assert system.is_live("talker/a")
    actor, envelope = journal.kept.pop()
    actor.cell.answer(envelope, "done")
    assert await asking == "done"
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not system.is_live("talker/a")
    assert now() == 1


@in_virtual_time
async def test_leave_when_quiet_is_revoked_by_the_next_message() -> None:
    system, journal = build()
    ref = system.ref("talker", "a")
    asking = asyncio.ensure_future(ref.ask(Later()))
    await settle(system)
    ref.tell(Call(lambda actor: actor.cell.leave_when_quiet()))
    ref.tell(Say("stay"))
    await asyncio.sleep(1)
    actor, envelope = journal.kept.pop()
    actor.cell.answer(envelope, "done")
    await asking
    await asyncio.sleep(1)
    assert system.is_live("talker/a")
    ref.tell(Call(lambda actor: actor.cell.leave_when_quiet()))
    await asyncio.sleep(1)
    assert not system.is_live("talker/a")
    assert await ref.ask(Say("back")) == "back"
    await system.stop()


@in_virtual_time
async def test_whoever_holds_a_passivated_cell_cannot_bring_a_second_life() -> None:
    system, journal = build()
    ref = system.ref("talker", "a")
    former = await ref.ask(Call(lambda actor: actor))
    former.cell.leave_when_quiet()
    await asyncio.sleep(1)
    assert not system.is_live("talker/a")
    former.cell.crash(ZeroDivisionError())
    former.cell.leave_when_quiet()
    await asyncio.sleep(1)
    assert len(journal.starts) == 1
    assert system.statistics() == []


@in_virtual_time
async def test_an_actor_that_is_about_to_restart_does_not_passivate() -> None:
    system, journal = build()
    actor = await system.ref("talker", "a").ask(Call(lambda actor: actor))
    actor.cell.crash(ZeroDivisionError())
    assert not actor.cell.passivate()
    await asyncio.sleep(0.1)
    assert len(journal.starts) == 2
    await system.stop()


@in_virtual_time
async def test_an_actor_that_leaves_cannot_send_itself_anything() -> None:
    system, _ = build()
    refused: list[str] = []

    class Clingy(Actor):
        def stop(self) -> None:
            with pytest.raises(Gone) as caught:
                self.system.at(self.address).tell(Ensure())
            refused.append(str(caught.value))

    system.register(Behavior("clingy", Clingy, idle_after=5.0))
    await system.ref("clingy").ask(Ensure())
    await asyncio.sleep(6)
    assert refused == ["clingy/ has stopped"]
    assert system.statistics() == []


@in_virtual_time
async def test_a_failure_in_stop_or_is_quiet_is_contained() -> None:
    system, _ = build()
    stopped: list[str] = []

    class Rude(Actor):
        def stop(self) -> None:
            stopped.append(self.address)
            raise RuntimeError("in stop")

        def is_quiet(self) -> bool:
            if self.key == "unsure":
                raise RuntimeError("in is_quiet")
            return True

    system.register(Behavior("rude", Rude, idle_after=5.0, restart=Restart(burst=3, period=60)))
    for key in ("a", "b", "unsure"):
        await system.ref("rude", key).ask(Ensure())
    await asyncio.sleep(7)
    assert [actor.address for actor in system.statistics()] == ["rude/unsure"]
    assert stopped == ["rude/a", "rude/b", "rude/unsure"]
    await asyncio.sleep(60)
    assert [actor.address for actor in system.statistics()] == ["root/"]
    await system.stop()
