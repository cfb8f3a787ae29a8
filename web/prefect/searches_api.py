"""Saved searches: named lists of conditions that a user interface keeps. They mean nothing here."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from ironflow.actors.engine import Engine
from ironflow.actors.prefect.searches import DeleteSearch, SaveSearch
from ironflow.core.clock import to_rfc3339
from ironflow.core.errors import NotFound
from ironflow.core.prefect.faults import InvalidRequest
from ironflow.core.prefect.filters import parse_page
from ironflow.web.prefect.routing import Answer, Call, Route

_COLUMNS = "id, created_at, updated_at, name, filters"


class SearchCondition(msgspec.Struct, frozen=True):
    """One condition; only the user interface knows what it means."""

    object: str
    property: str
    type: str
    operation: str
    value: Any


class SearchBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A search to be saved."""

    name: Annotated[str, msgspec.Meta(max_length=1000)]
    filters: list[SearchCondition] = []


class SearchView(msgspec.Struct, frozen=True):
    """A saved search, as shown."""

    id: str
    created: str
    updated: str
    name: str
    filters: msgspec.Raw


def _view(row: tuple[Any, ...]) -> SearchView:
    search_id, created, updated, name, filters = row
    return SearchView(
        search_id, to_rfc3339(created), to_rfc3339(updated), name, msgspec.Raw(filters.encode())
    )


async def _read(engine: Engine, search_id: str) -> SearchView:
    query = f"SELECT {_COLUMNS} FROM saved_searches WHERE id = ?"
    rows = await engine.store.reader.select(query, (search_id,), quick=True)
    if not rows:
        raise NotFound("saved search", search_id)
    return _view(rows[0])


async def save_search(call: Call[None, SearchBody]) -> Answer:
    """Save a search; one of the same name is replaced."""
    filters = msgspec.json.encode(call.body.filters).decode()
    message = SaveSearch(call.body.name, filters)
    search_id, is_new = await call.engine.feeds.searches.ask(message)
    return (201 if is_new else 200), await _read(call.engine, search_id)


async def read_search(call: Call[None, None]) -> Answer:
    """One search. Raises `NotFound`."""
    return 200, await _read(call.engine, call.path["id"])


async def read_searches(call: Call[None, dict[str, Any]]) -> Answer:
    """A page of searches, by name."""
    limit, offset, faults = parse_page(call.body)
    if faults:
        raise InvalidRequest(faults, call.body)
    query = f"SELECT {_COLUMNS} FROM saved_searches ORDER BY name LIMIT ? OFFSET ?"
    rows = await call.engine.store.reader.select(query, (limit, offset))
    return 200, [_view(row) for row in rows]


async def delete_search(call: Call[None, None]) -> Answer:
    """Delete a search. Raises `NotFound`."""
    await call.engine.feeds.searches.ask(DeleteSearch(call.path["id"]))
    return 204, None


ROUTES = (
    Route(method="PUT", path="/saved_searches/", handle=save_search, body=SearchBody),
    Route(
        method="POST",
        path="/saved_searches/filter",
        handle=read_searches,
        body=dict,
        optional_body=True,
    ),
    Route(method="GET", path="/saved_searches/{id}", handle=read_search),
    Route(method="DELETE", path="/saved_searches/{id}", handle=delete_search),
)
