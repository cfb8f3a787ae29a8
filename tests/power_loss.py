"""A disk that forgets: what a power loss may leave of the files that a recorded process wrote.

The log of `crash/power_recorder.c` is played up to some instant. A file holds what was synced, and
of the writes since then any sectors, each on its own: a later one may be there and an earlier one
not. The name of a new file is safe once its folder was synced.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

OPEN, WRITE, TRUNCATE, SYNC, UNLINK, RENAME, FOLDER_SYNC = range(1, 8)
_HEADER = struct.Struct("=IIQQ")
_HAS_DATA = {OPEN, WRITE, RENAME}
HERE = Path(__file__).parent


class Record(NamedTuple):
    """One call: what was done, to which file, where, and with what."""

    op: int
    file: int
    offset: int
    data: bytes


class File:
    """What is safe of a file, and what was done to it since."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.safe = bytearray()
        self.is_named = False
        self.pending: list[Record] = []

    def sync(self) -> None:
        """Everything done so far is safe."""
        for record in self.pending:
            _do(self.safe, record)
        self.pending.clear()

    def after_loss(self, rng: random.Random) -> bytes:
        """What may be found: all that was safe and any sectors of the rest."""
        found = bytearray(self.safe)
        keep, sector = rng.choice((0.0, 0.2, 0.5, 0.9, 1.0)), rng.choice((512, 4096))
        for record in self.pending:
            if record.op == TRUNCATE:
                if rng.random() < keep:
                    _do(found, record)
                continue
            at, data = record.offset, record.data
            while data:
                size = min(sector - at % sector, len(data))
                if rng.random() < keep:
                    _do(found, Record(WRITE, 0, at, data[:size]))
                at, data = at + size, data[size:]
        return bytes(found)


def _do(content: bytearray, record: Record) -> None:
    if record.op == TRUNCATE:
        if len(content) > record.offset:
            del content[record.offset :]
        content.extend(bytes(record.offset - len(content)))
        return
    end = record.offset + len(record.data)
    if len(content) < record.offset:
        content.extend(bytes(record.offset - len(content)))
    content[record.offset : end] = record.data


class Disk:
    """The files of one folder. `lies`: it says that it synced and does not (to test the tests)."""

    def __init__(self, *, lies: bool = False) -> None:
        self.files: dict[int, File] = {}
        self.lies = lies
        self.syncs = 0

    def play(self, record: Record) -> None:
        """One call more."""
        match record.op:
            case 1:
                self.files[record.file] = File(record.data.decode())
            case 2 | 3:
                self.files[record.file].pending.append(record)
            case 4:
                self.syncs += 1
                if not self.lies:
                    self.files[record.file].sync()
            case 5:
                # Taken for done at once; SQLite removes nothing that it may need again.
                del self.files[record.file]
            case 6:
                self.files[record.file].name = record.data.decode()
            case 7:
                for file in self.files.values():
                    file.is_named = True

    def content(self, name: str) -> bytes:
        """A file as the process saw it."""
        for file in self.files.values():
            if file.name == name:
                whole = bytearray(file.safe)
                for record in file.pending:
                    _do(whole, record)
                return bytes(whole)
        return b""

    def lose_power(self, folder: Path, rng: random.Random) -> None:
        """Write what is left into an empty folder."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for file in self.files.values():
            if file.is_named or rng.random() < 0.5:
                (folder / file.name).write_bytes(file.after_loss(rng))


def read_log(path: Path) -> Iterator[Record]:
    """The records of a log; one that was cut off is none."""
    log = path.read_bytes()
    at = 0
    while at + _HEADER.size <= len(log):
        op, file, offset, length = _HEADER.unpack_from(log, at)
        at += _HEADER.size
        data = b""
        if op in _HAS_DATA:
            data = log[at : at + length]
            if len(data) < length:
                return
            at += length
        yield Record(op, file, offset, data)


def compiler() -> str | None:
    """A C compiler, if there is one."""
    return shutil.which("cc") or shutil.which("gcc")


def build_recorder(folder: Path) -> Path:
    """Compile the recorder."""
    found = compiler()
    assert found is not None
    library = folder / "recorder.so"
    source = HERE / "crash" / "power_recorder.c"
    line = [found, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library), str(source)]
    subprocess.run([*line, "-ldl", "-lpthread"], check=True, capture_output=True)
    return library


def record_life(library: Path, folder: Path, durability: str, notes: int) -> Path:
    """Let the app work until it has made so many notes, and kill it with SIGKILL; its log."""
    work, log = folder / "work", folder / "log"
    work.mkdir()
    environment = {
        **os.environ,
        "LD_PRELOAD": str(library),
        "POWER_FOLDER": str(work),
        "POWER_LOG": str(log),
    }
    line = [sys.executable, str(HERE / "crash" / "power_app.py"), str(work), durability]
    with subprocess.Popen(line, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        while process.poll() is None and _count(work / "notes") < notes:
            try:
                process.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
        assert process.poll() is None, "the app ended by itself"
        process.send_signal(signal.SIGKILL)
    return log


def _count(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
