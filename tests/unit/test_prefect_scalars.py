"""Values as clients say them: what Prefect's own server takes, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from ironflow.core.clock import to_rfc3339
from ironflow.core.prefect.events import decode_events
from ironflow.core.prefect.faults import InvalidRequest
from ironflow.core.prefect.logs import decode_logs
from ironflow.core.prefect.scalars import (
    parse_integer,
    parse_moment,
    parse_number,
    parse_truth,
    parse_uuid,
)

ID = "550e8400-e29b-41d4-a716-446655440000"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (1_700_000_000, "2023-11-14T22:13:20.000000Z"),
        (1_700_000_000.5, "2023-11-14T22:13:20.500000Z"),
        (1_700_000_000_123, "2023-11-14T22:13:20.123000Z"),
        (20_000_000_000, "2603-10-11T11:33:20.000000Z"),
        ("1700000000.25", "2023-11-14T22:13:20.250000Z"),
        ("20200101", "1970-08-22T19:08:21.000000Z"),
        (-5, "1969-12-31T23:59:55.000000Z"),
        ("2020-01-01", "2020-01-01T00:00:00.000000Z"),
        ("2020-01-01 10:00", "2020-01-01T10:00:00.000000Z"),
        ("2020-01-01T10:00:00+0200", "2020-01-01T08:00:00.000000Z"),
        (True, None), (1e30, None), (10**400, None), ("", None), ("soon", None), ([], None),
        ("9" * 5000, None), (float("nan"), None),
    ],
)  # fmt: skip
def test_moments(said: Any, meant: str | None) -> None:
    at = parse_moment(said)
    assert (None if at is None else to_rfc3339(at)) == meant


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (5, 5), (5.0, 5), ("5", 5), (" 5 ", 5), ("5.0", 5), ("1_000", 1000), ("+5", 5), (True, 1),
        (5.5, None), ("5.5", None), ("0x5", None), ("5e3", None), ("", None), (2**63, None),
        (1e300, None), (float("inf"), None), ("9" * 5000, None), (None, None),
    ],
)  # fmt: skip
def test_whole_numbers(said: Any, meant: int | None) -> None:
    found = parse_integer(said)
    assert (found, type(found)) == (meant, type(meant))


def test_numbers_and_truths() -> None:
    assert [parse_number(one) for one in ("5.5", 5, " 5", True)] == [5.5, 5.0, 5.0, 1.0]
    assert {parse_number(one) for one in ("nan", "inf", "x", None, 10**400, "1" * 5000)} == {None}
    assert [parse_truth(one) for one in (1, 0.0, "ON", "n", "false", True)] == [
        *(True, False, True, False, False, True)
    ]
    assert {parse_truth(one) for one in (2, 0.5, "", " true", None, [])} == {None}


@pytest.mark.parametrize(
    "said", [ID, ID.upper(), ID.replace("-", ""), f"{{{ID}}}", f"urn:uuid:{ID}"]
)
def test_uuids(said: str) -> None:
    assert parse_uuid(said) == ID


@pytest.mark.parametrize(
    "said", [f"{{{ID}", f"{ID}}}", f"urn:uuid:{ID}}}", f"URN:UUID:{ID}", f" {ID}", "", 5, None]
)
def test_what_is_no_uuid(said: Any) -> None:
    assert parse_uuid(said) is None


def test_only_the_value_that_was_in_the_way_is_put_right() -> None:
    """What a client only passes on stays as it is, though it looks alike."""
    event = (
        b'[{"id": "{%s}", "event": "e", "occurred": 1700000000, "resource": {"prefect.resource.id":'
        b' "r"}, "payload": {"occurred": 1700000000, "id": "{%s}", "n": 1.50, "truth": "yes"}}]'
    )
    (found,) = decode_events(event % (ID.encode(), ID.encode()), 0)
    assert (found.id, to_rfc3339(found.occurred)) == (ID, "2023-11-14T22:13:20.000000Z")
    assert found.payload.replace(b" ", b"") == (
        b'{"occurred":1700000000,"id":"{%s}","n":1.5,"truth":"yes"}' % ID.encode()
    )


def test_a_refusal_shows_the_body_as_it_came() -> None:
    body = b'[{"name": "n", "level": "20", "message": "m", "timestamp": "soon"}]'
    with pytest.raises(InvalidRequest) as caught:
        decode_logs(body, 0, lambda: ID)
    (fault,) = caught.value.faults
    assert (fault.where, fault.value) == (("body", 0, "timestamp"), "soon")
    assert caught.value.body[0]["level"] == "20"
