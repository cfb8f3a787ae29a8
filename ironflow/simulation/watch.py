"""Watches a simulated process: a second fold of every stream, held against everything it does.

What breaks a law is kept as a `Finding`; the first one ends the case.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

from ironflow.actors.audit import Finding, check_run
from ironflow.actors.intake.audit import ACTORS, check_intake, fold_intake
from ironflow.core.functions.lanes import is_throttle, parse_lane
from ironflow.core.messages import Message
from ironflow.core.runs.entries import RunStarted, decode_entry
from ironflow.core.runs.fold import apply
from ironflow.core.runs.state import Run, RunStatus
from ironflow.core.workflows.stream import StreamedEvent
from ironflow.sdk.execution import Branch, current_branch
from ironflow.simulation import laws
from ironflow.storage.ports import DELIVERIES, RUNS, SNAPSHOTS, TIMERS, WAITERS, Batch, Entry, Table

if TYPE_CHECKING:
    from ironflow.core.runs.execution import Effects, LocalEffects
    from ironflow.simulation.process import Process
    from ironflow.simulation.story import Story
    from ironflow.storage.memory.tables import Tables

R = TypeVar("R")
_encode = msgspec.json.Encoder().encode
INTAKES = tuple(ACTORS)
SETTLED = 15.0
"""Seconds after which what a refusal or a crash had interrupted has been brought back."""


class TablesPicture:
    """`audit.Picture` of the tables of a memory store."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def rows(self, table: Table, key: str) -> Sequence[tuple[Any, ...]]:
        """The rows whose first column is `key`."""
        rows = self._tables.rows[table.name]
        if table.key == 1:
            row = rows.get((key,))
            return [] if row is None else [row]
        return sorted(row for full, row in rows.items() if full[0] == key)

    def messages(self, target: str) -> Sequence[tuple[Any, ...]]:
        """The durable messages to a target."""
        return [row for row in self._tables.rows[DELIVERIES.name].values() if row[1] == target]

    def streams(self, prefix: str) -> Iterator[tuple[str, list[Entry]]]:
        """Every stream of a kind."""
        for stream, entries in sorted(self._tables.streams.items()):
            if stream.startswith(prefix):
                yield stream, entries


