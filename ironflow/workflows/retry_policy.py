"""When a failed step is tried again: conditions, pauses and limits that can be combined.

`retry_policy(retry=..., wait=..., stop=...)`; conditions combine with `&` and `|`, pauses with `+`,
limits with `|` and `&`. Any object with `next(elapsed_time, attempts, error)` that returns seconds
or None will do; with a keyword `seed` (a number that is the same on every replay) its chance is
repeatable. `attempts` counts failures from 1, all durations are seconds or `timedelta`.
"""

from __future__ import annotations

import inspect
import math
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol, runtime_checkable

from ironflow.core.clock import FOREVER

Seconds = int | float | timedelta
Kinds = type[BaseException] | tuple[type[BaseException], ...]


@dataclass(frozen=True)
class RetryInfo:
    """What a step may know of its own attempts; `retry_number` is 0 the first time."""

    retry_number: int
    elapsed_seconds: float
    last_exception: Exception | None
    last_failed_at: datetime | None


@runtime_checkable
class RetryPolicy(Protocol):
    """Decides after a failure: seconds until the next attempt, or None for none."""

    def next(
        self, elapsed_time: float, attempts: int, error: Exception, *, seed: int | None = None
    ) -> float | None:
        """See the class."""
        ...


def ask(policy: Any, elapsed: float, attempts: int, error: Exception, seed: int) -> float | None:
    """What a policy says, whether or not it knows of seeds. Raises what it raises, and `ValueError`
    for what is no duration.
    """
    parameters = inspect.signature(policy.next).parameters
    takes_seed = "seed" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    said = (
        policy.next(elapsed, attempts, error, seed=seed)
        if takes_seed
        else policy.next(elapsed, attempts, error)
    )
    if said is None:
        return None
    pause = _seconds(said)
    if math.isnan(pause):
        raise ValueError("a retry policy must say seconds, or None; not nan")
    return min(max(pause, 0.0), FOREVER)


def _seconds(value: Seconds) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


@dataclass(frozen=True)
class Failed:
    """What conditions, pauses and limits look at."""

    elapsed: float
    attempts: int
    error: BaseException
    rng: random.Random
    pause: float = 0.0


# -- conditions -----------------------------------------------------------------------------------


class RetryCondition(ABC):
    """Whether a failure is worth another attempt."""

    @abstractmethod
    def holds(self, failed: Failed) -> bool:
        """See the class."""

    def __and__(self, other: RetryCondition) -> RetryCondition:
        return retry_all(self, other)

    def __or__(self, other: RetryCondition) -> RetryCondition:
        return retry_any(self, other)


class retry_if_exception(RetryCondition):  # noqa: N801 - the field's names
    """If `predicate(error)` holds."""

    def __init__(self, predicate: Callable[[BaseException], bool]) -> None:
        self.predicate = predicate

    def holds(self, failed: Failed) -> bool:
        """See the class."""
        return bool(self.predicate(failed.error))


class retry_always(retry_if_exception):  # noqa: N801
    """After every failure."""

    def __init__(self) -> None:
        super().__init__(lambda _: True)


class retry_never(retry_if_exception):  # noqa: N801
    """After no failure."""

    def __init__(self) -> None:
        super().__init__(lambda _: False)


class retry_if_exception_type(retry_if_exception):  # noqa: N801
    """If the error is one of these."""

    def __init__(self, exception_types: Kinds = Exception) -> None:
        super().__init__(lambda error: isinstance(error, exception_types))


class retry_if_not_exception_type(retry_if_exception):  # noqa: N801
    """Unless the error is one of these."""

    def __init__(self, exception_types: Kinds = Exception) -> None:
        super().__init__(lambda error: not isinstance(error, exception_types))


class retry_unless_exception_type(retry_if_not_exception_type):  # noqa: N801
    """The same as `retry_if_not_exception_type`."""


class retry_if_exception_cause_type(retry_if_exception):  # noqa: N801
    """If one of these is among the causes of the error."""

    def __init__(self, exception_types: Kinds = Exception) -> None:
        def caused(error: BaseException) -> bool:
            cause = error.__cause__
            while cause is not None:
                if isinstance(cause, exception_types):
                    return True
                cause = cause.__cause__
            return False

        super().__init__(caused)


class retry_if_exception_message(retry_if_exception):  # noqa: N801
    """If the error says exactly `message`, or `match` (a pattern) fits its beginning."""

    def __init__(
        self, message: str | None = None, match: str | re.Pattern[str] | None = None
    ) -> None:
        if (message is None) == (match is None):
            raise TypeError("give either message or match")
        pattern = re.compile(match) if match is not None else None
        super().__init__(
            lambda error: (
                bool(pattern.match(str(error))) if pattern is not None else str(error) == message
            )
        )


