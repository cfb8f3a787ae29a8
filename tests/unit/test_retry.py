from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironflow.core.errors import InvalidInput
from ironflow.core.runs.retry import RetryPolicy


def test_the_default_doubles_from_one_second_to_five_minutes() -> None:
    policy = RetryPolicy(jitter=0.0, max_attempts=20)
    delays = [policy.delay(attempt, "run") for attempt in range(1, 12)]
    assert delays == pytest.approx([1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300])
    assert RetryPolicy().max_attempts == 3


def test_jitter_depends_on_seed_and_attempt_only() -> None:
    policy = RetryPolicy(jitter=0.5)
    assert policy.delay(1, "run-1") == policy.delay(1, "run-1")
    assert len({policy.delay(1, f"run-{n}") for n in range(50)}) == 50
    # A value that must never change: moments in old journals were computed with it.
    assert policy.delay(1, "run-1") == pytest.approx(0.8264529667847066)


@given(st.integers(1, 10**6), st.text(), st.floats(1, 1000), st.floats(0, 1), st.floats(0, 10**6))
def test_a_delay_is_within_its_bounds(
    attempt: int, seed: str, factor: float, jitter: float, initial: float
) -> None:
    policy = RetryPolicy(initial_delay=initial, factor=factor, jitter=jitter, max_delay=300)
    delay = policy.delay(attempt, seed.encode("utf-8", "replace").decode())
    assert 0 <= delay <= 300
    if attempt == 1 and initial <= 300:
        assert initial * (1 - jitter) * 0.999 <= delay <= initial * (1 + jitter) * 1.001


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, RetryPolicy()),
        (True, RetryPolicy()),
        (False, RetryPolicy(max_attempts=1)),
        (5, RetryPolicy(max_attempts=5)),
        (
            {"max_attempts": 2, "initial_delay": "500ms"},
            RetryPolicy(max_attempts=2, initial_delay=0.5),
        ),
        ({"max_delay": timedelta(minutes=1)}, RetryPolicy(max_delay=60)),
        ({"no_retry_on": ["ValueError"]}, RetryPolicy(no_retry_on=("ValueError",))),
        ({"no_retry_on": (KeyError, "X")}, RetryPolicy(no_retry_on=("KeyError", "X"))),
        (RetryPolicy(factor=3), RetryPolicy(factor=3)),
    ],
)
def test_what_users_may_give(value: object, expected: RetryPolicy) -> None:
    assert RetryPolicy.of(value) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (0, "on.retry.max_attempts"),
        (-3, "on.retry.max_attempts"),
        ({"max_attempts": 1.5}, "on.retry.max_attempts"),
        ({"max_attempts": True}, "on.retry.max_attempts"),
        ({"initial_delay": "soon"}, "on.retry.initial_delay"),
        ({"max_delay": -1}, "on.retry.max_delay"),
        ({"factor": 0.5}, "on.retry.factor"),
        ({"factor": float("nan")}, "on.retry.factor"),
        ({"jitter": 2}, "on.retry.jitter"),
        ({"jitter": "much"}, "on.retry.jitter"),
        ({"no_retry_on": [1]}, "on.retry.no_retry_on"),
        ({"attempts": 3}, "on.retry.attempts"),
        ("3", "on.retry"),
        (3.0, "on.retry"),
    ],
)
def test_what_is_refused_and_where(value: object, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        RetryPolicy.of(value, "on.retry")  # type: ignore[arg-type]
    assert caught.value.field == field


def test_a_policy_is_plain_data() -> None:
    policy = RetryPolicy(max_attempts=7, no_retry_on=("ValueError",), jitter=0.25)
    data = msgspec.json.encode(policy)
    assert msgspec.json.decode(data, type=RetryPolicy) == policy
    assert msgspec.json.decode(b"{}", type=RetryPolicy) == RetryPolicy()
