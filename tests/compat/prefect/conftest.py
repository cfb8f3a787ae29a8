"""The real Prefect server and ironflow side by side, once for each process of the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from compat.prefect.servers import Ironflow, RealPrefect


@pytest.fixture(scope="session")
def real(
    peer_python: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealPrefect]:
    """The real Prefect server on an empty SQLite database."""
    server = RealPrefect(peer_python("prefect-server"), tmp_path_factory.mktemp("prefect-server"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ironflow]:
    """Ironflow on an empty database."""
    server = Ironflow(tmp_path_factory.mktemp("ironflow"))
    server.start()
    yield server
    server.stop()
