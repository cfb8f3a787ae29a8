"""Conditions of the Prefect API's filters as parameterised SQL.

A query names the wanted columns of one resource; conditions about other resources become
subqueries. No text of a client is ever part of a statement.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from ironflow.core.prefect.conditions import ALWAYS, Condition, Group, Test
from ironflow.core.prefect.filters import MAX_OFFSET, Selection
from ironflow.core.prefect.resources import BEGAN, RESOURCES
from ironflow.core.prefect.states import TERMINAL
from ironflow.core.prefect.texts import TextQuery

MOST_MARKS = 32
"""Values of a list that are written as one mark each; longer lists travel as one JSON array."""
MOST_BRANCHES = 9
"""Branches of a union that each read a page from their own index."""
CROWD = 2000
"""Runs in a state from which on they are not sorted where those of all states come in order."""
NEAR = 4000
"""Runs of all states that are looked through for those in one."""
MOST_NEAR = 1000
"""Rows up to the end of a page that is looked for like that."""

Values = list[Any]


class Place(NamedTuple):
    """A table in a statement, and what it is called there."""

    table: str
    alias: str


_FLOWS, _RUNS, _TASKS = Place("flows", "f"), Place("flow_runs", "r"), Place("task_runs", "k")
_COMPARISONS = {"le": "<=", "ge": ">=", "gt": ">", "eq": "="}
_ORDERS = {"ACCEPTED": "{t}.seq"}
"""Orders that no client asks for."""
_NOTHING = "0"
RUN_TIME = (
    "({t}.run_time + CASE WHEN {t}.state_type = 'RUNNING' AND {t}.state_at IS NOT NULL "
    "THEN max(0, {now} - {t}.state_at) ELSE 0 END)"
)
"""How long a run has run, in microseconds: `bodies.estimated_run_time` as SQL."""
LATENESS = (
    "(CASE WHEN {t}.expected_at IS NULL THEN 0 "
    "WHEN {t}.started_at IS NOT NULL THEN max(0, {t}.started_at - {t}.expected_at) "
    "WHEN {t}.state_type IN ('COMPLETED', 'FAILED', 'CRASHED', 'CANCELLED') THEN 0 "
    "ELSE max(0, {now} - {t}.expected_at) END)"
)
"""How much later than expected a run began, in microseconds: `bodies.estimated_lateness` as SQL."""


class Query(NamedTuple):
    """A statement and its values."""

    text: str
    values: Values


def select_rows(selection: Selection, columns: str, now: int, most: int | None = None) -> Query:
    """A page of a resource: `columns` is SQL with `{t}` for its table; `now` in microseconds."""
    resource = selection.resource
    order = resource.sorts.get(selection.sort) or _ORDERS[selection.sort]
    order = fill(order, "t", now)
    limit = selection.limit if most is None else most
    # First the rows of the page by what is narrow; bodies are read of those alone, and never sorted
    # by the thousand.
    branches, values, parts = _branches(selection), Values(), []
    first = min(limit + selection.offset, MAX_OFFSET)
    is_cut_here = len(branches) == 1 and branches[0].crowd is None
    for branch, crowd in branches:
        where, more = _where(branch, now)
        source = f"{resource.table} t{_pin(branch)}"
        page = f"SELECT t.rowid FROM {source} WHERE {where} ORDER BY {order} LIMIT ?"
        if is_cut_here:
            parts.append(f"{page} OFFSET ?")
            values += [*more, limit, selection.offset]
        elif crowd is not None and first <= MOST_NEAR:
            parts.append(_look_nearby(where, order, crowd))
            values += [crowd.value[0], *more, first, *more, first, first]
        else:
            # Each branch reads its first rows from an index in the order of the page.
            parts.append(f"SELECT * FROM ({page})")
            values += [*more, first]
    text = (
        f"SELECT {fill(columns, 't', now)} FROM {resource.table} t "
        f"WHERE t.rowid IN ({' UNION ALL '.join(parts)}) ORDER BY {order}"
    )
    if not is_cut_here:
        text, values = f"{text} LIMIT ? OFFSET ?", [*values, limit, selection.offset]
    return Query(text, values)


def count_rows(selection: Selection, now: int = 0) -> Query:
    """How many rows there are, whatever the page."""
    where, values = _where(selection, now)
    return Query(f"SELECT count(*) FROM {selection.resource.table} t WHERE {where}", values)


def where_rows(selection: Selection, now: int = 0) -> Query:
    """The condition alone, over the resource's table as `t`; for statements of one's own."""
    where, values = _where(selection, now)
    return Query(where, values)


# -- conditions about other resources -------------------------------------------------------------


def _where(selection: Selection, now: int) -> tuple[str, Values]:
    values: Values = []
    parts: list[str] = []
    own = selection.resource.name
    for name, condition in selection.conditions.items():
        if RESOURCES[name].table is None:
            parts.append(_NOTHING)
        elif name == own and condition != ALWAYS:
            parts.append(
                _express(condition, Place(str(selection.resource.table), "t"), values, now)
            )
    others = {
        name: condition
        for name, condition in selection.conditions.items()
        if name != own and RESOURCES[name].table is not None
    }
    if others:
        parts.append(_RELATED[own](others, values, now))
    return " AND ".join(part for part in parts if part) or "1", values


def _relate_flow_runs(others: Mapping[str, Condition], values: Values, now: int) -> str:
    parts = []
    flows = others.get("flows", ALWAYS)
    if flows != ALWAYS:
        inner = _express(flows, _FLOWS, values, now)
        # Of one flow, its runs stand in an index in the order of the page.
        sign = "=" if _is_single(flows) else "IN"
        parts.append(f"t.flow_id {sign} (SELECT f.id FROM flows f WHERE {inner})")
    if "task_runs" in others:
        tasks = others["task_runs"]
        inner = _express(tasks, _TASKS, values, now)
        if _is_selective(tasks):
            parts.append(f"t.id IN (SELECT k.flow_run_id FROM task_runs k WHERE {inner})")
        else:
            parts.append(
                f"EXISTS (SELECT 1 FROM task_runs k WHERE k.flow_run_id = t.id AND {inner})"
            )
    return " AND ".join(parts)


def _relate_task_runs(others: Mapping[str, Condition], values: Values, now: int) -> str:
    runs, flows = others.get("flow_runs", ALWAYS), others.get("flows", ALWAYS)
    inner = [_express(runs, _RUNS, values, now)]
    if flows != ALWAYS:
        of_flow = _express(flows, _FLOWS, values, now)
        inner.append(f"r.flow_id IN (SELECT f.id FROM flows f WHERE {of_flow})")
    where = " AND ".join(inner)
    if _is_selective(runs) or flows != ALWAYS:
        return f"t.flow_run_id IN (SELECT r.id FROM flow_runs r WHERE {where})"
    return f"EXISTS (SELECT 1 FROM flow_runs r WHERE r.id = t.flow_run_id AND {where})"


def _relate_flows(others: Mapping[str, Condition], values: Values, now: int) -> str:
    inner = [_express(others.get("flow_runs", ALWAYS), _RUNS, values, now)]
    if "task_runs" in others:
        of_task = _express(others["task_runs"], _TASKS, values, now)
        inner.append(f"EXISTS (SELECT 1 FROM task_runs k WHERE k.flow_run_id = r.id AND {of_task})")
    return f"EXISTS (SELECT 1 FROM flow_runs r WHERE r.flow_id = t.id AND {' AND '.join(inner)})"


_RELATED = {
    "flow_runs": _relate_flow_runs,
    "task_runs": _relate_task_runs,
    "flows": _relate_flows,
}


def _is_selective(condition: Condition) -> bool:
    """Whether the condition names the few rows that it can hold for."""
    parts = condition.parts if isinstance(condition, Group) else (condition,)
    if isinstance(condition, Group) and condition.either:
        return False
    return any(
        isinstance(part, Test) and part.test == "in" and part.column in ("id", "flow_run_id")
        for part in parts
    )


def _is_single(condition: Condition) -> bool:
    """Whether the condition can hold for one flow at most: it names it, by id or by name."""
    if isinstance(condition, Group):
        return not condition.either and any(map(_is_single, condition.parts))
    return (
        condition.test == "in" and len(condition.value) == 1 and condition.column in ("id", "name")
    )


def _pin(selection: Selection) -> str:
    """The index of names for a part of a name, when nothing else narrows the search: rows that do
    not match are never read.
    """
    own = selection.conditions.get("flow_runs")
    if own is None or selection.resource.name != "flow_runs" or len(selection.conditions) > 1:
        return ""
    parts = own.parts if isinstance(own, Group) and not own.either else (own,)
    tests = [part for part in parts if isinstance(part, Test)]
    if len(tests) < len(parts) or any(part.test in ("in", "le", "ge") for part in tests):
        return ""
    is_part = any(part.test == "like" for part in tests)
    return " INDEXED BY flow_runs_name" if is_part else ""


# -- several states -------------------------------------------------------------------------------


class Branch(NamedTuple):
    """Flow runs in one of the states asked for. `crowd` is the test for that state where no index
    has them in the order of the page.
    """

    selection: Selection
    crowd: Test | None = None


def _branches(selection: Selection) -> list[Branch]:
    """One branch for each of the states asked for, when each can be read in order."""
    own = selection.conditions.get(selection.resource.name)
    if own is None or selection.resource.name != "flow_runs":
        return [Branch(selection)]
    parts = own.parts if isinstance(own, Group) and not own.either else (own,)
    if any(isinstance(part, Test) and part.column == "id" for part in parts):
        return [Branch(selection)]
    by_start = selection.sort.startswith("START_TIME")
    for number, part in enumerate(parts):
        if (
            isinstance(part, Test)
            and part.column in ("state_type", "state_name")
            and part.test == "in"
            and (1 if by_start else 2) <= len(part.value) <= MOST_BRANCHES
        ):
            rest = (*parts[:number], *parts[number + 1 :])
            return [_branch(selection, rest, part, value, by_start) for value in part.value]
    return [Branch(selection)]


def _branch(
    selection: Selection, rest: tuple[Condition, ...], states: Test, value: str, by_start: bool
) -> Branch:
    """One state of those asked for. Those that end a run are in an index in the order in which
    runs began, which is only of runs that have ended: the others are few, as a rule.
    """
    state = states._replace(value=(value,))
    tests, crowd = [state], None
    if by_start and states.column == "state_type" and value in TERMINAL:
        tests.append(Test("ended_at", "null", False))
    elif by_start and len(selection.conditions) == 1:
        crowd = state
    narrowed = {**selection.conditions, selection.resource.name: Group((*rest, *tests))}
    return Branch(selection._replace(conditions=narrowed), crowd)


def _look_nearby(where: str, order: str, state: Test) -> str:
    """The first flow runs in a state in the order in which they began. Where many are in it, its
    first ones are among the first of all, which an index has in that order: to be sure, only what
    comes before the last of these counts. Where that is not enough, all in the state are sorted.

    Values: the state, those of `where` and how many, those of `where` and how many twice.
    """
    began, edge = BEGAN.replace("{t}", "t"), "(SELECT {}(began) FROM near)"
    if order.startswith(f"{began} DESC"):
        direction, is_before = "DESC", f"near.began > {edge.format('min')}"
    else:
        # What has no such moment comes first.
        edge = edge.format("max")
        is_before = f"{edge} IS NOT NULL AND (near.began < {edge} OR near.began IS NULL)"
        direction = "ASC"
    crowd = f"SELECT 1 FROM flow_runs WHERE {state.column} = ? LIMIT {CROWD}"
    return (
        f"SELECT * FROM (WITH near AS MATERIALIZED (SELECT t.rowid AS place, {began} AS began "
        f"FROM flow_runs t INDEXED BY flow_runs_began ORDER BY {began} {direction} "
        # A limit of nothing ends a scan before it begins.
        f"LIMIT {NEAR} * ((SELECT count(*) FROM ({crowd})) = {CROWD})), "
        "hits AS MATERIALIZED (SELECT t.rowid AS place FROM near CROSS JOIN flow_runs t "
        f"ON t.rowid = near.place WHERE {is_before} AND {where} ORDER BY {order} LIMIT ?) "
        "SELECT place FROM hits UNION ALL SELECT * FROM (SELECT t.rowid FROM flow_runs t "
        f"WHERE {where} ORDER BY {order} LIMIT ? * ((SELECT count(*) FROM hits) < ?)))"
    )


# -- conditions -----------------------------------------------------------------------------------


def _express(condition: Condition, place: Place, values: Values, now: int) -> str:
    """A condition over a table; its values are added to `values` in the order of the marks."""
    if isinstance(condition, Test):
        return _express_test(condition, place, values, now)
    if not condition.parts:
        return "1"
    joint = " OR " if condition.either else " AND "
    return f"({joint.join(_express(part, place, values, now) for part in condition.parts)})"


def _express_test(test: Test, place: Place, values: Values, now: int) -> str:
    column = test.column if "{" in test.column or " " in test.column else f"{{t}}.{test.column}"
    column = fill(column, place.alias, now)
    value = test.value
    match test.test:
        case "in" | "not_in":
            return _express_list(column, test.test == "not_in", value, values)
        case "le" | "ge" | "gt" | "eq":
            values.append(value)
            return f"{column} {_COMPARISONS[test.test]} ?"
        case "after":
            values += value
            return f"{column} > ({', '.join('?' * len(value))})"
        case "like":
            values.append(f"%{value}%")
            return f"{column} LIKE ?"
        case "starts":
            return _express_prefixes(column, value, values)
        case "null":
            return f"{column} IS {'' if value else 'NOT '}NULL"
        case "empty":
            return f"{column} {'=' if value else '<>'} '[]'"
        case "has_all" | "has_any":
            return _express_tags(test, place, values)
        case "exists":
            return f"{'' if value else 'NOT '}EXISTS ({column})"
        case "search":
            return _express_search(column, value, values)
        case _:
            raise ValueError(f"there is no test {test.test!r}")


def _express_tags(test: Test, place: Place, values: Values) -> str:
    """A JSON list has all of some texts, or any of them."""
    # Of many flow runs few have lists of their own: each list is looked into once.
    is_indexed = place.table == "flow_runs"
    column = f"{'d' if is_indexed else place.alias}.{test.column}"
    values.append(msgspec.json.encode(test.value).decode())
    if test.test == "has_all":
        missing = f"w.value NOT IN (SELECT value FROM json_each({column}))"
        text = f"NOT EXISTS (SELECT 1 FROM json_each(?) w WHERE {missing})"
    else:
        among = "(SELECT value FROM json_each(?))"
        text = f"EXISTS (SELECT 1 FROM json_each({column}) WHERE value IN {among})"
    if not is_indexed:
        return text
    lists = f"(SELECT DISTINCT {test.column} FROM {place.table}) d"
    return f"{place.alias}.{test.column} IN (SELECT d.{test.column} FROM {lists} WHERE {text})"


def _express_list(column: str, negated: bool, items: tuple[Any, ...], values: Values) -> str:
    if not items:
        return "1" if negated else _NOTHING
    if len(items) == 1:
        values.append(items[0])
        return f"{column} {'<>' if negated else '='} ?"
    if len(items) <= MOST_MARKS:
        values += items
        marks = ", ".join("?" * len(items))
    else:
        values.append(msgspec.json.encode(items).decode())
        marks = "SELECT value FROM json_each(?)"
    return f"{column} {'NOT ' if negated else ''}IN ({marks})"


def _express_prefixes(column: str, prefixes: tuple[str, ...], values: Values) -> str:
    values.append(msgspec.json.encode(prefixes).decode())
    start = f"substr({column}, 1, length(p.value)) = p.value"
    return f"EXISTS (SELECT 1 FROM json_each(?) p WHERE {start})"


def _express_search(column: str, query: TextQuery, values: Values) -> str:
    parts = []
    if query.any:
        values += query.any
        parts.append(f"({' OR '.join([f'instr(lower({column}), ?)'] * len(query.any))})")
    for terms, sign in ((query.all, ""), (query.none, "NOT ")):
        values += terms
        parts += [f"{sign}instr(lower({column}), ?)"] * len(terms)
    return f"({' AND '.join(parts)})" if parts else "1"


def fill(text: str, table: str, now: int) -> str:
    """SQL over a table that is called `table`, as of `now` (microseconds)."""
    return text.replace("{t}", table).replace("{now}", str(int(now)))