class Watch:
    """The fold of all that is durable, and what was promised."""

    def __init__(self, world: Process, story: Story, on_finding: Callable[[], None]) -> None:
        self.world, self.story, self._on_finding = world, story, on_finding
        self.runs: dict[str, Run] = {}
        self.findings: list[Finding] = []
        self.acknowledged: dict[str, int] = {}
        self.commits = self.entries = self.calls = self.rests = 0
        self.lanes: dict[str, set[str]] = {}
        """The runs that execute, by lane."""
        self.starts: dict[str, list[laws.Began]] = {}
        """The first starts that count in each throttle's lane."""
        self._heads: dict[str, int] = {}
        self._last_seq = 0
        self._live: dict[tuple[str, int], bytes] = {}
        self._unsettled_until = 0.0
        self._is_dirty = True

    def find(self, law: str, subject: str, messages: Iterator[str]) -> None:
        """Keep what a law yields."""
        for message in messages:
            self.findings.append(Finding(law, subject, message))
            self._on_finding()

    def unsettle(self) -> None:
        """Something was interrupted: what is in memory may lag behind for a while."""
        self._unsettled_until = self.world.loop.time() + SETTLED

    def clock_is_set(self) -> None:
        """The wall clock is about to be set: so far it has come."""
        now = self.world.clock.now()
        for starts in self.starts.values():
            for start in starts:
                start.shown = max(start.shown, now)

    # -- the journal ------------------------------------------------------------------------------

    def appended(self, batch: Batch) -> None:
        """An actor has changed and queued the change: remember what it is now."""
        if not batch.entries:
            return
        stream, version = batch.entries[-1].stream, batch.entries[-1].version
        system = self.world.engine.system
        if stream.startswith("run/") and system.is_live(stream):
            run = getattr(system.cell(stream).actor, "run", None)
            if run is not None and run.version == version:
                self._live[stream, version] = _encode(run)

    def committed(self, batches: Sequence[Batch], entries: Sequence[Entry]) -> None:
        """A commit is durable: every law of entries, then those of the rows that it touched."""
        self.commits += 1
        self.entries += len(entries)
        self._is_dirty = True
        now = self.world.clock.now()
        for entry in entries:
            self.story.enter(now, entry)
            self._enter(entry)
        tables = self.world.store.tables
        self.find("lanes_are_kept", "", laws.lanes_are_kept(self.lanes, self.world))
        picture = TablesPicture(tables)
        for batch in batches:
            for table, row in batch.puts:
                if table is SNAPSHOTS and row[0] in self._heads and row[0].startswith("run/"):
                    self._check_snapshot(row)
        for stream in dict.fromkeys(entry.stream for entry in entries):
            if stream.startswith(INTAKES):
                state = fold_intake(stream, None, tables.streams[stream])
                for law, text in check_intake(stream, state, picture):
                    self.find(law, stream, iter([text]))
        for run_id in _touched(batches):
            run = self.runs.get(run_id)
            if run is not None:
                for finding in check_run(run, picture):
                    self.find(finding.law, finding.subject, iter([finding.message]))

    def _enter(self, entry: Entry) -> None:
        stream = entry.stream
        self.find("sequence_grows", stream, laws.sequence_grows(self._last_seq, entry))
        self._last_seq = max(self._last_seq, entry.seq)
        head = self._heads.get(stream, 0)
        self.find("versions_are_gapless", stream, laws.versions_are_gapless(head, entry))
        self._heads[stream] = entry.version
        if not stream.startswith("run/"):
            return
        run_id = stream.removeprefix("run/")
        run = self.runs.get(run_id)
        if run is None:
            run = self.runs[run_id] = Run(run_id)
        change = decode_entry(entry.kind, entry.data)
        for law in laws.CHANGE_LAWS:
            self.find(law.__name__, stream, law(run, change))
        began = run.started_at is not None
        apply(run, change, entry.at)
        for lane in run.lanes:
            if is_throttle(lane):
                if isinstance(change, RunStarted) and not began:
                    self._begin(lane, entry.at)
            elif run.status is RunStatus.RUNNING:
                self.lanes.setdefault(lane, set()).add(run_id)
            else:
                self.lanes.get(lane, set()).discard(run_id)
        live = self._live.pop((stream, entry.version), None)
        if live is not None:
            found = laws.replay_gives_the_live_state(live, _encode(run))
            self.find("replay_gives_the_live_state", stream, found)

    def _begin(self, lane: str, at: int) -> None:
        function_id, which = parse_lane(lane)
        spec = self.world.engine.host.spec(function_id)
        terms = spec.policies.terms(which) if spec is not None and spec.policies else None
        if terms is not None:
            starts = self.starts.setdefault(lane, [])
            starts.append(laws.Began(at, at))
            self.find("throttles_are_kept", "", laws.throttles_are_kept(lane, starts, *terms))

    def _check_snapshot(self, row: tuple[Any, ...]) -> None:
        run = self.runs[row[0].removeprefix("run/")]
        if run.version == row[1]:
            found = laws.snapshot_is_the_state(row[2], _encode(run))
            self.find("snapshot_is_the_state", row[0], found)

    def refused(self) -> None:
        """Everything that waits for the disk is refused: it never was."""
        self._live.clear()
        self.unsettle()

    # -- the process ------------------------------------------------------------------------------

    def died(self) -> None:
        """The process is gone; what it had promised must still be there."""
        self._live.clear()
        self._is_dirty = True
        self.unsettle()
        tables = self.world.store.tables
        for stream, version in self.acknowledged.items():
            found = laws.acknowledged_is_durable(tables.head(stream), version)
            self.find("acknowledged_is_durable", stream, found)

    def promise(self, stream: str) -> None:
        """The outside was told something of `stream`, which is durable as it stands now."""
        version = self.world.store.tables.head(stream)
        self.acknowledged[stream] = version
        self.find("acknowledged_is_durable", stream, laws.acknowledged_is_durable(version, 1))

    def rest(self) -> None:
        """Nothing is left to do but to let time pass."""
        if not self._is_dirty or not self.world.is_up:
            return
        engine = self.world.engine
        if engine.store.journal.stats.waiting or self.world.loop.time() < self._unsettled_until:
            return
        if any(s.mailbox or s.state != "ready" for s in engine.system.statistics()):
            return  # an actor reads its stream, or rests after a refusal
        self._is_dirty = False
        self.rests += 1
        for law in (laws.capacity_is_kept, laws.memory_agrees_with_rows):
            self.find(law.__name__, "", law(self.world, self.runs))

    # -- bodies -----------------------------------------------------------------------------------

    def called(self, name: str, executing: set[tuple[str, str]]) -> tuple[str, str] | None:
        """The function of the step `name` is called by the branch that asks: its run and key.
        `executing` is what is under way in the life of that branch.
        """
        self.calls += 1
        branch = current_branch.get()
        if branch is None:
            return None
        run_id, key = branch.execution.run_id, _key(branch, name)
        run = self.runs.get(run_id)
        subject = f"run/{run_id}"
        if run is not None:
            found = laws.finished_step_never_runs_again(run, key)
            self.find("finished_step_never_runs_again", subject, found)
        found = laws.one_execution_at_a_time(executing, run_id, key)
        self.find("one_execution_at_a_time", subject, found)
        return run_id, key


