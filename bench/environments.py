"""Peers in environments of their own: what tests and benchmarks run beside ironflow is installed
from PyPI or npm, never into our own environment, and kept between runs.

They lie under `$IRONFLOW_PEERS`, else `~/.cache/ironflow/peers`, named for what was asked for and
the interpreter. An interrupted installation is begun anew; two processes never install the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

INSTALL_SECONDS = 900
"""For one environment; npm packages bring binaries of a hundred megabytes."""
READY = "ready"
"""The file that says that an installation came to its end."""

PYTHON_PEERS = {
    "prefect": ("prefect>=3,<4",),
    # Its server does not start with newer ones.
    "prefect-server": ("prefect>=3,<4", "fastapi<0.151", "sqlalchemy<2.1"),
    "llama-client": ("llama-agents-client",),
    "llama-server": ("llama-agents-server", "llama-index-workflows"),
    "llama-2.11": ("llama-index-workflows[client,server]==2.11.7",),
    "dbos": ("dbos", "aiohttp", "uvloop"),
    "ironflow-py": ("ironflow-py", "uvicorn"),
}
"""What each peer is installed from."""
NODE_PEERS = {
    "restate": ("@restatedev/restate-server", "@restatedev/restate-sdk"),
}


class Unavailable(Exception):
    """A peer cannot be installed here; the message says why, in one line."""


def python_of(name: str) -> Path:
    """The interpreter of a Python peer, installed at the first call; `$PEER_PREFECT` names
    another one for `prefect`, and so on. Raises `Unavailable`.
    """
    chosen = os.environ.get(f"PEER_{name.upper().replace('-', '_')}")
    if chosen:
        return Path(chosen)
    packages = PYTHON_PEERS[name]

    def install(folder: Path) -> None:
        _run([sys.executable, "-m", "venv", str(folder)])
        python = str(folder / "bin" / "python")
        _run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages])

    version = f"py{sys.version_info[0]}.{sys.version_info[1]}"
    return _prepared(name, (version, *packages), install) / "bin" / "python"


def node_of(name: str) -> Path:
    """The folder with the `node_modules` of a Node peer. Raises `Unavailable`, also without npm."""
    packages = NODE_PEERS[name]

    def install(folder: Path) -> None:
        npm = shutil.which("npm")
        if npm is None:
            raise Unavailable("npm is not installed")
        folder.mkdir(parents=True)
        (folder / "package.json").write_text('{"private": true, "type": "module"}\n')
        _run([npm, "install", "--silent", "--no-audit", "--no-fund", *packages], cwd=folder)

    return _prepared(name, packages, install)


def _prepared(name: str, facts: tuple[str, ...], install: Callable[[Path], None]) -> Path:
    key = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]
    folder = root() / f"{name}-{key}"
    with _locked(folder.with_name(f"{folder.name}.lock")):
        if not (folder / READY).exists():
            shutil.rmtree(folder, ignore_errors=True)
            print(f"installing {name}: {', '.join(facts)}", file=sys.stderr)
            install(folder)
            (folder / READY).touch()
    return folder


def root() -> Path:
    """Where the environments lie."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("IRONFLOW_PEERS") or cache / "ironflow" / "peers")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(line: list[str], cwd: Path | None = None) -> None:
    try:
        done = subprocess.run(
            line, cwd=cwd, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{Path(line[0]).name}: {error}") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        reason = next((text for text in reversed(lines) if "ERROR" in text), lines[-1:] or "?")
        raise Unavailable(f"{' '.join(line[1:4])} failed: {reason}")
