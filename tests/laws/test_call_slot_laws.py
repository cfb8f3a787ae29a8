"""Laws of the slots of calls, whatever is registered, sent, ended and held up."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ironflow.actors.endpoints.call_slots import CallSlots

FUNCTIONS = st.sampled_from("abc")
URLS = st.sampled_from(["http://x", "http://x", "http://x", "http://y"])


class Slots(CallSlots):
    """Slots whose functions may be held up, as by a breaker."""

    def __init__(self) -> None:
        super().__init__(self.note)
        self.at: dict[str, tuple[str, int]] = {}
        self.held_up: set[str] = set()
        self.probed: set[str] = set()
        self.granted: list[str] = []

    def allowance(self, function_id: str) -> int:
        if function_id in self.held_up:
            return 0
        return 1 if function_id in self.probed else self.at[function_id][1]

    def note(self, run_id: str) -> None:
        self.granted.append(run_id)


class CallSlotsKeepTheirLaws(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots()
        for function_id in "abc":  # all at one address to begin with
            self.slots.at[function_id] = "http://x", 1
            self.slots.place(function_id, "http://x", 1)
        self.waiting: dict[str, list[str]] = {}
        """By function, in the order of arrival, which is also that of the numbers of the runs."""
        self.running: dict[str, tuple[str, str]] = {}
        """The function of a run, and where it was called."""
        self.runs = 0

    # -- what is known without looking into the slots -------------------------------------------

    def busy(self, function_id: str) -> int:
        return sum(of == function_id for of, _ in self.running.values())

    def active(self, url: str) -> int:
        return sum(where == url for _, where in self.running.values())

    def most(self, url: str) -> int:
        return max((limit for where, limit in self.slots.at.values() if where == url), default=0)

    def has_room(self, function_id: str) -> bool:
        url = self.slots.at[function_id][0]
        is_full = self.active(url) >= self.most(url)
        return not is_full and self.busy(function_id) < self.slots.allowance(function_id)

    def follow(self) -> None:
        """Check what was granted, one after the other."""
        for run_id in self.slots.granted:
            ready = [
                (runs[0], of)
                for of, runs in self.waiting.items()
                if runs and of in self.slots.at and self.has_room(of)
            ]
            function_id = next(of for of, runs in self.waiting.items() if run_id in runs)
            url = self.slots.at[function_id][0]
            here = [(first, of) for first, of in ready if self.slots.at[of][0] == url]
            assert min(here) == (run_id, function_id), "whoever has waited longest, and may"
            self.waiting[function_id].remove(run_id)
            self.running[run_id] = function_id, url
        self.slots.granted.clear()

    # -- what happens ---------------------------------------------------------------------------

    @rule(function_id=FUNCTIONS, url=URLS, limit=st.integers(1, 2))
    def register(self, function_id: str, url: str, limit: int) -> None:
        self.slots.at[function_id] = url, limit
        self.slots.place(function_id, url, limit)
        self.slots.pump(url)
        self.follow()

    @rule(function_id=FUNCTIONS)
    def move_away(self, function_id: str) -> None:
        if self.slots.at.pop(function_id, None) is not None:
            self.slots.place(function_id, None)
            assert self.slots.take_queued(function_id) == self.waiting.pop(function_id, [])

    @precondition(lambda self: self.slots.at)
    @rule(data=st.data(), at_once=st.booleans())
    def want(self, data: st.DataObject, at_once: bool) -> None:
        function_id = data.draw(st.sampled_from(sorted(self.slots.at)))
        run_id = f"{self.runs:06d}"
        self.runs += 1
        if at_once:
            may = self.has_room(function_id) and not self.waiting.get(function_id)
            assert self.slots.acquire(run_id, function_id) is may
            if may:
                self.running[run_id] = function_id, self.slots.at[function_id][0]
                return
        self.waiting.setdefault(function_id, []).append(run_id)
        self.slots.enqueue(run_id, function_id)
        self.follow()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        run_id = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[run_id]
        self.slots.release(run_id)
        self.follow()

    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        waiting = [(of, run_id) for of, runs in self.waiting.items() for run_id in runs]
        if waiting:
            function_id, run_id = data.draw(st.sampled_from(waiting))
            self.waiting[function_id].remove(run_id)
            self.slots.discard(run_id)

    @rule(function_id=FUNCTIONS, state=st.sampled_from(["open", "half-open", "closed"]))
    def speak_of_a_breaker(self, function_id: str, state: str) -> None:
        self.slots.held_up.discard(function_id)
        self.slots.probed.discard(function_id)
        if state == "open":
            self.slots.held_up.add(function_id)
        elif state == "half-open":
            self.slots.probed.add(function_id)
        if function_id in self.slots.at:
            self.slots.pump(self.slots.at[function_id][0])
        self.follow()

    # -- what always holds ----------------------------------------------------------------------

    @invariant()
    def nobody_waits_who_could_be_sent(self) -> None:
        for function_id, runs in self.waiting.items():
            if runs and function_id in self.slots.at:
                assert not self.has_room(function_id), (function_id, runs)

    @invariant()
    def counts_are_right_and_nothing_is_kept_of_what_is_gone(self) -> None:
        assert self.slots.active == len(self.running)
        assert self.slots.queued == sum(map(len, self.waiting.values()))
        for function_id in self.slots.at:
            waits = len(self.waiting.get(function_id, []))
            assert self.slots.load(function_id) == (self.busy(function_id), waits)
        for url in ("http://x", "http://y"):
            assert self.slots.load_at(url) == (self.active(url), self.most(url))
        used = {url for url, _ in self.slots.at.values()} | {w for _, w in self.running.values()}
        assert set(self.slots._addresses) == used


TestCallSlots = CallSlotsKeepTheirLaws.TestCase


def test_who_waits_at_a_new_address_goes_when_the_call_at_the_old_one_ends() -> None:
    slots = Slots()
    for url in ("http://x", "http://y"):
        slots.at["a"] = url, 1
        slots.place("a", url, 1)
        slots.pump(url)
        assert slots.acquire(url, "a") is (url == "http://x")
    slots.enqueue("2", "a")
    assert slots.granted == []  # the function has its one call, wherever that is
    slots.release("http://x")
    assert slots.granted == ["2"]
    assert (slots.load_at("http://x"), slots.load_at("http://y")) == ((0, 0), (1, 1))
