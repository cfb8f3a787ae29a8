"""Port 0: a free one is picked, and said."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
import uvloop

from ironflow.server import Server
from ironflow.settings import Settings


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_server_knows_which_free_port_it_was_given(factory: object, tmp_path: Path) -> None:
    async def main() -> None:
        server = Server(Settings(port=0, db=str(tmp_path / "port.db")))
        await server.start()
        try:
            assert server.port > 0
            assert server.url == f"http://127.0.0.1:{server.port}"
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{server.url}/health") as answer,
            ):
                assert answer.status == 200
        finally:
            await server.stop(grace=0)

    with asyncio.Runner(loop_factory=factory) as runner:  # type: ignore[arg-type]
        runner.run(main())
