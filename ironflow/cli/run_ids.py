"""Which run is meant: a whole id, or a part that belongs to one run only.

Ids are UUIDs of version 7: they begin with the time, so runs of the same hour begin alike, and what
tells them apart stands at the end. Lists show the last group, and either end may be typed. An end
is looked for among the newest runs; a beginning gives the span of time to look in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from ironflow.cli.client import Client, Query, decode
from ironflow.cli.failures import Failed, Wrong
from ironflow.core.clock import SECOND, to_rfc3339

NEWEST = 10_000
"""How many runs an abbreviation is looked for in."""
UNIQUE = 12
"""So many digits at the end are taken as unique: they are 48 random bits."""
SHORTEST = 2
MINUTE = 60 * SECOND
SHOWN = 5

_PART = re.compile(r"[0-9a-f-]+")


class _Id(msgspec.Struct):
    id: str


def short_id(run_id: str) -> str:
    """What lists show of an id: its last group."""
    return run_id.rpartition("-")[2]


def resolve(client: Client, text: str) -> str:
    """The id of the run that `text` means. Raises `Wrong` for several, `Failed` for none."""
    part = text.strip().lower()
    if len(part) < SHORTEST:
        raise Wrong("RUN", f"{text!r} is too short; give at least {SHORTEST} characters")
    if len(part.replace("-", "")) >= 32 or not _PART.fullmatch(part):
        return part  # whole, or no id of ours: the server says what it is
    found: dict[str, None] = {}
    for run_id in _candidates(client, part):
        found[run_id] = None
        if len(part) >= UNIQUE and run_id.endswith(part):
            break
    if not found:
        raise Failed(
            f"no run {text!r} (among the newest {NEWEST}; `ironflow runs ls` shows their ids)"
        )
    if len(found) > 1:
        shown = ", ".join(list(found)[:SHOWN]) + (", ..." if len(found) > SHOWN else "")
        raise Wrong("RUN", f"{text!r} is ambiguous: {len(found)} runs fit: {shown}")
    return next(iter(found))


def _candidates(client: Client, part: str) -> Iterator[str]:
    for query in ({}, _span(part)):
        if query is None:
            continue
        for item in client.items("/runs", query, NEWEST):
            run_id = decode(item, _Id).id
            if run_id.startswith(part) or (not query and _fits_end(run_id, part)):
                yield run_id


def _fits_end(run_id: str, part: str) -> bool:
    """Whether the id ends so, or the short id that lists show begins so."""
    return run_id.endswith(part) or short_id(run_id).startswith(part)


def _span(part: str) -> Query | None:
    """When runs whose id begins so were created, if that says anything. None when it does not."""
    digits = part.replace("-", "")[:12]
    if len(digits) < 6:
        return None
    first = int(digits.ljust(12, "0"), 16) * 1000
    last = int(digits.ljust(12, "f"), 16) * 1000
    if last > 4_000_000_000 * SECOND:
        return None
    # A run is recorded a moment after its id was made.
    return {"since": to_rfc3339(max(first - MINUTE, 0)), "until": to_rfc3339(last + MINUTE)}
