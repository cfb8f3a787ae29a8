"""Filters of events: parsed once, then asked of live events here and turned into SQL by storage.

Everything that is given must hold; an empty list is not given. A label's value may end in `*` (a
prefix) and begin with `!` (must not be).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ironflow.core.prefect.events import RESOURCE_ID, RESOURCE_ROLE, Event, Labels
from ironflow.core.prefect.faults import Fault, Location
from ironflow.core.prefect.filters import MAX_LIKE, MAX_QUERY
from ironflow.core.prefect.scalars import parse_moment, parse_uuid
from ironflow.core.prefect.texts import TextQuery, parse_text_query

LOOK_BACK = 180 * 86_400 * 1_000_000
"""How far back is looked when no `since` is given, in microseconds."""
MAX_ITEMS = 1000
"""Values in one list of a filter."""
MAX_PARTS = 50
"""Filters of resources in one filter, and labels in one of those."""


class LabelSpec(NamedTuple):
    """What one label must be; it must be there in any case."""

    label: str
    values: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    not_values: tuple[str, ...] = ()
    not_prefixes: tuple[str, ...] = ()

    def holds(self, labels: Labels) -> bool:
        """Whether these labels have it."""
        value = labels.get(self.label)
        if value is None:
            return False
        if (self.values or self.prefixes) and not (
            value in self.values or value.startswith(self.prefixes)
        ):
            return False
        return value not in self.not_values and not value.startswith(self.not_prefixes)


class ResourceFilter(NamedTuple):
    """What one resource must be: all that is given."""

    ids: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    in_roles: tuple[tuple[str, str], ...] = ()
    labels: tuple[LabelSpec, ...] = ()

    def holds(self, labels: Labels) -> bool:
        """Whether a resource with these labels is meant."""
        resource_id, role = labels[RESOURCE_ID], labels.get(RESOURCE_ROLE, "")
        return (
            (not self.ids or resource_id in self.ids)
            and (not self.prefixes or resource_id.startswith(self.prefixes))
            and (not self.roles or role in self.roles)
            and (not self.in_roles or (resource_id, role) in self.in_roles)
            and all(spec.holds(labels) for spec in self.labels)
        )


class EventFilter(NamedTuple):
    """Which events. `since` and `until` (inclusive) in microseconds, None when not given."""

    since: int | None = None
    until: int | None = None
    prefixes: tuple[str, ...] = ()
    not_prefixes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    not_names: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    resource: ResourceFilter = ResourceFilter()
    distinct: bool = False
    """Of each resource only the first event, in the order asked for."""
    related: tuple[ResourceFilter, ...] = ()
    """Each must hold for one of the related resources."""
    any_resource: tuple[ResourceFilter, ...] = ()
    """Each must hold for the resource or one of the related ones."""
    text: TextQuery | None = None
    ascending: bool = False

    def matches(self, event: Event) -> bool:
        """Whether an event is meant (`distinct` and the order aside)."""
        name = event.event
        return (
            (self.since is None or event.occurred >= self.since)
            and (self.until is None or event.occurred <= self.until)
            and (not self.names or name in self.names)
            and (not self.prefixes or name.startswith(self.prefixes))
            and name not in self.not_names
            and not name.startswith(self.not_prefixes)
            and (not self.ids or event.id in self.ids)
            and self._matches_resources(event)
            and (self.text is None or self.text.matches(event.text))
        )

    def _matches_resources(self, event: Event) -> bool:
        if self.resource != ANY and not self.resource.holds(event.resource):
            return False
        if not all(any(map(wanted.holds, event.related)) for wanted in self.related):
            return False
        if not self.any_resource:
            return True
        everyone = (event.resource, *event.related)
        return all(any(map(wanted.holds, everyone)) for wanted in self.any_resource)


ANY = ResourceFilter()
_KEYS = {"occurred", "event", "resource", "related", "any_resource", "id", "text", "order"}


class _Reader:
    """Reads a filter's parts and notes what is wrong with them."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults

    def refuse(self, where: Location, kind: str, text: str, value: Any) -> None:
        self.faults.append(Fault(where, kind, text, value))

    def part(self, value: Any, name: str, keys: set[str], where: Location) -> dict[str, Any]:
        """The object under `name`, empty when absent; unknown keys are faults."""
        found = value.get(name)
        if found is None:
            return {}
        return self.object(found, keys, (*where, name))

    def object(self, value: Any, keys: set[str], where: Location) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.refuse(where, "model_attributes_type", "must be an object", value)
            return {}
        for key in value.keys() - keys:
            text = "Extra inputs are not permitted"
            self.refuse((*where, key), "extra_forbidden", text, value[key])
        return value

    def texts(self, value: dict[str, Any], name: str, where: Location) -> tuple[str, ...]:
        """A list of strings."""
        found, place = value.get(name), (*where, name)
        if found is None:
            return ()
        if not isinstance(found, list):
            self.refuse(place, "list_type", "must be a list", found)
            return ()
        if len(found) > MAX_ITEMS:
            self.refuse(place, "too_long", f"must have at most {MAX_ITEMS} items", None)
            return ()
        return tuple(dict.fromkeys(self.text(t, (*place, n)) for n, t in enumerate(found)))

    def text(self, value: Any, where: Location, most: int = MAX_LIKE) -> str:
        if not isinstance(value, str):
            self.refuse(where, "string_type", "must be a string", value)
            return ""
        if len(value) > most:
            self.refuse(where, "string_too_long", f"must have at most {most} characters", None)
            return ""
        return value

    def moment(self, value: dict[str, Any], name: str, where: Location) -> int | None:
        if value.get(name) is None:
            return None
        found = parse_moment(value[name])
        if found is None:
            text = "must be a moment in time, as RFC 3339"
            self.refuse((*where, name), "datetime_parsing", text, value[name])
        return found

    def labels(self, value: dict[str, Any], where: Location) -> tuple[LabelSpec, ...]:
        found, place = value.get("labels"), (*where, "labels")
        if found is None:
            return ()
        if not isinstance(found, dict):
            self.refuse(place, "dict_type", "must be an object", found)
            return ()
        if len(found) > MAX_PARTS:
            self.refuse(place, "too_long", f"must have at most {MAX_PARTS} labels", None)
            return ()
        return tuple(self.label(name, wanted, (*place, name)) for name, wanted in found.items())

    def label(self, name: str, wanted: Any, where: Location) -> LabelSpec:
        texts = [wanted] if isinstance(wanted, str) else wanted
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            self.refuse(where, "string_type", "must be a string or a list of strings", wanted)
            return LabelSpec(name)
        if len(texts) > MAX_ITEMS:
            self.refuse(where, "too_long", f"must have at most {MAX_ITEMS} items", None)
            return LabelSpec(name)
        sorted_: dict[str, list[str]] = {"": [], "*": [], "!": [], "!*": []}
        for text in texts:
            sign, rest = ("!", text[1:]) if text.startswith("!") else ("", text)
            star, rest = ("*", rest[:-1]) if rest.endswith("*") else ("", rest)
            sorted_[sign + star].append(rest)
        return LabelSpec(name, *(tuple(sorted_[key]) for key in ("", "*", "!", "!*")))

    def several(
        self, value: dict[str, Any], name: str, keys: set[str], where: Location
    ) -> tuple[ResourceFilter, ...]:
        """One filter of resources, or a list of them."""
        found, place = value.get(name), (*where, name)
        if found is None:
            return ()
        if not isinstance(found, list):
            filters = [self.resource(self.object(found, keys, place), place)]
        elif len(found) > MAX_PARTS:
            self.refuse(place, "too_long", f"must have at most {MAX_PARTS} filters", None)
            return ()
        else:
            filters = [
                self.resource(self.object(one, keys, (*place, n)), (*place, n))
                for n, one in enumerate(found)
            ]
        return tuple(one for one in filters if one != ANY)

    def resource(self, value: dict[str, Any], where: Location) -> ResourceFilter:
        return ResourceFilter(
            self.texts(value, "id", where),
            self.texts(value, "id_prefix", where),
            self.texts(value, "role", where),
            self.pairs(value, where),
            self.labels(value, where),
        )

    def pairs(self, value: dict[str, Any], where: Location) -> tuple[tuple[str, str], ...]:
        found, place = value.get("resources_in_roles"), (*where, "resources_in_roles")
        if found is None:
            return ()
        if isinstance(found, list) and len(found) > MAX_ITEMS:
            self.refuse(place, "too_long", f"must have at most {MAX_ITEMS} pairs", None)
            return ()
        pairs = []
        for pair in found if isinstance(found, list) else [None]:
            if (
                not isinstance(pair, list)
                or len(pair) != 2
                or not all(isinstance(text, str) for text in pair)
            ):
                self.refuse(place, "tuple_type", "must be pairs of an id and a role", found)
                return ()
            pairs.append((pair[0], pair[1]))
        return tuple(pairs)


