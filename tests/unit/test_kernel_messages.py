"""The actor kernel by example: names and kinds, ask and tell, and whose turn it is. What its laws
(tests/laws) leave open.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import random
from typing import Any

import pytest
from talker import Call, Crash, Later, Say, Talker, Wait, build, now, settle

from ironflow.actors.kernel.actor import LATER, Actor, Behavior, Ensure, Envelope
from ironflow.actors.kernel.system import CELLS_AT_ONCE
from ironflow.actors.kernel.virtual_time import in_virtual_time
from ironflow.core.errors import Conflict, Gone, NotFound, Overloaded
from ironflow.core.messages import Message

# -- names and kinds -------------------------------------------------------------------------------


@in_virtual_time
async def test_names() -> None:
    system, _ = build()
    ref = system.ref("talker", "a/b")
    assert ref.address == "talker/a/b"
    assert system.ref("talker").address == "talker/"
    assert repr(ref) == "Ref('talker/a/b')"
    assert await ref.ask(Call(lambda actor: (actor.address, actor.key, actor.system))) == (
        "talker/a/b",
        "a/b",
        system,
    )
    assert await system.at("talker/a/b").ask(Call(lambda actor: actor.key)) == "a/b"
    assert system.is_live("talker/a/b")
    assert not system.is_live("talker/a")
    await system.stop()


@in_virtual_time
async def test_an_unknown_kind_and_a_kind_registered_twice() -> None:
    system, _ = build()
    with pytest.raises(NotFound, match="no actor kind 'nobody'"):
        system.ref("nobody").tell(Say())
    with pytest.raises(NotFound):
        await system.ref("nobody").ask(Say())
    with pytest.raises(ValueError, match="'talker' is registered already"):
        system.register(Behavior("talker", Actor))
    with pytest.raises(ValueError, match="'root' is registered already"):
        system.register(Behavior("root", Actor))


@in_virtual_time
async def test_a_message_that_is_not_understood_is_a_crash_that_names_it() -> None:
    class Mute(Actor):
        pass

    system, _ = build()
    system.register(Behavior("mute", Mute))
    assert await system.ref("mute").ask(Ensure()) is None  # type: ignore[func-returns-value]
    with pytest.raises(Gone, match="Mute does not understand Say"):
        await system.ref("mute").ask(Say())
    await system.stop()


# -- ask and tell ----------------------------------------------------------------------------------


@in_virtual_time
async def test_a_refusal_travels_and_the_actor_lives_on() -> None:
    system, journal = build()
    ref = system.ref("talker", "a")

    def refuse(actor: Talker) -> object:
        raise Conflict("not now")

    for _ in range(20):
        with pytest.raises(Conflict, match="not now"):
            await ref.ask(Call(refuse))
    ref.tell(Call(refuse))
    await settle(system)
    assert len(journal.lives) == 1
    assert system.statistics()[0].restarts == 0
    await system.stop()


@in_virtual_time
async def test_an_ask_times_out_and_its_late_answer_is_dropped() -> None:
    system, journal = build()
    ref = system.ref("talker", "a")
    with pytest.raises(TimeoutError, match=r"talker/a did not answer within 2\.5 s"):
        await ref.ask(Later(), timeout=2.5)
    assert now() == 2.5
    (actor, envelope) = journal.kept.pop()
    actor.cell.answer(envelope, "too late")
    assert await ref.ask(Say("still here")) == "still here"
    await system.stop()


@in_virtual_time
async def test_a_cancelled_asker_takes_nothing_with_it() -> None:
    system, journal = build()
    ref = system.ref("talker", "a")
    asking = asyncio.ensure_future(ref.ask(Later(), timeout=None))
    await settle(system)
    (actor, envelope) = journal.kept.pop()
    # Refused and cancelled in the same turn.
    actor.cell.refuse(envelope, Conflict("no"))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    del asking, envelope, actor
    gc.collect()
    assert complaints == []
    await system.stop()


@in_virtual_time
async def test_trusted_messages_are_never_refused_for_room() -> None:
    system, journal = build(bound=2)
    ref = system.ref("talker", "a")
    ref.tell(Say("1"))
    ref.tell(Say("2"))
    with pytest.raises(Overloaded, match="the mailbox of talker/a is full"):
        ref.tell(Say("3"))
    with pytest.raises(Overloaded):
        await ref.ask(Say("4"))
    ref.post(Say("5"))
    await ref.ask(Say("6"), trusted=True)
    assert [text for _, text in journal.said] == ["1", "2", "5", "6"]
    await system.stop()


@in_virtual_time
async def test_who_sends_is_called_in_the_moment_of_the_answer() -> None:
    system, journal = build()
    ref = system.ref("talker", "a")
    await ref.ask(Say("awake"))
    heard: list[tuple[Any, Any]] = []

    def hear(answer: Any, error: Exception | None) -> None:
        heard.append((answer, type(error)))

    ref.send(Say("soon"), hear)
    assert heard == []  # it has not had its turn
    await settle(system)
    ref.send(Say("now"), hear, at_once=True)
    ref.send(Later(), hear, at_once=True)
    assert heard == [("soon", type(None)), ("now", type(None))]
    actor, envelope = journal.kept.pop()
    actor.cell.refuse(envelope, Conflict("no"))
    ref.send(Later(), hear)
    ref.send(Crash(), hear)
    await settle(system)
    assert heard[2:] == [(None, Conflict), (None, Gone), (None, Gone)]
    await system.stop()


@in_virtual_time
async def test_asks_kept_for_later_count_as_mailbox() -> None:
    system, journal = build(bound=3)
    ref = system.ref("talker", "a")
    asking = [asyncio.ensure_future(ref.ask(Later())) for _ in range(3)]
    await asyncio.sleep(1)
    assert system.statistics()[0].mailbox == 3
    with pytest.raises(Overloaded):
        ref.tell(Say())
    actor, envelope = journal.kept[1]
    actor.cell.answer(envelope, "middle")
    assert await asking[1] == "middle"
    ref.tell(Say())
    await system.stop()
    assert [type(error) for error in await asyncio.gather(*asking, return_exceptions=True)] == [
        Gone,
        str,
        Gone,
    ]


@in_virtual_time
async def test_an_ask_kept_for_later_ends_with_the_crash_of_its_actor() -> None:
    system, journal = build()
    ref = system.ref("talker", "a")
    asking = [asyncio.ensure_future(ref.ask(Later(), timeout=None)) for _ in range(2)]
    await asyncio.sleep(0.1)
    ref.tell(Crash())
    ended = await asyncio.gather(*asking, return_exceptions=True)
    assert [str(error) for error in ended] == ["talker/a crashed: ZeroDivisionError('crash')"] * 2
    assert ended[0] is not ended[1]
    # What the former life still does to its envelopes changes nothing.
    actor, envelope = journal.kept[0]
    actor.cell.answer(envelope, "late")
    assert await ref.ask(Say("next life")) == "next life"
    await system.stop()


@in_virtual_time
async def test_an_answer_given_before_later_is_returned() -> None:
    system, _ = build()

    class Quick(Actor):
        def receive(self, message: Message[Any], envelope: Envelope) -> object:
            self.cell.answer(envelope, "at once")
            return LATER

    system.register(Behavior("quick", Quick))
    assert await system.ref("quick").ask(Say()) == "at once"
    assert system.statistics()[0].mailbox == 0
    await system.stop()


@in_virtual_time
async def test_a_coroutine_holds_the_mailbox() -> None:
    system, journal = build()
    ref = system.ref("talker", "a")
    waiting = asyncio.ensure_future(ref.ask(Wait(3.0)))
    await asyncio.sleep(1)
    assert system.statistics()[0].state == "busy"
    ref.tell(Say("after"))
    await asyncio.sleep(1)
    assert journal.said == []
    assert await waiting == "waited"
    assert now() == 3.0
    await settle(system)
    assert journal.said == [("talker/a", "after")]
    await system.stop()


@in_virtual_time
async def test_other_actors_have_their_turn_beside_a_flooded_one() -> None:
    system, journal = build(bound=100_000)
    for n in range(10_000):
        system.ref("talker", "flooded").tell(Say(str(n)))
    await system.ref("talker", "other").ask(Say("other"))
    assert journal.said.index(("talker/other", "other")) < 200
    await asyncio.sleep(1)
    assert len(journal.said) == 10_001
    await system.stop()


@in_virtual_time
async def test_timers_are_served_between_turns() -> None:
    system, _ = build()
    heard: list[str] = []

    class Plain(Actor):
        def receive(self, message: Message[Any], envelope: Envelope) -> object:
            heard.append(self.key)
            return None

    system.register(Behavior("plain", Plain))
    for n in range(CELLS_AT_ONCE * 4):
        system.ref("plain", str(n)).tell(Say())
    rang: list[int] = []
    asyncio.get_running_loop().call_later(0, lambda: rang.append(len(heard)))
    await asyncio.sleep(0.001)
    assert len(heard) == CELLS_AT_ONCE * 4
    assert rang[0] < CELLS_AT_ONCE * 4
    await system.stop()


@in_virtual_time
async def test_the_order_of_turns_can_be_shuffled() -> None:
    orders = set()
    for seed in range(5):
        system, journal = build(order=random.Random(seed))
        for key in "abcdef":
            system.ref("talker", key).tell(Say("1"))
            system.ref("talker", key).tell(Say("2"))
        await asyncio.sleep(1)
        for key in "abcdef":
            assert [text for at, text in journal.said if at == f"talker/{key}"] == ["1", "2"]
        orders.add(tuple(address for address, _ in journal.said))
        await system.stop()
    assert len(orders) > 1


@in_virtual_time
async def test_handlers_do_not_inherit_the_context_of_who_wakes_the_system() -> None:
    request = contextvars.ContextVar("request", default="none")
    system, _ = build()
    request.set("mine")
    assert await system.ref("talker", "a").ask(Call(lambda _: request.get())) == "none"
    await system.stop()
