"""Environments: each is an engine over a database of its own, with an application in front of it.

So nothing has to be filtered: functions, runs, events, idempotency keys, lanes, breakers, schedules
and workers of one environment are not in the databases and memories of another, and whatever is
asked in an environment is answered from what is in it. The default environment is the server
itself; the others stand beside it, on the same port and the same loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web

from ironflow.actors.directory.keyring import Keyring
from ironflow.actors.directory.registrar import Registrar
from ironflow.actors.directory.unbroken import unbroken
from ironflow.actors.engine import Engine
from ironflow.core.access.directory import DEFAULT_ENVIRONMENT, Directory, EnvironmentPut, Named
from ironflow.core.errors import Conflict, Gone, InvalidInput, IronflowError

log = logging.getLogger("ironflow")

MOST = 64
"""Environments of one server: each has threads and files of its own."""
PLACE = "/environments/{environment}"
"""Where endpoints of an environment report to: before the path, since they have no key."""


@dataclass(slots=True)
class Opened:
    """An engine that is at work, and what ends it."""

    engine: Engine
    close: Callable[[], Awaitable[None]]


class Opener(Protocol):
    """What makes and removes the engines of environments: the assembly."""

    async def open(self, environment: str, *, new: bool) -> Opened:
        """The engine of an environment, at work. Raises `IronflowError`, also when what is stored
        of one that is not `new` is missing."""
        ...

    async def erase(self, environment: str) -> None:
        """Remove what is stored of an environment, if anything is."""
        ...


@dataclass(slots=True)
class _Room:
    opened: Opened
    app: web.Application
    runner: web.AppRunner


class Environments:
    """Every environment but the default one."""

    def __init__(
        self,
        registrar: Registrar,
        keyring: Keyring,
        opener: Opener | None,
        build: Callable[[Engine], web.Application],
    ) -> None:
        """`opener` None: there are no others, and none can be made."""
        self._registrar, self._keyring = registrar, keyring
        self._opener, self._build = opener, build
        self._rooms: dict[str, _Room] = {}
        self._failed: dict[str, str] = {}
        self._turn = asyncio.Lock()

    @property
    def directory(self) -> Directory:
        """What there is."""
        return self._registrar.directory

    def engine(self, environment: str) -> Engine | None:
        """The engine of an environment that is open and not the default one."""
        room = self._rooms.get(environment)
        return room.opened.engine if room is not None else None

    def why_not(self, environment: str) -> str:
        """Why an environment is not open."""
        return self._failed.get(environment, "it is being opened")

    # -- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open every environment. One that cannot be opened is logged, and answers with the reason:
        the others do not depend on it."""
        if self._opener is None:
            return
        for environment in self.directory.deleted:
            await self._opener.erase(environment)  # its deletion was interrupted
        for environment in list(self.directory.environments):
            if environment == DEFAULT_ENVIRONMENT:
                continue
            try:
                await self._open(environment, new=False)
            except IronflowError as error:
                log.error("environment %s is not served: %s", environment, error.message)  # noqa: TRY400
                self._failed[environment] = error.message

    async def stop(self) -> None:
        """Drain and close every environment."""
        rooms, self._rooms = self._rooms, {}
        await asyncio.gather(*(self._close(room) for room in rooms.values()))

    async def _open(self, environment: str, *, new: bool) -> None:
        assert self._opener is not None
        opened = await self._opener.open(environment, new=new)
        try:
            app = self._build(opened.engine)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
        except BaseException:
            await opened.close()
            raise
        self._rooms[environment] = _Room(opened, app, runner)

    async def _close(self, room: _Room) -> None:
        room.opened.engine.begin_drain()
        await room.runner.cleanup()
        await room.opened.close()

    # -- changes ----------------------------------------------------------------------------------

    @unbroken
    async def create(self, name: str, project: str | None, color: str = "") -> Named:
        """A new environment, at work. Raises `InvalidInput`, `NotFound`, `Conflict`."""
        if self._opener is None:
            raise Conflict("this process has the default environment only")
        async with self._turn:
            if len(self.directory.environments) >= MOST:
                raise Conflict(f"there are {MOST} environments, and no more are served")
            draft = self.directory.create_environment(name, project, color)
            await self._open(draft.id, new=True)
            try:
                await self._registrar.record(lambda directory: _still(directory, draft))
            except BaseException:
                await self._close(self._rooms.pop(draft.id))
                await self._opener.erase(draft.id)
                raise
        return self.directory.environments[draft.id]

    @unbroken
    async def delete(self, given: str, *, force: bool) -> Named:
        """Delete an environment, everything in it, and the keys that are bound to it. Raises
        `NotFound`, `Conflict` for the default one, and while runs are open unless `force`.
        """
        async with self._turn:
            known = self.directory.environment(given)
            entry = self.directory.delete_environment(known.id)
            room = self._rooms.get(known.id)
            if room is not None and not force and await _has_open_runs(room.opened.engine):
                raise Conflict(f"environment {known.name} has runs that have not ended; use force")
            await self._keyring.end_keys_of(known.id)
            await self._registrar.record(lambda _: entry)
            self._failed.pop(known.id, None)
            room = self._rooms.pop(known.id, None)
            if room is not None:
                await self._close(room)
            if self._opener is not None:
                await self._opener.erase(known.id)
        return known

    # -- requests ---------------------------------------------------------------------------------

    async def serve(self, environment: str, request: web.Request) -> web.StreamResponse:
        """Have the application of an environment answer. Raises `Gone` while it is not open."""
        room = self._rooms.get(environment)
        if room is None:
            raise Gone(f"environment {environment} is not served: {self.why_not(environment)}")
        # What `AppRunner` does; the middlewares of the outer application are around it.
        return await room.app._handle(request)

    async def serve_place(self, request: web.Request) -> web.StreamResponse:
        """A request to a path of an environment (`PLACE`): reports of endpoints, whose lease token
        is their credential."""
        path = request.path.removeprefix(
            PLACE.replace("{environment}", request.match_info["environment"])
        )
        moved = request.clone(rel_url=request.rel_url.with_path(path))
        environment = request.match_info["environment"]
        if environment in self._rooms:
            return await self.serve(environment, moved)
        # Nobody without a key learns which environments there are: a lease of none is a stale one.
        return await request.app._handle(moved)


def _still(directory: Directory, draft: EnvironmentPut) -> EnvironmentPut:
    if draft.id in directory.environments:
        raise InvalidInput("name", "was taken a moment ago")
    return draft


async def _has_open_runs(engine: Engine) -> bool:
    counts = await engine.store.reader.count_runs()
    ended = ("completed", "failed", "cancelled")
    return any(count for (_, status), count in counts.items() if status not in ended)