class retry_if_not_exception_message(retry_if_exception):  # noqa: N801
    """Unless the error says so."""

    def __init__(
        self, message: str | None = None, match: str | re.Pattern[str] | None = None
    ) -> None:
        says = retry_if_exception_message(message, match).predicate
        super().__init__(lambda error: not says(error))


class retry_any(RetryCondition):  # noqa: N801
    """If one of the conditions holds."""

    def __init__(self, *retries: RetryCondition) -> None:
        self.retries = retries

    def holds(self, failed: Failed) -> bool:
        """See the class."""
        return any(condition.holds(failed) for condition in self.retries)


class retry_all(RetryCondition):  # noqa: N801
    """If all of the conditions hold."""

    def __init__(self, *retries: RetryCondition) -> None:
        self.retries = retries

    def holds(self, failed: Failed) -> bool:
        """See the class."""
        return all(condition.holds(failed) for condition in self.retries)


# -- pauses ---------------------------------------------------------------------------------------


class WaitStrategy(ABC):
    """How long to pause before the next attempt."""

    @abstractmethod
    def seconds(self, failed: Failed) -> float:
        """See the class."""

    def __add__(self, other: WaitStrategy) -> WaitStrategy:
        return wait_combine(self, other)


class wait_fixed(WaitStrategy):  # noqa: N801
    """Always the same."""

    def __init__(self, wait: Seconds) -> None:
        self.wait = _seconds(wait)

    def seconds(self, failed: Failed) -> float:
        """See the class."""
        return self.wait


class wait_none(wait_fixed):  # noqa: N801
    """Not at all."""

    def __init__(self) -> None:
        super().__init__(0)


class wait_random(WaitStrategy):  # noqa: N801
    """Anything between `min` and `max`."""

    def __init__(self, min: Seconds = 0.0, max: Seconds = 1.0) -> None:
        self.least, self.most = _seconds(min), _seconds(max)

    def seconds(self, failed: Failed) -> float:
        """See the class."""
        return failed.rng.uniform(self.least, self.most)


class wait_exponential(WaitStrategy):  # noqa: N801
    """`multiplier * exp_base ** (attempts - 1)`, between `min` and `max`."""

    def __init__(
        self,
        multiplier: float = 1.0,
        exp_base: float = 2.0,
        max: Seconds = 60.0,
        min: Seconds = 0.0,
    ) -> None:
        self.multiplier, self.base = multiplier, exp_base
        self.most, self.least = _seconds(max), _seconds(min)

    def seconds(self, failed: Failed) -> float:
        """See the class."""
        try:
            pause = self.multiplier * self.base ** (failed.attempts - 1)
        except OverflowError:
            pause = self.most
        return max(self.least, min(pause, self.most))


class wait_random_exponential(wait_exponential):  # noqa: N801
    """Anything up to what `wait_exponential` says ("full jitter")."""

    def seconds(self, failed: Failed) -> float:
        """See the class."""
        return failed.rng.uniform(self.least, max(self.least, super().seconds(failed)))


class wait_full_jitter(wait_random_exponential):  # noqa: N801
    """The same as `wait_random_exponential`."""


class wait_exponential_jitter(WaitStrategy):  # noqa: N801
    """`initial * exp_base ** (attempts - 1)` and up to `jitter` more, at most `max`."""

    def __init__(
        self,
        initial: float = 1.0,
        exp_base: float = 2.0,
        max: float = 60.0,
        jitter: float = 1.0,
    ) -> None:
        self.exponential = wait_exponential(initial, exp_base, max)
        self.most, self.jitter = max, jitter

    def seconds(self, failed: Failed) -> float:
        """See the class."""
        pause = self.exponential.seconds(failed) + failed.rng.uniform(0, self.jitter)
        return min(pause, self.most)


class wait_incrementing(WaitStrategy):  # noqa: N801
    """`start`, then `increment` more each time, at most `max`."""

    def __init__(
        self,
        start: Seconds = 0.0,
        increment: Seconds = 100.0,
        max: Seconds = float("inf"),
    ) -> None:
        self.start, self.increment, self.most = _seconds(start), _seconds(increment), _seconds(max)

    def seconds(self, failed: Failed) -> float:
        """See the class."""
        return max(0.0, min(self.start + self.increment * (failed.attempts - 1), self.most))


