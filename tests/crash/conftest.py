"""Real server processes, killed when the test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from server_process import ServerProcess

HERE = Path(__file__).parent


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Makes servers, not started yet, of an application beside this file."""
    servers: list[ServerProcess] = []

    def make(app: str, *options: str) -> ServerProcess:
        servers.append(ServerProcess(tmp_path, HERE / app, *options))
        return servers[-1]

    yield make
    for made in servers:
        if made.process is not None and made.process.poll() is None:
            made.process.kill()
            made.process.wait()


@pytest.fixture
def server(make_server: Callable[..., ServerProcess]) -> ServerProcess:
    """Not started yet."""
    return make_server("kill_app.py")