def parse_event_filter(
    value: Any, faults: list[Fault], where: Location = ("body", "filter")
) -> EventFilter:
    """A filter as it came; what is wrong with it is added to `faults`."""
    read = _Reader(faults)
    value = read.object(value, _KEYS, where)
    occurred = read.part(value, "occurred", {"since", "until"}, where)
    name_keys = {"prefix", "exclude_prefix", "name", "exclude_name"}
    name, name_place = read.part(value, "event", name_keys, where), (*where, "event")
    keys = {"id", "id_prefix", "labels", "distinct"}
    resource, place = read.part(value, "resource", keys, where), (*where, "resource")
    distinct = resource.get("distinct")
    if distinct is not None and not isinstance(distinct, bool):
        read.refuse((*place, "distinct"), "bool_type", "must be true or false", distinct)
    related_keys = {"id", "role", "resources_in_roles", "labels"}
    order = value.get("order", "DESC")
    if order not in ("ASC", "DESC"):
        read.refuse((*where, "order"), "enum", "must be 'ASC' or 'DESC'", order)
    return EventFilter(
        read.moment(occurred, "since", (*where, "occurred")),
        read.moment(occurred, "until", (*where, "occurred")),
        read.texts(name, "prefix", name_place),
        read.texts(name, "exclude_prefix", name_place),
        read.texts(name, "name", name_place),
        read.texts(name, "exclude_name", name_place),
        _parse_ids(read, value, where),
        read.resource(resource, place),
        bool(distinct),
        read.several(value, "related", related_keys, where),
        read.several(value, "any_resource", {"id", "id_prefix", "labels"}, where),
        _parse_query(read, value, where),
        order == "ASC",
    )


def _parse_ids(read: _Reader, value: dict[str, Any], where: Location) -> tuple[str, ...]:
    part, place = read.part(value, "id", {"id"}, where), (*where, "id", "id")
    ids = []
    for number, text in enumerate(read.texts(part, "id", (*where, "id"))):
        found = parse_uuid(text)
        if found is None:
            read.refuse((*place, number), "uuid_parsing", "must be a UUID", text)
        else:
            ids.append(found)
    return tuple(ids)


def _parse_query(read: _Reader, value: dict[str, Any], where: Location) -> TextQuery | None:
    if value.get("text") is None:
        return None
    part, place = read.part(value, "text", {"query"}, where), (*where, "text", "query")
    if "query" not in part:
        read.refuse(place, "missing", "Field required", part)
        return None
    query = parse_text_query(read.text(part["query"], place, MAX_QUERY))
    return None if query == TextQuery() else query


def bounded(wanted: EventFilter, now: int) -> EventFilter:
    """The filter with both ends of its time: what a question about the past means."""
    return wanted._replace(
        since=now - LOOK_BACK if wanted.since is None else wanted.since,
        until=now if wanted.until is None else wanted.until,
    )
