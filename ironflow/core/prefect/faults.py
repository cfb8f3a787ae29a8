"""What is wrong with a request, all of it at once, as a Prefect client expects to be told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ironflow.core.errors import IronflowError

Location = tuple[str | int, ...]
MESSAGE = "Invalid request received."


class Fault(NamedTuple):
    """One thing that is wrong: where, what kind of fault, in words, and what stood there."""

    where: Location
    kind: str
    text: str
    value: Any = None


class InvalidRequest(IronflowError):
    """A request whose body, query or path is not what the route takes."""

    code = "invalid_request"
    status = 422

    def __init__(self, faults: Sequence[Fault], body: Any = None) -> None:
        super().__init__(MESSAGE)
        self.faults, self.body = tuple(faults), body


class Refusal(IronflowError):
    """Any other no: a status, and its reason in words."""

    code = "refused"

    def __init__(self, status: int, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.retry_after = status, detail, retry_after
