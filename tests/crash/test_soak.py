"""A short soak: the same load, kills and checks as the long one, whose table stands in
docs/reliability.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[2] / "bench"


def test_a_short_soak_finds_nothing_wrong(tmp_path: Path) -> None:
    report = tmp_path / "soak.json"
    line = [sys.executable, str(BENCH / "soak.py"), "--minutes", "0.25", "--rate", "15"]
    line += ["--json", str(report), "--folder", str(tmp_path / "soak")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    found = json.loads(report.read_text())
    assert found["faults"] == []
    assert found["kills"] >= 2
    assert found["acknowledged"] == sum(
        count for kind, count in found["ended_right"].items() if kind != "cron"
    )
    assert set(found["ended_right"]) == {
        "answer", "call off", "cancel", "chain", "compute", "cron", "fail", "order", "sleep",
    }  # fmt: skip
    assert len(found["samples"]) > 50
    for title in ("resident memory", "file descriptors", "threads", "database", "WAL"):
        assert title in done.stdout
