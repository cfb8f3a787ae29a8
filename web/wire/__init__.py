"""The native API's bodies: nothing but fields. Requests are decoded into these, responses encoded
from them, and `/openapi.json` is generated from them.

Moments are RFC 3339 text in UTC with `Z`; durations are seconds. Unknown fields in requests are
refused. Here is what all of them share; the modules are named for what their bodies are about.
"""

import msgspec


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of request bodies."""


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Base of response bodies."""


class Problem(View, frozen=True, omit_defaults=True, kw_only=True):
    """An error (RFC 9457). `field` names the part of the request that is wrong, where one is."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    field: str | None = None
    retry_after: float | None = None
    error: str | None = None
    """The code in the worker protocol's own spelling, where it has one."""


class Refused(View, frozen=True):
    """An error where the clients of the path know no problem documents."""

    detail: str
