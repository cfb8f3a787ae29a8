"""ironflow.pyz as a stranger meets it: another user, an empty folder, no home, a damaged cache."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.parser import HeaderParser
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
BASE_PYTHON = getattr(sys, "_base_executable", sys.executable)


@dataclass
class Stranger:
    """Somebody with an empty home, an empty working folder and a temporary folder."""

    pyz: Path
    home: Path
    work: Path
    temporary: Path
    python: str = BASE_PYTHON
    account: dict[str, Any] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {"HOME": str(self.home), "TMPDIR": str(self.temporary), "PATH": os.defpath}

    def run(self, *arguments: str | Path, **changed: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, *arguments],
            cwd=self.work,
            env=self.environment | changed,
            capture_output=True,
            text=True,
            check=False,
            **self.account,
        )

    def version(self, **changed: str) -> subprocess.CompletedProcess[str]:
        return self.run(self.pyz, "version", **changed)

    def inside(self, program: str, **changed: str) -> str:
        """Run the archive as a script would be run, then a program in the same process."""
        start = (
            "import runpy, sys\n"
            "sys.argv = ['ironflow.pyz', 'version']\n"
            f"try: runpy.run_path({str(self.pyz)!r}, run_name='__main__')\n"
            "except SystemExit as end: assert not end.code, end.code\n"
        )
        done = self.run("-P", "-c", start + program, **changed)
        assert done.returncode == 0, done.stderr
        return done.stdout.removeprefix("ironflow 0.1.0\n").strip()


@pytest.fixture
def place(tmp_path: Path, pyz: Path) -> Stranger:
    for name in ("home", "work", "temporary"):
        (tmp_path / name).mkdir()
    return Stranger(pyz, tmp_path / "home", tmp_path / "work", tmp_path / "temporary")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def settled(place: Stranger, home: Path) -> Stranger:
    """Somebody in whose home it is unpacked already: one home for all tests that ask for it."""
    place.home = home
    assert place.version().returncode == 0
    return place


@pytest.fixture
def stranger(pyz: Path) -> Iterator[Stranger]:
    """Return somebody who does not own the archive and for whom permissions count."""
    account = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if IS_ROOT else {}
    top = Path(tempfile.mkdtemp(prefix="ironflow-test-"))
    top.chmod(0o755)  # pytest's own folders are closed to others
    folders = [top / name for name in ("home", "work", "temporary")]
    for folder in folders:
        folder.mkdir(mode=0o700)
        if IS_ROOT:
            os.chown(folder, NOBODY, NOBODY)
    shutil.copy(pyz, top / "ironflow.pyz")
    found = Stranger(top / "ironflow.pyz", *folders, account=account)
    try:
        found.python = fitting_python(found)
        yield found
    finally:
        (top / "home").chmod(0o700)
        shutil.rmtree(top)


def fitting_python(who: Stranger) -> str:
    """Return an interpreter like this one that the stranger may start, or skip the test."""
    program = "import importlib.machinery as m; print(m.EXTENSION_SUFFIXES[0])"
    minor = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (BASE_PYTHON, f"/usr/bin/{minor}", f"/usr/local/bin/{minor}"):
        who.python = candidate
        try:
            done = who.run("-c", program)
        except OSError:
            continue
        if done.stdout.strip() == EXTENSION_SUFFIXES[0]:
            return candidate
    pytest.skip("no Python of this minor version that another user may start")


def changed_record(pyz: Path, target: Path, old: str, new: str) -> Path:
    """Copy the archive with another record of what it was built for."""
    with zipfile.ZipFile(pyz) as source, zipfile.ZipFile(target, "w") as copy:
        for name in ("__main__.py", "archive_record.py", "listing"):
            data = source.read(name).decode()
            if name == "archive_record.py":
                assert old in data
                data = data.replace(old, new)
            copy.writestr(name, data)
    return target


def content_name(pyz: Path) -> str:
    with zipfile.ZipFile(pyz) as opened:
        record = opened.read("archive_record.py").decode()
    found = re.search(r'CONTENT = "(\w+)"', record)
    assert found
    return found[1]


def test_version_in_an_empty_folder_with_an_empty_home(place: Stranger) -> None:
    done = place.version()
    assert (done.returncode, done.stdout, done.stderr) == (0, "ironflow 0.1.0\n", "")
    assert os.listdir(place.work) == []
    assert os.listdir(place.home / ".cache" / "ironflow") == [content_name(place.pyz)]
    assert os.listdir(place.temporary) == []


def test_it_starts_by_its_own_name(settled: Stranger) -> None:
    done = subprocess.run(
        [settled.pyz, "version"],
        env=settled.environment | {"PATH": f"{Path(BASE_PYTHON).parent}:{os.defpath}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "ironflow 0.1.0\n"


def test_xdg_cache_home_is_respected(place: Stranger) -> None:
    elsewhere = place.work.parent / "elsewhere"
    assert place.version(XDG_CACHE_HOME=str(elsewhere)).returncode == 0
    assert os.listdir(elsewhere / "ironflow") == [content_name(place.pyz)]
    assert os.listdir(place.home) == []


def test_another_user_with_an_empty_home(stranger: Stranger) -> None:
    done = stranger.version()
    assert (done.returncode, done.stdout, done.stderr) == (0, "ironflow 0.1.0\n", "")
    assert (stranger.home / ".cache" / "ironflow" / content_name(stranger.pyz)).is_dir()


def test_a_read_only_home_uses_the_temporary_folder(stranger: Stranger) -> None:
    stranger.home.chmod(0o555)
    for _ in range(2):
        done = stranger.version()
        assert (done.returncode, done.stdout, done.stderr) == (0, "ironflow 0.1.0\n", "")
    (cache,) = stranger.temporary.iterdir()
    assert os.listdir(cache) == [content_name(stranger.pyz)]
    assert cache.stat().st_mode & 0o777 == 0o700
    assert os.listdir(stranger.home) == []


@pytest.mark.parametrize("home", ["", "/nonexistent/home"])
def test_a_missing_home_uses_the_temporary_folder(place: Stranger, home: str) -> None:
    done = place.version(HOME=home)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ironflow 0.1.0\n", "")
    (cache,) = place.temporary.iterdir()
    assert os.listdir(cache) == [content_name(place.pyz)]


def test_nothing_is_run_from_a_folder_others_may_write(stranger: Stranger) -> None:
    uid = NOBODY if IS_ROOT else os.geteuid()
    trap = stranger.temporary / f"ironflow-{uid}"
    evil = trap / content_name(stranger.pyz) / "ironflow" / "__main__.py"
    evil.parent.mkdir(parents=True)
    evil.write_text("raise SystemExit('run by somebody else')")
    trap.chmod(0o777)
    done = stranger.version(HOME="")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ironflow 0.1.0\n", "")
    assert os.listdir(stranger.temporary) == [trap.name], "the private folder goes with the process"


def test_four_cold_starts_at_once_leave_one_folder(place: Stranger) -> None:
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: place.version(), range(4)))
    assert [(each.stdout, each.stderr) for each in done] == [("ironflow 0.1.0\n", "")] * 4
    assert os.listdir(place.home / ".cache" / "ironflow") == [content_name(place.pyz)]


@pytest.mark.parametrize("damage", ["half", "truncated", "touched", "file", "swapped"])
def test_a_damaged_cache_is_never_used(settled: Stranger, damage: str) -> None:
    folder = settled.home / ".cache" / "ironflow" / content_name(settled.pyz)
    wanted = "import ironflow.__main__ as m; print(m.__file__, sum(open(m.__file__, 'rb').read()))"
    before = settled.inside(wanted)
    module = folder / "ironflow" / "__main__.py"
    if damage == "half":
        shutil.rmtree(folder / "aiohttp")
    elif damage == "truncated":
        module.write_text("")
    elif damage == "touched":  # same size, other content
        module.write_bytes(b"#" * module.stat().st_size)
    elif damage == "file":
        shutil.rmtree(folder)
        folder.write_text("no folder")
    else:
        shutil.rmtree(folder)
        folder.symlink_to(settled.work)
    assert settled.inside(wanted) == before
    assert before.startswith(str(module))
    assert (folder / "aiohttp" / "__init__.py").exists()
    assert os.listdir(folder.parent) == [folder.name]


def test_what_a_killed_start_left_is_cleared_later(place: Stranger) -> None:
    cache = place.home / ".cache" / "ironflow"
    for name, age in (("tmp-old", 7200), ("tmp-new", 60)):
        (cache / name / "site").mkdir(parents=True)
        (cache / name).touch()
        then = (cache / name).stat().st_mtime - age
        os.utime(cache / name, (then, then))
    cache.chmod(0o700)
    assert place.version().returncode == 0
    assert sorted(os.listdir(cache)) == sorted([content_name(place.pyz), "tmp-new"])


def test_no_place_to_unpack_is_one_line(stranger: Stranger) -> None:
    stranger.home.chmod(0o555)
    stranger.temporary.chmod(0o555)
    nowhere = "import tempfile; tempfile.tempdir = sys.argv.pop()"
    program = f"import runpy, sys; {nowhere}; runpy.run_path(sys.argv[1], run_name='__main__')"
    done = stranger.run("-c", program, stranger.pyz, stranger.temporary)
    assert done.returncode == 2
    assert re.fullmatch(r"ironflow\.pyz: cannot unpack itself anywhere: .*\n", done.stderr)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f'PYTHON = "{sys.version_info.major}.{sys.version_info.minor}"', 'PYTHON = "3.99"'),
        ('IMPLEMENTATION = "cpython"', 'IMPLEMENTATION = "pypy"'),
        (f'SUFFIX = "{EXTENSION_SUFFIXES[0]}"', 'SUFFIX = ".cpython-311-x86_64-linux-musl.so"'),
        ('MACHINE = "', 'MACHINE = "other-'),
    ],
)
def test_wrong_python_or_platform_is_one_line(place: Stranger, old: str, new: str) -> None:
    other = changed_record(place.pyz, place.work.parent / "other.pyz", old, new)
    done = place.run(other, "version")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"ironflow\.pyz: built for .*, but this is .*\n", done.stderr)
    assert new.split('"')[1] in done.stderr
    assert os.listdir(place.home) == []


def test_the_bootstrap_parses_on_old_pythons() -> None:
    source = (ROOT / "zipapp" / "bootstrap.py").read_text(encoding="ascii")
    ast.parse(source, feature_version=(3, 4))
    assert "from __future__" not in source


def test_order_of_imports(settled: Stranger) -> None:
    # ours first, then what the user installed, the user's folder last
    installed = settled.work.parent / "installed"
    installed.mkdir()
    (installed / "theirs.py").write_text("where = 'installed'")
    for name in ("aiohttp", "theirs", "app", "storage"):
        (settled.work / f"{name}.py").write_text("where = 'working folder'")
    program = "import aiohttp, theirs, app, ironflow.storage; print(theirs.where, '|', app.where)"
    output = settled.inside(program, PYTHONPATH=str(installed))
    assert output == "installed | working folder"
    first, last = settled.inside("print(sys.path[0], sys.path[-1])").split()
    assert first == str(settled.home / ".cache" / "ironflow" / content_name(settled.pyz))
    assert last == str(settled.work)


def test_a_child_process_is_started_from_the_same_archive(settled: Stranger) -> None:
    program = "import ironflow.launch as m; print(*m.command(), sep='\\n')"
    command = settled.inside(program).splitlines()
    assert command[1:] == [str(settled.pyz)]
    done = subprocess.run(
        [*command, "--version"], env=settled.environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "ironflow 0.1.0\n"


def test_every_extension_loads_and_comes_from_the_archive(settled: Stranger) -> None:
    with zipfile.ZipFile(settled.pyz) as opened:
        names = [name.split(".")[0].removeprefix("site/") for name in opened.namelist()
                 if name.endswith((".so", ".pyd"))]  # fmt: skip
    modules = sorted(name.replace("/", ".") for name in names)
    assert {"orjson.orjson", "msgspec._core", "uvloop.loop"} <= set(modules)
    program = (
        "import importlib, importlib.metadata as metadata\n"
        f"for name in {modules!r}:\n"
        "    print(importlib.import_module(name).__file__.startswith(sys.path[0]), end=' ')\n"
        "print(metadata.version('ironflow'), metadata.version('aiohttp'))\n"
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "from opentelemetry import context; context.get_current()\n"
        "import aiohttp.web, aiosqlite, croniter, dateutil.rrule, prometheus_client, tzdata\n"
        "import click, rich.console, rich.syntax, rich.traceback, structlog\n"
    )
    *places, ours, theirs = settled.inside(program, PYTHONPATH="").split()
    assert places == ["True"] * len(modules)
    assert (ours, theirs[:2]) == ("0.1.0", "3.")


def test_nothing_is_compiled_at_run_time(settled: Stranger) -> None:
    folder = settled.home / ".cache" / "ironflow" / content_name(settled.pyz)
    before = sorted(folder.rglob("*"))
    settled.inside("import aiohttp.web, rich.console, click, structlog, ironflow.core.errors")
    assert sorted(folder.rglob("*")) == before
    sources = {path for path in before if path.suffix == ".py"}
    compiled = {path.parent.parent / f"{path.name.split('.')[0]}.py" for path in before
                if path.suffix == ".pyc"}  # fmt: skip
    assert sources == compiled


def test_the_lock_is_complete_and_holds_nothing_more(pyz: Path) -> None:
    requires: dict[str, list[str]] = {}
    with zipfile.ZipFile(pyz) as opened:
        for name in opened.namelist():
            if name.endswith(".dist-info/METADATA"):
                headers = HeaderParser().parsestr(opened.read(name).decode())
                package = canonicalize_name(str(headers["Name"]))
                requires[package] = headers.get_all("Requires-Dist", [])
    waiting, needed = [Requirement("ironflow")], dict[str, set[str]]()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        fresh = {"", *wanted.extras} - needed.setdefault(name, set())
        needed[name] |= fresh
        for extra in fresh:
            for child in map(Requirement, requires[name]):
                if child.marker is None or child.marker.evaluate({"extra": extra}):
                    waiting.append(child)  # noqa: PERF401
    assert sorted(requires) == sorted(needed)


def test_licences_travel_with_the_archive(pyz: Path) -> None:
    with zipfile.ZipFile(pyz) as opened:
        names = opened.namelist()
    packages = {name.split("/")[1] for name in names if name.endswith(".dist-info/METADATA")}
    with_licence = {
        name.split("/")[1]
        for name in names
        if re.search(r"dist-info/.*(LICEN|COPYING)", name, re.IGNORECASE)
    }
    assert packages - with_licence == set()


def test_two_builds_are_byte_identical(pyz: Path, tmp_path: Path) -> None:
    # The second from nothing: another checkout with other times, a work folder with nothing but
    # pip, another hash seed.
    checkout = tmp_path / "elsewhere" / "deeper"
    skipped = shutil.ignore_patterns("__pycache__")
    for name in ("ironflow", "actors", "storage", "web", "zipapp"):
        shutil.copytree(ROOT / name, checkout / name, ignore=skipped, copy_function=shutil.copy)
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, checkout / name)
    work = tmp_path / "work"
    work.mkdir()
    for pip in (ROOT / "build" / "pyz").glob("pip-*"):
        (work / pip.name).symlink_to(pip)
    command = [sys.executable, checkout / "zipapp" / "build.py", "--work", work]
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (checkout / "ironflow.pyz").read_bytes() == pyz.read_bytes()
