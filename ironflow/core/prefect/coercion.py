"""Values that a client says in other words than usual: `"true"` for a truth, seconds for a moment,
braces around a UUID. They are taken as Prefect's own server takes them.

What is said as usual does not pay for that: a body is decoded strictly first, and only where that
fails is the value that was in the way put into its usual form.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar, cast

import msgspec

from ironflow.core.clock import to_rfc3339
from ironflow.core.prefect.faults import (
    Fault,
    InvalidRequest,
    find_fault,
    look_up,
    parse_leniently,
)
from ironflow.core.prefect.scalars import (
    parse_integer,
    parse_moment,
    parse_number,
    parse_truth,
    parse_uuid,
)
from ironflow.core.values.codec import MAX_DEPTH

T = TypeVar("T")

MOST_COERCIONS = 32
"""Values of one body that are put into their usual form: the body is decoded anew for each."""

_EXPECTED = re.compile(r"Expected `([^`]+)`")
_encode = msgspec.json.Encoder().encode


def decode_leniently(decode: Callable[[Any], T], data: bytes | str) -> T:
    """`decode(data)`, with what a client said in other words. Raises `InvalidRequest`."""
    try:
        return decode(data)
    except msgspec.ValidationError as error:
        return _decode_again(decode, data, error)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        fault = Fault(("body",), "json_invalid", f"JSON decode error: {error}", {})
        raise InvalidRequest([fault], parse_leniently(data)) from error
    except RecursionError as error:
        text = f"is nested deeper than {MAX_DEPTH} levels"
        raise InvalidRequest([Fault(("body",), "recursion", text)]) from error


def _decode_again(
    decode: Callable[[Any], T], data: bytes | str, error: msgspec.ValidationError
) -> T:
    value = parse_leniently(data)
    for _ in range(MOST_COERCIONS):
        if not put_right(value, find_fault(error, "body", value)):
            break
        try:
            return decode(_encode(value))
        except msgspec.ValidationError as another:
            error = another
        except (UnicodeEncodeError, RecursionError):
            break
    fault, body = find_fault(error, "body", value), parse_leniently(data)
    raise InvalidRequest([fault], body) from error


def put_right(value: Any, fault: Fault) -> bool:
    """Put what is at fault inside `value` into its usual form; whether there is one."""
    _, *where = fault.where
    if not where:
        return False
    holder, usual = look_up(value, tuple(where[:-1])), _usual_form(fault)
    if usual is None or not isinstance(holder, dict | list):
        return False
    cast(Any, holder)[where[-1]] = usual
    return True


def _usual_form(fault: Fault) -> Any:
    given = fault.value
    if fault.kind == "uuid_parsing":
        found = parse_uuid(given)
        return found if found != given else None
    expected = _EXPECTED.match(fault.text)
    kinds = ["datetime"] if fault.kind == "datetime_parsing" else []
    if expected is not None:
        kinds = expected.group(1).split(" | ")
    for kind in kinds:
        found = _COERCIONS[kind](given) if kind in _COERCIONS else None
        if found is not None:
            return found
    return None


def _write_moment(given: Any) -> str | None:
    at = parse_moment(given)
    return None if at is None else to_rfc3339(at)


_COERCIONS: dict[str, Callable[[Any], Any]] = {
    "bool": parse_truth,
    "int": parse_integer,
    "float": parse_number,
    "datetime": _write_moment,
}
