"""Keys, and what whoever has one may do. Pure.

A key is shown once and stored as its SHA-256. Its roles decide (`core.access.policies`), built-in
ones (`core.access.actions`) or one's own.
"""

from __future__ import annotations

import hashlib
import secrets

import msgspec

from ironflow.core.errors import IronflowError

PREFIX = "ifkey_"
ADMIN = "admin"
SHOWN = 14
"""Characters of a key that lists show: enough to tell keys apart."""


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
    role: str
    shown: str
    hash: str
    expires_at: int | None = None
    replaces: str | None = None
    """The id of the key that was rotated."""
    bootstrap: bool = False
    """Made by the server itself at its first start."""
    environment: str | None = None
    """The id of the environment that it is bound to; None: good in all of them."""
    roles: tuple[str, ...] = ()
    """The ids of all its roles, where it has more than `role`."""


class KeyExpires(msgspec.Struct, frozen=True):
    """From this moment (microseconds) on the key is refused: it was revoked, or rotated."""

    at: int
    reason: str


class KeyRolesChanged(msgspec.Struct, frozen=True):
    """The key has these roles (their ids) from now on."""

    roles: tuple[str, ...]


KeyEntry = KeyCreated | KeyExpires | KeyRolesChanged
KINDS: dict[type, str] = {
    KeyCreated: "key.created",
    KeyExpires: "key.expires",
    KeyRolesChanged: "key.roles_changed",
}


class Key(msgspec.Struct):
    """A key as the journal knows it; the key itself is known to nobody here."""

    id: str
    name: str = ""
    roles: tuple[str, ...] = ()
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
                self.name, self.shown = entry.name, entry.shown
                self.roles = entry.roles or (entry.role,)
                self.hash, self.created_at, self.expires_at = entry.hash, at, entry.expires_at
                self.bootstrap, self.environment = entry.bootstrap, entry.environment
            case KeyExpires():
                known = self.expires_at
                self.expires_at = entry.at if known is None else min(known, entry.at)
                self.reason = entry.reason
            case KeyRolesChanged():
                self.roles = entry.roles

    @property
    def is_of_admin(self) -> bool:
        """Whether whoever has it can do everything here."""
        return ADMIN in self.roles and self.environment is None

    def is_good(self, now: int) -> bool:
        """Whether it opens anything now."""
        return self.expires_at is None or now < self.expires_at


def new_secret() -> str:
    """A fresh key: 128 random bits."""
    return PREFIX + secrets.token_hex(16)


def hash_secret(secret: str) -> str:
    """What is stored of a key. Its bits are random, so a slow hash would protect nothing more."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
