"""Starts the real Prefect server (PyPI `prefect`), on SQLite or on a Postgres of its own, and gives
the settings of its client. Tests use it, too.

Migrating an empty database takes longer than all the rest of a start: it is done once and kept
beside the environment.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from environments import READY, Unavailable, python_of
from harness.load import encode_request
from harness.processes import Process, free_port, running
from harness.scenario import Setting
from servers import Served

SQLITE = "Prefect (SQLite)"
POSTGRES = "Prefect (Postgres)"
HEALTH = encode_request("GET", "/api/health", headers={"connection": "close"})
QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    "DO_NOT_TRACK": "1",
}
"""Nothing leaves the machine, and no client starts a server behind our back."""
MIGRATE = (
    "import asyncio, prefect.server.database as database;"
    "asyncio.run(database.provide_database_interface().create_db())"
)
CHECKPOINT = (
    "import sqlite3, sys; connection = sqlite3.connect(sys.argv[1]);"
    "connection.execute('PRAGMA wal_checkpoint(TRUNCATE)'); connection.close()"
)

install = functools.partial(python_of, "prefect-server")


def server_line(python: Path, port: int) -> list[str]:
    """The command that serves the real API: what `prefect server start` runs in the end, but for
    connections that are kept open while they are idle.
    """
    factory = ["--factory", "prefect.server.api.server:create_app"]
    bind = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    bind += ["--timeout-keep-alive", "600"]
    return [str(python), "-m", "uvicorn", *factory, *bind]


def server_environment(home: Path, database: str | None = None) -> dict[str, str]:
    """Settings of a quiet real server; its database lies in `home` when no other is named."""
    return {
        **QUIET,
        "PREFECT_HOME": str(home),
        "PREFECT_API_DATABASE_CONNECTION_URL": database or f"sqlite+aiosqlite:///{home}/prefect.db",
        "PREFECT_SERVER_LOGS_STREAM_OUT_ENABLED": "true",
        "PREFECT_SERVER_LOGS_STREAM_PUBLISHING_ENABLED": "true",
    }


def client_environment(url: str, home: Path) -> dict[str, str]:
    """Settings of a real client of the server at `url`."""
    return {**os.environ, **QUIET, "PREFECT_HOME": str(home), "PREFECT_API_URL": url}


def migrated_database(python: Path) -> Path:
    """An empty SQLite database of the real server, migrated."""

    def make(folder: Path) -> None:
        _call([str(python), "-c", MIGRATE], server_environment(folder))
        _call([str(python), "-c", CHECKPOINT, str(folder / "prefect.db")])

    return _kept(python.parents[1] / "empty-home", make) / "prefect.db"


@contextlib.asynccontextmanager
async def on_sqlite(
    setting: Setting, fill: Callable[[Path], None] | None = None
) -> AsyncIterator[Served]:
    """The real server on SQLite, until the end of the block. `fill` puts data into its database
    before it starts.
    """
    python, home = install(), setting.folder / "home"
    home.mkdir()
    shutil.copy(migrated_database(python), home / "prefect.db")
    if fill is not None:
        fill(home / "prefect.db")
    port = free_port()
    server = Process("prefect", server_line(python, port), setting.folder, server_environment(home))
    async with running(server):
        yield Served(port, (server,), await server.answers(port, HEALTH))


# -- Postgres -------------------------------------------------------------------------------------


def install_with_postgres() -> Path:
    """The interpreter; a migrated cluster lies ready. Raises `Unavailable` without Postgres."""
    python = install()
    migrated_cluster(python)
    return python


def postgres_bin() -> Path:
    """The folder of `initdb` and `postgres`. Raises `Unavailable`."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path is None:
        raise Unavailable("Postgres is not installed (Debian: apt-get install postgresql)")
    return Path(on_path).resolve().parent


def as_postgres(line: list[str]) -> list[str]:
    """The command under an account that Postgres runs as: it refuses root."""
    return ["runuser", "-u", "postgres", "--", *line] if os.geteuid() == 0 else line


