"""The SQL of pages of runs and events: pure, and so written that an index gives each page in its
order.
"""

from __future__ import annotations

from typing import Any

from ironflow.storage.ports import RUNS, EventFilter, RunFilter
from ironflow.storage.sqlite import sql

RUN_COLUMNS = ", ".join(RUNS.columns)
# The first of these that is given selects few enough runs; the status is then only a condition.
_SELECTIVE = ("idempotency_key", "parent_id", "event_id", "event_name")


def runs_query(
    where: RunFilter, limit: int, before: tuple[int, str] | None
) -> tuple[str, dict[str, Any]]:
    """The SQL of `Reader.runs`, chosen so that every page is read from an index in its order."""
    values: dict[str, Any] = {"limit": limit}
    exact = [n for n in ("function_id", *_SELECTIVE) if getattr(where, n) is not None]
    values |= {name: getattr(where, name) for name in exact}
    conditions = [f"{name} = :{name}" for name in exact]
    if where.search is not None:
        conditions.append("(instr(id, :search) OR instr(function_id, :search))")
        values["search"] = where.search
    if where.kind is not None:
        # A literal, so that SQLite sees that the partial index of rare kinds serves it.
        conditions.append(f"kind = '{where.kind}'")
    conditions += _moments("created_at", "id", where, before, values)
    base = sql.load("reads")["runs"].replace("{columns}", RUN_COLUMNS)
    values |= {f"status{n}": status for n, status in enumerate(where.statuses)}
    names = [f":status{n}" for n in range(len(where.statuses))]
    if names and any(name in _SELECTIVE for name in exact):
        # The plus keeps SQLite from choosing the index of statuses.
        conditions.append(f"+status IN ({', '.join(names)})")
        names = []
    branches = [[f"status = {name}", *conditions] for name in names] or [conditions]
    return _unite(base, branches, "created_at DESC, id DESC"), values


def events_query(
    where: EventFilter, limit: int, before: tuple[int, str] | None
) -> tuple[str, dict[str, Any]]:
    """The SQL of `Reader.events`, chosen so that every page is read from an index in its order."""
    values: dict[str, Any] = {"limit": limit}
    conditions = _moments("e.at", "e.id", where, before, values)
    if where.source is not None:
        conditions.append("e.source = :source")
        values["source"] = where.source
    names = list(dict.fromkeys(where.names))
    values |= {f"name{n}": name for n, name in enumerate(names)}
    branches = [[f"e.name = :name{n}", *conditions] for n in range(len(names))] or [conditions]
    return _unite(sql.load("reads")["events"], branches, "at DESC, id DESC"), values


def _moments(
    at: str,
    id_: str,
    where: RunFilter | EventFilter,
    before: tuple[int, str] | None,
    values: dict[str, Any],
) -> list[str]:
    conditions = []
    if where.since is not None:
        conditions.append(f"{at} >= :since")
        values["since"] = where.since
    if where.until is not None:
        conditions.append(f"{at} < :until")
        values["until"] = where.until
    if before is not None:
        conditions.append(f"({at}, {id_}) < (:before_at, :before_id)")
        values |= {"before_at": before[0], "before_id": before[1]}
    return conditions


def _unite(base: str, branches: list[list[str]], order: str) -> str:
    """One query, or several that each give a page from their own index, merged to one page."""
    queries = [base.replace("{where}", " AND ".join(b) or "true") for b in branches]
    if len(queries) == 1:
        return queries[0]
    parts = " UNION ALL ".join(f"SELECT * FROM ({query})" for query in queries)
    return f"{parts} ORDER BY {order} LIMIT :limit"
