"""One simulated case: everything of it is drawn from its seed, and the same seed plays it again.

A case starts runs of random programs, emits events, gives operators' orders and steps the clock
over some days of virtual time, while the process that executes them is killed, refused, slowed and
confused. Then the disasters end, every run must come to its end with the result that its program
says, and nothing may be left behind.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgspec

from ironflow.actors.audit import Finding
from ironflow.actors.kernel.virtual_time import Deadlock, VirtualTimeLoop, run_virtual
from ironflow.core.clock import SECOND
from ironflow.core.errors import Conflict, Gone, IdempotencyConflict, NotFound, StorageError
from ironflow.core.runs.explain import explain
from ironflow.core.runs.state import Run, RunStatus, StepStatus
from ironflow.core.values.codec import convert_input
from ironflow.simulation import laws, programs
from ironflow.simulation.faults import FAULTS, Chance, Fault
from ironflow.simulation.process import Process
from ironflow.simulation.story import Story
from ironflow.storage.ports import DELIVERIES, EVENTS, INTAKES, Table

DAY = 86_400.0
PATIENCE = 40 * DAY
"""Virtual seconds that runs get to end after the disasters: the clock may have been set back."""
UNSURE = (Gone, StorageError, TimeoutError)
"""Answers after which nobody knows whether a request was done."""


class Report(msgspec.Struct, frozen=True):
    """What a case came to. `story` is empty unless something was found."""

    seed: int
    days: float
    faults: list[str]
    findings: list[Finding]
    story: list[str]
    digest: str
    runs: int
    entries: int
    commits: int
    crashes: int
    calls: int
    virtual_seconds: float

    @property
    def ok(self) -> bool:
        """Whether every law held."""
        return not self.findings


def play(seed: int, days: float = 1.0, faults: frozenset[Fault] = FAULTS) -> Report:
    """Play the case of a seed."""
    found: list[Report] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        found.append(await _Case(loop, seed, days, faults).play())

    run_virtual(main, limit=(days + 400) * DAY)
    return found[0]


def shrink(report: Report) -> Report:
    """The same seed with as few kinds of faults as still break a law."""
    best = report
    for fault in sorted(report.faults):
        fewer = frozenset(f for f in best.faults if f != fault)
        smaller = play(report.seed, report.days, fewer)  # type: ignore[arg-type]
        if not smaller.ok:
            best = smaller
    return best


class _Case:
    def __init__(
        self, loop: VirtualTimeLoop, seed: int, days: float, faults: frozenset[Fault]
    ) -> None:
        self.loop, self.seed, self.days, self.faults = loop, seed, days, faults
        programs.calls.set(Counter())
        chance = Chance(seed)
        self.rng, self.orders = chance.of("traffic"), chance.of("operators")
        shape = chance.of("shape")
        self.hourly = shape.random() < 0.3
        self.story = Story()
        self.main: asyncio.Task[Any] | None = None
        self.wanted: dict[str, tuple[str, Any]] = {}
        """What runs that were asked for are to come to: the function's id and its input."""
        self.keys: dict[str, str] = {}
        self.touched: set[str] = set()
        self.ticks: dict[str, int] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.unseen: list[str] = []
        self.process = Process(
            loop,
            programs.served(self.hourly),
            chance,
            faults,
            self.story,
            self._stop,
            days=days,
            linger=shape.choice((0.0, 0.5, 2.0, 1000.0)),
            capacity=shape.choice((1, 2, 5, 1000)),
            max_crashes=10_000,
        )

    async def play(self) -> Report:
        watch = self.process.watch
        self.loop.set_exception_handler(self._note_unseen)
        self.main = self.loop.create_task(self._live())
        try:
            await self.main
        except asyncio.CancelledError:
            if not (watch.findings or self.unseen):
                raise
        except Deadlock as error:
            watch.find("time_goes_on", "", iter([str(error).splitlines()[0]]))
        finally:
            self.loop.on_turn = self.loop.on_rest = None
            for task in self.tasks:
                task.cancel()
            self.process.executor.abandon()
            await self.process.engine.system.stop()
        for message in () if watch.findings else self.unseen:
            watch.findings.append(Finding("no_error_goes_unseen", "", message))
        return self._report()

    def _report(self) -> Report:
        watch = self.process.watch
        subject = watch.findings[0].subject if watch.findings else ""
        return Report(
            self.seed,
            self.days,
            sorted(self.faults),
            watch.findings[:20],
            self.story.excerpt(subject) if watch.findings else [],
            self.story.digest,
            len(watch.runs),
            watch.entries,
            watch.commits,
            self.process.crash_count,
            watch.calls,
            round(self.loop.time(), 6),
        )

    def _stop(self) -> None:
        if self.main is not None:
            self.main.cancel()

    def _note_unseen(self, _: object, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.unseen.append(f"{context['message']}: {error!r}")
        self._stop()

    # -- the life of a case -----------------------------------------------------------------------

    async def _live(self) -> None:
        await self.process.boot()
        rng = self.rng
        span = self.days * DAY * (rng.choice((0.001, 0.01, 0.1, 1.0)) if self.days <= 1 else 1.0)
        actions = rng.randint(4, 12) + max(int((self.days - 1.0) * 8), 0)
        moments = sorted(rng.uniform(0.0, span) for _ in range(actions))
        for moment in moments:
            await asyncio.sleep(max(moment - self.loop.time(), 0.0))
            self._act()
        await asyncio.sleep(rng.choice((0.0, 5.0, 200.0)))
        self.process.calm_down()
        await self._finish()
        self._check_end()

    def _act(self) -> None:
        """Something from outside. Nobody waits for it: the next may come before it is answered."""
        rng = self.rng
        draw = rng.random()
        if "clock" in self.faults and draw < 0.06:
            self.process.step_clock(rng.choice((-90.0, -3600.0, 45.0, 3600.0, 86_400.0)))
        elif "duplicate" in self.faults and draw < 0.12:
            self.process.ring_again()
        elif draw < 0.62 or not self.wanted:
            self._spawn(self._start(*self._draw_run()))
        elif draw < 0.80:
            self._spawn(self._tick(rng.randint(1, 9)))
        elif "operators" in self.faults:
            order = self.orders.choice(("cancel", "pause", "resume", "retry", "pause", "why"))
            self._spawn(
                self._order(self.orders.choice(sorted(self.process.watch.runs or [""])), order)
            )

    def _draw_run(self) -> tuple[str, Any, str | None]:
        rng = self.rng
        key = rng.choice((None, "k1", "k2", "k3"))
        draw = rng.random()
        if draw < 0.7:
            return programs.PROGRAM, programs.draw_program(rng), key
        if draw < 0.9:
            return programs.SAGA, programs.draw_saga(rng), key
        return programs.HASTY, rng.choice((0, 5, 59, 100)), key

    async def _finish(self) -> None:
        """Give every run what it waits for, until all have ended."""
        end = self.loop.time() + PATIENCE
        pause = 5.0
        while self.loop.time() < end:
            await asyncio.sleep(pause)
            pause = min(pause * 1.2, 3600.0)
            for run in list(self.process.watch.runs.values()):
                if run.status is RunStatus.PAUSED:
                    await self._order(run.id, "resume")
                elif run.id in self.touched and _sleeps_for_good(run):
                    # The loser of a race, cancelled with it, that an operator has retried.
                    await self._order(run.id, "cancel")
            over = all(run.is_terminal for run in self.process.watch.runs.values())
            if not over:
                await self._tick(1)
            # A message that is still on its way may create a run.
            elif not self.tasks and not any(map(self._has_rows, (INTAKES, DELIVERIES))):
                break
        await self.process.wait_until_up()
        await asyncio.sleep(130)  # for what is on its way, and for actors to be dropped

    def _has_rows(self, table: Table) -> bool:
        return bool(self.process.store.tables.rows[table.name])

    # -- requests ---------------------------------------------------------------------------------

    def _spawn(self, work: Any) -> None:
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.unseen.append(f"a request ended with {error!r}")
            self._stop()

    def _tell(self, subject: str, text: str) -> None:
        self.story.tell(self.process.clock.now(), "outside", subject, text)

    async def _start(self, function_id: str, value: Any, key: str | None) -> None:
        """Start a run; with a key until it is acknowledged, without one once."""
        body = msgspec.json.encode(value)
        process = self.process
        while True:
            await process.wait_until_up()
            engine = process.engine
            try:
                created = await engine.invoke(function_id, body, idempotency_key=key)
            except IdempotencyConflict:
                self._tell("", f"start {function_id} with key {key}: another input was before")
                return
            except UNSURE as error:
                self._tell("", f"start {function_id}: {type(error).__name__}")
                if key is None:
                    return
                await asyncio.sleep(0.5)
                continue
            break
        run_id = created.run_id
        self._tell(f"run/{run_id}", f"start {function_id} {body.decode()[:300]}: {run_id}")
        process.watch.promise(f"run/{run_id}")
        if key is not None:
            same = self.keys.setdefault(f"{function_id}/{key}", run_id)
            found = iter([] if same == run_id else [f"key {key} made runs {same} and {run_id}"])
            process.watch.find("a_key_makes_one_run", f"run/{run_id}", found)
        self.wanted.setdefault(run_id, (function_id, value))

    async def _tick(self, number: int) -> None:
        process = self.process
        await process.wait_until_up()
        engine = process.engine
        try:
            emitted = await engine.emit(programs.TICK, b'{"n": %d}' % number)
        except UNSURE as error:
            self._tell("", f"emit {number}: {type(error).__name__}")
            return
        self._tell(f"event/{emitted.event_id}", f"emit {number}: {emitted.event_id}")
        process.watch.promise(f"event/{emitted.event_id}")
        self.ticks[emitted.event_id] = number
        wanted = int(number % 3 == 0)
        started = len(emitted.run_ids) - sum(one.fate == "started" for one in emitted.outcomes)
        if started != wanted:
            text = f"event {number} started {started} runs, not {wanted}"
            process.watch.find(
                "an_event_starts_its_runs", f"event/{emitted.event_id}", iter([text])
            )

    async def _order(self, run_id: str, order: str) -> None:
        process = self.process
        await process.wait_until_up()
        engine = process.engine
        self.touched.add(run_id)
        if order == "why":
            await self._ask_why(run_id)
            return
        before = process.watch.runs.get(run_id)
        attempt = before.attempt if before is not None else 0
        try:
            status = await getattr(engine, order)(run_id)
        except (Conflict, NotFound) as error:
            self._tell(f"run/{run_id}", f"{order} {run_id}: {error}")
            known = process.watch.runs.get(run_id)
            if "has ended already" in str(error) and known and known.attempt == attempt:
                found = iter([] if known.is_terminal else [f"was told of an end: {error}"])
                process.watch.find("acknowledged_is_durable", f"run/{run_id}", found)
        except UNSURE as error:
            self._tell(f"run/{run_id}", f"{order} {run_id}: {type(error).__name__}")
        else:
            self._tell(f"run/{run_id}", f"{order} {run_id}: {status}")
            process.watch.promise(f"run/{run_id}")
            run = process.watch.runs[run_id]
            ending = run.is_terminal or run.cancelling or run.unwinding
            if order == "cancel" and run.attempt == attempt and not ending:
                text = "the cancel was acknowledged and is not there"
                process.watch.find("acknowledged_is_durable", f"run/{run_id}", iter([text]))

    async def _ask_why(self, run_id: str) -> None:
        with suppress(NotFound):
            run = await self.process.engine.run(run_id)
            said = explain(run, self.process.clock.now())
            if "defect" in said.summary:
                found = iter([said.summary])
                self.process.watch.find("something_will_wake_it", f"run/{run_id}", found)

    # -- the end ----------------------------------------------------------------------------------

    def _check_end(self) -> None:
        process, watch = self.process, self.process.watch
        watch.find("every_run_has_ended", "", laws.every_run_has_ended(watch.runs))
        schedules = frozenset({f"schedule/{programs.HOURLY}"})
        watch.find("nothing_is_left", "", laws.nothing_is_left(process, schedules))
        for stream, version in watch.acknowledged.items():
            found = laws.acknowledged_is_durable(process.store.tables.head(stream), version)
            watch.find("acknowledged_is_durable", stream, found)
        for run in watch.runs.values():
            watch.find("runs_end_as_their_program_says", f"run/{run.id}", self._judge(run))
            if run.function_id == programs.SAGA:
                watch.find("failed_sagas_are_undone", f"run/{run.id}", _judge_saga(run))
        watch.find("a_schedule_fires_each_time_once", "", self._judge_schedule())
        watch.find("every_event_is_taken_once", "", self._judge_intakes())

    def _judge_intakes(self) -> Iterator[str]:
        """Whether every tick is in one batch, in one debounced run and has a run that took the
        place of the one before.
        """
        runs = list(self.process.watch.runs.values())
        emitted = sorted(
            row[0] for row in self.process.store.tables.rows[EVENTS.name].values()
            if row[1] == programs.TICK
        )  # fmt: skip
        taken = sorted(e.id for r in runs if r.function_id == programs.BULK for e in r.events)
        if taken != emitted:
            yield f"{len(emitted)} events were emitted and batches have {len(taken)}"
        merged = sum(run.merged for run in runs if run.function_id == programs.CALM)
        if merged != len(emitted):
            yield f"{len(emitted)} events were emitted and debounces have {merged}"
        newest = sorted(
            r.event.id for r in runs if r.function_id == programs.NEWEST and r.event is not None
        )
        if newest != emitted:
            yield f"{len(emitted)} events were emitted and {len(newest)} took their turn"

    def _judge(self, run: Run) -> Iterator[str]:
        """Whether a run came to what was wanted of it."""
        function_id, value = self.wanted.get(run.id, (run.function_id, None))
        if value is None:
            raw = run.input.json
            if raw is None:
                return
            value = msgspec.json.decode(raw)
        status = run.status
        interfered = self._was_touched(run)
        if function_id == programs.HASTY:
            yield from self._judge_hasty(run, value)
            return
        fails = function_id == programs.SAGA and value["fails"]
        if status is RunStatus.CANCELLED:
            made_way = function_id == programs.NEWEST and "takes its place" in (run.reason or "")
            if not interfered and not made_way:
                yield f"was cancelled ({run.reason}) and nobody had asked for it"
            return
        if status is RunStatus.FAILED:
            if not fails and not interfered:
                yield f"failed with {run.error}"
            return
        if fails:
            yield "completed and should have failed"
            return
        expected: Any = value["steps"] if function_id == programs.SAGA else None
        if function_id == programs.PROGRAM:
            expected = programs.expect(value)
        if function_id in (programs.PROGRAM, programs.SAGA):
            found = _result(run)
            if not programs.matches(expected, found):
                yield f"completed with {found}, should be {expected}"

    def _judge_hasty(self, run: Run, seconds: float) -> Iterator[str]:
        if run.status is RunStatus.COMPLETED and seconds > 60 and not self.faults & {"clock"}:
            yield f"slept {seconds} s within a limit of 60 s"
        late = self.faults & {"clock", "down", "slow", "full", "crash", "operators", "late"}
        if run.status is not RunStatus.COMPLETED and seconds < 30 and not late:
            yield f"{run.status.value} though it had the time"

    def _was_touched(self, run: Run) -> bool:
        """Whether operators had a hand in it, in its children, or in those whose child it is."""
        runs = self.process.watch.runs
        above: Run | None = run
        while above is not None:
            if above.id in self.touched:
                return True
            if above.parent is not None and above.parent.detached:
                break
            parent = runs.get(above.parent.run_id) if above.parent is not None else None
            if parent is not None and run.status is RunStatus.CANCELLED:
                # A race that was won, or a block that failed, gives its children up.
                step = parent.steps.get(above.parent.step) if above.parent is not None else None
                if step is None or step.status is not StepStatus.WAITING:
                    return True
            above = parent
        return any(
            child.id in self.touched for child in runs.values() if run.id in _ancestors(child, runs)
        )

    def _judge_schedule(self) -> Iterator[str]:
        entries = self.process.store.tables.streams.get(f"schedule/{programs.HOURLY}", [])
        last = 0
        for entry in entries:
            if entry.kind != "schedule.fired":
                continue
            fired = msgspec.json.decode(entry.data)
            if fired["at"] <= last:
                yield f"fired for {fired['at']} after {last}"
            hours = (fired["at"] - last) // 3_600_000_000 - 1
            if last and hours != fired.get("skipped", 0):
                yield f"passed over {hours} times and says {fired.get('skipped', 0)}"
            if fired["run_id"] not in self.process.watch.runs:
                yield f"fired for {fired['at']} and there is no run {fired['run_id']}"
            last = fired["at"]


def _sleeps_for_good(run: Run) -> bool:
    return any(
        (run.steps[key].until or 0) > run.updated_at + int(PATIENCE) * SECOND for key in run.open
    )


def _ancestors(run: Run, runs: dict[str, Run]) -> set[str]:
    found: set[str] = set()
    above: Run | None = run
    while above is not None and above.parent is not None:
        found.add(above.parent.run_id)
        above = runs.get(above.parent.run_id)
    return found


def _result(run: Run) -> Any:
    raw = run.result.json if run.result is not None else None
    return convert_input(raw, None, "result") if raw is not None else None


def _judge_saga(run: Run) -> Iterator[str]:
    """What was done is undone when the run did not complete, each once, the newest first."""
    if run.status is RunStatus.COMPLETED or run.unwinding is None:
        return
    done = [
        key
        for key, step in run.steps.items()
        if key.startswith("do-") and step.status is StepStatus.COMPLETED
    ]
    undone = [
        step.name.removeprefix("un")
        for step in run.steps.values()
        if step.kind == "compensate" and step.status is StepStatus.COMPLETED
    ]
    if undone != done[::-1]:
        yield f"did {done} and undid {undone}"
