"""Stages the tree as it is installed: build/stage/ironflow/ with actors, storage and web inside.

Type checkers and import-linter cannot see through setuptools' package-dir mapping, so they read
this tree, and ironflow.pyz ships the very same one. Files are real copies (some checkers skip links
silently), modification times are kept (mypy stays incremental), and what vanished from the sources
vanishes here. Run as a script it prints one line; imported, `stage()` returns the folder.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAGE = ROOT / "build" / "stage"
PARTS = {
    "ironflow": "ironflow",
    "actors": "ironflow/actors",
    "storage": "ironflow/storage",
    "web": "ironflow/web",
}
DEBRIS = {"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
DEBRIS_SUFFIXES = {".pyc", ".pyo", ".swp", ".orig", ".rej", ".tmp"}


def source_files(root: Path = ROOT) -> Iterator[tuple[Path, str]]:
    """Yield every file that is shipped with its place below the stage, in sorted order."""
    for part, place in PARTS.items():
        for folder, subfolders, names in os.walk(root / part):
            subfolders[:] = sorted(set(subfolders) - DEBRIS)
            for name in sorted(names):
                source = Path(folder, name)
                if source.suffix in DEBRIS_SUFFIXES or name.startswith("."):
                    continue
                yield source, f"{place}/{source.relative_to(root / part).as_posix()}"


def stage(target: Path = STAGE, root: Path = ROOT) -> Path:
    """Bring `target` in line with the sources below `root` and return it.

    Raises `RuntimeError` when two sources claim one place or when the result does not hold exactly
    the files that are wanted.
    """
    wanted: dict[str, Path] = {}
    for source, place in source_files(root):
        if place in wanted:
            raise RuntimeError(f"{source} and {wanted[place]} would both be staged as {place}")
        wanted[place] = source
    target.mkdir(parents=True, exist_ok=True)
    with _alone(target):
        for place, source in wanted.items():
            copy = target / place
            if not _is_same(source, copy):
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, copy)
        _remove_stale(target, set(wanted))
        found = sum(len(names) for _, _, names in os.walk(target))
    if not wanted or found != len(wanted):
        raise RuntimeError(f"{target} holds {found} files, the sources {len(wanted)}")
    return target


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Keep a second process from staging into the same folder, where the system has file locks."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_same(source: Path, copy: Path) -> bool:
    try:
        there = copy.lstat()
    except FileNotFoundError:
        return False
    here = source.stat()
    return (here.st_size, here.st_mtime_ns) == (there.st_size, there.st_mtime_ns)


def _remove_stale(target: Path, wanted: set[str]) -> None:
    for folder, _, names in os.walk(target, topdown=False):
        for name in names:
            path = Path(folder, name)
            if path.relative_to(target).as_posix() not in wanted:
                path.unlink()
        if Path(folder) != target and not os.listdir(folder):
            os.rmdir(folder)


def main() -> int:
    """Stage the checkout and say how many modules there are."""
    target = stage()
    count = sum(1 for _ in target.rglob("*.py"))
    print(f"staged {count} modules in {os.path.relpath(target)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
