"""`ironflow doctor`: a look at everything that ironflow needs, and a fix for whatever is wrong.

Each check is a function that yields findings; none changes anything but a probe file in a folder
that is removed at once. `broken` means that `serve` would fail or lose something; `warn` that it
would be worse than it could.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sqlite3
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import click
import msgspec

from ironflow import VERSION
from ironflow.cli.client import Client
from ironflow.cli.db import format_size
from ironflow.cli.failures import Failed, Unreachable, wants_traceback
from ironflow.cli.options import Verb, json_option
from ironflow.cli.output import STYLES, console, is_terminal, line, print_items
from ironflow.cli.settings import read_settings, settings_options
from ironflow.core.clock import SystemClock
from ironflow.core.errors import ConfigError, DatabaseInUse, IronflowError, SchemaTooNew
from ironflow.core.terminal import clean
from ironflow.settings import Settings

OLDEST_PYTHON = (3, 11)
PACKAGES = ("aiohttp", "aiosqlite", "click", "croniter", "msgspec", "orjson", "rich", "structlog")
LITTLE_SPACE, NO_SPACE = 1 << 30, 64 << 20
"""Free bytes on the disk of the database."""
BUILT = 1_760_000_000
"""Seconds since the epoch: no clock is right that is before this (2025-10-09)."""

Status = Literal["ok", "warn", "broken"]


class Finding(msgspec.Struct):
    """What one check found, and how to mend it."""

    name: str
    status: Status
    text: str
    fix: str = ""


@click.command("doctor", cls=Verb)
@settings_options
@json_option
def doctor(*, config: str | None, as_json: bool, **flags: Any) -> None:
    """Check everything ironflow needs; name a fix for each finding.

    Takes the options of `serve` and checks what that would use. Exit code 1 when
    something is broken.

    Example:
      ironflow doctor --db /var/lib/ironflow/app.db
    """
    findings = list(examine(flags, config))
    if as_json:
        print_items(msgspec.json.encode(finding) for finding in findings)
    else:
        _print(findings)
    broken = sum(finding.status == "broken" for finding in findings)
    if broken:
        raise Failed(
            "" if as_json else f"{broken} of {len(findings)} checks found something broken"
        )


def examine(flags: dict[str, Any], config: str | None) -> Iterator[Finding]:
    """Every finding, in order."""
    for check in (_python, _packages, _sqlite, _loop, _clock, _cache):
        yield from _guarded(check)
    try:
        loaded = read_settings(flags, config)
    except ConfigError as error:
        yield Finding(
            "settings", "broken", error.message, "correct it; `ironflow config` shows every setting"
        )
        return
    origin = f"from {loaded.file}" if loaded.file else "no settings file"
    given = sum(where != "default" for where in loaded.origins.values())
    yield Finding("settings", "ok", f"{origin}, {given} set")
    for examination in (_address, _server, _database):
        yield from _guarded(partial(examination, loaded.settings))


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A check's findings; one that cannot even be made is a finding, too."""
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001 - whatever is broken here is what the user wants to know
        if wants_traceback():
            traceback.print_exc()
        name = getattr(check, "func", check).__name__.strip("_")
        text = f"cannot be checked: {type(error).__name__}: {error}"
        yield Finding(name, "broken", text, "install ironflow again; --debug shows more")


def _print(findings: list[Finding]) -> None:
    width = max(len(finding.name) for finding in findings) + 2
    out = console() if is_terminal() else None
    for finding in findings:
        fix = f"\n{' ' * (8 + width)}fix: {finding.fix}" if finding.fix else ""
        text = clean(f"{finding.name:<{width}}{finding.text}{fix}")
        if out is None:
            print(f"{finding.status:<8}{text}")
        else:
            out.print(line((f"{finding.status:<8}", STYLES[finding.status]), (text, "")))


# -- the process ----------------------------------------------------------------------------------


def _python() -> Iterator[Finding]:
    here = (
        f"{platform.python_implementation()} {platform.python_version()} on {platform.platform()}"
    )
    if sys.version_info < OLDEST_PYTHON:
        yield Finding("python", "broken", here, "use Python 3.11 or newer")
    elif platform.python_implementation() != "CPython":
        yield Finding("python", "warn", here, "ironflow is tested on CPython")
    else:
        yield Finding("python", "ok", here)


def _packages() -> Iterator[Finding]:
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        yield Finding(
            "packages",
            "broken",
            f"missing: {', '.join(missing)}",
            "install ironflow again with pip",
        )
        return
    versions = ", ".join(name + _version(name) for name in PACKAGES)
    yield Finding("packages", "ok", f"ironflow {VERSION}: {versions}")


def _version(package: str) -> str:
    try:
        return f" {metadata.version(package)}"
    except metadata.PackageNotFoundError:  # there, but without its record
        return ""


