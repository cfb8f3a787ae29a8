"""Endpoints that functions are served at, and the breakers in front of them."""

from typing import Annotated

import msgspec

from ironflow.web.wire import Request, View


class EndpointRequest(Request, frozen=True):
    """Where functions are served. What is not given stays as it is registered, or is 10 seconds and
    10 calls at once. `dry_run`: only say what would change.
    """

    url: Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]
    timeout: Annotated[float, msgspec.Meta(gt=0, le=3600)] | None = None
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=100_000)] | None = None
    dry_run: bool = False


class DifferenceView(View, frozen=True):
    """A function that an endpoint serves, or served. `change` is `new`, `changed`, `same`, `moved`
    (from `before`: another endpoint, `pull`) or `gone` (it is served no more and stays registered).
    `code` is the hash of the code that is there, `registered` of what is known here.
    """

    function_id: str
    change: str
    code: str | None
    registered: str | None
    before: str | None


class SurveyView(View, frozen=True):
    """What an endpoint serves. `applied`: it is registered now; `drifts`: something differed."""

    url: str
    sdk: str
    applied: bool
    drifts: bool
    differences: list[DifferenceView]


class EndpointFunctionView(View, frozen=True):
    """A function behind an endpoint: `active` calls are under way, `waiting` runs wait to be
    sent.
    """

    id: str
    version: int
    code: str
    timeout: float
    concurrency: int
    active: int
    waiting: int
    breaker: str


class EndpointView(View, frozen=True):
    """An address, and the functions that are registered for it. `reports`: how it answers. `active`
    calls are under way for all of them together, and at most `concurrency`.
    """

    url: str
    reports: str
    active: int
    concurrency: int
    functions: list[EndpointFunctionView]


class EndpointPage(View, frozen=True):
    """Endpoints, by address."""

    items: list[EndpointView]


class BreakerView(View, frozen=True):
    """A circuit breaker: one for each function and endpoint."""

    key: str
    function_id: str
    endpoint: str
    state: str
    consecutive_fails: int
    open_until: str | None
    last_failure: str
    last_failure_at: str | None


class BreakerPage(View, frozen=True):
    """Circuit breakers, by key."""

    items: list[BreakerView]
