"""`ironflow.testing.simulate`: a user's own function in disasters, held against its own quiet run.

What is promised, and looked at for every seed: the run ends as it does when nothing goes wrong (or
as `check` says), no step that has its result is called again, and every law of
`ironflow.simulation.laws` and `ironflow.actors.audit` holds on the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from ironflow.actors.audit import Finding
from ironflow.actors.kernel.virtual_time import Deadlock, VirtualTimeLoop, run_virtual
from ironflow.core.durations import parse_duration
from ironflow.core.errors import Gone, IronflowError, StorageError
from ironflow.core.values.codec import encode_plain
from ironflow.sdk.function import Function, Registry, registry
from ironflow.sdk.waits import Duration
from ironflow.simulation.faults import FAULTS, Chance, Fault, parse_faults
from ironflow.simulation.process import Process
from ironflow.simulation.story import Story
from ironflow.simulation.world import Ended

NOT_BY_DEFAULT: frozenset[Fault] = frozenset({"clock", "down", "operators"})
"""Faults that may rightly change a result: a wait whose time limit passes, a run that is cancelled.
"""
Drive = Callable[["Outside", str], Awaitable[None]]
Check = Callable[[Ended], object]


class SimulationFailed(AssertionError):
    """What went wrong, the seed that plays it again (None: no fault is needed), and the story."""

    def __init__(self, seed: int | None, findings: Sequence[Finding], story: Sequence[str]) -> None:
        self.seed, self.findings, self.story = seed, list(findings), list(story)
        found = "\n".join(f"  {f.law}: {f.message}" for f in findings)
        told = "\n".join(f"  {line}" for line in story)
        which = "even when nothing goes wrong, a law is broken"
        if seed is not None:
            which = f"seed {seed} breaks a law (play it again with seeds=[{seed}])"
        super().__init__(
            f"{which}:\n{found}\nwhat happened (!! is a fault, -> the outside):\n{told}"
        )


class Simulated(msgspec.Struct, frozen=True):
    """What `simulate` did. `expected` is how the function ends when nothing goes wrong."""

    seeds: int
    crashes: int
    commits: int
    calls: int
    expected: Ended


class Outside:
    """What a `drive` does to a simulated process: it asks again until it is answered."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._asked = 0

    async def advance(self, duration: Duration) -> None:
        """Let virtual time pass."""
        await asyncio.sleep(parse_duration(duration, "duration"))

    async def start(self, function: Function | str, input: Any = None) -> str:
        """Start a run; its id."""
        function_id = function if isinstance(function, str) else function.id
        body, key = encode_plain(input, "input"), self._key()

        async def ask() -> str:
            engine = self._process.engine
            return (await engine.invoke(function_id, body, idempotency_key=key)).run_id

        return await self._patiently(ask)

    async def emit(self, name: str, data: Any = None) -> str:
        """Emit an event, once; its id."""
        body, key = encode_plain(data, "data"), self._key()

        async def ask() -> str:
            engine = self._process.engine
            return (await engine.emit(name, body, idempotency_key=key)).event_id

        return await self._patiently(ask)

    async def cancel(self, run_id: str) -> str:
        """Cancel a run; its status."""
        return await self._patiently(lambda: self._process.engine.cancel(run_id))

    async def _patiently(self, ask: Callable[[], Awaitable[str]]) -> str:
        while True:
            await self._process.wait_until_up()
            try:
                return await ask()
            except (Gone, StorageError, TimeoutError):
                await asyncio.sleep(0.5)

    def _key(self) -> str:
        self._asked += 1
        return f"simulated-{self._asked}"