def _sqlite() -> Iterator[Finding]:
    from ironflow.storage.sqlite.schema import OLDEST_SQLITE

    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        fix = f"use a Python built with SQLite {oldest} or newer"
        yield Finding("sqlite", "broken", sqlite3.sqlite_version, fix)
    else:
        yield Finding("sqlite", "ok", sqlite3.sqlite_version)


def _loop() -> Iterator[Finding]:
    try:
        importlib.import_module("uvloop")
    except ImportError as error:
        if sys.platform == "win32":
            yield Finding("event loop", "ok", "asyncio's own; uvloop is not for Windows")
        else:
            fix = "pip install uvloop, for more throughput"
            yield Finding("event loop", "warn", f"no uvloop ({error}); asyncio's own is used", fix)
    else:
        yield Finding("event loop", "ok", f"uvloop{_version('uvloop')}")


def _clock() -> Iterator[Finding]:
    now = time.time()
    text = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < BUILT:
        fix = "set the system's clock; sleeps, schedules and ids depend on it"
        yield Finding("clock", "broken", f"it says {text}, which is in the past", fix)
    else:
        yield Finding("clock", "ok", text)


def _cache() -> Iterator[Finding]:
    from ironflow.launch import PYZ

    if PYZ is None:
        yield Finding("program", "ok", f"installed in {Path(__file__).parents[1]}")
        return
    folder = Path(__file__).parents[2]
    if not os.access(folder, os.R_OK):
        yield Finding("program", "broken", f"{folder} cannot be read", "set XDG_CACHE_HOME")
    elif folder.is_relative_to(tempfile.gettempdir()):
        fix = "set XDG_CACHE_HOME to a folder that stays and can be written"
        yield Finding(
            "program", "warn", f"{PYZ} is unpacked in {folder}, which may be emptied", fix
        )
    else:
        yield Finding("program", "ok", f"{PYZ}, unpacked in {folder}")


# -- the server -----------------------------------------------------------------------------------


def _address(settings: Settings) -> Iterator[Finding]:
    from ironflow.first_start import check_address

    try:
        check_address(settings, keys=True)
    except ConfigError as error:
        yield Finding(
            "address", "broken", error.message, "set host to 127.0.0.1, or insecure to true"
        )


def _server(settings: Settings) -> Iterator[Finding]:
    import socket

    host, port = settings.host, settings.port
    place = f"{host} port {port}"
    if port == 0:
        yield Finding("port", "ok", "any free one")
        return
    near = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
    try:
        with socket.create_connection((near, port), timeout=2.0):
            pass
    except TimeoutError:
        yield Finding("port", "warn", f"{place} does not answer in 2 s", "look at your firewall")
        return
    except OSError:
        yield from _free_port(host, port)
        return
    yield from _running_server(
        f"http://[{near}]:{port}" if ":" in near else f"http://{near}:{port}", place
    )


def _free_port(host: str, port: int) -> Iterator[Finding]:
    import socket

    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            if os.name == "posix":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        fix = "choose another --port or --host"
        yield Finding("port", "broken", f"cannot listen on {host} port {port}: {reason}", fix)
    else:
        yield Finding("port", "ok", f"{host} port {port} is free; no server is running there")


def _running_server(url: str, place: str) -> Iterator[Finding]:
    client = Client(url, timeout=5.0)
    try:
        status, body = client.probe("/ready")
        ready = msgspec.json.decode(body, type=_Ready)
        numbers = msgspec.json.decode(client.probe("/api/v1/statistics")[1], type=_Numbers)
    except (Unreachable, msgspec.DecodeError, UnicodeError):
        fix = "stop that process, or choose another --port"
        yield Finding("port", "broken", f"something that is not ironflow listens on {place}", fix)
        return
    finally:
        client.close()
    if status == 200 and not ready.issues:
        yield Finding("server", "ok", f"a healthy server answers on {place}")
        yield _held_up(numbers.event_loop)
    else:
        said = "; ".join(ready.issues) or ready.status
        yield Finding(
            "server", "broken", f"the server on {place} is not ready: {said}", "see its log"
        )


def _held_up(loop: _Loop) -> Finding:
    """Whether functions of the running server compute on its event loop."""
    if not loop.blocked:
        return Finding("blocked", "ok", "nothing holds up the server's event loop")
    last = loop.latest[0]
    who = f"function {last.function_id!r}" if last.function_id else "code of no function"
    step = f", step {last.step!r}" if last.step else ""
    text = (
        f"the server's event loop was held up {loop.blocked} times, {loop.blocked_seconds:.1f} s "
        f"in all; the last time for {last.seconds:.1f} s by {who}{step} at {last.place}"
    )
    fix = 'let it compute in a step with executor="process", or block in one with "thread"'
    return Finding("blocked", "warn", text, fix)


