"""The actor kernel by example: what its laws (tests/laws) leave open."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import itertools
import logging
import random
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from ironflow.actors.kernel import LATER, Actor, Behavior, Ensure, Envelope, Ref, Restart
from ironflow.actors.system import CELLS_AT_ONCE, System
from ironflow.actors.virtual_time import in_virtual_time, virtual_clock
from ironflow.core.clock import Ids
from ironflow.core.errors import Conflict, Gone, NotFound, Overloaded, StorageError, StorageFull
from ironflow.core.messages import Message


class Say(Message[str], frozen=True):
    text: str = ""


class Later(Message[str], frozen=True):
    """Kept until the test answers it."""


class Wait(Message[str], frozen=True):
    """Answered by a coroutine after `seconds`."""

    seconds: float


class Crash(Message[None], frozen=True):
    pass


class CrashWith(Message[None], frozen=True):
    error: Exception


class Call(Message[Any], frozen=True):
    """Answered with what `function(actor)` gives."""

    function: Callable[[Any], object]


class Journal:
    """What all lives of all actors of a test share."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        self.kept: list[tuple[Talker, Envelope]] = []
        self.starts: list[tuple[str, float]] = []
        self.stops: list[str] = []
        self.start_errors: list[BaseException] = []
        self.start_seconds = 0.0
        self.lives: list[weakref.ref[Talker]] = []
        self.busy = False


class Talker(Actor):
    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        journal.lives.append(weakref.ref(self))

    async def start(self) -> None:
        self.journal.starts.append((self.address, now()))
        if self.journal.start_seconds:
            await asyncio.sleep(self.journal.start_seconds)
        if self.journal.start_errors:
            raise self.journal.start_errors.pop(0)

    def stop(self) -> None:
        self.journal.stops.append(self.address)

    def is_quiet(self) -> bool:
        return not self.journal.busy

    def receive(self, message: Message[Any], envelope: Envelope) -> object:
        match message:
            case Say():
                self.journal.said.append((self.address, message.text))
                return message.text
            case Later():
                self.journal.kept.append((self, envelope))
                return LATER
            case Wait():
                return self.wait(message.seconds)
            case Crash():
                raise ZeroDivisionError("crash")
            case CrashWith():
                self.cell.crash(message.error)
                return LATER
            case Call():
                return message.function(self)
            case _:
                return super().receive(message, envelope)

    async def wait(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "waited"


def now() -> float:
    return asyncio.get_running_loop().time()


def build(**options: Any) -> tuple[System, Journal]:
    """A system with one kind, `talker`."""
    clock, journal = virtual_clock(), Journal()
    known = {"on_fatal", "order"} & options.keys()
    system = System(clock, Ids(clock), **{name: options.pop(name) for name in known})
    system.register(Behavior("talker", lambda: Talker(journal), **options))
    return system, journal


async def settle(system: System, address: str = "talker/a") -> None:
    """Until the mailbox of the actor has been seen to."""
    await system.at(address).ask(Ensure(), trusted=True)


# -- names and kinds ------------------------------------------------------------------------------


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


# -- ask and tell ---------------------------------------------------------------------------------


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


# -- starting, leaving and coming back ------------------------------------------------------------


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


# -- crashes --------------------------------------------------------------------------------------


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


# -- the system -----------------------------------------------------------------------------------


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
