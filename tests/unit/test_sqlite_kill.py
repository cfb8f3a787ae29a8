"""SIGKILL while 32 writers write: everything that was acknowledged is there, nothing is there by
half."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ironflow.storage.maintenance.files import check
from ironflow.storage.sqlite.store import open_sqlite

WRITERS = """
import asyncio, os, sys
from ironflow.storage.ports import BLOB_REFS, BLOBS, META, Batch, NewEntry
from ironflow.storage.sqlite.store import open_sqlite

async def main():
    store = await open_sqlite(sys.argv[1], durability=sys.argv[2])

    async def write(name):
        version = len((await store.reader.load(name)).entries)
        while True:
            version += 1
            data = f"{name} {version}".encode()
            entries = [NewEntry(name, version, 1, "k", data)]
            if version % 5 == 0:
                version += 1
                entries.append(NewEntry(name, version, 1, "k", data))
            await store.journal.commit(Batch(entries, [(META, (name, str(version)))], []))
            os.write(1, f"{name} {version}\\n".encode())

    await asyncio.gather(*(write(f"s/{number}") for number in range(32)))

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.blocks_the_loop  # it checks the file with a tool of the command line
@pytest.mark.parametrize("durability", ["full", "process"])
async def test_what_was_acknowledged_survives_kill(tmp_path: Path, durability: str) -> None:
    path = tmp_path / "iron.db"
    acknowledged: dict[str, int] = {}
    for lines in (1, 500, 3000):
        command = [sys.executable, "-c", WRITERS, str(path), durability]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:  # noqa: ASYNC220
            assert child.stdout is not None
            for number, line in enumerate(child.stdout, 1):
                name, version = line.decode().split()
                assert int(version) > acknowledged.get(name, 0)
                acknowledged[name] = int(version)
                if number == lines:
                    child.kill()
        store = await open_sqlite(path, durability=durability)
        entries = await store.reader.tail(0, limit=1_000_000)
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
        versions: dict[str, list[int]] = {}
        for entry in entries:
            versions.setdefault(entry.stream, []).append(entry.version)
        for name, found in versions.items():
            assert found == list(range(1, len(found) + 1))
            # The row was committed with its entries, so it says how far they go.
            assert await store.reader.meta(name) == str(len(found))
        for name, version in acknowledged.items():
            assert len(versions[name]) >= version
        await store.close()
        assert check(path).findings == []