def migrated_cluster(python: Path) -> Path:
    """A Postgres data folder with a migrated, empty database `prefect`. Raises `Unavailable`."""
    binaries = postgres_bin()

    def make(folder: Path) -> None:
        # Made elsewhere: the account that Postgres runs as may not enter root's home.
        with tempfile.TemporaryDirectory(prefix="ironflow-postgres-") as place:
            work = Path(place)
            work.chmod(0o755)
            data = work / "data"
            data.mkdir()
            _own(data)
            initdb = [str(binaries / "initdb"), "-D", str(data), "-A", "trust", "-U", "p"]
            _call(as_postgres(initdb))
            with _cluster(binaries, data, work) as port:
                psql = ["psql", "-h", "127.0.0.1", "-p", str(port), "-U", "p", "postgres"]
                _call([*psql, "-c", "CREATE DATABASE prefect"])
                _call([str(python), "-c", MIGRATE], server_environment(work, database_url(port)))
            shutil.copytree(data, folder / "data")

    return _kept(python.parents[1] / "empty-cluster", make) / "data"


def database_url(port: int) -> str:
    """For SQLAlchemy."""
    return f"postgresql+asyncpg://p@127.0.0.1:{port}/prefect"


@contextlib.asynccontextmanager
async def on_postgres(
    setting: Setting, fill: Callable[[int], None] | None = None
) -> AsyncIterator[Served]:
    """The real server on a Postgres cluster of its own with default settings, until the end of the
    block. `fill` gets the cluster's port before the server starts.
    """
    python, binaries = install(), postgres_bin()
    home, data = setting.folder / "home", setting.folder / "data"
    home.mkdir()
    setting.folder.chmod(0o755)
    shutil.copytree(migrated_cluster(python), data)
    _own(data)
    database_port, port = free_port(), free_port()
    database = Process(
        "postgres",
        as_postgres(_postgres_line(binaries, data, database_port, data)),
        setting.folder,
    )
    async with running(database):
        _await_postgres(binaries, database_port)
        if fill is not None:
            fill(database_port)
        environment = server_environment(home, database_url(database_port))
        server = Process("prefect", server_line(python, port), setting.folder, environment)
        async with running(server):
            yield Served(port, (server, database), await server.answers(port, HEALTH))


def _postgres_line(binaries: Path, data: Path, port: int, sockets: Path) -> list[str]:
    options = ["-D", str(data), "-p", str(port), "-k", str(sockets), "-h", "127.0.0.1"]
    return [str(binaries / "postgres"), *options]


@contextlib.contextmanager
def _cluster(binaries: Path, data: Path, folder: Path) -> Iterator[int]:
    port = free_port()
    line = as_postgres(_postgres_line(binaries, data, port, data))
    with (folder / "postgres.log").open("ab") as log:
        process = subprocess.Popen(line, stdout=log, stderr=log)
    try:
        _await_postgres(binaries, port)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def _await_postgres(binaries: Path, port: int) -> None:
    # pg_isready looks once; psql would wait, but only for a server that listens.
    ready = [str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    for _ in range(400):
        if subprocess.run(ready, check=False).returncode == 0:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(["sleep", "0.05"], check=False, timeout=1)
    raise RuntimeError("Postgres does not answer")


def _own(folder: Path) -> None:
    """Give it to the account that Postgres runs as."""
    if os.geteuid() == 0:
        _call(["chown", "-R", "postgres", str(folder)])
    folder.chmod(0o700)


# -- what is kept ---------------------------------------------------------------------------------


def _kept(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder, made once; an interrupted making is begun anew."""
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        mark = folder.with_name(f"{folder.name}.{READY}")
        if not mark.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            print(f"preparing {folder.name} of {folder.parent.name}", file=sys.stderr)
            make(folder)
            mark.touch()
    return folder


def _call(line: list[str], env: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        line,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Unavailable(f"{' '.join(line[:3])} failed: {done.stderr.strip()[-2000:]}")
