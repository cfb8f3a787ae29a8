"""Laws of intakes: whatever comes when, and whatever crashes, the runs are those of a plain model.

The model is told when the events were emitted and nothing else. It is asked of the pure core, and
of the whole engine with crashes, a journal that refuses, and operators in between.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
from engine_world import SECOND, Trouble, is_clean, runs_of
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ironflow import function, testing
from ironflow.actors.audit import check_store
from ironflow.actors.events.router import EventEmitted
from ironflow.core.errors import Conflict, NotFound
from ironflow.core.functions import intake as i
from ironflow.core.functions.flow_control import Batch, Debounce
from ironflow.core.runs import commands as c
from ironflow.core.runs.entries import EventRef
from ironflow.core.runs.state import RunStatus
from ironflow.core.values.payloads import NULL
from ironflow.simulation.watch import TablesPicture

PERIOD, MAX_WAIT, SIZE, WAIT = 10, 25, 3, 12


class Due(NamedTuple):
    """A run that the model wants: of which events, and when."""

    events: tuple[str, ...]
    at: int


def debounced(events: list[tuple[int, str]]) -> list[Due]:
    """Who comes before the run is due belongs to it; all of the group are named."""
    found: list[Due] = []
    group: list[tuple[int, str]] = []
    for at, name in events:
        if group and at >= due_of(group):
            found.append(Due(tuple(n for _, n in group), due_of(group)))
            group = []
        group.append((at, name))
    if group:
        found.append(Due(tuple(n for _, n in group), due_of(group)))
    return found


def due_of(group: list[tuple[int, str]]) -> int:
    """Quiet after the last one, or long enough after the first."""
    return min(group[-1][0] + PERIOD * SECOND, group[0][0] + MAX_WAIT * SECOND)


def batched(events: list[tuple[int, str]]) -> list[Due]:
    """In order, so many at once, or as many as come in time."""
    found: list[Due] = []
    left = list(events)
    while left:
        until = left[0][0] + WAIT * SECOND
        taken = [left.pop(0)]
        while left and len(taken) < SIZE and left[0][0] < until:
            taken.append(left.pop(0))
        full = len(taken) == SIZE
        found.append(Due(tuple(n for _, n in taken), taken[-1][0] if full else until))
    return found


# -- the pure core --------------------------------------------------------------------------------

gaps = st.lists(st.integers(0, 30), max_size=30)


def requests(gaps: list[int]) -> list[tuple[int, str, c.CreateRun]]:
    found, now = [], 0
    for number, gap in enumerate(gaps):
        now += gap * SECOND
        create = c.CreateRun(
            function_id="f", input=NULL, input_hash="", event=EventRef(str(number), "e")
        )
        found.append((now, str(number), create))
    return found


@given(gaps=gaps)
def test_the_core_of_debounce_is_the_model(gaps: list[int]) -> None:
    state, found = i.Debouncing(), []
    policy = Debounce(PERIOD, None, MAX_WAIT)
    names: list[str] = []
    for at, name, create in requests(gaps):
        command = c.Defer(key="", policy=policy, run_id=name, create=create, at=at)
        due_at = state.due_at
        for entry in i.defer(state, command):
            if isinstance(entry, i.Started):
                assert state.create().merged == len(names)
                found.append(Due(tuple(names), due_at or 0))
                names = []
            state.apply(entry)
        names.append(name)
        assert state.latest is not None
        assert state.latest.subject == name
        assert state.run_id == names[0]
    if names:
        found.append(Due(tuple(names), state.due_at or 0))
    assert found == debounced([(at, name) for at, name, _ in requests(gaps)])


@given(gaps=gaps)
def test_the_core_of_batch_is_the_model(gaps: list[int]) -> None:
    state, found = i.Batching(), []
    policy = Batch(SIZE, WAIT)
    for at, name, create in requests(gaps):
        command = c.Collect(key="", policy=policy, run_id=name, create=create, at=at)
        for entry in i.collect(state, command):
            if isinstance(entry, i.Started):
                run, _ = i.merge(state.items, {})
                names = tuple(taken.id for taken in run.events)
                assert state.run_id == names[0]
                when = at if entry.cause == "size" else state.due_at
                found.append(Due(names, when or 0))
            state.apply(entry)
    if state.items:
        found.append(Due(tuple(item.subject for item in state.items), state.due_at or 0))
    assert found == batched([(at, name) for at, name, _ in requests(gaps)])


@given(
    st.lists(
        st.tuples(st.sampled_from(["skip", "cancel"]), st.booleans(), st.integers(0, 9)),
        max_size=40,
    )
)
def test_the_core_of_singleton_never_begins_two(orders: list[tuple[Any, bool, int]]) -> None:
    """Runs are told to begin by a creation without `behind` or by a release; between two of these
    the first one has left.
    """
    state = i.Single()
    begun: set[str] = set()
    waiting: set[str] = set()
    for number, (mode, leaves, which) in enumerate(orders):
        if leaves:
            there = sorted(begun | waiting)
            if not there:
                continue
            run_id = there[which % len(there)]
            begun.discard(run_id)
            waiting.discard(run_id)
            entries, sends = i.leave(state, run_id)
        else:
            create = c.CreateRun(function_id="f", input=NULL, input_hash="")
            admit = c.Admit(key="", mode=mode, run_id=str(number), create=create)
            entries, sends, fate, run_id = i.admit(state, "singleton/1:f:", admit)
            if fate == "skipped":
                assert run_id in begun | waiting
        for entry in entries:
            state.apply(entry)
        for send in sends:
            run_id = send.target.removeprefix("run/")
            match send.message:
                case c.CreateRun(behind=None):
                    begun.add(run_id)
                case c.CreateRun():
                    waiting.add(run_id)
                case c.ReleaseRun():
                    waiting.discard(run_id)
                    begun.add(run_id)
        assert len(begun) <= 1
        assert state.holder == next(iter(begun), None)


# -- the whole engine -----------------------------------------------------------------------------


@function(
    id="law-calm",
    on="law.event",
    flow_control={"debounce": {"period": PERIOD, "key": "data.key", "max_wait": MAX_WAIT}},
)
async def calm(ctx: Any, data: Any) -> Any:
    return data["n"]


@function(
    id="law-bulk",
    on="law.event",
    flow_control={"batch": {"size": SIZE, "wait": WAIT, "key": "data.key"}},
)
async def bulk(ctx: Any, rows: list[Any]) -> Any:
    return [row["n"] for row in rows]


@function(id="law-only", on="law.event", flow_control={"singleton": {"key": "data.key"}})
async def only(ctx: Any, data: Any) -> Any:
    await ctx.step.sleep("work", 7)
    return data["n"]


@function(
    id="law-newest",
    on="law.event",
    compensate_on=["cancelled"],
    flow_control={"singleton": {"key": "data.key", "mode": "cancel"}},
)
async def newest(ctx: Any, data: Any) -> Any:
    ctx.step.compensate("undo", asyncio.sleep, 2)
    await ctx.step.run("begin", asyncio.sleep, 1)
    await ctx.step.sleep("work", 7)
    return data["n"]


FUNCTIONS = [calm, bulk, only, newest]
order = st.tuples(
    st.sampled_from([0, 0, 0.5, 3, 9.999, 10, 12, 25, 40]),
    st.sampled_from(["a", "a", "a", "b"]),
    st.sampled_from(["emit", "emit", "emit", "twice", "crash"]),
)


class Story:
    """What happened in a world, by key."""

    def __init__(self, world: testing.World) -> None:
        self.events: dict[str, list[tuple[int, str]]] = defaultdict(list)
        self.numbers: dict[str, int] = {}
        rows = world.store.tables.rows["events"].values()
        for event_id, _, at, *_ in sorted(rows, key=lambda row: (row[2], row[0])):
            entry = world.store.tables.streams[f"event/{event_id}"][0]
            data = msgspec.json.decode(
                msgspec.json.decode(entry.data, type=EventEmitted).data.json or b""
            )
            self.events[data["key"]].append((at, event_id))
            self.numbers[event_id] = data["n"]


async def play_orders(
    world: testing.World, orders: list[tuple[float, str, str]], crashes: list[int], refuse: int
) -> None:
    trouble = Trouble(world, crashes, refuse)
    for number, (gap, key, what) in enumerate(orders):
        # Events of one moment have no order that a restart could know.
        await world.advance(max(gap, 0.001))
        if what == "crash":
            with suppress(testing.Gone, testing.StorageError):
                await world.crash()
            continue
        for _ in range(1 + (what == "twice")):
            while True:
                with suppress(testing.Gone, testing.StorageError):
                    await world.emit(
                        "law.event", {"n": number, "key": key}, idempotency_key=f"{number}"
                    )
                    break
                await world.advance(0.25)
    trouble.end()
    await world.advance(400)


@settings(max_examples=60, deadline=None)
@given(
    orders=st.lists(order, max_size=14),
    crashes=st.lists(st.integers(1, 15), max_size=5),
    refuse=st.sampled_from([0, 0, 4, 9]),
    linger=st.sampled_from([0.0, 2.0]),
)
@example(
    orders=[(0, "a", "emit")] * 4 + [(9.999, "a", "emit"), (3, "a", "emit"), (3, "a", "emit")],
    crashes=[],
    refuse=4,
    linger=0.0,
)
def test_runs_are_those_of_the_model(
    orders: list[tuple[float, str, str]], crashes: list[int], refuse: int, linger: float
) -> None:
    async def main(world: testing.World) -> None:
        unseen: list[dict[str, Any]] = []
        world.loop.set_exception_handler(lambda _, context: unseen.append(context))
        await play_orders(world, orders, crashes, refuse)
        story = Story(world)
        troubled = bool(crashes or refuse or any(what == "crash" for *_, what in orders))
        await check_debounce(world, story, troubled)
        await check_batch(world, story, troubled)
        await check_skip(world, story, troubled)
        await check_cancel(world, story)
        assert not unseen, unseen
        assert list(check_store(TablesPicture(world.store.tables))) == []
        for table in ("intakes", "timers", "deliveries"):
            assert not world.store.tables.rows[table], table
        is_clean(world)

    testing.run(main, functions=FUNCTIONS, linger=linger, max_crashes=10_000)


async def check_debounce(world: testing.World, story: Story, troubled: bool) -> None:
    wanted = [due for events in story.events.values() for due in debounced(events)]
    runs = await runs_of(world, "law-calm")
    assert sorted((run.event.id, run.merged) for run in runs) == sorted(
        (due.events[-1], len(due.events)) for due in wanted
    )
    due_at = {due.events[-1]: due.at for due in wanted}
    for run in runs:
        assert run.created_at >= due_at[run.event.id]
        assert troubled or run.created_at == due_at[run.event.id]
        assert (await world.wait(run.id)).result == story.numbers[run.event.id]


async def check_batch(world: testing.World, story: Story, troubled: bool) -> None:
    wanted = [due for events in story.events.values() for due in batched(events)]
    runs = await runs_of(world, "law-bulk")
    assert sorted(tuple(taken.id for taken in run.events) for run in runs) == sorted(
        due.events for due in wanted
    )
    due_at = {due.events: due.at for due in wanted}
    for run in runs:
        events = tuple(taken.id for taken in run.events)
        assert run.created_at >= due_at[events]
        assert troubled or run.created_at == due_at[events]
        assert (await world.wait(run.id)).result == [story.numbers[name] for name in events]


async def check_skip(world: testing.World, story: Story, troubled: bool) -> None:
    """Every event has a run of its own, or one that had not ended when it was emitted. While the
    journal refuses, what came before that end may be taken after it.
    """
    runs = {run.id: run for run in await runs_of(world, "law-only")}
    for events in story.events.values():
        mine = []
        for emitted_at, event_id in events:
            outcomes = await world.store.reader.outcomes([event_id])
            (outcome,) = [one for one in outcomes if one.function_id == "law-only"]
            run = runs[outcome.run_id]
            assert run.status is RunStatus.COMPLETED
            if outcome.fate == "started":
                assert run.event.id == event_id
                mine.append(run)
            else:
                assert outcome.fate == "skipped"
                assert emitted_at <= run.ended_at
                assert troubled or outcome.at == emitted_at
        check_apart(mine)


def check_apart(runs: list[Any]) -> None:
    """Of two runs one had ended before the other began."""
    begun = sorted((run.started_at, run.ended_at) for run in runs if run.started_at is not None)
    for (_, ended), (began, _) in pairwise(begun):
        assert ended <= began


async def check_cancel(world: testing.World, story: Story) -> None:
    """Every event has a run; the newest is not cancelled, and no two are executed at once."""
    runs = {run.event.id: run for run in await runs_of(world, "law-newest")}
    assert len(runs) == len(story.numbers)
    for events in story.events.values():
        mine = [runs[event_id] for _, event_id in events]
        assert mine[-1].status is RunStatus.COMPLETED
        assert {run.status for run in mine} <= {RunStatus.COMPLETED, RunStatus.CANCELLED}
        check_apart(mine)


@settings(max_examples=40, deadline=None)
@given(
    orders=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.5, 3.0, 9.0]),
            st.sampled_from(
                ["emit", "emit", "start", "drop", "pause", "resume", "cancel", "retry", "crash"]
            ),
            st.sampled_from(["debounce", "batch", "newest", "only"]),
        ),
        max_size=20,
    ),
    refuse=st.sampled_from([0, 0, 5]),
)
def test_whatever_operators_order_nothing_is_left_and_nobody_is_locked_out(
    orders: list[tuple[float, str, str]], refuse: int
) -> None:
    async def main(world: testing.World) -> None:
        unseen: list[dict[str, Any]] = []
        world.loop.set_exception_handler(lambda _, context: unseen.append(context))
        trouble = Trouble(world, [], refuse)
        for gap, what, target in orders:
            await world.advance(gap)
            with suppress(Conflict, NotFound, testing.Gone, testing.StorageError):
                await obey(world, what, target)
            assert list(check_store(TablesPicture(world.store.tables))) == []
        trouble.end()
        await world.advance(5)
        for name in ("law-only", "law-newest"):
            for run in await runs_of(world, name):
                with suppress(Conflict):
                    await world.resume(run.id)
        await world.advance(600)
        for run_id in [key for (key,) in world.store.tables.rows["runs"]]:
            run = await world.state(run_id)
            assert run.is_terminal, run
        last = await world.emit("law.event", {"n": -1, "key": "a"})
        assert [outcome.fate for outcome in last.outcomes if "law-only" in outcome.function_id] == [
            "started"
        ]
        await world.advance(600)
        assert not unseen, unseen
        is_clean(world)
        assert not world.store.tables.rows["intakes"]

    testing.run(main, functions=FUNCTIONS, max_crashes=10_000)


async def obey(world: testing.World, what: str, target: str) -> None:
    """What operators do; the engine may say no."""
    match what:
        case "emit":
            await world.emit("law.event", {"n": 1, "key": "a"})
        case "crash":
            await world.crash()
        case "start" | "drop" if target in ("debounce", "batch"):
            name = "law-calm" if target == "debounce" else "law-bulk"
            address = i.Intake(target, name, "a").address  # type: ignore[arg-type]
            if what == "start":
                await world.engine.intakes.start(address)
            else:
                await world.engine.intakes.drop(address, "not wanted")
        case "pause" | "resume" | "cancel" | "retry" if target in ("newest", "only"):
            runs = await runs_of(world, f"law-{target}")
            if runs:
                run = runs[-1] if what != "retry" else runs[0]
                await getattr(world, what)(run.id)
