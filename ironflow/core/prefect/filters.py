"""Filters as they come, in JSON: into conditions over columns, or into faults that say why not.

The language stands in `resources`; storage turns conditions into SQL; nothing else knows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ironflow.core.prefect.conditions import ALWAYS, Condition, Test, combine
from ironflow.core.prefect.faults import Fault, InvalidRequest, Location, Refusal
from ironflow.core.prefect.resources import RESOURCES, STATE_TYPES, Field, Resource
from ironflow.core.prefect.scalars import parse_integer, parse_moment, parse_truth, parse_uuid
from ironflow.core.prefect.texts import parse_text_query

MAX_LIMIT = 200
MAX_OFFSET = 2**62
MAX_LIKE = 1000
"""Characters of a `like_` or of a prefix."""
MAX_QUERY = 200

_TESTS = {
    "any_": "in", "not_any_": "not_in", "id_": "in", "type_": "in", "like_": "like",
    "startswith_": "starts", "before_": "le", "after_": "ge", "le_": "le", "ge_": "ge",
    "eq_": "eq", "is_null_": "null", "query": "search", "exists_": "exists",
}  # fmt: skip
_TAG_TESTS = {"all_": "has_all", "any_": "has_any", "is_null_": "empty"}
_LISTS = frozenset({"any_", "not_any_", "all_", "id_", "type_", "startswith_"})
_TRUTHS = frozenset({"is_null_", "eq_", "exists_"})


# -- parsing --------------------------------------------------------------------------------------


def parse_filter(
    value: Any, resource: Resource, faults: list[Fault], where: Location = ()
) -> Condition:
    """A filter of one resource as a condition; what is wrong is added to `faults`."""
    return _parse_fields(value, resource.fields, resource.combinable, faults, where)


def _parse_fields(
    value: Any,
    fields: Mapping[str, Field],
    combinable: bool,
    faults: list[Fault],
    where: Location,
) -> Condition:
    if not isinstance(value, dict):
        faults.append(Fault(where, "model_attributes_type", "must be an object", value))
        return ALWAYS
    either, parts = False, list[Condition]()
    for name, inner in value.items():
        place = (*where, name)
        field = fields.get(name)
        if name == "operator" and combinable:
            either = _parse_operator(inner, faults, place)
        elif field is None:
            faults.append(_unknown(place, inner))
        elif inner is not None:
            parts.append(_parse_field(inner, field, faults, place))
    return combine([part for part in parts if part != ALWAYS], either)


def _parse_operator(value: Any, faults: list[Fault], where: Location) -> bool:
    if value not in ("and_", "or_"):
        faults.append(Fault(where, "enum", "must be 'and_' or 'or_'", value))
    return bool(value == "or_")


def _unknown(where: Location, value: Any) -> Fault:
    return Fault(where, "extra_forbidden", "Extra inputs are not permitted", value)


def _parse_field(value: Any, field: Field, faults: list[Fault], where: Location) -> Condition:
    if field.parts:
        return _parse_fields(value, field.parts, field.combinable, faults, where)
    if not isinstance(value, dict):
        faults.append(Fault(where, "model_attributes_type", "must be an object", value))
        return ALWAYS
    either, known = False, dict[str, Any]()
    missing = (name for name in field.required if name not in value)
    faults.extend(Fault((*where, name), "missing", "Field required", value) for name in missing)
    for name, operand in value.items():
        place = (*where, name)
        if name == "operator" and field.combinable:
            either = _parse_operator(operand, faults, place)
        elif name not in field.operators:
            faults.append(_unknown(place, operand))
        elif operand is not None:
            known[name] = _parse_operand(operand, name, field.kind, faults, place)
    if field.build is not None:
        return field.build(known)
    tests = _TAG_TESTS if field.kind == "tags" else _TESTS
    parts: list[Condition] = [
        Test(field.columns.get(name, field.column), tests[name], operand)
        for name, operand in known.items()
    ]
    return combine(parts, either)


def _parse_operand(
    value: Any, operator: str, kind: str, faults: list[Fault], where: Location
) -> Any:
    if operator in _TRUTHS:
        truth = parse_truth(value)
        if truth is None:
            faults.append(Fault(where, "bool_type", "must be true or false", value))
        return truth
    if operator in _LISTS:
        if not isinstance(value, list):
            faults.append(Fault(where, "list_type", "must be a list", value))
            return ()
        kind = "uuid" if operator == "id_" else kind
        items = [_parse_item(item, kind, faults, (*where, n)) for n, item in enumerate(value)]
        return tuple(dict.fromkeys(item for item in items if item is not None))
    if operator == "query":
        text = _parse_text(value, faults, where, MAX_QUERY)
        return parse_text_query(text)
    if operator == "like_":
        return _parse_text(value, faults, where, MAX_LIKE)
    return _parse_item(value, kind, faults, where)


def _parse_text(value: Any, faults: list[Fault], where: Location, most: int) -> str:
    if not isinstance(value, str):
        faults.append(Fault(where, "string_type", "must be a string", value))
        return ""
    if len(value) > most:
        text = f"must have at most {most} characters"
        faults.append(Fault(where, "string_too_long", text, value))
        return ""
    return value


def _parse_item(value: Any, kind: str, faults: list[Fault], where: Location) -> Any:
    fault: tuple[str, str]
    found: Any
    match kind:
        case "uuid":
            found = parse_uuid(value)
            fault = ("uuid_parsing", "must be a UUID")
        case "moment":
            found = parse_moment(value)
            fault = ("datetime_parsing", "must be a moment in time, as RFC 3339")
        case "state":
            found = value if value in STATE_TYPES else None
            fault = ("enum", f"must be one of {', '.join(STATE_TYPES)}")
        case "integer":
            found = parse_integer(value)
            fault = ("int_parsing", "must be a whole number")
        case _:
            found = value if isinstance(value, str) else None
            fault = ("string_type", "must be a string")
    if found is None:
        faults.append(Fault(where, *fault, value))
    return found


# -- whole bodies ---------------------------------------------------------------------------------


class Selection(NamedTuple):
    """What of a resource is wanted: conditions by the name of the resource they are about."""

    resource: Resource
    conditions: Mapping[str, Condition]
    sort: str = ""
    limit: int = MAX_LIMIT
    offset: int = 0
    page: int = 1


class BodyShape(NamedTuple):
    """Which keys a body of a filter route may have; others are passed over."""

    resource: Resource
    filters: tuple[str, ...]
    sorted: bool = True
    paged: str = "offset"
    """`offset`, `page`, or nothing."""
    default_sort: str = ""
    most: int = MAX_LIMIT


def parse_selection(body: Any, shape: BodyShape) -> Selection:
    """The body of a filter, count or paginate route. Raises `InvalidRequest`, or `Refusal` for a
    limit out of range.
    """
    if body is None:
        body = {}
    if not isinstance(body, dict):
        raise InvalidRequest([Fault(("body",), "dict_type", "must be an object", body)], body)
    faults: list[Fault] = []
    conditions = {
        name: parse_filter(body[name], RESOURCES[name], faults, ("body", name))
        for name in shape.filters
        if body.get(name) is not None
    }
    limit, offset, page = shape.most, 0, 1
    if shape.paged:
        limit = _parse_limit(body.get("limit"), shape.most, faults)
    if shape.paged == "offset":
        offset = _parse_count(body, "offset", 0, faults)
    elif shape.paged == "page":
        page = _parse_count(body, "page", 1, faults)
        offset = min((page - 1) * limit, MAX_OFFSET)
    sort = shape.default_sort or shape.resource.default_sort
    if shape.sorted and body.get("sort") is not None:
        sort = body["sort"]
        if not isinstance(sort, str) or sort not in shape.resource.sorts:
            known = ", ".join(shape.resource.sorts)
            faults.append(Fault(("body", "sort"), "enum", f"must be one of {known}", sort))
    if faults:
        raise InvalidRequest(faults, body)
    return Selection(shape.resource, conditions, sort, limit, offset, page)


def parse_page(body: dict[str, Any]) -> tuple[int, int, list[Fault]]:
    """Limit, offset and faults of the body of a list that has no filters. Raises `Refusal`."""
    faults: list[Fault] = []
    limit = _parse_limit(body.get("limit"), MAX_LIMIT, faults)
    return limit, _parse_count(body, "offset", 0, faults), faults


def _parse_limit(value: Any, most: int, faults: list[Fault]) -> int:
    if value is None:
        return most
    limit = parse_integer(value)
    if limit is None:
        faults.append(Fault(("body", "limit"), "int_parsing", "must be a whole number", value))
        return most
    if limit > most:
        raise Refusal(422, f"Invalid limit: must be less than or equal to {most}.")
    if limit < 0:
        raise Refusal(422, "Invalid limit: must be greater than or equal to 0.")
    return limit


def _parse_count(body: dict[str, Any], name: str, least: int, faults: list[Fault]) -> int:
    if body.get(name) is None:
        return least
    found = parse_integer(body[name])
    if found is None:
        text = "must be a whole number"
        faults.append(Fault(("body", name), "int_parsing", text, body[name]))
        return least
    if found < least:
        text = f"must be greater than or equal to {least}"
        faults.append(Fault(("body", name), "greater_than_equal", text, found))
        return least
    return min(found, MAX_OFFSET)
