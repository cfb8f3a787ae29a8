"""JSON Schema as flow parameters and typed inputs are described with it: the same verdicts as the
reference implementation's."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironflow.core.errors import InvalidInput
from ironflow.core.prefect.schemas import find_mismatches

values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 2.0, "", "a", "ab"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=5,
)
numbers = st.integers(-2, 3)
kinds = st.sampled_from(["object", "array", "string", "boolean", "null", "number", "integer"])
schemas = st.recursive(
    st.booleans()
    | st.fixed_dictionaries({"type": kinds | st.lists(kinds, min_size=1, max_size=2, unique=True)})
    | st.fixed_dictionaries({"const": values})
    | st.fixed_dictionaries({"enum": st.lists(values, min_size=1, max_size=3)})
    | st.fixed_dictionaries({"pattern": st.sampled_from(["a", "^b", "[ab]$"])})
    | st.fixed_dictionaries({"$ref": st.just("#/$defs/known")})
    | st.fixed_dictionaries(
        {},
        optional={
            "minimum": numbers,
            "exclusiveMaximum": numbers,
            "multipleOf": st.integers(1, 2),
            "minLength": st.integers(0, 2),
            "maxItems": st.integers(0, 2),
            "minProperties": st.integers(0, 2),
            "uniqueItems": st.booleans(),
            "required": st.lists(st.sampled_from("ab"), max_size=2, unique=True),
        },
    ),
    lambda inner: (
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=3)})
        | st.fixed_dictionaries({"allOf": st.lists(inner, min_size=1, max_size=3)})
        | st.fixed_dictionaries({"oneOf": st.lists(inner, min_size=1, max_size=3)})
        | st.fixed_dictionaries({"not": inner})
        | st.fixed_dictionaries({"if": inner, "then": inner, "else": inner})
        | st.fixed_dictionaries({"items": inner, "prefixItems": st.lists(inner, min_size=1)})
        | st.fixed_dictionaries({"properties": st.dictionaries(st.sampled_from("ab"), inner)})
        | st.fixed_dictionaries({"additionalProperties": inner})
    ),
    max_leaves=6,
)


@given(schema=schemas, value=values)
def test_the_verdict_is_that_of_the_reference_implementation(schema: Any, value: Any) -> None:
    whole = {"allOf": [schema], "$defs": {"known": {"type": "string", "maxLength": 1}}}
    expected = jsonschema.Draft202012Validator(whole).is_valid(value)
    assert (not find_mismatches(whole, value)) == expected


def test_mismatches_say_where_and_why() -> None:
    schema = {
        "type": "object",
        "required": ["c"],
        "properties": {"a": {"type": "integer"}, "b": {"items": {"type": "string"}}},
        "additionalProperties": False,
    }
    found = find_mismatches(schema, {"a": "x", "b": ["y", 1], "d": None})
    assert [(one.path, one.text) for one in found] == [
        (("c",), "'c' is a required property"),
        (("a",), "'x' is not of type 'integer'"),
        (("b", 1), "1 is not of type 'string'"),
        ((), "Additional properties are not allowed ('d' was unexpected)"),
    ]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "nonsense"}, "'nonsense' is not a type"),
        ({"type": 5}, "5 is not a type"),
        ({"$ref": "#"}, "refers to itself for ever"),
        ({"$ref": "#/nowhere"}, "names nothing in the schema"),
        ({"$ref": "https://example.com/x"}, "is not a reference within the schema"),
        ({"properties": []}, "properties must be an object"),
        ({"required": "a"}, "required must be a list"),
        ({"minProperties": "a"}, "minProperties must be a number"),
        ({"allOf": [5]}, "5 is not a schema"),
        ({"allOf": [{"anyOf": [{"not": True}] * 200}] * 200}, "takes more than"),
        ({"additionalProperties": {"pattern": "("}}, "is not a pattern"),
    ],
)
def test_what_is_no_schema_is_refused(schema: Any, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        find_mismatches(schema, {"a": "x"})
