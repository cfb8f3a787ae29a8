"""Keys, and what whoever has one may do. Pure.

A key is shown once and stored as its SHA-256. Its role decides: a *viewer* reads; a *worker* also
executes functions for the server; a *developer* also starts and steers runs; an *admin* also makes
and revokes keys.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Literal, get_args

import msgspec

from ironflow.core.errors import IronflowError

Role = Literal["admin", "developer", "worker", "viewer"]
Right = Literal["read", "work", "operate", "administer"]
ROLES: tuple[Role, ...] = get_args(Role)
PREFIX = "ifkey_"
SHOWN = 14
"""Characters of a key that lists show: enough to tell keys apart."""

RIGHTS: dict[Role, frozenset[Right]] = {
    "viewer": frozenset({"read"}),
    "worker": frozenset({"read", "work"}),
    "developer": frozenset({"read", "work", "operate"}),
    "admin": frozenset({"read", "work", "operate", "administer"}),
}


class Unauthenticated(IronflowError):
    """No key, or one that is unknown, revoked or expired."""

    code = "unauthenticated"
    status = 401


class PermissionDenied(IronflowError):
    """The key is good, but not for this."""

    code = "permission_denied"
    status = 403


class KeyCreated(msgspec.Struct, frozen=True, omit_defaults=True):
    """A key exists. `expires_at` in microseconds, None for never."""

    name: str
    role: Role
    shown: str
    hash: str
    expires_at: int | None = None
    replaces: str | None = None
    """The id of the key that was rotated."""
    bootstrap: bool = False
    """Made by the server itself at its first start."""
    environment: str | None = None
    """The id of the environment that it is bound to; None: good in all of them."""


class KeyExpires(msgspec.Struct, frozen=True):
    """From this moment (microseconds) on the key is refused: it was revoked, or rotated."""

    at: int
    reason: str


KeyEntry = KeyCreated | KeyExpires
KINDS: dict[type, str] = {KeyCreated: "key.created", KeyExpires: "key.expires"}


class Key(msgspec.Struct):
    """A key as the journal knows it; the key itself is known to nobody here."""

    id: str
    name: str = ""
    role: Role = "viewer"
    shown: str = ""
    hash: str = ""
    created_at: int = 0
    expires_at: int | None = None
    reason: str = ""
    """Why it ended early."""
    bootstrap: bool = False
    environment: str | None = None
    last_used_at: int | None = None
    version: int = 0

    def apply(self, entry: KeyEntry, at: int) -> None:
        """Change by one entry that was recorded at `at`."""
        self.version += 1
        match entry:
            case KeyCreated():
                self.name, self.role, self.shown = entry.name, entry.role, entry.shown
                self.hash, self.created_at, self.expires_at = entry.hash, at, entry.expires_at
                self.bootstrap, self.environment = entry.bootstrap, entry.environment
            case KeyExpires():
                known = self.expires_at
                self.expires_at = entry.at if known is None else min(known, entry.at)
                self.reason = entry.reason

    @property
    def is_of_admin(self) -> bool:
        """Whether whoever has it can do everything here."""
        return self.role == "admin" and self.environment is None

    def is_good(self, now: int) -> bool:
        """Whether it opens anything now."""
        return self.expires_at is None or now < self.expires_at


def new_secret() -> str:
    """A fresh key: 128 random bits."""
    return PREFIX + secrets.token_hex(16)


def hash_secret(secret: str) -> str:
    """What is stored of a key. Its bits are random, so a slow hash would protect nothing more."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


_OPEN = frozenset({"/health", "/ready", "/metrics", "/api/health", "/api/ready", "/api/hello"})
_ADMINISTERED = (
    "/api/v1/keys", "/api/v1/orgs", "/api/v1/projects", "/api/v1/environments",
)  # fmt: skip
_FOR_WORKERS = (
    "/api/v1/workers/",
    "/api/v1/values/",
    "/ironflow.v1.IronflowService/RegisterFunction",
)
_READS_BY_POST = ("/filter", "/count", "/history", "/lateness", "/paginate", "/next-runs")
"""Ends of the paths of Prefect's API under which POST reads."""


def right_for(method: str, path: str) -> Right | None:
    """What a request needs; None for what anybody may ask."""
    if method == "OPTIONS" or path in _OPEN or _is_for_leases(path):
        return None
    if method in ("GET", "HEAD") and path.startswith(("/workflows/ui", "/static/")):
        return None  # the page itself; what it asks for needs a key
    if path.startswith(_ADMINISTERED):
        return "administer"
    if path.startswith(_FOR_WORKERS) or (method == "PUT" and path.startswith("/api/v1/functions/")):
        return "work"
    if method in ("GET", "HEAD"):
        return "read"
    is_prefect = path.startswith("/api/") and not path.startswith("/api/v1/")
    if is_prefect and (path.rstrip("/").endswith(_READS_BY_POST) or "/count" in path):
        return "read"
    return "operate"


def _is_for_leases(path: str) -> bool:
    """Whether a lease token is the credential: reports of endpoints."""
    return path.endswith("/api/v1/executions/commands") and (
        path.startswith(("/api/v1/", "/environments/"))
    )