class WatchedEffects:
    """`core.runs.execution.Effects`: every answer to a body is held against what is durable."""

    def __init__(self, effects: Effects, watch: Watch, run_id: str) -> None:
        self._effects, self._watch, self._run_id = effects, watch, run_id

    async def ask(self, command: Message[R]) -> R:
        """Report and wait for the answer."""
        life = self._watch.world.lives
        answer = await self._effects.ask(command)
        self._check(command, answer, life)
        return answer

    def report(
        self,
        command: Message[R],
        then: Callable[[R | None, Exception | None], None],
        *,
        at_once: bool,
    ) -> None:
        """Report without waiting."""
        life = self._watch.world.lives

        def hear(answer: R | None, error: Exception | None) -> None:
            if error is None:
                self._check(command, answer, life)
            then(answer, error)

        effects = cast("LocalEffects", self._effects)
        effects.report(command, hear, at_once=at_once)

    def _check(self, command: Message[R], answer: R | None, life: int) -> None:
        run = self._watch.runs.get(self._run_id)
        if run is not None and life == self._watch.world.lives:
            found = laws.acknowledged_report_is_durable(run, command, answer)
            self._watch.find("acknowledged_report_is_durable", f"run/{self._run_id}", found)

    async def blob(self, digest: str) -> bytes:
        """A large value by its digest."""
        return await self._effects.blob(digest)

    def follow(self, run_id: str, after: int = -1) -> AsyncIterator[StreamedEvent]:
        """The streamed events of a child."""
        return cast("LocalEffects", self._effects).follow(run_id, after)

    def serve(self, function_id: str) -> None:
        """The function of a child can be executed here."""
        cast("LocalEffects", self._effects).serve(function_id)

    def leave(self, lost: str | None = None) -> None:
        """The body is out of memory."""
        self._effects.leave(lost)


def _key(branch: Branch, name: str) -> str:
    """The key of the step that this branch is executing."""
    keys = [key for key, (known, *_) in branch.execution.running.items() if known == name]
    own = [key for key in keys if "/" not in key[len(branch.scope) :]]
    own = [key for key in own if key.startswith(branch.scope)] or keys
    return own[0] if own else branch.scope + name


def _touched(batches: Sequence[Batch]) -> list[str]:
    """The runs that a commit says something of."""
    found: dict[str, None] = {}
    for batch in batches:
        for entry in batch.entries:
            if entry.stream.startswith("run/"):
                found[entry.stream[4:]] = None
        for table, row in [*batch.puts, *batch.deletes]:
            if table is TIMERS and row[0].startswith("run/"):
                found[row[0][4:]] = None
            elif table in (WAITERS, RUNS):
                found[row[0]] = None
    return list(found)
