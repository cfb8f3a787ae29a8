"""Every kind of store, for the tests of what each of them promises."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ironflow.storage.memory.store import MemoryStore
from ironflow.storage.ports import Store
from ironflow.storage.sqlite.store import open_sqlite


@pytest.fixture(params=["memory", "full", "process"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "memory":
        opened: Store = MemoryStore()
    else:
        opened = await open_sqlite(tmp_path / "iron.db", durability=request.param)
    yield opened
    await opened.close()
