"""The actor that keeps saved searches: one at a time, so that a name exists once."""

from __future__ import annotations

from typing import Any

from ironflow.actors.environment import Environment
from ironflow.actors.kernel.actor import Actor, Envelope
from ironflow.core.errors import NotFound
from ironflow.core.messages import Message
from ironflow.storage.ports import Batch
from ironflow.storage.relational.prefect_events import SAVED_SEARCHES

_BY_NAME = "SELECT id FROM saved_searches WHERE name = ?"
_BY_ID = "SELECT 1 FROM saved_searches WHERE id = ?"


class SaveSearch(Message[tuple[str, bool]], frozen=True):
    """Save a search under its name; answers its id and whether it is new. `filters` is JSON."""

    name: str
    filters: str


class DeleteSearch(Message[None], frozen=True):
    """Delete a search. Refused with `NotFound`."""

    id: str


class SearchKeeper(Actor):
    """There is one."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment

    def receive(self, message: Message[Any], envelope: Envelope) -> object:
        """Understands `SaveSearch` and `DeleteSearch`."""
        match message:
            case SaveSearch():
                return self._save(message)
            case DeleteSearch():
                return self._delete(message.id)
            case _:
                return super().receive(message, envelope)

    async def _save(self, message: SaveSearch) -> tuple[str, bool]:
        env = self.environment
        found = await env.store.reader.select(_BY_NAME, (message.name,), quick=True)
        search_id = found[0][0] if found else env.ids.new()
        now = env.clock.now()
        row = (search_id, message.name, now, now, message.filters)
        await env.store.journal.commit(Batch([], [(SAVED_SEARCHES, row)], []))
        return search_id, not found

    async def _delete(self, search_id: str) -> None:
        env = self.environment
        if not await env.store.reader.select(_BY_ID, (search_id,), quick=True):
            raise NotFound("saved search", search_id)
        await env.store.journal.commit(Batch([], [], [(SAVED_SEARCHES, (search_id,))]))
