"""One server for the tests of each file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from workflow_server.process import Served


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The server that the tests of one file share."""
    server = Served(tmp_path_factory.mktemp("served")).start()
    yield server
    assert server.stop() == 0
