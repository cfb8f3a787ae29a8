"""The functions that are known: their registration, versions, status and history.

A function has a stream, `function/<id>`, and a row, which is its present. One change is made at a
time; where a body is executed follows from the row.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from ironflow.actors.directory.unbroken import unbroken
from ironflow.actors.endpoints.endpoints import breaker_key
from ironflow.actors.events.router import FunctionsChanged
from ironflow.actors.kernel.actor import Ensure
from ironflow.core.errors import Conflict, InvalidInput, NotFound
from ironflow.core.functions import history as h
from ironflow.core.functions.definition import Definition, check_policies
from ironflow.core.functions.secrets import SecretMissing, check_secrets
from ironflow.core.remote.push import CallFailure
from ironflow.storage.ports import FUNCTIONS, Batch, Entry, FunctionRow, NewEntry

if TYPE_CHECKING:
    from ironflow.actors.engine import Engine

PAGE = 1000


class Catalog:
    """The doors to functions."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.store, self.clock, self.host = engine.store, engine.clock, engine.host
        self._lock = asyncio.Lock()
        self._moments: dict[str, list[int]] = {}
        """When the versions of a function were registered, for those that were asked for."""

    # -- reads ------------------------------------------------------------------------------------

    async def all(self) -> list[tuple[FunctionRow, Definition]]:
        """Every function, by id."""
        return [(row, decode(row)) for row in await self.store.reader.functions()]

    async def get(self, function_id: str) -> tuple[FunctionRow, Definition]:
        """One function. Raises `NotFound`."""
        row = await self._row(function_id)
        if row is None:
            raise NotFound("function", function_id)
        return row, decode(row)

    async def _row(self, function_id: str) -> FunctionRow | None:
        rows = await self.store.reader.functions()
        return next((row for row in rows if row.id == function_id), None)

    async def history(self, function_id: str) -> list[h.Revision]:
        """Every change of a function, oldest first; of a deleted one, too. Raises `NotFound`."""
        entries = await self._entries(function_id)
        if not entries:
            raise NotFound("function", function_id)
        return h.read_history((e.version, e.at, e.kind, e.data) for e in entries)

    async def revision(self, function_id: str, number: int) -> h.Revision:
        """A function as it was after one change. Raises `NotFound`."""
        history = await self.history(function_id)
        if not 1 <= number <= len(history):
            raise NotFound("revision", f"{function_id}/{number}")
        return history[number - 1]

    async def version_at(self, function_id: str, at: int) -> int:
        """Which version a function had at a moment (microseconds), such as when a run of it was
        created; 0 if it was not known then.
        """
        if function_id not in self._moments:
            async with self._lock:  # no version is registered while the others are read
                entries = await self._entries(function_id)
                moments = [entry.at for entry in entries if entry.kind == h.REGISTERED]
                self._moments[function_id] = moments
        return sum(moment <= at for moment in self._moments[function_id])

    async def _entries(self, function_id: str) -> list[Entry]:
        found: list[Entry] = []
        while True:
            after = found[-1].version if found else 0
            page = await self.store.reader.entries(f"function/{function_id}", after, PAGE)
            found += page
            if len(page) < PAGE:
                return found

    # -- at the start -----------------------------------------------------------------------------

    async def find_remote(self) -> None:
        """What others execute is known before any of them speaks: events start it, runs wait. And
        what is paused stays so.
        """
        for row in await self.store.reader.functions():
            if row.status == "paused":
                self.engine.pool.pause(row.id)
            if self.host.local.spec(row.id) is None and row.status != "archived":
                await self._place(decode(row))

    # -- registration -----------------------------------------------------------------------------

    async def register(
        self, definitions: Sequence[Definition], change: h.Change = h.NO_WORD
    ) -> None:
        """Record functions; a changed definition gets a new version."""
        async with self._lock:
            await self._register(definitions, change)

    async def _register(self, definitions: Sequence[Definition], change: h.Change) -> None:
        known = {row.id: row for row in await self.store.reader.functions()}
        fresh = [d.id for d in definitions if d.id not in known]
        # Deleted ones go on with their numbers.
        earlier = dict(zip(fresh, await asyncio.gather(*map(self._entries, fresh)), strict=True))
        batch, now = Batch([], [], []), self.clock.now()
        for definition in definitions:
            spec = msgspec.json.encode(definition)
            digest = hashlib.sha256(spec).hexdigest()[:16]
            row = known.get(definition.id)
            if row is not None and row.hash == digest and not change.rollback:
                continue
            if row is None:
                entries = earlier[definition.id]
                version = sum(entry.kind == h.REGISTERED for entry in entries)
                created_at, revision, status = now, len(entries), "active"
            else:
                version, revision = row.version, row.revision
                created_at, status = row.created_at, row.status
            facts = {name: getattr(definition, name) for name in Definition.__struct_fields__}
            entry = msgspec.json.encode(h.FunctionRegistered(**facts, change=change))
            stream = f"function/{definition.id}"
            batch.entries.append(NewEntry(stream, revision + 1, now, h.REGISTERED, entry))
            batch.puts.append(
                (
                    FUNCTIONS,
                    (
                        definition.id,
                        version + 1,
                        digest,
                        spec,
                        now,
                        status,
                        created_at,
                        revision + 1,
                    ),
                )
            )
        if batch.entries:
            await self.store.journal.commit(batch)
            for definition in definitions:
                self._moments.pop(definition.id, None)
        self.engine.router.post(FunctionsChanged())
        for definition in definitions:
            self.engine.pool.serve(definition.id)
        scheduled = {d.id for d in definitions if d.cron is not None}
        scheduled |= {i for i, row in known.items() if b'"cron"' in row.spec}
        for function_id in sorted(scheduled):
            if self.host.spec(function_id) is not None:
                await self.engine.system.ref("schedule", function_id).ask(Ensure())

    @unbroken
    async def register_remote(
        self, definition: Definition, change: h.Change = h.NO_WORD
    ) -> tuple[FunctionRow, bool]:
        """Have a function executed by workers or behind an endpoint, from now on; its row, and
        whether the id is new. An archived one stays archived.

        Raises `Conflict` when this process executes it itself, `InvalidInput` for a definition that
        makes no sense, `Draining`.
        """
        self.engine.check_open()
        self._check_remote(definition.id)
        if definition.placement == "embedded":
            raise InvalidInput("placement", "must be pull or push")
        definition = check_policies(definition)
        await self._check_secrets(definition)
        if definition.placement == "push":
            self._check_endpoint(definition)
        async with self._lock:
            before = await self._row(definition.id)
            if before is None or before.status != "archived":
                await self._place(definition)
            await self._register([definition], change)
        row, _ = await self.get(definition.id)
        return row, before is None

    def _check_remote(self, function_id: str) -> None:
        if self.host.local.spec(function_id) is not None:
            raise Conflict(f"function {function_id} is executed by the server itself")

    async def _check_secrets(self, definition: Definition) -> None:
        check_secrets(definition.secrets)
        try:
            await self.engine.secrets.read(definition.secrets)
        except SecretMissing as error:
            raise InvalidInput("secrets", error.message) from None

    def _check_endpoint(self, definition: Definition) -> None:
        endpoint, caller = definition.endpoint, self.engine.endpoints.caller
        if endpoint is None:
            raise InvalidInput("endpoint", "a push function needs one")
        if caller is None:
            raise InvalidInput("placement", "this process calls no endpoints")
        if endpoint.concurrency < 1 or endpoint.timeout <= 0:
            raise InvalidInput("endpoint", "concurrency and timeout must be positive")
        try:
            caller.check(endpoint.url)
        except CallFailure as failure:
            raise InvalidInput("endpoint.url", str(failure)) from None

    async def _place(self, definition: Definition) -> None:
        """Have a function executed where its definition says."""
        fleet, endpoints = self.engine.fleet, self.engine.endpoints
        if definition.placement == "pull":
            fleet.add(definition)
            endpoints.remove(definition.id)
        elif definition.placement == "push" and definition.endpoint is not None:
            # First: where an outage is remembered, nothing is sent before it is known.
            key = breaker_key(definition.id, definition.endpoint)
            await self.engine.system.ref("breaker", key).ask(Ensure())
            endpoints.add(definition)
            fleet.remove(definition.id)

    def _withdraw(self, function_id: str) -> None:
        """Nothing executes it any more; its runs wait for somebody who does."""
        self.engine.fleet.remove(function_id)
        self.engine.endpoints.remove(function_id)
        self.engine.router.post(FunctionsChanged())
        self.engine.pool.serve(function_id)

    # -- status -----------------------------------------------------------------------------------

    @unbroken
    async def set_status(
        self, function_id: str, status: h.FunctionStatus, change: h.Change = h.NO_WORD
    ) -> tuple[FunctionRow, Definition]:
        """Pause, archive or activate a function. Raises `NotFound`, `Conflict`."""
        self.engine.check_open()
        if status == "archived":
            self._check_remote(function_id)
        async with self._lock:
            row, definition = await self.get(function_id)
            if row.status == status:
                return row, definition
            entry = msgspec.json.encode(h.FunctionStatusChanged(status, change))
            row = await self._change(row, status, h.STATUS_CHANGED, entry)
            pool = self.engine.pool
            if status == "archived":
                self._withdraw(function_id)
            elif self.host.local.spec(function_id) is None:
                await self._place(definition)
                self.engine.router.post(FunctionsChanged())
            if status == "paused":
                pool.pause(function_id)
            else:
                pool.go_on(function_id)
            await self._follow_schedule(definition)
        return row, definition

    async def _follow_schedule(self, definition: Definition) -> None:
        if definition.cron is not None:
            await self.engine.system.ref("schedule", definition.id).ask(Ensure())

    async def _change(self, row: FunctionRow, status: str, kind: str, data: bytes) -> FunctionRow:
        now = self.clock.now()
        row = msgspec.structs.replace(row, status=status, updated_at=now, revision=row.revision + 1)
        entry = NewEntry(f"function/{row.id}", row.revision, now, kind, data)
        put = (FUNCTIONS, msgspec.structs.astuple(row))
        await self.store.journal.commit(Batch([entry], [put], []))
        return row

    @unbroken
    async def delete(self, function_id: str, change: h.Change = h.NO_WORD) -> None:
        """There is no such function any more; its history stays, and unfinished runs of it wait.
        Raises `NotFound`, `Conflict`.
        """
        self.engine.check_open()
        self._check_remote(function_id)
        async with self._lock:
            row, definition = await self.get(function_id)
            now = self.clock.now()
            data = msgspec.json.encode(h.FunctionDeleted(change))
            entry = NewEntry(f"function/{row.id}", row.revision + 1, now, h.DELETED, data)
            await self.store.journal.commit(Batch([entry], [], [(FUNCTIONS, (row.id,))]))
            self._withdraw(function_id)
            self.engine.pool.go_on(function_id)
            await self._follow_schedule(definition)

    @unbroken
    async def roll_back(
        self, function_id: str, number: int, change: h.Change = h.NO_WORD
    ) -> tuple[FunctionRow, Definition]:
        """Make the definition of an earlier revision the present one, under a new version. Raises
        `NotFound`, `Conflict`.
        """
        revision = await self.revision(function_id, number)
        change = msgspec.structs.replace(change, rollback=True)
        await self.register_remote(revision.definition, change)
        return await self.get(function_id)


def decode(row: FunctionRow) -> Definition:
    """The definition of a row."""
    return msgspec.json.decode(row.spec, type=Definition)
