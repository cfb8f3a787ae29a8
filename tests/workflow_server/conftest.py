"""One server and one browser for the tests of each file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright import sync_api as playwright
from workflow_server.desk import Desk, find_chromium
from workflow_server.http_client import Http, serving
from workflow_server.process import Served

from ironflow.workflows.server import WorkflowServer


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


@pytest.fixture(params=["memory", "sqlite"])
async def http(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Http]:
    db = "memory" if request.param == "memory" else str(tmp_path / "http.db")
    async with serving(WorkflowServer(db=db)) as opened:
        yield opened


@pytest.fixture
async def memory_http() -> AsyncIterator[Http]:
    async with serving(WorkflowServer(db="memory")) as opened:
        yield opened
