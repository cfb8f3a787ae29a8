"""One server and one browser for the tests of each file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright import sync_api as playwright
from workflow_server.desk import Desk, find_chromium
from workflow_server.process import Served


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The server that the tests of one file share."""
    server = Served(tmp_path_factory.mktemp("served")).start()
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = find_chromium()
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def desk(browser: Any, served: Served) -> Iterator[Desk]:
    opened = Desk(browser, served.url)
    yield opened
    opened.close()
