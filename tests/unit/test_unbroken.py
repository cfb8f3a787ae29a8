"""Keys, the directory and functions whose change is on its way to the disk when the client hangs
up: what became durable holds, and the next change is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from engine_world import play
from fake_worker import definition

from ironflow import testing
from ironflow.actors.directory.keyring import Keyring
from ironflow.actors.directory.registrar import Registrar
from ironflow.actors.kernel.virtual_time import in_virtual_time, virtual_clock
from ironflow.core.access.directory import Directory, ProjectPut
from ironflow.core.access.keys import ADMIN, Unauthenticated
from ironflow.core.clock import Ids
from ironflow.core.errors import Conflict
from ironflow.storage.memory.store import MemoryStore


async def hang_up(change: Awaitable[Any]) -> None:
    """Ask for a change, and be gone while it is written."""
    asked = asyncio.ensure_future(change)
    await asyncio.sleep(0.01)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await asyncio.sleep(1)


async def make_keyring() -> Keyring:
    clock = virtual_clock()
    keyring = Keyring(MemoryStore(delay=lambda: 0.1), clock, Ids(clock))
    await keyring.start()
    return keyring


@in_virtual_time
async def test_a_key_that_was_revoked_is_refused_though_nobody_heard_the_answer() -> None:
    keyring = await make_keyring()
    _, kept = await keyring.create("kept", (ADMIN,))
    lost, secret = await keyring.create("lost", ("viewer",))
    await hang_up(keyring.revoke(lost.id))
    with pytest.raises(Unauthenticated):
        keyring.check(secret)
    keyring.check(kept)
    await hang_up(keyring.create("unheard", ("viewer",)))
    assert [key.name for key in keyring.all()] == ["unheard", "lost", "kept"]


@in_virtual_time
async def test_of_two_last_admins_that_are_revoked_at_once_one_stays() -> None:
    keyring = await make_keyring()
    keys = [(await keyring.create(name, (ADMIN,)))[0] for name in ("one", "two")]
    done = await asyncio.gather(*(keyring.revoke(k.id) for k in keys), return_exceptions=True)
    assert sorted(type(each).__name__ for each in done) == ["Conflict", "Key"]
    assert sum(key.is_good(virtual_clock().now() + 1) for key in keys) == 1


@in_virtual_time
async def test_a_key_that_is_rotated_twice_at_once_has_one_successor() -> None:
    keyring = await make_keyring()
    key, _ = await keyring.create("one", (ADMIN,))
    done = await asyncio.gather(
        *(keyring.rotate(key.id, 0.0) for _ in range(2)), return_exceptions=True
    )
    assert [type(each) for each in done] == [tuple, Conflict]
    assert len(keyring.all()) == 2


@in_virtual_time
async def test_the_directory_goes_on_after_a_client_that_hung_up() -> None:
    registrar = Registrar(MemoryStore(delay=lambda: 0.1), virtual_clock())
    await registrar.start()

    def create(name: str) -> Any:
        def decide(directory: Directory) -> ProjectPut:
            return ProjectPut(name, name)

        return registrar.record(decide)

    await hang_up(create("first"))
    await create("second")
    assert {"first", "second"} <= set(registrar.directory.projects)


def test_a_function_that_was_paused_is_paused_though_nobody_heard_the_answer() -> None:
    async def main(world: testing.World) -> None:
        await world.engine.register_remote(definition())
        world.store.journal.delay = lambda: 0.1
        await hang_up(world.engine.catalog.set_status("remote", "paused"))
        world.store.journal.delay = None
        run_id = await world.start("remote")
        assert world.engine.pool.held_up(run_id) == "function remote is paused"

    play(main, functions=[])
