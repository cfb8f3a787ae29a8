"""Builds ironflow.pyz: `python3 zipapp/build.py [-o FILE]`, needing only Python >= 3.11 with venv.

The archive holds the packages of lock.txt, the staged tree and bootstrap.py as its `__main__`. It
serves the Python minor and the platform it was built with. pip runs in a venv of its own below
build/pyz, where finished layers are kept by content, so that a second build takes a second. Names
are sorted and times fixed: the same sources, lock and Python give the same bytes.
`--lock` writes lock.txt anew from pyproject.toml and what the package index has today.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import bootstrap
from stage import ROOT, stage

LOCK = ROOT / "zipapp" / "lock.txt"
WORK = ROOT / "build" / "pyz"
SHEBANG = b"#!/usr/bin/env python3\n"
DAY = 86_400
PIP_SETTINGS = {"PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}

HEADERS = {".pyi", ".pyx", ".pxd", ".pxi", ".h", ".hpp", ".c", ".cc", ".cpp", ".pyc", ".typed"}
METADATA = ("METADATA", "entry_points.txt", "LICEN", "NOTICE", "COPYING", "AUTHORS")


class BuildError(Exception):
    """What went wrong, in words for the person who builds."""


def project() -> dict[str, Any]:
    """Return the [project] table of pyproject.toml."""
    import tomllib  # here, so that a Python before 3.11 gets as far as main's sentence about it

    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def run(command: list[str | Path], what: str) -> str:
    """Run a command and return its output; its last lines explain a failure."""
    # no seed and no PYTHON* setting of the caller may show in the bytes that are compiled
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=inherited | {"PYTHONHASHSEED": "0"} | PIP_SETTINGS,
    )
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise BuildError("\n  ".join([f"{what} failed:", *lines[-8:]]))
    return done.stdout


def digest(*parts: bytes | str) -> str:
    """Return a short content hash in which no two lists of parts look the same."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(b"%d:" % len(data) + data)
    return total.hexdigest()[:20]


def files_below(folder: Path) -> list[str]:
    """Return the sorted relative names of all files below a folder."""
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def layer(work: Path, name: str, fill: Callable[[Path], None]) -> Path:
    """Return work/name, filled by `fill` in a temporary sibling and renamed if it was not there."""
    ready = work / name
    if not ready.exists():
        temporary = Path(tempfile.mkdtemp(prefix="tmp-", dir=work))
        try:
            fill(temporary)
            temporary.rename(ready)
        except OSError:
            if not ready.exists():  # otherwise another build was quicker
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    os.utime(ready)
    return ready


def pip_python(work: Path) -> Path:
    """Return the interpreter of a venv that has pip, making it first if need be."""

    def fill(folder: Path) -> None:
        run(
            [sys.executable, "-m", "venv", folder],
            "making a venv (Debian: apt install python3-venv)",
        )

    place = Path("Scripts", "python.exe") if os.name == "nt" else Path("bin", "python")
    return layer(work, f"pip-{digest(tag(), sys.executable)}", fill) / place


def tag() -> str:
    """Return what the archive is bound to: implementation, minor version, platform, C interface."""
    return " ".join(
        [
            bootstrap.implementation(),
            f"{sys.version_info.major}.{sys.version_info.minor}",
            bootstrap.machine(),
            bootstrap.extension_suffix(),
        ]
    )


def is_wanted(name: str) -> bool:
    """Tell whether an installed file is of use at run time."""
    path = Path(name)
    if path.suffix in HEADERS or path.parts[0] == "bin":
        return False
    if path.parts[0].endswith(".dist-info"):  # importlib.metadata and the licences need these
        return path.parts[1].startswith((*METADATA, "licen"))
    return not any(part == "tests" or part.startswith(".") for part in path.parts)


def compile_code(folder: Path) -> None:
    """Write the .pyc beside each module; they are never compared with the source again."""
    mode = ["-q", "-f", "--invalidation-mode", "unchecked-hash"]
    run([sys.executable, "-m", "compileall", *mode, "-s", folder, folder], "compiling")


def install_packages(work: Path, folder: Path) -> None:
    """Install what lock.txt pins into a folder, less what only building and testing need."""
    options = ["--target", folder, "--only-binary=:all:", "--no-deps", "--no-compile", "--quiet"]
    run([pip_python(work), "-m", "pip", "install", *options, "-r", LOCK], "pip")
    for name in files_below(folder):
        if not is_wanted(name):
            (folder / name).unlink()
    for below, _, _ in os.walk(folder, topdown=False):
        if not os.listdir(below):
            os.rmdir(below)
    strip = shutil.which("strip")
    extensions = sorted(folder.rglob("*.so"))
    if strip and extensions and sys.platform == "linux":
        run([strip, "--strip-unneeded", *extensions], "strip")
    compile_code(folder)


def packages_layer(work: Path) -> Path:
    """Return the folder with all dependencies, as they go into the archive."""
    strip = "strip" if shutil.which("strip") else "whole"
    key = digest(LOCK.read_bytes(), Path(__file__).read_bytes(), tag(), sys.version, strip)
    return layer(work, f"packages-{key}", lambda folder: install_packages(work, folder))


