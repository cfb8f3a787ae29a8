"""The methods of `IronflowService` about functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from ironflow.core.errors import InvalidInput
from ironflow.core.functions.definition import Definition
from ironflow.core.functions.history import Change, FunctionStatus, Revision
from ironflow.storage.ports import FunctionRow
from ironflow.web.connect.dispatch import Call, Method
from ironflow.web.connect.function_messages import (
    RegisterFunction,
    definition_message,
    definition_of,
)
from ironflow.web.connect.json_codec import Plain
from ironflow.web.connect.pages import Page, cut, decode_page_cursor, encode_page_cursor
from ironflow.web.scope import KEY
from ironflow.web.views import next_run_at

Reason = Annotated[str, msgspec.Meta(max_length=2000)]
_STATUSES: dict[FunctionStatus, str] = {
    "active": "FUNCTION_STATUS_ACTIVE",
    "paused": "FUNCTION_STATUS_PAUSED",
    "archived": "FUNCTION_STATUS_ARCHIVED",
}
_BY_NAME = {name: status for status, name in _STATUSES.items()}


class OneFunction(msgspec.Struct, frozen=True, kw_only=True):
    """A function by its id."""

    id: str = ""


class ListFunctions(Page, frozen=True, kw_only=True):
    """Which functions: every given field must hold; `name` is a part of the name or of the id."""

    status: str = ""
    name: str = ""
    mode: Literal["", "push", "pull", "embedded"] = ""


class SetStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A function, and what is to become of it."""

    id: str = ""
    status: str = ""


class ListHistory(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The changes before `from_version`, the newest first."""

    function_id: str = ""
    limit: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    from_version: Annotated[int, msgspec.Meta(ge=0)] = 0


class AtVersion(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A function as it was after one change."""

    function_id: str = ""
    version: int = 0
    change_reason: Reason = ""


def change_of(call: Call[Any], reason: str = "") -> Change:
    """Who asks for a change, and why."""
    key = call.request.get(KEY)
    return Change(f"apikey:{key.id}" if key is not None else "", reason)


def function_message(call: Call[Any], row: FunctionRow, definition: Definition) -> Plain:
    """A function as it is now."""
    return definition_message(definition) | {
        "status": _STATUSES[row.status],  # type: ignore[index]
        "version": row.version,
        "createdAt": row.created_at,
        "updatedAt": row.updated_at,
        "nextRun": next_run_at(call.engine, row.id),
    }


async def register_function(call: Call[RegisterFunction]) -> Mapping[str, Any]:
    """Register a function; an identical definition changes nothing."""
    message, catalog = call.message, call.engine.catalog
    change = change_of(call, message.change_reason)
    try:
        row, created = await catalog.register_remote(definition_of(message), change)
    except InvalidInput as error:
        # In this form policies are fields of the registration itself.
        raise InvalidInput(error.field.removeprefix("flow_control."), error.reason) from None
    _, definition = await catalog.get(row.id)
    return {"function": function_message(call, row, definition), "created": created}


async def get_function(call: Call[OneFunction]) -> Mapping[str, Any]:
    """One function."""
    return function_message(
        call, *await call.engine.catalog.get(check_function_id(call.message.id))
    )


async def list_functions(call: Call[ListFunctions]) -> Mapping[str, Any]:
    """Functions, by id."""
    query = call.message
    status = _BY_NAME.get(query.status)
    found = [
        (row, definition)
        for row, definition in await call.engine.catalog.all()
        if (status is None or row.status == status)
        and (not query.mode or definition.placement == query.mode)
        and (not query.name or query.name in definition.name or query.name in row.id)
    ]
    after = decode_page_cursor(query.cursor)
    rest = [(row, d) for row, d in found if after is None or row.id > after]
    page, more = cut(rest, query)
    return {
        "functions": [function_message(call, row, definition) for row, definition in page],
        "nextCursor": encode_page_cursor(page[-1][0].id) if more else "",
        "totalCount": len(found),
    }


async def update_function_status(call: Call[SetStatus]) -> Mapping[str, Any]:
    """Pause, archive or activate a function."""
    status = _BY_NAME.get(call.message.status)
    if status is None:
        raise InvalidInput("status", f"must be one of {', '.join(_BY_NAME)}")
    function_id = check_function_id(call.message.id)
    changed = await call.engine.catalog.set_status(function_id, status, change_of(call))
    return function_message(call, *changed)


async def delete_function(call: Call[OneFunction]) -> Mapping[str, Any]:
    """Delete a function; its history stays."""
    await call.engine.catalog.delete(check_function_id(call.message.id), change_of(call))
    return {}


async def list_function_history(call: Call[ListHistory]) -> Mapping[str, Any]:
    """The changes of a function, the newest first."""
    query = call.message
    history = await call.engine.catalog.history(check_function_id(query.function_id, "functionId"))
    end = query.from_version or len(history) + 1
    wanted = [revision for revision in reversed(history) if revision.number < end]
    limit = query.limit or 50
    return {
        "entries": [revision_message(revision) for revision in wanted[:limit]],
        "hasMore": len(wanted) > limit,
    }


async def get_function_at_version(call: Call[AtVersion]) -> Mapping[str, Any]:
    """A function as it was after one change."""
    function_id = check_function_id(call.message.function_id, "functionId")
    revision = await call.engine.catalog.revision(function_id, call.message.version)
    return {"entry": revision_message(revision)}


async def rollback_function(call: Call[AtVersion]) -> Mapping[str, Any]:
    """Bring an older definition back, under a new version."""
    message = call.message
    function_id = check_function_id(message.function_id, "functionId")
    change = change_of(call, message.change_reason)
    restored = await call.engine.catalog.roll_back(function_id, message.version, change)
    return {"function": function_message(call, *restored)}


def revision_message(revision: Revision) -> Plain:
    """One change of a function, with the function as it was after it."""
    snapshot = definition_message(revision.definition) | {
        "status": _STATUSES[revision.status],
        "version": revision.version,
        "createdAt": revision.created_at,
        "updatedAt": revision.at,
    }
    return {
        "eventId": f"{revision.definition.id}/{revision.number}",
        "entityVersion": revision.number,
        "functionId": revision.definition.id,
        "functionSnapshot": snapshot,
        "actorId": revision.change.actor,
        "changeReason": revision.change.reason,
        "changeType": revision.type,
        "recordedAt": revision.at,
    }


def check_function_id(function_id: str, field: str = "id") -> str:
    """The id of a function that a request needs. Raises `InvalidInput` without one."""
    if not function_id:
        raise InvalidInput(field, "is required")
    return function_id


METHODS = {
    "RegisterFunction": Method(RegisterFunction, register_function),
    "GetFunction": Method(OneFunction, get_function),
    "ListFunctions": Method(ListFunctions, list_functions),
    "UpdateFunctionStatus": Method(SetStatus, update_function_status),
    "DeleteFunction": Method(OneFunction, delete_function),
    "ListFunctionHistory": Method(ListHistory, list_function_history),
    "GetFunctionAtVersion": Method(AtVersion, get_function_at_version),
    "RollbackFunction": Method(AtVersion, rollback_function),
}
