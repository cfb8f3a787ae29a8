"""The tables of events, logs and saved searches behind the Prefect API (see `relational`), and
filters of events as SQL.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from ironflow.core.prefect.event_filters import ANY, EventFilter, LabelSpec, ResourceFilter
from ironflow.core.prefect.events import RESOURCE_ID, RESOURCE_ROLE, Event
from ironflow.core.prefect.logs import LogLine
from ironflow.core.prefect.texts import TextQuery
from ironflow.storage.ports import Batch, Table
from ironflow.storage.relational.prefect_filters import MOST_MARKS, Query

PREFECT_EVENTS = Table(
    "prefect_events",
    1,
    ("id", "seq", "event", "resource_id", "occurred_at", "received_at", "body"),
    ("seq", "event", "resource_id", "occurred_at", "received_at", "body"),
    deferred=True,
)
"""An event that comes again changes nothing: every column is fixed."""
EVENT_RESOURCES = Table("event_resources", 3, ("resource_id", "occurred_at", "event_id"))
EVENT_MARKS = Table("event_marks", 1, ("name", "seq"))
"""Under `resources`, up to which `seq` events were entered in `EVENT_RESOURCES`. That is done for
many at a time: each of an event's resources has a place of its own there, far from the others.
"""
LOGS = Table(
    "logs",
    1,
    (
        "seq", "id", "flow_run_id", "task_run_id", "level", "at", "created_at", "name", "message",
    ),
)  # fmt: skip
SAVED_SEARCHES = Table(
    "saved_searches", 1, ("id", "name", "created_at", "updated_at", "filters"), ("created_at",)
)

TABLES = (PREFECT_EVENTS, EVENT_RESOURCES, EVENT_MARKS, LOGS, SAVED_SEARCHES)
OF_RUN = (("logs", "flow_run_id"),)
"""What goes with a run, as (table, column that holds the run's id)."""

LAST_EVENTS = "SELECT seq, id FROM prefect_events ORDER BY seq DESC LIMIT ?"
LAST_LOG = "SELECT coalesce(max(seq), 0) FROM logs"
_ENTERED = "coalesce((SELECT m.seq FROM event_marks m WHERE m.name = 'resources'), 0)"
LOOSE_EVENTS = (
    "SELECT e.seq, e.occurred_at, e.id, e.resource_id, e.body FROM prefect_events e "
    f"WHERE e.seq > {_ENTERED} ORDER BY e.seq"
)
"""Events whose resources were not entered yet."""
OLDEST_EVENTS = (
    "SELECT received_at, id, occurred_at, resource_id, body FROM prefect_events "
    "ORDER BY seq LIMIT ?"
)
SWEEP_LOGS = (
    "SELECT l.seq, l.created_at, "
    "l.flow_run_id IS NULL OR NOT EXISTS (SELECT 1 FROM flow_runs r WHERE r.id = l.flow_run_id) "
    "FROM logs l WHERE l.seq > ? ORDER BY l.seq LIMIT ?"
)
"""Lines behind a `seq`, as (seq, created_at, whether its run is not here)."""
SWEPT_LOGS = "prefect_logs_swept"
"""Under this name `meta` has the `seq` up to which lines were looked at."""
LOG_COLUMNS = ", ".join(f"{{t}}.{name}" for name in LOGS.columns[1:])
"""What makes a `LogLine`."""

Values = list[Any]
FEW = 8
"""Prefixes that are written out: the depth of a statement is limited."""
_SUBJECT = "json_extract(e.body, '$.resource')"
_RELATED = "json_each(e.body, '$.related')"
_EVERYONE = f"(SELECT value FROM {_RELATED} UNION ALL SELECT {_SUBJECT})"


class Loose(NamedTuple):
    """An event whose resources are not entered yet."""

    seq: int
    occurred: int
    id: str
    resources: frozenset[str]


def put_event(batch: Batch, event: Event, seq: int) -> Loose:
    """Add an event's row to a batch; gives what `enter_resources` has to be told later."""
    row = (
        event.id,
        seq,
        event.event,
        event.resource_id,
        event.occurred,
        event.received,
        event.body.decode(),
    )
    batch.puts.append((PREFECT_EVENTS, row))
    others = [labels[RESOURCE_ID] for labels in event.related]
    return Loose(seq, event.occurred, event.id, frozenset([event.resource_id, *others]))


def read_loose(row: Sequence[Any]) -> Loose:
    """The same from a row of `LOOSE_EVENTS`."""
    seq, occurred, event_id, resource_id, body = row
    others = [labels[RESOURCE_ID] for labels in msgspec.json.decode(body)["related"]]
    return Loose(seq, occurred, event_id, frozenset([resource_id, *others]))


def enter_resources(batch: Batch, events: Sequence[Loose]) -> None:
    """Enter the resources of events, in the order of their `seq`, beginning behind the mark."""
    for _, occurred, event_id, resources in events:
        for resource_id in sorted(resources):
            batch.puts.append((EVENT_RESOURCES, (resource_id, occurred, event_id)))
    if events:
        batch.puts.append((EVENT_MARKS, ("resources", events[-1].seq)))


def put_log(batch: Batch, line: LogLine, seq: int) -> None:
    """Add a line's row to a batch."""
    row = (
        seq,
        line.id,
        line.flow_run_id,
        line.task_run_id,
        line.level,
        line.at,
        line.created_at,
        line.name,
        line.message,
    )
    batch.puts.append((LOGS, row))


def delete_events(batch: Batch, rows: Iterable[Sequence[Any]]) -> None:
    """Add the deletion of rows that `OLDEST_EVENTS` gave to a batch."""
    for _, event_id, occurred, resource_id, body in rows:
        batch.deletes.append((PREFECT_EVENTS, (event_id,)))
        related = msgspec.json.decode(body)["related"]
        for other in {resource_id, *(labels[RESOURCE_ID] for labels in related)}:
            batch.deletes.append((EVENT_RESOURCES, (other, occurred, event_id)))


# -- reading --------------------------------------------------------------------------------------


def select_events(
    wanted: EventFilter,
    limit: int,
    *,
    after: tuple[int, int] | None = None,
    newest: int | None = None,
) -> Query:
    """A page of events, `(body, occurred_at, seq)`, in the filter's order.

    `after` is where the page before ended, as (occurred_at, seq); `newest` is the greatest `seq`
    to look at.
    """
    where, values = _where(wanted, newest)
    table = "prefect_events e"
    way = "ASC" if wanted.ascending else "DESC"
    order = f"e.occurred_at {way}, e.seq {way}"
    if wanted.distinct:
        number = f"row_number() OVER (PARTITION BY e.resource_id ORDER BY {order}) AS place"
        table = f"(SELECT e.*, {number} FROM {table} WHERE {where}) e"
        where = "e.place = 1"
    if after is not None:
        where += f" AND (e.occurred_at, e.seq) {'>' if wanted.ascending else '<'} (?, ?)"
        values += after
    text = (
        f"SELECT e.body, e.occurred_at, e.seq FROM {table} WHERE {where} ORDER BY {order} LIMIT ?"
    )
    return Query(text, [*values, limit])


def select_accepted(wanted: EventFilter, after: int, limit: int) -> Query:
    """Events in the order in which they were accepted, `(body, occurred_at, seq)`, behind a
    `seq`."""
    where, values = _where(wanted, None)
    text = (
        f"SELECT e.body, e.occurred_at, e.seq FROM prefect_events e INDEXED BY prefect_events_seq "
        f"WHERE e.seq > ? AND {where} ORDER BY e.seq LIMIT ?"
    )
    return Query(text, [after, *values, limit])


def count_events(wanted: EventFilter, newest: int | None = None) -> Query:
    """How many events there are, whatever the page."""
    where, values = _where(wanted, newest)
    counted = "count(DISTINCT e.resource_id)" if wanted.distinct else "count(*)"
    return Query(f"SELECT {counted} FROM prefect_events e WHERE {where}", values)


def count_events_by(wanted: EventFilter, column: str) -> Query:
    """`(value, count, first, last)` by a column: `event` or `resource_id`, the most first."""
    where, values = _where(wanted, None)
    text = (
        f"SELECT e.{column}, count(*), min(e.occurred_at), max(e.occurred_at) "
        f"FROM prefect_events e WHERE {where} GROUP BY 1 ORDER BY 2 DESC, 1"
    )
    return Query(text, values)


def count_events_in_time(wanted: EventFilter, start: int, span: int) -> Query:
    """`(number of the span since start, count)`; moments and spans are microseconds."""
    where, values = _where(wanted, None)
    text = (
        f"SELECT (e.occurred_at - ?) / ?, count(*) FROM prefect_events e WHERE {where} GROUP BY 1"
    )
    return Query(text, [start, span, *values])


# -- conditions -----------------------------------------------------------------------------------


def _where(wanted: EventFilter, newest: int | None) -> tuple[str, Values]:
    # Every part adds its values as it is written, so that marks and values keep step.
    parts: list[str] = []
    values: Values = []
    for column, sign, bound in (
        ("e.seq", "<=", newest),
        ("e.occurred_at", ">=", wanted.since),
        ("e.occurred_at", "<=", wanted.until),
    ):
        if bound is not None:
            parts.append(f"{column} {sign} ?")
            values.append(bound)
    if wanted.names:
        parts.append(_among("e.event", wanted.names, values))
    if wanted.ids:
        parts.append(_among("e.id", wanted.ids, values))
    if wanted.not_names:
        parts.append(f"NOT {_among('e.event', wanted.not_names, values)}")
    if wanted.prefixes:
        parts.append(_starts("e.event", wanted.prefixes, values))
    if wanted.not_prefixes:
        parts.append(f"NOT {_starts('e.event', wanted.not_prefixes, values)}")
    if wanted.resource != ANY:
        parts.append(_resource(_SUBJECT, wanted.resource, values))
    parts += [_some(_RELATED, one, values) for one in wanted.related]
    parts += [_some(_EVERYONE, one, values) for one in wanted.any_resource]
    if wanted.text is not None:
        parts.append(_search("lower(e.body)", wanted.text, values))
    return " AND ".join(parts) or "1", values


def _some(source: str, wanted: ResourceFilter, values: Values) -> str:
    """One of the resources of `source` is meant. Ids are looked up in their index first."""
    text = ""
    ids = wanted.ids or tuple(dict.fromkeys(pair[0] for pair in wanted.in_roles))
    if ids:
        among = _among("x.resource_id", ids, values)
        text = f"{_takes_part(among)} AND "
    inner = _resource("r.value", wanted, values)
    return f"({text}EXISTS (SELECT 1 FROM {source} r WHERE {inner}))"


def _takes_part(among: str) -> str:
    """Events in which a resource takes part, and those of which that is not known yet."""
    entered = f"e.id IN (SELECT x.event_id FROM event_resources x WHERE {among})"
    return f"({entered} OR e.seq > {_ENTERED})"


def _resource(source: str, wanted: ResourceFilter, values: Values) -> str:
    """A resource, the JSON object `source`, is meant."""
    resource_id = f"json_extract({source}, '$.\"{RESOURCE_ID}\"')"
    role = f"coalesce(json_extract({source}, '$.\"{RESOURCE_ROLE}\"'), '')"
    if source == _SUBJECT:
        resource_id = "e.resource_id"
    parts = []
    if wanted.ids:
        parts.append(_among(resource_id, wanted.ids, values))
        if resource_id == "e.resource_id":
            among = _among("x.resource_id", wanted.ids, values)
            parts.append(_takes_part(among))
    if wanted.prefixes:
        parts.append(_starts(resource_id, wanted.prefixes, values))
    if wanted.roles:
        parts.append(_among(role, wanted.roles, values))
    if wanted.in_roles:
        values.append(msgspec.json.encode(wanted.in_roles).decode())
        wanted_pair = "(json_extract(p.value, '$[0]'), json_extract(p.value, '$[1]'))"
        pair = f"({resource_id}, {role}) = {wanted_pair}"
        parts.append(f"EXISTS (SELECT 1 FROM json_each(?) p WHERE {pair})")
    parts += [_label(source, spec, values) for spec in wanted.labels]
    return " AND ".join(parts) or "1"


def _label(source: str, spec: LabelSpec, values: Values) -> str:
    values.append(spec.label)
    parts = ["l.key = ?"]
    wanted = [_among("l.value", spec.values, values)] if spec.values else []
    if spec.prefixes:
        wanted.append(_starts("l.value", spec.prefixes, values))
    if wanted:
        parts.append(f"({' OR '.join(wanted)})")
    if spec.not_values:
        parts.append(f"NOT {_among('l.value', spec.not_values, values)}")
    if spec.not_prefixes:
        parts.append(f"NOT {_starts('l.value', spec.not_prefixes, values)}")
    return f"EXISTS (SELECT 1 FROM json_each({source}) l WHERE {' AND '.join(parts)})"


def _among(column: str, items: Sequence[str], values: Values) -> str:
    if len(items) == 1:
        values.append(items[0])
        return f"{column} = ?"
    if len(items) <= MOST_MARKS:
        values.extend(items)
        return f"{column} IN ({', '.join('?' * len(items))})"
    values.append(msgspec.json.encode(items).decode())
    return f"{column} IN (SELECT value FROM json_each(?))"


def _starts(column: str, prefixes: Sequence[str], values: Values) -> str:
    """A few prefixes each as a range, which an index can serve, and exactly; many as one list."""
    if len(prefixes) > FEW:
        values.append(msgspec.json.encode(prefixes).decode())
        start = f"substr({column}, 1, length(p.value)) = p.value"
        return f"EXISTS (SELECT 1 FROM json_each(?) p WHERE {start})"
    parts = []
    for prefix in prefixes:
        values += [prefix, prefix, prefix]
        parts.append(f"({column} >= ? AND substr({column}, 1, length(?)) = ?)")
    return f"({' OR '.join(parts)})"


def _search(column: str, query: TextQuery, values: Values) -> str:
    parts = []
    if query.any:
        values += query.any
        parts.append(f"({' OR '.join([f'instr({column}, ?)'] * len(query.any))})")
    for terms, sign in ((query.all, ""), (query.none, "NOT ")):
        values += terms
        parts += [f"{sign}instr({column}, ?)"] * len(terms)
    return " AND ".join(parts) or "1"