class wait_chain(WaitStrategy):  # noqa: N801
    """One strategy after the other, the last one for ever."""

    def __init__(self, *strategies: WaitStrategy) -> None:
        if not strategies:
            raise ValueError("wait_chain needs at least one strategy")
        self.strategies = strategies

    def seconds(self, failed: Failed) -> float:
        """See the class."""
        index = min(failed.attempts, len(self.strategies)) - 1
        return self.strategies[index].seconds(failed)


class wait_combine(WaitStrategy):  # noqa: N801
    """The sum."""

    def __init__(self, *strategies: WaitStrategy) -> None:
        self.strategies = strategies

    def seconds(self, failed: Failed) -> float:
        """See the class."""
        return sum(strategy.seconds(failed) for strategy in self.strategies)


# -- limits ---------------------------------------------------------------------------------------


class StopCondition(ABC):
    """Whether it is enough."""

    @abstractmethod
    def reached(self, failed: Failed) -> bool:
        """See the class."""

    def __and__(self, other: StopCondition) -> StopCondition:
        return stop_all(self, other)

    def __or__(self, other: StopCondition) -> StopCondition:
        return stop_any(self, other)


class stop_after_attempt(StopCondition):  # noqa: N801
    """After so many attempts, the first one included."""

    def __init__(self, max_attempt_number: int) -> None:
        self.limit = max_attempt_number

    def reached(self, failed: Failed) -> bool:
        """See the class."""
        return failed.attempts >= self.limit


class stop_after_delay(StopCondition):  # noqa: N801
    """Once so much time has passed since the first attempt began."""

    def __init__(self, max_delay: Seconds) -> None:
        self.limit = _seconds(max_delay)

    def reached(self, failed: Failed) -> bool:
        """See the class."""
        return failed.elapsed >= self.limit


class stop_before_delay(stop_after_delay):  # noqa: N801
    """As soon as the next attempt would come too late."""

    def reached(self, failed: Failed) -> bool:
        """See the class."""
        return failed.elapsed + failed.pause >= self.limit


class stop_never(StopCondition):  # noqa: N801
    """Never."""

    def reached(self, failed: Failed) -> bool:
        """See the class."""
        return False


class stop_any(StopCondition):  # noqa: N801
    """When one of the limits is reached."""

    def __init__(self, *stops: StopCondition) -> None:
        self.stops = stops

    def reached(self, failed: Failed) -> bool:
        """See the class."""
        return any(stop.reached(failed) for stop in self.stops)


class stop_all(StopCondition):  # noqa: N801
    """When all of the limits are reached."""

    def __init__(self, *stops: StopCondition) -> None:
        self.stops = stops

    def reached(self, failed: Failed) -> bool:
        """See the class."""
        return all(stop.reached(failed) for stop in self.stops)


# -- policies -------------------------------------------------------------------------------------


class ComposedPolicy:
    """A condition, a pause and a limit."""

    def __init__(self, retry: RetryCondition, wait: WaitStrategy, stop: StopCondition) -> None:
        self.retry, self.wait, self.stop = retry, wait, stop

    def next(
        self, elapsed_time: float, attempts: int, error: Exception, *, seed: int | None = None
    ) -> float | None:
        """Seconds until the next attempt, None for none."""
        failed = Failed(elapsed_time, attempts, error, random.Random(seed))
        if not self.retry.holds(failed):
            return None
        pause = self.wait.seconds(failed)
        failed = Failed(elapsed_time, attempts, error, failed.rng, pause)
        return None if self.stop.reached(failed) else pause


def retry_policy(
    retry: RetryCondition | None = None,
    wait: WaitStrategy | None = None,
    stop: StopCondition | None = None,
) -> RetryPolicy:
    """A policy; by default every failure, 5 s apart, three attempts in all."""
    return ComposedPolicy(
        retry or retry_always(), wait or wait_fixed(5), stop or stop_after_attempt(3)
    )


def ConstantDelayRetryPolicy(maximum_attempts: int = 3, delay: float = 5) -> RetryPolicy:  # noqa: N802
    """The same pause between a number of attempts."""
    return retry_policy(wait=wait_fixed(delay), stop=stop_after_attempt(maximum_attempts))


def ExponentialBackoffRetryPolicy(  # noqa: N802
    maximum_attempts: int = 5,
    initial_delay: float = 1.0,
    multiplier: float = 2.0,
    max_delay: float = 60.0,
    jitter: bool = True,
) -> RetryPolicy:
    """Pauses that grow by `multiplier`, with chance if `jitter`."""
    kind = wait_random_exponential if jitter else wait_exponential
    wait = kind(multiplier=initial_delay, exp_base=multiplier, max=max_delay)
    return retry_policy(wait=wait, stop=stop_after_attempt(maximum_attempts))
