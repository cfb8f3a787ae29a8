"""When a failed attempt is made again: a policy as plain data.

The delay before the next attempt depends on the policy, the attempt's number and a seed only, so
that a replay, another process or a test computes the very same moment. Delays are seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from ironflow.core.durations import parse_duration
from ironflow.core.errors import InvalidInput

MAX_ATTEMPTS = 1_000_000


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How often and how late a failure is tried again.

    `initial_delay` and `max_delay` are seconds (text like "500ms" and `timedelta` are taken too),
    `jitter` is the fraction by which a delay varies both ways, `no_retry_on` names exception types
    (their subclasses included) that are final. Raises `InvalidInput` for values that make no sense.
    """

    max_attempts: int = 3
    initial_delay: float = 1.0
    factor: float = 2.0
    max_delay: float = 300.0
    jitter: float = 0.1
    no_retry_on: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_whole(self.max_attempts, "retry.max_attempts")
        set_field = msgspec.structs.force_setattr
        for name in ("initial_delay", "max_delay"):
            set_field(self, name, parse_duration(getattr(self, name), f"retry.{name}"))
        set_field(self, "factor", _check_number(self.factor, "retry.factor", 1.0, 1000.0))
        set_field(self, "jitter", _check_number(self.jitter, "retry.jitter", 0.0, 1.0))
        set_field(self, "no_retry_on", _names(self.no_retry_on))

    def delay(self, attempt: int, seed: str) -> float:
        """Seconds between the failure of `attempt` (the first is 1) and the next attempt."""
        try:
            base = min(self.initial_delay * self.factor ** (attempt - 1), self.max_delay)
        except OverflowError:
            base = self.max_delay if self.initial_delay else 0.0
        digest = hashlib.sha256(f"{seed}/{attempt}".encode()).digest()
        swing = int.from_bytes(digest[:8], "big") / 2**63 - 1.0
        return min(base * (1.0 + self.jitter * swing), self.max_delay)

    @classmethod
    def of(
        cls, value: RetryPolicy | int | Mapping[str, object] | None, field: str = "retry"
    ) -> RetryPolicy:
        """The policy that a user means: a number of attempts, a mapping, False for one attempt.

        None and True are the default policy. Raises `InvalidInput`, its field below `field`.
        """
        try:
            return cls._of(value)
        except InvalidInput as error:
            raise InvalidInput(field + error.field.removeprefix("retry"), error.reason) from None

    @classmethod
    def _of(cls, value: object) -> RetryPolicy:
        if isinstance(value, RetryPolicy):
            return value
        if value is None or value is True:
            return cls()
        if value is False:
            return cls(max_attempts=1)
        if isinstance(value, int):
            return cls(max_attempts=value)
        if isinstance(value, Mapping):
            for name in value:
                if name not in cls.__struct_fields__:
                    known = ", ".join(cls.__struct_fields__)
                    raise InvalidInput(f"retry.{name}", f"is unknown; a policy has {known}")
            return cls(**value)
        raise InvalidInput(
            "retry",
            f"is {type(value).__name__}: give a RetryPolicy, a number of attempts, "
            "a mapping of its fields, or False",
        )


def _check_whole(value: object, field: str) -> None:
    if type(value) is not int or not 1 <= value <= MAX_ATTEMPTS:
        raise InvalidInput(
            field, f"must be a whole number from 1 to {MAX_ATTEMPTS}, not {value!r:.50}"
        )


def _check_number(value: object, field: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InvalidInput(field, f"must be a number from {low:g} to {high:g}, not {value!r:.50}")
    return float(value)


def _names(kinds: object) -> tuple[str, ...]:
    """Exception types as their names; a class stands for its name."""
    if isinstance(kinds, str | type):
        kinds = (kinds,)
    if isinstance(kinds, list | tuple | set | frozenset):
        names = tuple(kind.__name__ if isinstance(kind, type) else kind for kind in kinds)
        if all(isinstance(name, str) and name for name in names):
            return names
    raise InvalidInput(
        "retry.no_retry_on", "must be names of exception types, like ('ValueError',)"
    )