class _Blockage(msgspec.Struct):
    seconds: float
    place: str
    function_id: str | None
    step: str | None


class _Loop(msgspec.Struct):
    blocked: int = 0
    blocked_seconds: float = 0.0
    latest: list[_Blockage] = []


class _Numbers(msgspec.Struct):
    event_loop: _Loop = msgspec.field(default_factory=_Loop)


class _Ready(msgspec.Struct):
    status: str
    issues: list[str] = []


# -- the database ---------------------------------------------------------------------------------


def _database(settings: Settings) -> Iterator[Finding]:
    if settings.db == "memory":
        fix = "set db to a file to keep runs when the process ends"
        yield Finding("database", "warn", "in memory only: nothing survives a restart", fix)
        return
    path = Path(os.path.abspath(settings.db))
    yield from _folder(path.parent)
    if not path.exists():
        yield Finding("database", "ok", f"{path} does not exist yet; `serve` makes it")
        return
    owner = _owner(path)
    if owner is not None:
        yield owner
    yield from _content(path)


def _folder(folder: Path) -> Iterator[Finding]:
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
        free = shutil.disk_usage(existing).free
    except OSError as error:
        fix = f"make {existing} writable for this user, or choose another --db"
        yield Finding("folder", "broken", f"{existing} cannot be written: {error.strerror}", fix)
        return
    text = f"{folder}: {format_size(free)} free"
    if free < NO_SPACE:
        yield Finding("folder", "broken", text, "free some space: writes will soon be refused")
    elif free < LITTLE_SPACE:
        yield Finding("folder", "warn", text, "free some space, or set retention (keep_completed)")
    else:
        yield Finding("folder", "ok", text)


def _owner(path: Path) -> Finding | None:
    """Who has the database, None when there is no lock file to ask."""
    from ironflow.storage.sqlite.lock import ProcessLock

    if not Path(os.path.realpath(path) + ".lock").exists():
        return None
    try:
        ProcessLock(str(path), SystemClock().now()).release()
    except DatabaseInUse as error:
        return Finding("lock", "ok", f"in use by ironflow {error.owner}".rstrip())
    except IronflowError as error:
        return Finding("lock", "broken", error.message, "make the lock file writable for this user")
    return Finding("lock", "ok", "no process has the database open")


def _content(path: Path) -> Iterator[Finding]:
    from ironflow.storage.maintenance.files import database_info

    steps: list[tuple[str, Callable[[Path], Finding]]] = [
        ("database", lambda p: _facts(database_info(p))),
        ("integrity", _integrity),
    ]
    for name, step in steps:
        try:
            yield step(path)
        except (IronflowError, sqlite3.Error, OSError) as error:
            text = getattr(error, "message", "") or str(error)
            yield Finding(name, "broken", text, _remedy(path, error))
            return


def _remedy(path: Path, error: Exception) -> str:
    """What to do about a database that cannot be read."""
    from ironflow.storage.sqlite.errors import Broken

    if isinstance(error, SchemaTooNew):
        return "use that newer ironflow, or the backup that it made before it migrated"
    if not os.access(path, os.R_OK):
        return "run as the user who owns it, or choose another --db"
    if isinstance(error, Broken | sqlite3.Error):
        return "restore a backup (`ironflow db backup` makes them), or choose another --db"
    return "choose another --db"


def _facts(info: Any) -> Finding:
    from ironflow.storage.sqlite.schema import migrations

    text = (
        f"{info.url}: {format_size(info.size)}, schema {info.schema_version}, "
        f"{info.rows.get('runs', 0)} runs, last seq {info.last_seq}"
    )
    if info.schema_version < len(migrations()):
        fix = "`serve` migrates it, after a backup of its own"
        return Finding("database", "warn", text + " (older than this ironflow)", fix)
    return Finding("database", "ok", text)


def _integrity(path: Path) -> Finding:
    from ironflow.storage.maintenance.files import opened
    from ironflow.storage.sqlite.deferral import find_foreign

    with opened(path) as (connection, name):
        found = [row[0] for row in connection.execute("PRAGMA quick_check(5)")]
        foreign = find_foreign(connection, name)
    if found == ["ok"] and foreign:
        text = f"another program has written to the journal: {foreign[0].partition('. ')[0]}"
        fix = f"{foreign[0].partition('. ')[2]}"
        return Finding("journal", "broken", text, fix)
    if found == ["ok"]:
        return Finding("integrity", "ok", "SQLite's quick check found nothing")
    return Finding(
        "integrity",
        "broken",
        f"SQLite's quick check: {'; '.join(found)}"[:300],
        "see `ironflow db check`; restore a backup, or `ironflow db export` what is left",
    )
