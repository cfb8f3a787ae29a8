"""Lanes: how many runs of a function execute at once, in all or for each value of a key.

A run knows the lanes that it belongs to from its creation; it holds a place in each of them exactly
while it executes. So who holds what is nothing but the runs' own states, and no crash can leak a
place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ironflow.core.errors import InvalidInput
from ironflow.core.expressions import compile_path

MOST_LANES = 4
"""Of one function."""


class Concurrency(msgspec.Struct, frozen=True, omit_defaults=True):
    """At most `limit` runs at once; with a `key`, a path into the run's input such as
    `data.org_id`, for each of its values.
    """

    limit: int
    key: str | None = None


Wanted = int | Concurrency | Mapping[str, Any]


def concurrency_of(value: Wanted | list[Wanted] | tuple[Wanted, ...] | None) -> tuple[
    Concurrency, ...
]:  # fmt: skip
    """What a user means: a number, a policy, a mapping of its fields, or several. Raises
    `InvalidInput` naming what is wrong.
    """
    if value is None:
        return ()
    several = value if isinstance(value, list | tuple) else [value]
    if len(several) > MOST_LANES:
        raise InvalidInput("concurrency", f"has more than {MOST_LANES} limits")
    return tuple(_one(item) for item in several)


def _one(value: object) -> Concurrency:
    if isinstance(value, Mapping):
        unknown = set(value) - {"limit", "key"}
        if unknown:
            raise InvalidInput(f"concurrency.{min(unknown)}", "is unknown; there are limit and key")
        if "limit" not in value:
            raise InvalidInput("concurrency.limit", "is missing")
        value = Concurrency(value["limit"], value.get("key"))
    elif isinstance(value, int):
        value = Concurrency(value)
    if not isinstance(value, Concurrency):
        raise InvalidInput("concurrency", f"is {type(value).__name__}, not a limit")
    limit: object = value.limit
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InvalidInput("concurrency.limit", f"{limit!r:.50} is no whole number from 1")
    if value.key is not None:
        _path(value.key)
    return value


def lane_names(
    function_id: str, concurrency: tuple[Concurrency, ...], data: bytes | None
) -> tuple[str, ...]:
    """The lanes of a run with this input (JSON): one for each limit. A value that is missing, or is
    no text, number or truth value, has the lane of `null`.
    """
    if not concurrency:
        return ()
    value = None
    if any(one.key is not None for one in concurrency) and data is not None:
        value = msgspec.json.decode(data)
    names = []
    for number, one in enumerate(concurrency):
        name = f"{function_id}#{number}"
        if one.key is not None:
            found = _path(one.key).get({"data": value}, None)
            found = None if isinstance(found, dict | list) else found
            name += ":" + msgspec.json.encode(found).decode()
        names.append(name)
    return tuple(names)


def parse_lane(name: str) -> tuple[str, int]:
    """The function of a lane, and which of its limits it is."""
    before = name.partition(":")[0]
    function_id, _, number = before.rpartition("#")
    return function_id, int(number)


def _path(text: str) -> Any:
    """A key as a path below `data`, however it was written."""
    path = text.removeprefix("$.").removeprefix("event.")
    if path != "data" and not path.startswith(("data.", "data[")):
        path = f"data.{path}"
    try:
        return compile_path(path)
    except InvalidInput as error:
        raise InvalidInput("concurrency.key", error.reason) from None
