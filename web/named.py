"""Routes that things with an id and a name have in common, such as roles and projects: list them,
make one, show, change and delete one. What they are and who may change them is said once for each
kind of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from types import GenericAlias
from typing import Any, Generic, Protocol, TypeVar

from aiohttp import web

from ironflow.core.access.directory import Directory
from ironflow.web.queries import Query
from ironflow.web.routing import Answer, Call, Handle, Route
from ironflow.web.wire import View
from ironflow.web.wire import access as wire

T = TypeVar("T")
AnyCall = Call[Any, Any]
Change = Callable[[AnyCall], Awaitable[str]]
"""Does what a request asks for; the id of what it was done to."""
WRITES = (401, 409, 503, 507)
"""Refusals of whatever changes the directory."""


class Identified(Protocol):
    """An entry of the directory, and of what."""

    @property
    def id(self) -> str:
        """The id of what it is about."""


def directory_of(call: AnyCall) -> Directory:
    """The directory of the server."""
    return call.engine.registrar.directory


def recorded(decide: Callable[[AnyCall, Directory], Any]) -> Change:
    """The change that is one entry of the directory."""

    async def change(call: AnyCall) -> str:
        entry: Identified = await call.engine.registrar.record(
            lambda directory: decide(call, directory)
        )
        return entry.id

    return change


@dataclass(frozen=True, kw_only=True)
class Things(Generic[T]):
    """Things of one kind: `one` and `many` are what they are called, in paths, too.

    `find` raises `NotFound`, and what a key may not see `PermissionDenied`; `check` refuses whoever
    may not change them.
    """

    one: str
    many: str
    response: Any
    find: Callable[[AnyCall, str], T]
    view: Callable[[AnyCall, T], View]
    check: Callable[[web.Request], None]

    @property
    def _paths(self) -> tuple[str, str]:
        return f"/api/v1/{self.many}", f"/api/v1/{self.many}/{{{self.one}}}"

    def list_all(
        self, every: Callable[[AnyCall], Iterable[T]], *, meaning: str, **said: Any
    ) -> Route:
        """`GET` of all of them."""

        async def handle(call: AnyCall) -> Answer:
            return 200, [self.view(call, one) for one in every(call)]

        return self._route(
            "GET", self._paths[0], f"list_{self.many}", handle,
            response=GenericAlias(list, (self.response,)), statuses={200: meaning}, **said,
        )  # fmt: skip

    def create(self, change: Change, *, meaning: str, **said: Any) -> Route:
        """`POST` of a new one."""

        async def handle(call: AnyCall) -> Answer:
            self.check(call.request)
            return 201, self.view(call, self.find(call, await change(call)))

        return self._route(
            "POST", self._paths[0], f"create_{self.one}", handle,
            response=self.response, statuses={201: meaning}, **said,
        )  # fmt: skip

    def get(self, **said: Any) -> Route:
        """`GET` of one."""

        async def handle(call: AnyCall) -> Answer:
            return 200, self.view(call, self.find(call, call.path[self.one]))

        return self._single("GET", "get", handle, (404,), said)

    def change(self, method: str, change: Change, **said: Any) -> Route:
        """`PUT` or `PATCH` of one."""

        async def handle(call: AnyCall) -> Answer:
            self.check(call.request)
            return 200, self.view(call, self.find(call, await change(call)))

        return self._single(method, "change", handle, (404, *WRITES), said)

    def delete(self, change: Change, *, query: type[Query] = Query, **said: Any) -> Route:
        """`DELETE` of one."""

        async def handle(call: AnyCall) -> Answer:
            self.check(call.request)
            return 200, wire.Deleted(status="deleted", deleted=await change(call))

        return self._route(
            "DELETE", self._paths[1], f"delete_{self.one}", handle, query=query,
            response=wire.Deleted, statuses={200: "It is gone"}, problems=(404, *WRITES), **said,
        )  # fmt: skip

    def _single(
        self, method: str, verb: str, handle: Handle, problems: tuple[int, ...], said: Any
    ) -> Route:
        return self._route(
            method, self._paths[1], f"{verb}_{self.one}", handle, response=self.response,
            statuses={200: f"The {self.one}"}, problems=problems, **said,
        )  # fmt: skip

    def _route(self, method: str, path: str, name: str, handle: Handle, **said: Any) -> Route:
        return Route(method=method, path=path, name=name, handle=handle, tag=self.many, **said)