def code_layer(work: Path, staged: Path) -> Path:
    """Return the folder with our own tree, compiled, and its metadata."""
    table = project()
    name, version = table["name"], table["version"]
    metadata = (
        f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n"
        f"License-Expression: {table['license']}\nLicense-File: LICENSE\n"
        f"Requires-Python: {table['requires-python']}\n"
        + "".join(f"Requires-Dist: {line}\n" for line in table["dependencies"])
    )
    licence = (ROOT / "LICENSE").read_bytes()

    def fill(folder: Path) -> None:
        shutil.copytree(staged, folder, dirs_exist_ok=True)
        information = folder / f"{name}-{version}.dist-info"
        (information / "licenses").mkdir(parents=True)
        (information / "METADATA").write_text(metadata)
        (information / "licenses" / "LICENSE").write_bytes(licence)
        compile_code(folder)

    sources = [
        part for name in files_below(staged) for part in (name, (staged / name).read_bytes())
    ]
    key = digest(*sources, metadata, licence, Path(__file__).read_bytes(), tag(), sys.version)
    return layer(work, f"code-{key}", fill)


def collect(layers: list[Path]) -> dict[str, bytes]:
    """Return name and content of every file of the layers, sorted by name."""
    found: dict[str, bytes] = {}
    for folder in layers:
        for name in files_below(folder):
            if name in found:
                raise BuildError(f"{name} comes from two places")
            found[name] = (folder / name).read_bytes()
    return dict(sorted(found.items()))


def write_archive(target: Path, members: dict[str, bytes]) -> None:
    """Write an executable zip whose bytes depend on the members alone."""
    with target.open("wb") as stream:
        stream.write(SHEBANG)
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name, data in members.items():
                entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
                entry.create_system, entry.external_attr = 3, 0o100644 << 16
                archive.writestr(entry, data, zipfile.ZIP_DEFLATED, compresslevel=9)
    target.chmod(0o755)


def archive_layer(work: Path, site: dict[str, bytes]) -> Path:
    """Return the finished archive among the layers."""
    start = Path(bootstrap.__file__).read_bytes()
    content = digest(tag(), *(part for name, data in site.items() for part in (name, data)))
    implementation, python, machine, suffix = tag().split(" ")
    record = (
        f'IMPLEMENTATION = "{implementation}"\nPYTHON = "{python}"\nMACHINE = "{machine}"\n'
        f'SUFFIX = "{suffix}"\nCONTENT = "{content}"\n'
    )
    members = {
        "__main__.py": start,
        "archive_record.py": record.encode(),
        "listing": "".join(f"{len(data)} {name}\n" for name, data in site.items()).encode(),
    } | {f"site/{name}": data for name, data in site.items()}
    key = digest(content, start, Path(__file__).read_bytes())
    folder = layer(work, f"archive-{key}", lambda to: write_archive(to / "ironflow.pyz", members))
    return folder / "ironflow.pyz"


def remove_old(work: Path) -> None:
    """Remove layers that no build has used for a day."""
    for folder in work.iterdir():
        with suppress(FileNotFoundError):  # another build may be at the same
            if folder.stat().st_mtime < time.time() - DAY:
                shutil.rmtree(folder, ignore_errors=True)


def build(output: Path, work: Path = WORK, say: Callable[[str], None] = print) -> Path:
    """Build the archive into `output`, using and filling the layers in `work`."""
    work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def told(line: str) -> None:
        say(f"{time.monotonic() - began:6.1f} s  {line}")

    packages = packages_layer(work)
    told(f"{len(list(packages.glob('*.dist-info')))} packages of {LOCK.relative_to(ROOT)}")
    code = code_layer(work, stage())
    told(f"{sum(1 for _ in code.rglob('*.py'))} modules of ironflow, staged and compiled")
    archive = archive_layer(work, collect([packages, code]))
    part = output.with_name(f".{output.name}.{os.getpid()}")
    shutil.copy(archive, part)
    os.replace(part, output)
    told(f"{os.path.relpath(output)}  {output.stat().st_size / 1e6:.1f} MB for {tag()}")
    remove_old(work)
    return output


def write_lock(work: Path = WORK) -> None:
    """Resolve pyproject.toml's dependencies today and write their exact versions to lock.txt."""
    work.mkdir(parents=True, exist_ok=True)
    wanted = project()["dependencies"]
    options = ["--dry-run", "--ignore-installed", "--only-binary=:all:", "--quiet", "--report", "-"]
    report = json.loads(run([pip_python(work), "-m", "pip", "install", *options, *wanted], "pip"))
    markers = {line.split(">")[0]: line.split(";")[1].strip() for line in wanted if ";" in line}
    lines = []
    for each in report["install"]:
        name = each["metadata"]["name"].lower().replace("_", "-")
        marker = f"; {markers[name]}" if name in markers else ""
        lines.append(f"{name}=={each['metadata']['version']}{marker}\n")
    LOCK.write_text("# Written by: python3 zipapp/build.py --lock\n" + "".join(sorted(lines)))


def main() -> int:
    """Build or lock as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description="Build ironflow.pyz.")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "ironflow.pyz", metavar="FILE")
    parser.add_argument(
        "--work", type=Path, default=WORK, metavar="DIR", help="where layers are kept"
    )
    parser.add_argument("--lock", action="store_true", help="write lock.txt anew instead")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress lines")
    chosen = parser.parse_args()
    try:
        if chosen.lock:
            write_lock(chosen.work)
        else:
            build(chosen.output, chosen.work, (lambda line: None) if chosen.quiet else print)
    except (BuildError, OSError) as error:
        print(f"zipapp/build.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - who builds may have started an older one
        sys.exit("zipapp/build.py: ironflow needs Python 3.11 or newer")
    sys.exit(main())
