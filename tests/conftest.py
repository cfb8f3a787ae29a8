"""What every test shares: hypothesis measures no time, because the machine may be busy, and in CI
it draws the same examples each time, so that a change is judged by what it changed. Elsewhere it
looks for new ones; what it finds becomes an `@example`.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import environments
import loop_guard
import pytest
from hypothesis import HealthCheck, settings
from store_rows import Opener

from ironflow.storage.sqlite.store import SqliteStore, open_sqlite

# Servers by the hundred are made and dropped, and hold few cycles.
gc.set_threshold(10_000, 10, 10)
# Some machines are told to keep no compiled modules. Tests start hundreds of processes, and each
# would compile all that it imports.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# In the background of a shell Ctrl-C is ignored, by all that is started, too: tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TESTS = Path(__file__).parent
GUARDED = (
    "api/", "contract/", "laws/", "unit/test_embedded", "unit/test_engine", "unit/test_kernel",
    "unit/test_sqlite", "workflow_server/test_h", "workflow_server/test_server",
)  # fmt: skip
DEAR = ("simulation", "e2e", "crash", "workflow_server", "compat", "proof", "laws")
"""Folders whose files take longest. They are tried first: no file that takes a minute is begun when
the other processes have nothing left to do.
"""
CALM = [HealthCheck.too_slow]
settings.register_profile("search", deadline=None, suppress_health_check=CALM)
settings.register_profile(
    "ci", deadline=None, suppress_health_check=CALM, derandomize=True, database=None
)
settings.load_profile("ci" if os.environ.get("CI") else "search")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The dearest folders first; within a folder in the order of names."""

    def rank(item: pytest.Item) -> int:
        folder = item.path.relative_to(TESTS).parts[0]
        return DEAR.index(folder) if folder in DEAR else len(DEAR)

    items.sort(key=rank)


def pytest_collection_finish() -> None:
    """What is there by now stays to the end: thousands of tests, and modules. The garbage collector
    would look through it again and again, for a fifth of the time that all tests take.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Generator[None, Any, Any]:
    """Reports travel between processes as UTF-8; what hostile input left in a log may be none."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture(autouse=True)
def event_loop_stays_free(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test of the API, the engine or storage in which ironflow's code blocks the event loop,
    unless it is marked `blocks_the_loop`.
    """
    place = request.path.relative_to(TESTS).as_posix()
    if not place.startswith(GUARDED) or request.node.get_closest_marker("blocks_the_loop"):
        yield
        return
    with loop_guard.guarded() as found:
        yield
    if found:
        pytest.fail("\n".join(dict.fromkeys(found)), pytrace=False)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A command that a test calls in its own process sets up logging for good; later tests look for
    records that it would then drop.
    """
    loggers = logging.getLogger(), logging.getLogger("ironflow")
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="session")
def peer_python() -> Callable[[str], Path]:
    """Give the interpreter of a peer's own environment (`bench/environments.py`), installed when it
    is first asked for. Where it cannot be had the test is skipped with the reason; in CI it fails.
    """

    def find(name: str) -> Path:
        try:
            return environments.python_of(name)
        except environments.Unavailable as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"{name} cannot be installed: {error}")

    return find


@pytest.fixture(scope="session")
def prefect_contract(peer_python: Callable[[str], Path]) -> Any:
    """Hold an answer against the real Prefect server's OpenAPI document:
    `prefect_contract.check("POST", "/flows/", body)`.
    """
    from compat.prefect.contract import Contract
    from compat.prefect.servers import openapi_of

    return Contract(openapi_of(peer_python("prefect-server")))


@pytest.fixture
async def open_store() -> AsyncIterator[Opener]:
    """`open_sqlite`, and a close at the end, since threads of a failed test would keep pytest
    alive."""
    stores: list[SqliteStore] = []

    async def open_one(*args: Any, **options: Any) -> SqliteStore:
        stores.append(await open_sqlite(*args, **options))
        return stores[-1]

    yield open_one
    for store in stores:
        await store.close()
