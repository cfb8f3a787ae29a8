"""The house as it is packaged: what is on disk, what is listed and what is shipped are the same."""

from __future__ import annotations

import ast
import fnmatch
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PARTS = {
    "ironflow": "ironflow",
    "actors": "ironflow.actors",
    "storage": "ironflow.storage",
    "web": "ironflow.web",
}
TOP_LEVEL = {
    "pyproject.toml", "ironflow", "actors", "storage", "web", "tests", "bench", "zipapp",
    "README.md", "docs", "LICENSE", "CHANGELOG.md",
}  # fmt: skip


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def source_files() -> list[str]:
    """Return the installed name of every file of the four parts, as a path in the wheel."""
    return sorted(
        f"{package.replace('.', '/')}/{path.relative_to(ROOT / part).as_posix()}"
        for part, package in PARTS.items()
        for path in (ROOT / part).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )


def locked() -> dict[str, str]:
    """Return the lock's exact version for each package that this platform takes."""
    lines = (ROOT / "zipapp" / "lock.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    taken = [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]
    assert all(re.fullmatch(r"==[\w.+!]+", str(pin.specifier)) for pin in pins), (
        "exact versions only"
    )
    return {canonicalize_name(pin.name): str(pin.specifier)[2:] for pin in taken}


ROOMS = [
    path.parent
    for part in ("ironflow/core", "actors", "storage")
    for path in (ROOT / part).rglob("__init__.py")
]


@pytest.mark.parametrize("room", ROOMS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_room_names_each_thing_in_it_once(room: Path) -> None:
    text = ast.get_docstring(ast.parse((room / "__init__.py").read_text()))
    assert text is not None
    named = Counter(re.findall(r"^`([a-z_]+)`", text, re.MULTILINE))
    modules = {path.stem for path in room.glob("*.py")} - {"__init__"}
    assert set(named) == modules | {path.name for path in ROOMS if path.parent == room}
    assert set(named.values()) == {1}


def test_packages_listed_are_those_on_disk(pyproject: dict[str, Any]) -> None:
    on_disk = {
        ".".join([package, *init.parent.relative_to(ROOT / part).parts])
        for part, package in PARTS.items()
        for init in (ROOT / part).rglob("__init__.py")
    }
    assert sorted(pyproject["tool"]["setuptools"]["packages"]) == sorted(on_disk)


def test_each_folder_with_modules_is_a_package() -> None:
    bare = {
        module.parent.relative_to(ROOT).as_posix()
        for part in PARTS
        for module in (ROOT / part).rglob("*.py")
        if not (module.parent / "__init__.py").exists()
    }
    assert bare == set()


@pytest.mark.parametrize("folder", ["zipapp", "tests", "bench"])
def test_folders_of_scripts_are_no_packages(folder: str) -> None:
    # with one, `import zipapp` at the root would hide the standard library's module
    assert list((ROOT / folder).rglob("__init__.py")) == []


def test_top_level_names_are_the_agreed_ones() -> None:
    ignored = [
        line.strip("/")
        for line in (ROOT / ".gitignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    found = {
        path.name
        for path in ROOT.iterdir()
        if not path.name.startswith(".")
        and not any(fnmatch.fnmatch(path.name, pattern) for pattern in ignored)
    }
    assert found - TOP_LEVEL == set()


def test_version_is_said_once_and_the_same(pyproject: dict[str, Any]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ironflow", "version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"ironflow {pyproject['project']['version']}\n"
    assert metadata.version("ironflow") == pyproject["project"]["version"]


def test_version_imports_neither_the_command_line_nor_a_package() -> None:
    program = (
        "import sys; before = set(sys.modules); import ironflow.__main__ as entry;"
        "sys.argv = ['ironflow', 'version']; entry.main();"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = done.stdout.splitlines()[1].split()
    assert "ironflow.__main__" in loaded
    heavy = {"asyncio", "aiohttp", "aiosqlite", "click", "rich", "structlog", "opentelemetry"}
    assert heavy.isdisjoint(loaded)
    assert not any(name.startswith("ironflow.cli") for name in loaded)


def test_lock_satisfies_what_pyproject_asks(pyproject: dict[str, Any]) -> None:
    # that it is complete shows in the archive: tests/e2e/test_pyz.py
    pins = locked()
    for line in pyproject["project"]["dependencies"]:
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate():
            assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)], prereleases=True)


def test_every_dependency_has_its_reason(pyproject: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text()
    rows = {cells[1].strip(" `*") for line in page.splitlines() if (cells := line.split("|"))[1:]}
    extras = pyproject["project"]["optional-dependencies"].values()
    lines = pyproject["project"]["dependencies"] + [line for extra in extras for line in extra]
    assert {Requirement(line).name for line in lines} - rows == set()


def test_wheel_holds_every_module_and_data_file(tmp_path: Path) -> None:
    copy = tmp_path / "source"  # a copy: setuptools leaves a build folder behind
    for name in [*PARTS, "pyproject.toml", "README.md", "LICENSE"]:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    subprocess.run(
        [
            *[sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"],
            *["--no-build-isolation", "--wheel-dir", tmp_path, copy],
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob("ironflow-*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = [name for name in opened.namelist() if ".dist-info/" not in name]
        entry_points = opened.read("ironflow-0.1.0.dist-info/entry_points.txt").decode()
    assert sorted(names) == source_files()
    assert "ironflow = ironflow.__main__:main" in entry_points


def test_staged_tree_is_the_tree_of_the_wheel(tmp_path: Path) -> None:
    (tmp_path / "stage" / "ironflow").mkdir(parents=True)
    (tmp_path / "stage" / "ironflow" / "gone.py").write_text("")  # what vanished from the sources
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import stage;"
        "stage.stage(Path(sys.argv[2])); stage.stage(Path(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", program, ROOT / "zipapp", tmp_path / "stage"], check=True)
    staged = [path for path in (tmp_path / "stage").rglob("*") if path.is_file()]
    names = sorted(path.relative_to(tmp_path / "stage").as_posix() for path in staged)
    assert names == source_files()
    assert not any(path.is_symlink() for path in staged)
    original = ROOT / "ironflow" / "__main__.py"
    copied = tmp_path / "stage" / "ironflow" / "__main__.py"
    assert copied.stat().st_mtime_ns == original.stat().st_mtime_ns
