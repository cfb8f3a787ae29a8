"""The simulator finds what it is for: mistakes that are made on purpose break the law that forbids
them, within few seeds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ironflow.actors.kernel.timers import Timers
from ironflow.actors.runs import run as run_module
from ironflow.actors.slots.lanes import Lanes
from ironflow.actors.slots.pool import Pool
from ironflow.actors.slots.windows import Windows
from ironflow.actors.stream import StreamActor
from ironflow.core.functions.lanes import is_throttle
from ironflow.core.runs import decisions, reports
from ironflow.core.runs import effects as fx
from ironflow.simulation.case import play, shrink
from ironflow.storage.ports import DELIVERIES, TIMERS

SEEDS = 120
Patch = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger = logging.getLogger("ironflow")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(level)


def _reply(actor: Any, envelope: Any, reply: Any) -> None:
    """Answer now."""
    leave = envelope.fail if isinstance(reply, Exception) else envelope.answer
    actor.system.loop.call_soon(leave, reply)


def answer_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    honest = StreamActor.commit

    def commit(
        self: Any, batch: Any, envelope: Any = None, reply: Any = None, then: Any = None
    ) -> None:
        honest(self, batch, None, None, then)
        if envelope is not None:
            _reply(self, envelope, reply)

    patch.setattr(StreamActor, "commit", commit)


def answer_repeats_at_once(patch: pytest.MonkeyPatch) -> None:
    """What an actor answers without a change of its own does not wait for what it rests on."""
    honest = StreamActor.commit

    def commit(
        self: Any, batch: Any, envelope: Any = None, reply: Any = None, then: Any = None
    ) -> None:
        if batch.entries or batch.puts or batch.deletes:
            honest(self, batch, envelope, reply, then)
        elif envelope is not None:
            _reply(self, envelope, reply)

    patch.setattr(StreamActor, "commit", commit)


def forget_timers_of_the_journal(patch: pytest.MonkeyPatch) -> None:
    async def load(self: Timers) -> None:
        self._horizon = self._clock.now() + 900_000_000

    patch.setattr(Timers, "_load", load)


def set_no_timer(patch: pytest.MonkeyPatch) -> None:
    honest = run_module.RunActor._prepare

    def prepare(self: Any, *args: Any) -> Any:
        batch, sends = honest(self, *args)
        batch.puts = [put for put in batch.puts if put[0] is not TIMERS]
        return batch, sends

    patch.setattr(run_module.RunActor, "_prepare", prepare)


def consume_nothing(patch: pytest.MonkeyPatch) -> None:
    honest = run_module.RunActor._prepare

    def prepare(self: Any, *args: Any) -> Any:
        batch, sends = honest(self, *args)
        batch.deletes = [gone for gone in batch.deletes if gone[0] is not DELIVERIES]
        return batch, sends

    patch.setattr(run_module.RunActor, "_prepare", prepare)


def post_messages_without_rows(patch: pytest.MonkeyPatch) -> None:
    honest = run_module.RunActor._prepare

    def prepare(self: Any, *args: Any) -> Any:
        batch, sends = honest(self, *args)
        batch.puts = [put for put in batch.puts if put[0] is not DELIVERIES]
        return batch, sends

    patch.setattr(run_module.RunActor, "_prepare", prepare)


def park_what_is_to_be_woken(patch: pytest.MonkeyPatch) -> None:
    """The wait has ended while the report that parks was on its way."""
    patch.setattr(reports, "_may_park", lambda run, waits: waits is not None)


def grant_without_end(patch: pytest.MonkeyPatch) -> None:
    def acquire(self: Pool, run_id: str) -> bool:
        self._holders.add(run_id)
        return True

    patch.setattr(Pool, "acquire", acquire)


def let_everybody_into_a_lane(patch: pytest.MonkeyPatch) -> None:
    honest = Lanes._room
    patch.setattr(Lanes, "_room", lambda self, lane: honest(self, lane) if is_throttle(lane) else 1)


def let_everybody_begin_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Windows, "room", lambda self, lane: 1)


def forget_what_began(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Windows, "load", lambda self, starts: None)


def forget_the_queue(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(decisions, "Enqueue", lambda: fx.WakeBody(None))


def change_state_behind_the_journal(patch: pytest.MonkeyPatch) -> None:
    honest = run_module.RunActor._act

    def act(self: Any, *args: Any) -> None:
        honest(self, *args)
        self.run.crashes += 1

    patch.setattr(run_module.RunActor, "_act", act)


def keep_rows_of_the_past(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(run_module, "row_facts", lambda run: (run.exists,))


SABOTAGE: dict[Patch, set[str]] = {
    answer_before_the_commit: {"acknowledged_is_durable", "acknowledged_report_is_durable"},
    answer_repeats_at_once: {"nothing_is_left"},
    forget_timers_of_the_journal: {"memory_agrees_with_rows"},
    set_no_timer: {"timers_agree_with_stream"},
    consume_nothing: {"memory_agrees_with_rows"},
    post_messages_without_rows: {"something_will_wake_it"},
    park_what_is_to_be_woken: {"something_will_wake_it"},
    grant_without_end: {"capacity_is_kept"},
    let_everybody_into_a_lane: {"lanes_are_kept"},
    let_everybody_begin_at_once: {"throttles_are_kept"},
    forget_what_began: {"throttles_are_kept"},
    forget_the_queue: {"time_goes_on"},
    change_state_behind_the_journal: {"replay_gives_the_live_state"},
    keep_rows_of_the_past: {"row_agrees_with_stream"},
}
"""What a mistake is found by first: the law that it breaks, or for an answer that comes too early
the two laws of what may be answered.
"""
FOUND_AT = {
    grant_without_end: 18,
    let_everybody_into_a_lane: 63,
    let_everybody_begin_at_once: 19,
    forget_what_began: 26,
}
"""The first seed that found a mistake when this was written. It is tried first; should it find
nothing any more, the search goes through all the others."""


@pytest.mark.parametrize("mistake", SABOTAGE, ids=lambda mistake: mistake.__name__)
def test_a_mistake_breaks_its_law(mistake: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    mistake(monkeypatch)
    first = FOUND_AT.get(mistake, 0)
    for seed in [*range(first, SEEDS), *range(first)]:
        report = play(seed)
        if not report.ok:
            assert report.findings[0].law in SABOTAGE[mistake], report.findings[0]
            assert play(seed).digest == report.digest
            assert report.story
            return
    pytest.fail(f"{SEEDS} seeds did not find it")


def test_the_faults_of_a_failure_are_made_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    set_no_timer(monkeypatch)
    report = next(report for report in map(play, range(SEEDS)) if not report.ok)
    assert shrink(report).faults == []
