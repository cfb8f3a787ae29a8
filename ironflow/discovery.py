"""How local tools find a local server: `.ironflow/engine.json` in its folder or one above.

The file is `{"version": 1, "url", "environment", "pid"}`, and may have an `api_key`. It is believed
only when it names a loopback address over plain HTTP: a file that came with somebody's repository
must not send keys elsewhere. The nearest file wins even when it is of no use.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

FOLDER, FILE = ".ironflow", "engine.json"
VERSION = 1
MAX_BYTES = 64 * 1024
DEFAULT_URL = "http://127.0.0.1:4200"
OPT_OUT = "IRONFLOW_NO_DISCOVERY"
URL, KEY, ENVIRONMENT = "IRONFLOW_SERVER_URL", "IRONFLOW_API_KEY", "IRONFLOW_ENV"
PROBE_SECONDS = 0.5


class Found(msgspec.Struct, frozen=True):
    """A server, and how to speak to it. Empty texts where nothing is known."""

    url: str = DEFAULT_URL
    api_key: str = ""
    environment: str = ""


class _File(msgspec.Struct, omit_defaults=True):
    version: int
    url: str
    api_key: str = ""
    environment: str = ""
    pid: int = 0


def locate(env: Mapping[str, str] | None = None, folder: Path | None = None) -> Found:
    """The server that variables name, else the one of the nearest file, else the default address.

    A file is not looked for when a variable names a server or a key.
    """
    env = os.environ if env is None else env
    url, key = env.get(URL, ""), env.get(KEY, "")
    environment = env.get(ENVIRONMENT, "")
    if url or key or env.get(OPT_OUT) == "1":
        return Found(url or DEFAULT_URL, key, environment)
    try:
        file = _nearest(folder or Path.cwd())
    except OSError:  # the folder is gone
        file = None
    if file is None:
        return Found(environment=environment)
    return Found(file.url, file.api_key, environment or file.environment)


def credentials(url: str) -> Found:
    """What goes along to the server at `url`: a file's key and environment only to its server."""
    found = locate()
    if found.url.rstrip("/") == url.rstrip("/"):
        return found
    return Found(url, os.environ.get(KEY, ""), os.environ.get(ENVIRONMENT, ""))


def is_loopback(host: str | None) -> bool:
    """Whether a host is this machine."""
    if not host:
        return False
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def publish(folder: Path, url: str, environment: str) -> bool:
    """Say in `folder` that this process serves at `url`; False when another one that lives is named
    there. Raises `OSError` when the file cannot be written.
    """
    path = folder / FOLDER / FILE
    known = _read(path)
    if known is not None and known.url != url and _is_alive(known):
        return False
    path.parent.mkdir(mode=0o700, exist_ok=True)
    ignore = path.parent / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")
    data = msgspec.json.encode(_File(VERSION, url, environment=environment, pid=os.getpid()))
    # Made with 0600, whole before it has its name.
    descriptor, part = tempfile.mkstemp(prefix=f".{FILE}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data + b"\n")
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise
    return True


def withdraw(folder: Path) -> None:
    """Take back what this process has published."""
    path = folder / FOLDER / FILE
    known = _read(path)
    if known is not None and known.pid == os.getpid():
        with contextlib.suppress(OSError):
            path.unlink()


def _nearest(folder: Path) -> _File | None:
    for place in (folder, *folder.parents):
        path = place / FOLDER / FILE
        if path.is_file():
            return _read(path)
    return None


def _read(path: Path) -> _File | None:
    """The file, if it is one that may be believed."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            return None
        found = msgspec.json.decode(data, type=_File)
        parts = urlsplit(found.url)
        _ = parts.port  # raises for what is no port
    except (OSError, ValueError, RecursionError, msgspec.DecodeError):
        return None
    good = found.version == VERSION and parts.scheme == "http" and is_loopback(parts.hostname)
    return found if good else None


def _is_alive(file: _File) -> bool:
    """Whether the process that wrote a file still listens."""
    if os.name != "nt" and file.pid:
        try:
            os.kill(file.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # it is another user's
    parts = urlsplit(file.url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 80), PROBE_SECONDS):
            return True
    except OSError:
        return False
