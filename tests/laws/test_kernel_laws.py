"""The laws of the actor kernel, as state machines in virtual time.

`Mailboxes` sends every kind of message to a few actors while they crash, rest, pass away and come
back, and checks after each move: order per sender, one message at a time, none twice, every ask
ends, full mailboxes refuse, mailboxes survive restarts and states do not. `Services` predicts,
crash by crash, who is restarted, in which order, and when the root gives up.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from laws.kernel_probe import ADDRESSES, WAYS, Asked, Do, Probe, World

from ironflow.actors.kernel.actor import Actor, Behavior, Ensure, Envelope, Restart
from ironflow.actors.kernel.system import System
from ironflow.actors.kernel.virtual_time import VirtualTimeLoop
from ironflow.core.clock import Ids
from ironflow.core.errors import Conflict, Gone, Overloaded, StorageError
from ironflow.core.messages import Message


@pytest.fixture(autouse=True, scope="module")
def quiet_log() -> Iterator[None]:
    """Thousands of crashes on purpose need not be written down."""
    log = logging.getLogger("ironflow.actors")
    log.disabled = True
    yield
    log.disabled = False


BOUND = 5
IDLE_AFTER = 4.0
LATEST = 3.0
"""Seconds that a probe takes at most with one message."""


class Mailboxes(RuleBasedStateMachine):
    """A few probes, a few senders, and no mercy."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.unheard: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.unheard.append(context))
        self.world = World()
        self.numbers: dict[tuple[str, str], int] = {}
        self.told: list[tuple[str, Do]] = []
        self.refused: list[tuple[str, Do]] = []
        self.asked: list[Asked] = []
        self.stopped = False

    @initialize(order=st.none() | st.randoms(use_true_random=False))
    def begin(self, order: random.Random | None) -> None:
        async def build() -> System:
            system = System(self.loop.clock, Ids(self.loop.clock), order=order)
            system.register(
                Behavior(
                    "probe",
                    lambda: Probe(self.world),
                    bound=BOUND,
                    idle_after=IDLE_AFTER,
                    # Escalation has a machine of its own.
                    restart=Restart(burst=1_000_000, pause=0.05),
                )
            )
            await system.start()
            return system

        self.system = self.loop.run_until_complete(build())

    # -- moves ------------------------------------------------------------------------------------

    def message(self, address: str, sender: str, way: str, delay: float) -> Do:
        number = self.numbers[address, sender] = self.numbers.get((address, sender), 0) + 1
        return Do(sender, number, way, delay)

    def depth(self, address: str) -> int:
        found = [actor for actor in self.system.statistics() if actor.address == address]
        return found[0].mailbox if found else 0

    @rule(
        address=st.sampled_from(ADDRESSES),
        sender=st.sampled_from("xyz"),
        way=st.sampled_from(WAYS),
        delay=st.sampled_from((0.0, 0.01, 0.5, 2.0)),
        times=st.integers(1, BOUND + 2),
        trusted=st.booleans(),
    )
    def tell(
        self, address: str, sender: str, way: str, delay: float, times: int, trusted: bool
    ) -> None:
        ref = self.system.at(address)
        for _ in range(times):
            message = self.message(address, sender, way, delay)
            full = self.depth(address) >= BOUND
            try:
                (ref.post if trusted else ref.tell)(message)
            except Overloaded:
                assert full
                assert not trusted
                self.refused.append((address, message))
            except Gone:
                assert self.stopped
                self.refused.append((address, message))
            else:
                assert trusted or not full
                assert not self.stopped
                self.told.append((address, message))

    @rule(
        address=st.sampled_from(ADDRESSES),
        sender=st.sampled_from("xyz"),
        way=st.sampled_from(WAYS),
        delay=st.sampled_from((0.0, 0.01, 0.5, 2.0)),
        timeout=st.sampled_from((None, None, 0.3, 30.0)),
        trusted=st.booleans(),
    )
    def ask(
        self,
        address: str,
        sender: str,
        way: str,
        delay: float,
        timeout: float | None,
        trusted: bool,
    ) -> None:
        message = self.message(address, sender, way, delay)
        asked = Asked(address, message)

        async def question() -> int:
            asked.full = self.depth(address) >= BOUND and not trusted
            return await self.system.at(address).ask(message, timeout, trusted=trusted)

        asked.task = self.loop.create_task(question())
        self.asked.append(asked)
        # The message must have left before the same sender sends another one.
        self.loop.run_until_complete(asyncio.sleep(0))

    @precondition(lambda self: any(not asked.task.done() for asked in self.asked))
    @rule(data=st.data())
    def give_up_asking(self, data: st.DataObject) -> None:
        waiting = [asked for asked in self.asked if not asked.task.done()]
        data.draw(st.sampled_from(waiting)).task.cancel()

    @rule(address=st.sampled_from(ADDRESSES), how=st.sampled_from(("storage", "crash")))
    def fail_next_start(self, address: str, how: str) -> None:
        if len(self.world.failing[address]) < 4:
            self.world.failing[address].append(how)

    @rule(seconds=st.sampled_from((0.0, 0.005, 0.011, 0.06, 0.5, 2.5)))
    def go_on(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @rule()
    def settle(self) -> None:
        """Nothing comes in for a long time: all that was accepted is done, and nobody is left."""
        self.loop.run_until_complete(asyncio.sleep(600))
        for asked in self.asked:
            assert asked.task.done(), f"{asked.message} is asked for ever"
        for address, message in self.told:
            if not self.stopped:
                assert self.world.handled[address].count(message) == 1, f"{message} was lost"
        if not self.stopped:
            assert [actor.address for actor in self.system.statistics()] == []
            assert not any(self.system.is_live(address) for address in ADDRESSES)
        assert self.world.alive == dict.fromkeys(ADDRESSES, 0)
        assert asyncio.all_tasks(self.loop) == set()

    @precondition(lambda self: not self.stopped and len(self.told) + len(self.asked) > 20)
    @rule()
    def stop(self) -> None:
        self.stopped = True
        self.loop.run_until_complete(self.system.stop())
        # One turn for the askers to hear of it.
        self.loop.run_until_complete(asyncio.sleep(0))
        self.nothing_is_left()

    # -- laws -------------------------------------------------------------------------------------

    @invariant()
    def no_law_is_broken(self) -> None:
        assert self.world.broken == []
        assert self.unheard == []

    @invariant()
    def order_per_sender_and_none_twice(self) -> None:
        for address, messages in self.world.handled.items():
            last: dict[str, int] = {}
            for message in messages:
                assert message.number > last.get(message.sender, 0), (address, messages)
                last[message.sender] = message.number

    @invariant()
    def what_was_refused_is_not_handled(self) -> None:
        for address, message in self.refused:
            assert message not in self.world.handled[address]

    @invariant()
    def asks_end_as_they_should(self) -> None:
        for asked in self.asked:
            if asked.task.done() and not asked.task.cancelled():
                self.check(asked)

    def check(self, asked: Asked) -> None:
        error = asked.task.exception()
        message, handled = asked.message, self.world.handled[asked.address]
        if not self.stopped:
            assert isinstance(error, Overloaded) == asked.full
        if error is None:
            assert asked.task.result() == message.number
            assert handled.count(message) == 1
            assert message.way in {"answer", "later", "work", "leave"}
        elif isinstance(error, Overloaded):
            assert message not in handled
        elif isinstance(error, Conflict):
            assert message in handled
            assert message.way.endswith(("refuse", "refused"))
        else:
            assert isinstance(error, Gone | StorageError | TimeoutError), error

    def nothing_is_left(self) -> None:
        assert all(asked.task.done() for asked in self.asked)
        assert self.system.statistics() == []
        assert self.world.alive == dict.fromkeys(ADDRESSES, 0)
        assert asyncio.all_tasks(self.loop) == set()

    def teardown(self) -> None:
        try:
            if hasattr(self, "system"):
                if not self.stopped:
                    self.settle()
                    self.tell("probe/a", "x", "answer", 0.0, 1, trusted=False)
                    self.go_on(1.0)
                    assert self.told[-1][1] in self.world.handled["probe/a"]
                    self.stop()
                self.no_law_is_broken()
                self.order_per_sender_and_none_twice()
                self.asks_end_as_they_should()
        finally:
            self.loop.close()


SERVICES = ("one", "two", "three")
BURST, PERIOD = 2, 10.0
ROOT_BURST, ROOT_PERIOD = 3, 60.0
"""What the kernel promises of its root."""


class Hurt(Message[None], frozen=True):
    """Crash, or (`starts`) fail to start that many times after it."""

    starts: int = 0


class Service(Actor):
    """Notes its ups and downs."""

    def __init__(self, name: str, machine: Services) -> None:
        self.name, self.machine = name, machine
        self.log, self.failing = machine.log, machine.failing
        self.up = False

    async def start(self) -> None:
        self.log.append(f"{self.name} starting")
        await asyncio.sleep(0.01)
        if self.failing[self.name]:
            self.failing[self.name] -= 1
            self.machine.crashed_at = self.machine.now()
            raise RuntimeError("cannot start")
        self.log.append(f"{self.name} up")
        self.up = True

    def receive(self, message: Message[Any], envelope: Envelope) -> object:
        if isinstance(message, Hurt):
            self.failing[self.name] += message.starts
            self.machine.crashed_at = self.machine.now()
            raise ZeroDivisionError("hurt")
        return super().receive(message, envelope)

    def stop(self) -> None:
        if self.up:
            self.log.append(f"{self.name} down")


class Services(RuleBasedStateMachine):
    """Three services in order, an actor that is none, and a model of who is restarted when."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.log: list[str] = []
        self.failing = dict.fromkeys((*SERVICES, "loose"), 0)
        self.fatal: list[str] = []
        self.crashes: dict[str, list[float]] = {name: [] for name in (*SERVICES, "loose")}
        self.escalations: list[float] = []
        self.crashed_at = 0.0

        async def build() -> System:
            system = System(self.loop.clock, Ids(self.loop.clock), on_fatal=self.fatal.append)
            for name in (*SERVICES, "loose"):
                system.register(
                    Behavior(
                        name,
                        lambda name=name: Service(name, self),
                        idle_after=None,
                        restart=Restart(burst=BURST, period=PERIOD),
                    )
                )
            await system.start([system.ref(name) for name in SERVICES])
            return system

        self.system = self.loop.run_until_complete(build())
        self.take(*self.started(SERVICES))

    def started(self, names: tuple[str, ...]) -> list[str]:
        return [f"{name} {state}" for name in names for state in ("starting", "up")]

    def take(self, *expected: str) -> None:
        """The log since the last time is exactly this."""
        assert self.log == list(expected)
        self.log.clear()

    def now(self) -> float:
        return self.loop.time()

    def alive(self) -> bool:
        return not self.fatal

    @precondition(alive)
    @rule(name=st.sampled_from(SERVICES), asked=st.booleans())
    def crash(self, name: str, asked: bool) -> None:
        self.hurt(name, Hurt(), asked)
        recent = self.recent(name)
        if len(recent) <= BURST:
            self.take(f"{name} down", *self.started((name,)))
            return
        self.escalate(name, [f"{name} down"])

    def recent(self, name: str) -> list[float]:
        self.crashes[name].append(self.crashed_at)
        return [at for at in self.crashes[name] if self.crashed_at - at < PERIOD]

    @precondition(alive)
    @rule(name=st.sampled_from(SERVICES))
    def crash_and_never_start_again(self, name: str) -> None:
        """Just as many failed starts as escalate; then the root has the service come up."""
        already = [at for at in self.crashes[name] if self.now() - at < PERIOD]
        left = BURST - len(already)
        if left <= 0 or any(self.now() - at > PERIOD - 1.0 for at in already):
            return  # an old crash would be forgotten in the middle of it
        self.hurt(name, Hurt(starts=left), asked=False)
        self.escalate(name, [f"{name} down", *[f"{name} starting"] * left])

    def escalate(self, name: str, before: list[str]) -> None:
        """The root restarts this service and those after it, or gives up."""
        index = SERVICES.index(name)
        tail = SERVICES[index:]
        self.crashes[name] = []
        self.escalations.append(self.crashed_at)
        downs = [f"{later} down" for later in reversed(tail[1:])]
        recent = [at for at in self.escalations if self.crashed_at - at < ROOT_PERIOD]
        if len(recent) > ROOT_BURST:
            assert len(self.fatal) == 1
            assert self.fatal[0].startswith(f"{name}/ cannot be kept alive")
            self.take(*before, *downs)
        else:
            assert self.fatal == []
            self.take(*before, *downs, *self.started(tail))

    def hurt(self, name: str, message: Hurt, asked: bool) -> None:
        """Crash it, and give everything time to come up again, less than any period."""

        async def send() -> None:
            ref = self.system.ref(name)
            if asked:
                with pytest.raises(Gone):
                    await ref.ask(message, timeout=None)
            else:
                ref.tell(message)
            await asyncio.sleep(1.0)

        self.loop.run_until_complete(send())

    @precondition(alive)
    @rule()
    def crash_a_loose_actor(self) -> None:
        """One that is no service takes nobody with it, and comes back with its next message."""

        async def loop_of_crashes() -> None:
            loose = self.system.ref("loose", "key")
            await loose.ask(Ensure())
            for _ in range(BURST + 1):
                loose.tell(Hurt())
                await asyncio.sleep(0.3)
            assert not self.system.is_live(loose.address)
            await loose.ask(Ensure())
            await asyncio.sleep(PERIOD)

        self.loop.run_until_complete(loop_of_crashes())
        kinds = {line.partition(" ")[0] for line in self.log}
        assert kinds == {"loose"}
        self.log.clear()

    @rule(seconds=st.sampled_from((0.5, 3.0, PERIOD, ROOT_PERIOD)))
    def wait(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        self.take()

    @precondition(lambda self: self.fatal)
    @rule(name=st.sampled_from(SERVICES))
    def nothing_new_is_accepted_after_the_end(self, name: str) -> None:
        index = SERVICES.index(self.fatal[0].partition("/")[0])
        if SERVICES.index(name) >= index:
            with pytest.raises(Gone):
                self.system.ref(name).tell(Ensure())
        with pytest.raises(Gone):
            self.system.ref("loose", "new").tell(Ensure())

    @precondition(alive)
    @rule()
    def all_services_answer(self) -> None:
        async def ask() -> None:
            for name in SERVICES:
                await self.system.ref(name).ask(Ensure(), timeout=1.0)

        self.loop.run_until_complete(ask())
        self.take()

    def teardown(self) -> None:
        try:
            up = [actor.address.partition("/")[0] for actor in self.system.statistics()]
            self.loop.run_until_complete(self.system.stop())
            loose = ["loose down"] if "loose" in up else []
            services = [f"{name} down" for name in reversed(SERVICES) if name in up]
            self.take(*loose, *services)
            assert asyncio.all_tasks(self.loop) == set()
        finally:
            self.loop.close()


TestMailboxes = Mailboxes.TestCase
TestMailboxes.settings = settings(max_examples=150, stateful_step_count=40)
TestServices = Services.TestCase
TestServices.settings = settings(max_examples=60, stateful_step_count=25)
