"""Bodies and query strings of the Prefect face: text as typed values, or a refusal in Prefect's
shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from ironflow.core.prefect.coercion import MOST_COERCIONS, decode_leniently, put_right
from ironflow.core.prefect.faults import Fault, InvalidRequest, find_fault
from ironflow.core.values.json_text import is_too_deep

Q = TypeVar("Q")


@lru_cache
def body_decoder(kind: Any, *, optional: bool = False) -> Callable[[bytes], Any]:
    """Decodes bodies to `kind`, all of it new each time; with `optional` an absent one is the
    type's default. What it gives raises `InvalidRequest`.
    """
    strict = msgspec.json.Decoder(kind).decode

    def decode_text(data: bytes) -> Any:
        if is_too_deep(data):
            raise RecursionError
        if not data.isascii():
            data.decode()  # what is only passed on must be text, too
        return strict(data)

    def decode(data: bytes) -> Any:
        if data.strip():
            return decode_leniently(decode_text, data)
        if optional:
            return kind()
        raise InvalidRequest([Fault(("body",), "missing", "Field required")])

    return decode


def query_decoder(kind: type[Q]) -> Callable[[Mapping[str, str]], Q]:
    """Reads queries as `kind`; parameters that it does not know are passed over. What it gives
    raises `InvalidRequest`.
    """
    names = {field.encode_name for field in msgspec.structs.fields(kind)}  # type: ignore[arg-type]

    def decode(query: Mapping[str, str]) -> Q:
        values = {name: text for name, text in query.items() if name in names}
        left = MOST_COERCIONS
        while True:
            try:
                return msgspec.convert(values, kind, strict=False)
            except msgspec.ValidationError as error:
                fault, left = find_fault(error, "query", values), left - 1
                if not left or not put_right(values, fault):
                    raise InvalidRequest([fault]) from error

    return decode