def simulate(
    function: Function,
    input: Any = None,
    *,
    seeds: int | Iterable[int] = 100,
    faults: Iterable[str] | None = None,
    drive: Drive | None = None,
    check: Check | None = None,
    functions: Iterable[Function] | None = None,
    mocks: Mapping[str, Any] | None = None,
    limit: Duration = "300d",
    linger: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Simulated:
    """Run a function in disasters, once for each seed, and hold it against its own quiet run.

    `seeds` is how many (from 0) or which. `faults` are names such as `crash`, `slow` or `-full`
    (see `ironflow sim --help`); by default all but those that may rightly change a result: `clock`,
    `down`, `operators`. `drive(outside, run_id)` does what the world does meanwhile (emits events,
    starts other runs); it is repeated for every seed. `check(ended)` says by raising what is wrong
    with an end, the quiet one's included; without it status, result and error must be those of the
    quiet run. `mocks` replace
    steps by name, as `world.mock_step` does. `functions` are served beside it, by default all there
    are. Sync steps run on the loop here: one after the other. Raises `SimulationFailed` with the
    first seed that fails, `InvalidInput` for a fault that is none.
    """
    chosen = FAULTS - NOT_BY_DEFAULT if faults is None else parse_faults(faults)
    served = Registry()
    for each in registry.all() if functions is None else functions:
        served.add(each)
    if served.get(function.id) is None:
        served.add(function)
    trial = _Trial(function, input, served, drive, mocks or {}, linger)
    trial.limit = parse_duration(limit, "limit")
    quiet = trial.play(0, frozenset())
    findings = quiet.findings
    if quiet.ended is not None:
        findings = findings or _judge(quiet.ended, quiet.ended, check)
    if findings or quiet.ended is None:
        raise SimulationFailed(None, findings, quiet.story)
    numbers = range(seeds) if isinstance(seeds, int) else list(seeds)
    crashes = commits = calls = 0
    for done, seed in enumerate(numbers):
        played = trial.play(seed, chosen)
        findings = played.findings or _judge(played.ended, quiet.ended, check)
        if findings:
            raise SimulationFailed(seed, findings, played.story)
        crashes, commits = crashes + played.crashes, commits + played.commits
        calls += played.calls
        if progress is not None:
            progress(done + 1, len(numbers))
    return Simulated(len(numbers), crashes, commits, calls, quiet.ended)


class _Played(msgspec.Struct):
    ended: Ended | None
    findings: list[Finding]
    story: list[str]
    crashes: int
    commits: int
    calls: int


class _Trial:
    """Plays one function again and again."""

    limit: float

    def __init__(
        self,
        function: Function,
        input: Any,
        served: Registry,
        drive: Drive | None,
        mocks: Mapping[str, Any],
        linger: float | None,
    ) -> None:
        self.function, self.input, self.served = function, input, served
        self.drive, self.mocks, self.linger = drive, mocks, linger

    def play(self, seed: int, faults: frozenset[Fault]) -> _Played:
        played: list[_Played] = []

        async def main() -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualTimeLoop)
            played.append(await self._play(loop, seed, faults))

        run_virtual(main, limit=self.limit + 30 * 86_400)
        return played[0]

    async def _play(self, loop: VirtualTimeLoop, seed: int, faults: frozenset[Fault]) -> _Played:
        chance, story, stop = Chance(seed), Story(), asyncio.Event()
        linger = self.linger
        if linger is None:
            linger = chance.of("shape").choice((0.0, 0.5, 2.0)) if faults else 2.0
        process = Process(
            loop, self.served, chance, faults, story, stop.set, linger=linger, max_crashes=10_000
        )
        for name, outcome in self.mocks.items():
            process.mock_step(name, outcome)
        life = loop.create_task(self._live(process))
        stopped = loop.create_task(stop.wait())
        ended, watch, subject = None, process.watch, ""
        try:
            await asyncio.wait({life, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if life.done():
                ended = life.result()
        except (TimeoutError, Deadlock) as error:
            watch.findings.append(Finding("every_run_has_ended", "", str(error).splitlines()[0]))
        finally:
            loop.on_turn = loop.on_rest = None
            for task in (life, stopped):
                task.cancel()
            process.executor.abandon()
            await process.engine.system.stop()
        if watch.findings:
            subject = watch.findings[0].subject
        return _Played(
            ended,
            watch.findings,
            story.excerpt(subject),
            process.crash_count,
            watch.commits,
            watch.calls,
        )

    async def _live(self, process: Process) -> Ended:
        """One run, with all that goes on around it."""
        await process.boot()
        outside = Outside(process)
        run_id = await outside.start(self.function, self.input)
        process.watch.promise(f"run/{run_id}")
        driving = None
        if self.drive is not None:
            driving = asyncio.ensure_future(self.drive(outside, run_id))
        try:
            return await process.wait(run_id, self.limit)
        finally:
            if driving is not None:
                if driving.done() and not driving.cancelled():
                    driving.result()  # a mistake in it must be seen
                driving.cancel()


def _judge(ended: Ended | None, quiet: Ended, check: Check | None) -> list[Finding]:
    """What is wrong with how a run ended."""
    assert ended is not None
    subject = f"run/{ended.run_id}"
    if check is not None:
        try:
            verdict = check(ended)
        except AssertionError as error:
            return [Finding("check", subject, str(error) or "an assertion failed")]
        except IronflowError as error:
            return [Finding("check", subject, error.message)]
        return [Finding("check", subject, "answered False")] if verdict is False else []
    found = []
    for name in ("status", "result", "error"):
        was, wanted = getattr(ended, name), getattr(quiet, name)
        if name == "error":
            was, wanted = was and (was.kind, was.message), wanted and (wanted.kind, wanted.message)
        if was != wanted:
            text = f"the {name} is {was!r}, when nothing goes wrong it is {wanted!r}"
            found.append(Finding("ends_as_in_quiet", subject, text))
    return found
