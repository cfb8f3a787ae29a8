"""The keys of a server. In memory by their hashes, so that a request costs one look-up; every
change is committed before it is answered.

Whether a request needs a key: always, never, or (`demand` None) once somebody has made one. The key
that a server makes at its first start does not count for that: it is there to be used where keys
are needed.
"""

from __future__ import annotations

import asyncio
import hmac
from typing import TYPE_CHECKING

import msgspec

from ironflow.actors.directory.unbroken import unbroken
from ironflow.core.access.keys import (
    ADMIN,
    KINDS,
    SHOWN,
    Key,
    KeyCreated,
    KeyEntry,
    KeyExpires,
    KeyRolesChanged,
    Unauthenticated,
    hash_secret,
    new_secret,
)
from ironflow.core.clock import SECOND, Clock, Ids
from ironflow.core.errors import Conflict, InvalidInput, NotFound
from ironflow.storage.ports import KEYS, META, Batch, NewEntry

if TYPE_CHECKING:
    from ironflow.storage.ports import Store

USE_EVERY = 60 * SECOND
"""How exactly it is known when a key was used last."""
USED = "key_used/"
_TYPES = {kind: struct for struct, kind in KINDS.items()}


class Keyring:
    """Every key that was ever made here."""

    def __init__(self, store: Store, clock: Clock, ids: Ids) -> None:
        self._store, self._clock, self._ids = store, clock, ids
        self._turn = asyncio.Lock()
        """Whether a change is allowed rests on those before it."""
        self._keys: dict[str, Key] = {}
        self._by_hash: dict[str, Key] = {}
        self._has_own = False
        """A key was made that is not the server's own first one."""
        self.demand: bool | None = None
        """Whether requests need a key; None: once one was made here, whatever became of it."""

    async def start(self) -> None:
        """Load the keys."""
        for key_id in await self._store.reader.keys():
            key = Key(key_id)
            for entry in await self._store.reader.entries(f"key/{key_id}"):
                key.apply(msgspec.json.decode(entry.data, type=_TYPES[entry.kind]), entry.at)
            used = await self._store.reader.meta(f"{USED}{key_id}")
            key.last_used_at = int(used) if used else None
            self._keep(key)

    @property
    def is_needed(self) -> bool:
        """Whether requests must have a key."""
        return self._has_own if self.demand is None else self.demand

    @property
    def is_empty(self) -> bool:
        """Whether no key was ever made."""
        return not self._keys

    def all(self) -> list[Key]:
        """Every key, newest first."""
        return sorted(self._keys.values(), key=lambda key: (key.created_at, key.id), reverse=True)

    @unbroken
    async def change_roles(self, key_id: str, roles: tuple[str, ...]) -> Key:
        """Give a key other roles (their ids) from now on. Raises `NotFound`, `Conflict` for the
        last admin's key that is good for ever.
        """
        async with self._turn:
            key = self.get(key_id)
            if ADMIN not in roles:
                self._check_not_last(key)
            await self._record(key, KeyRolesChanged(roles), self._clock.now())
        return key

    def _check_not_last(self, key: Key) -> None:
        others = (k for k in self._keys.values() if k is not key and k.is_of_admin)
        if key.is_of_admin and not any(k.expires_at is None for k in others):
            raise Conflict("this is the last admin's key: make another one first")

    def check(self, secret: str | None) -> Key:
        """The key with this secret, which is good now. Raises `Unauthenticated`."""
        if not secret:
            raise Unauthenticated("a key is needed: Authorization: Bearer ifkey_...")
        key, now = self.find(secret), self._clock.now()
        if key is None:
            raise Unauthenticated("the key is unknown")
        if not key.is_good(now):
            why = key.reason or "it was good for a while only"
            raise Unauthenticated(f"key {key.shown}... has ended: {why}")
        if key.last_used_at is None or now - key.last_used_at > USE_EVERY:
            self._note_use(key, now)
        return key

    def find(self, secret: str | None) -> Key | None:
        """The key with this secret, whether or not it is good for anything."""
        if not secret:
            return None
        digest = hash_secret(secret)
        key = self._by_hash.get(digest)
        return key if key is not None and hmac.compare_digest(key.hash, digest) else None

    def _note_use(self, key: Key, now: int) -> None:
        """Remember roughly when a key was used: exactly would be a write for each request."""
        key.last_used_at = now
        row = (META, (f"{USED}{key.id}", str(now)))
        self._store.journal.append(Batch([], [row], []), lambda error: None)

    @unbroken
    async def create(
        self,
        name: str,
        roles: tuple[str, ...],
        *,
        lifetime: float | None = None,
        bootstrap: bool = False,
        environment: str | None = None,
    ) -> tuple[Key, str]:
        """A new key, and the secret that is shown this once. `lifetime` in seconds; `environment`:
        the id of the one that it is bound to. One that makes keys necessary must be an admin's for
        all environments. Raises `InvalidInput`.
        """
        async with self._turn:
            if not self.is_needed and not bootstrap and (ADMIN not in roles or environment):
                field = "role" if ADMIN not in roles else "environment"
                raise InvalidInput(
                    field, "the first key must be an admin's for all: others are made with it"
                )
            return await self._create(name, roles, lifetime, None, bootstrap, environment)

    async def _create(
        self,
        name: str,
        roles: tuple[str, ...],
        lifetime: float | None,
        replaces: str | None,
        bootstrap: bool,
        environment: str | None,
    ) -> tuple[Key, str]:
        secret, now = new_secret(), self._clock.now()
        expires_at = None if lifetime is None else now + int(lifetime * SECOND)
        key = Key(self._ids.new())
        entry = KeyCreated(
            name,
            roles[0],
            secret[:SHOWN],
            hash_secret(secret),
            expires_at,
            replaces,
            bootstrap,
            environment,
            roles if len(roles) > 1 else (),
        )
        await self._record(key, entry, now)
        return key, secret

    @unbroken
    async def revoke(self, key_id: str, reason: str = "revoked", grace: float = 0.0) -> Key:
        """Refuse a key from now on, or after `grace` seconds. Raises `NotFound`, `Conflict` for the
        last admin's key that is good for ever.
        """
        async with self._turn:
            key, now = self.get(key_id), self._clock.now()
            self._check_not_last(key)
            await self._record(key, KeyExpires(now + int(grace * SECOND), reason), now)
        return key

    @unbroken
    async def rotate(self, key_id: str, grace: float) -> tuple[Key, str]:
        """A new key like this one, which stays good for `grace` seconds. Raises `NotFound`,
        `Conflict` when it has ended already.
        """
        async with self._turn:
            old, now = self.get(key_id), self._clock.now()
            if not old.is_good(now):
                raise Conflict(f"key {old.shown}... has ended; make a new one")
            made, secret = await self._create(
                old.name,
                old.roles,
                None if old.expires_at is None else (old.expires_at - old.created_at) / SECOND,
                old.id,
                old.bootstrap,
                old.environment,
            )
            await self._record(old, KeyExpires(now + int(grace * SECOND), "rotated"), now)
        return made, secret

    @unbroken
    async def end_keys_of(self, environment: str) -> None:
        """Refuse every key that is bound to an environment."""
        async with self._turn:
            now = self._clock.now()
            for key in [k for k in self._keys.values() if k.environment == environment]:
                if key.is_good(now):
                    await self._record(key, KeyExpires(now, "its environment was deleted"), now)

    def get(self, key_id: str) -> Key:
        """One key. Raises `NotFound`."""
        key = self._keys.get(key_id)
        if key is None:
            raise NotFound("key", key_id)
        return key

    async def _record(self, key: Key, entry: KeyEntry, now: int) -> None:
        """Commit first: a key that opens something, or no longer does, is on the disk."""
        stream, data = f"key/{key.id}", msgspec.json.encode(entry)
        batch = Batch([NewEntry(stream, key.version + 1, now, KINDS[type(entry)], data)], [], [])
        if isinstance(entry, KeyCreated):
            batch.puts.append((KEYS, (key.id, now)))
        await self._store.journal.commit(batch)
        key.apply(entry, now)
        self._keep(key)

    def _keep(self, key: Key) -> None:
        self._keys[key.id] = self._by_hash[key.hash] = key
        self._has_own = self._has_own or not key.bootstrap
