"""Retry policies answer as LlamaIndex's do; what is expected was seen there."""

from __future__ import annotations

from typing import Any

import pytest

from ironflow.workflows import retry_policy as p

policy = p.retry_policy
VALUE, KEY = ValueError("rate limit hit"), KeyError("k")
CAUSED = RuntimeError("outer")
CAUSED.__cause__ = VALUE


@pytest.mark.parametrize(
    ("condition", "taken"),
    [
        (p.retry_always(), [VALUE, KEY, CAUSED]),
        (p.retry_never(), []),
        (p.retry_if_exception(lambda error: "rate" in str(error)), [VALUE]),
        (p.retry_if_exception_type(ValueError), [VALUE]),
        (p.retry_if_exception_type((KeyError, OSError)), [KEY]),
        (p.retry_if_not_exception_type(KeyError), [VALUE, CAUSED]),
        (p.retry_unless_exception_type(ValueError), [KEY, CAUSED]),
        (p.retry_if_exception_message(message="rate limit hit"), [VALUE]),
        (p.retry_if_exception_message(match="rate.*"), [VALUE]),
        (p.retry_if_not_exception_message(match="rate.*"), [KEY, CAUSED]),
        (p.retry_if_exception_cause_type(ValueError), [CAUSED]),
        (p.retry_if_exception_type(ValueError) & p.retry_if_exception_message(match="x"), []),
        (
            p.retry_if_exception_type(KeyError) | p.retry_if_exception_message(match="r"),
            [VALUE, KEY],
        ),
    ],
)
def test_conditions(condition: Any, taken: list[Exception]) -> None:
    found = [error for error in (VALUE, KEY, CAUSED) if policy(condition).next(0, 1, error) == 5]
    assert found == taken


MANY = p.stop_after_attempt(9)


@pytest.mark.parametrize(
    ("made", "pauses"),
    [
        (policy(), [5, 5, None, None, None]),
        (policy(wait=p.wait_none(), stop=p.stop_after_attempt(2)), [0, None, None, None, None]),
        (
            policy(wait=p.wait_exponential(multiplier=2, max=30, min=1), stop=MANY),
            [2, 4, 8, 16, 30],
        ),
        (policy(wait=p.wait_exponential(), stop=p.stop_never()), [1, 2, 4, 8, 60]),
        (policy(wait=p.wait_incrementing(start=1, increment=2, max=6), stop=MANY), [1, 3, 5, 6, 6]),
        (policy(wait=p.wait_chain(p.wait_fixed(1), p.wait_fixed(2)), stop=MANY), [1, 2, 2, 2, 2]),
        (policy(wait=p.wait_fixed(1) + p.wait_incrementing(1, 1), stop=MANY), [2, 3, 4, 5, 9]),
        (policy(stop=p.stop_after_delay(4)), [5, 5, 5, None, None]),
        (policy(wait=p.wait_fixed(2), stop=p.stop_before_delay(4)), [2, 2, None, None, None]),
        (
            policy(stop=p.stop_after_attempt(2) | p.stop_after_delay(100)),
            [5, None, None, None, None],
        ),
        (policy(stop=p.stop_after_attempt(2) & p.stop_after_delay(100)), [5, 5, 5, 5, 5]),
        (p.ConstantDelayRetryPolicy(), [5, 5, None, None, None]),
        (p.ConstantDelayRetryPolicy(maximum_attempts=2, delay=1), [1, None, None, None, None]),
        (
            p.ExponentialBackoffRetryPolicy(
                initial_delay=1, multiplier=3, max_delay=10, maximum_attempts=5, jitter=False
            ),
            [1, 3, 9, 10, None],
        ),
    ],
)
def test_pauses(made: Any, pauses: list[float | None]) -> None:
    """After so many seconds and attempts."""
    asked = ((0, 1), (1, 2), (3, 3), (5, 4), (99, 8))
    assert [made.next(elapsed, attempts, VALUE) for elapsed, attempts in asked] == pauses


@pytest.mark.parametrize(
    ("wait", "least", "most"),
    [
        (p.wait_random(1, 3), 1, 3),
        (p.wait_random_exponential(multiplier=1, max=10), 0, 8),
        (p.wait_full_jitter(), 0, 8),
        (p.wait_exponential_jitter(initial=1, max=20, jitter=2), 8, 10),
    ],
)
def test_pauses_that_are_drawn_follow_the_seed(wait: Any, least: float, most: float) -> None:
    drawn = [policy(wait=wait, stop=MANY).next(0, 4, VALUE, seed=seed) for seed in range(50)]
    assert drawn == [policy(wait=wait, stop=MANY).next(0, 4, VALUE, seed=n) for n in range(50)]
    assert all(pause is not None and least <= pause <= most for pause in drawn)
    assert len(set(drawn)) > 40
