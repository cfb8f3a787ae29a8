"""The archive that end-to-end tests start, built once a session from the sources as they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a freshly built ironflow.pyz; build/pyz makes it quick."""
    target = tmp_path_factory.mktemp("pyz") / "ironflow.pyz"
    build = [sys.executable, ROOT / "zipapp" / "build.py", "--quiet", "--output", target]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target
