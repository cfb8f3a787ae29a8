"""ironflow.pyz as it is measured: built once from the sources as they are."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

from environments import Unavailable

ROOT = Path(__file__).resolve().parents[1]
PYZ = ROOT / "build" / "bench.pyz"


@functools.cache
def build() -> Path:
    """Build it. Raises `Unavailable`, for instance without a package index."""
    line = [sys.executable, str(ROOT / "zipapp" / "build.py"), "--quiet", "--output", str(PYZ)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"ironflow.pyz cannot be built: {done.stderr.strip()[-300:]}")
    return PYZ
