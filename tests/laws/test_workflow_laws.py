"""Laws of event-driven workflows: random programs, killed after commits, against a life without a
crash. Same result, same store, same events told; every wait has its wake-up source; what the
engine holds of a run is the fold of its stream.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from ironflow import testing
from ironflow.core.runs.explain import wake_sources
from ironflow.core.runs.fold import replay
from ironflow.workflows import Context, Workflow
from ironflow.workflows.events import Event, StartEvent, StepFailedEvent, StopEvent
from ironflow.workflows.mounting import MountedWorkflow
from ironflow.workflows.retry_policy import retry_policy, stop_after_attempt, wait_fixed
from ironflow.workflows.steps import catch_error, step

Stage = tuple[str, int, float]
KINDS = ("plain", "fan", "nested", "collect", "retry", "timeout", "once", "child", "caught", "send")

stages = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 3), st.sampled_from([0.0, 0.01, 0.5, 40.0])),
    min_size=1,
    max_size=4,
)


class Told(Event):
    text: str


async def note(ctx: Any, text: str, pause: float) -> None:
    """Everything that must happen once: a shared counter, and an event for readers."""
    async with ctx.store.edit_state() as state:
        state["count"] = state.get("count", 0) + 1
        state["seen"] = sorted([*state.get("seen", []), text])
    ctx.write_event_to_stream(Told(text=text))
    if pause:
        await asyncio.sleep(pause)


class Child(Workflow):
    @step
    async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(0.02)
        return StopEvent(result=ev.n * 2)


def method(name: str, returns: Any, takes: dict[str, Any], fn: Any, **options: Any) -> Any:
    """A step made at run time."""
    fn.__name__, fn.__qualname__ = name, f"Program.{name}"
    fn.__annotations__ = {"ctx": Context, **takes, "return": returns}
    maker = catch_error if "for_steps" in options else step
    return maker(**options)(fn) if options else maker(fn)


def build(program: list[Stage]) -> type[Workflow]:
    """The workflow of a program: each stage takes one event and leads to the next."""
    body: dict[str, Any] = {}
    marks = [type(f"S{n}", (Event,), {}) for n in range(len(program))]
    for number, (kind, size, pause) in enumerate(program):
        given = StartEvent if number == 0 else marks[number]
        last = number + 1 == len(program)
        stage = _Stage(number, size, pause, given, StopEvent if last else marks[number + 1], last)
        body.update(getattr(stage, kind)())
    return type("Program", (Workflow,), {"__module__": __name__, **body})


class _Stage:
    def __init__(
        self, number: int, size: int, pause: float, given: Any, next_: Any, last: bool
    ) -> None:
        self.number, self.size, self.pause, self.given = number, size, pause, given
        self.next_kind, self.last = next_, last
        self.name = f"s{number}"

    def next(self, value: Any = None) -> Any:
        return StopEvent(result=value) if self.last else self.next_kind(value=value)

    def make(self, fn: Any, **options: Any) -> Any:
        return method(self.name, self.next_kind, {"ev": self.given}, fn, **options)

    def plain(self) -> dict[str, Any]:
        stage = self

        async def fn(self: Any, ctx: Any, ev: Any) -> Any:
            await note(ctx, stage.name, stage.pause)
            return stage.next(1)

        return {self.name: self.make(fn)}

    def send(self) -> dict[str, Any]:
        """Events sent in the middle of a long step, and collected."""
        stage = self
        part = type(f"P{self.number}", (Event,), {})

        async def fn(self: Any, ctx: Any, ev: Any) -> Any:
            for n in range(stage.size + 1):
                ctx.send_event(part(n=n))
                await asyncio.sleep(stage.pause)
            return None

        async def gather(self: Any, ctx: Any, ev: Any) -> Any:
            await note(ctx, f"{stage.name}.{ev.n}", 0)
            found = ctx.collect_events(ev, [part] * (stage.size + 1))
            return stage.next(sorted(e.n for e in found)) if found else None

        first = method(self.name, part | None, {"ev": self.given}, fn)
        return {
            self.name: first,
            f"{self.name}g": method(f"{self.name}g", self.next_kind | None, {"ev": part}, gather),
        }

    def fan(self) -> dict[str, Any]:
        stage = self
        part, done = type(f"F{self.number}", (Event,), {}), type(f"G{self.number}", (Event,), {})

        async def fn(self: Any, ctx: Any, ev: Any) -> Any:
            return [part(n=n) for n in range(stage.size)]

        async def work(self: Any, ctx: Any, ev: Any) -> Any:
            await note(ctx, f"{stage.name}.{ev.n}", stage.pause * ev.n)
            return done(n=ev.n) if ev.n != 1 else None

        async def join(self: Any, ctx: Any, evs: Any) -> Any:
            return stage.next(sorted(e.n for e in evs))

        n = self.name
        return {
            n: method(n, list[part], {"ev": self.given}, fn),  # type: ignore[valid-type]
            f"{n}w": method(f"{n}w", done | None, {"ev": part}, work, num_workers=2),
            f"{n}j": method(f"{n}j", self.next_kind, {"evs": list[done]}, join),  # type: ignore[valid-type]
        }

    def nested(self) -> dict[str, Any]:
        stage = self
        a, b, c = (type(f"{x}{self.number}", (Event,), {}) for x in ("NA", "NB", "NC"))

        async def fn(self: Any, ctx: Any, ev: Any) -> Any:
            return [a(n=n) for n in range(stage.size)]

        async def split(self: Any, ctx: Any, ev: Any) -> Any:
            await note(ctx, f"{stage.name}.{ev.n}", stage.pause)
            return [b(n=ev.n * 10 + k) for k in range(ev.n)]

        async def inner(self: Any, ctx: Any, evs: Any) -> Any:
            return c(ns=sorted(e.n for e in evs))

        async def outer(self: Any, ctx: Any, evs: Any) -> Any:
            return stage.next(sorted(e.ns for e in evs))

        n = self.name
        return {
            n: method(n, list[a], {"ev": self.given}, fn),  # type: ignore[valid-type]
            f"{n}s": method(f"{n}s", list[b], {"ev": a}, split),  # type: ignore[valid-type]
            f"{n}i": method(f"{n}i", c, {"evs": list[b]}, inner),  # type: ignore[valid-type]
            f"{n}o": method(f"{n}o", self.next_kind, {"evs": list[c]}, outer),  # type: ignore[valid-type]
        }

    def collect(self) -> dict[str, Any]:
        stage = self
        part, done = type(f"C{self.number}", (Event,), {}), type(f"D{self.number}", (Event,), {})
        many = self.size + 1

        async def fn(self: Any, ctx: Any, ev: Any) -> Any:
            for n in range(many):
                ctx.send_event(part(n=n))
            return None

        async def work(self: Any, ctx: Any, ev: Any) -> Any:
            await note(ctx, f"{stage.name}.{ev.n}", stage.pause)
            return done(n=ev.n)

        async def gather(self: Any, ctx: Any, ev: Any) -> Any:
            found = ctx.collect_events(ev, [done] * many)
            await asyncio.sleep(0.03)
            return stage.next(sorted(e.n for e in found)) if found else None

        n = self.name
        return {
            n: method(n, part | None, {"ev": self.given}, fn),
            f"{n}w": method(f"{n}w", done, {"ev": part}, work),
            f"{n}g": method(f"{n}g", self.next_kind | None, {"ev": done}, gather),
        }

    def retry(self) -> dict[str, Any]:
        stage = self

        async def fn(self: Any, ctx: Any, ev: Any) -> Any:
            if ctx.retry_info().retry_number < min(stage.size, 2):
                raise ValueError("not yet")
            await note(ctx, stage.name, 0)
            return stage.next(ctx.retry_info().retry_number)

        policy = retry_policy(wait=wait_fixed(stage.pause), stop=stop_after_attempt(3))
        return {self.name: self.make(fn, retry_policy=policy)}

    def timeout(self) -> dict[str, Any]:
        stage = self

        async def fn(self: Any, ctx: Any, ev: Any) -> Any:
            await note(ctx, stage.name, 0)
            try:
                await ctx.wait_for_event(Told, waiter_event=Told(text="asked"), timeout=30)
            except TimeoutError:
                return stage.next("none")
            return stage.next("came")

        return {self.name: self.make(fn)}

    def once(self) -> dict[str, Any]:
        stage = self

        async def fn(self: Any, ctx: Any, ev: Any) -> Any:
            first = await ctx.once("first", lambda: 7)
            await asyncio.sleep(stage.pause)
            second = await ctx.once("second", lambda: first + 1)
            await note(ctx, stage.name, 0)
            return stage.next([first, second])

        return {self.name: self.make(fn)}

    def child(self) -> dict[str, Any]:
        stage = self

        async def fn(self: Any, ctx: Any, ev: Any) -> Any:
            await note(ctx, stage.name, 0)
            return stage.next(await Child().run(n=stage.size))

        return {self.name: self.make(fn)}

    def caught(self) -> dict[str, Any]:
        stage = self

        async def fn(self: Any, ctx: Any, ev: Any) -> Any:
            raise KeyError("gone")

        async def mend(self: Any, ctx: Any, ev: Any) -> Any:
            await note(ctx, f"{stage.name}.mended", stage.pause)
            return stage.next(type(ev.exception).__name__)

        n = self.name
        takes = {"ev": StepFailedEvent}
        return {
            n: self.make(fn),
            f"{n}c": method(f"{n}c", self.next_kind, takes, mend, for_steps=[n]),
        }


async def outcome(world: testing.World, run_id: str) -> tuple[Any, Any, Any]:
    """The result, the store, and what readers were told, internal events left out."""
    ended = await world.wait(run_id)
    assert ended.status == "completed", ended.error
    run = await world.state(run_id)
    assert run.workflow is not None
    told = []
    last = -1
    async for event in world.engine.workflows.follow(run_id):
        assert event.sequence == last + 1  # no gap, no repetition, in order
        last = event.sequence
        if not event.internal:
            told.append(json.loads(await world.engine.load_payload(event.envelope))["value"])
    assert told[-1] == ended.result["value"]
    return ended.result["value"], run.workflow.store, Counter(json.dumps(each) for each in told)


async def check_fold(world: testing.World, run_id: str) -> None:
    """What the engine has of the run is the fold of its stream from the beginning."""
    entries = await world.store.reader.entries(f"run/{run_id}", 0, 100_000)
    fold = replay(run_id, [(e.kind, e.data, e.at) for e in entries])
    assert msgspec.json.encode(fold) == msgspec.json.encode(await world.state(run_id))


def live(program: list[Stage], crash_at: int | None, linger: float = 2.0) -> tuple[Any, int]:
    mounted = MountedWorkflow(build(program)(timeout=None), "Program")

    async def main(world: testing.World) -> tuple[Any, int]:
        commits = 0

        def count(*_: object) -> None:
            nonlocal commits
            commits += 1

        world.store.journal.on_commit(count)
        if crash_at is not None:
            world.crash_at_commit(crash_at)
        started = asyncio.create_task(world.engine.workflows.start("Program", b"{}", run_id="r1"))
        try:
            await started
        except Exception:  # noqa: BLE001 - the process died under it: ask again, as a caller would
            await world._up.wait()
            if await world.store.reader.run("r1") is None:
                await world.engine.workflows.start("Program", b"{}", run_id="r1")
        found = await outcome(world, "r1")
        await check_fold(world, "r1")
        return found, commits

    return testing.run(main, functions=[mounted], linger=linger)  # type: ignore[list-item]


@settings(max_examples=12, deadline=None)
@given(program=stages, data=st.data())
def test_a_crash_after_any_commit_changes_nothing(program: list[Stage], data: Any) -> None:
    calm, commits = live(program, None)
    assert live(program, None, linger=0.0)[0] == calm  # let go of at every wait
    points = range(2, commits + 1)
    chosen = (
        points
        if len(points) <= 6
        else data.draw(st.lists(st.sampled_from(points), min_size=6, max_size=6, unique=True))
    )
    for point in chosen:
        assert live(program, point)[0] == calm, f"crashed at commit {point} of {commits}"


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_stage_survives_a_crash_after_each_commit(kind: str) -> None:
    program: list[Stage] = [(kind, 3, 0.5), ("plain", 0, 0.0)]
    calm, commits = live(program, None)
    for point in range(2, commits + 1):
        assert live(program, point)[0] == calm, f"crashed at commit {point} of {commits}"


@settings(max_examples=8, deadline=None)
@given(program=stages)
def test_a_workflow_that_waits_names_what_wakes_it(program: list[Stage]) -> None:
    mounted = MountedWorkflow(build(program)(timeout=None), "Program")

    async def main(world: testing.World) -> None:
        await world.engine.workflows.start("Program", b"{}", run_id="r1")
        run = await world.state("r1")
        while not run.is_terminal:
            assert wake_sources(run), run
            await world.advance("10ms")
            run = await world.state("r1")
            if run.status == "waiting":
                await world.advance("5s")
                run = await world.state("r1")

    testing.run(main, functions=[mounted])  # type: ignore[list-item]


# -- the store -------------------------------------------------------------------------------------


class Kept(BaseModel):
    n: int = 0
    by: dict[str, Any] = Field(default_factory=dict)
    rows: list[int] = Field(default_factory=list)


PATHS = ("n", "by.a", "by.b.c", "by.b.d")
actions = st.one_of(
    st.tuples(st.just("set"), st.sampled_from(PATHS), st.integers(0, 3)),
    st.tuples(st.just("edit"), st.sampled_from(["n", "rows", "nothing"]), st.integers(1, 3)),
    st.tuples(st.sampled_from(["clear", "replace", "get", "pause"]), st.just(""), st.just(0)),
)


def storing(kind: Any, todo: list[tuple[str, str, int]]) -> type[Workflow]:
    """A step that does all that to the store, and says what it saw on the way."""

    async def step_(self: Any, ctx: Any, ev: Any) -> Any:
        store, seen = ctx.store, []
        for what, where, number in todo:
            if what == "set":
                await store.set(where, number)
            elif what == "edit":
                async with store.edit_state() as state:
                    if where == "n":
                        state.n = getattr(state, "n", 0) + number
                    elif where == "rows":
                        state.rows = [*getattr(state, "rows", []), number]
            elif what == "clear":
                await store.clear()
            elif what == "replace":
                new = await store.get_state()
                new.by = {"new": number}
                await store.set_state(new)
            elif what == "get":
                seen.append([await store.get(path, None) for path in (*PATHS, "rows")])
            else:
                await asyncio.sleep(0.1)
        return StopEvent(result=seen)

    step_.__name__, step_.__qualname__ = "only", "Storing.only"
    step_.__annotations__ = {"ctx": kind, "ev": StartEvent, "return": StopEvent}
    return type("Program", (Workflow,), {"__module__": __name__, "only": step(step_)})


def store_life(mounted: MountedWorkflow, crash_at: int | None) -> tuple[Any, int]:
    async def main(world: testing.World) -> tuple[Any, int]:
        commits = 0

        def count(*_: object) -> None:
            nonlocal commits
            commits += 1

        await world.engine.workflows.start("Program", b"{}", run_id="r1")
        world.store.journal.on_commit(count)
        if crash_at is not None:
            world.crash_at_commit(crash_at)
        ended = await world.wait("r1")
        assert ended.status == "completed", ended.error
        run = await world.state("r1")
        assert run.workflow is not None
        return (ended.result["value"], run.workflow.store), commits

    return testing.run(main, functions=[mounted])  # type: ignore[list-item]


@settings(max_examples=25, deadline=None)
@given(todo=st.lists(actions, max_size=8), typed=st.booleans())
def test_what_a_step_does_to_the_store_is_done_once(
    todo: list[tuple[str, str, int]], typed: bool
) -> None:
    # With pauses in between, so that each of it is recorded before the step has ended.
    spread = [each for action in todo for each in (action, ("pause", "", 0))]
    kind = storing(Context[Kept] if typed else Context, spread)
    mounted = MountedWorkflow(kind(timeout=None), "Program")
    calm, commits = store_life(mounted, None)
    for point in range(1, commits + 1):
        assert store_life(mounted, point)[0] == calm, f"crashed at commit {point} of {commits}"
