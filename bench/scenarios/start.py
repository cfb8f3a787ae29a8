"""Start-up: from the start of the process to its first healthy answer, cold (nothing unpacked, an
empty data folder) and warm (the second time); and the quickest command there is.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyz
from harness.processes import Process, free_port
from harness.scenario import Case, Column, Figures, Role, Scenario, Setting, Side, Target
from peers import dbos, restate
from servers import HEALTH, HERE, READY

TIMES = 3
"""Starts in one measurement; the middle one counts. A cold one starts from nothing each time."""
QUICK_TIMES = 1

Make = Callable[[Setting, int], Process]


def side_of(name: str, role: Role, make: Make, request: bytes, **options: Any) -> Side:
    """A side whose process answers `request` once it is up."""

    async def measure(setting: Setting) -> Figures:
        times = 1 + (TIMES if setting.seconds >= 1 else QUICK_TIMES)
        seconds, memory = [], 0.0
        for _ in range(times):
            if setting.case["start"] == "cold":
                _empty(setting.folder)
            port = free_port()
            process = make(setting, port)
            try:
                seconds.append(await process.answers(port, request))
                memory = process.rss()
            finally:
                process.stop()
        # The first is the one that fills the caches of the system: it is not counted.
        return {"first_answer_s": statistics.median(seconds[1:]), "rss_mib": memory}

    return Side(
        name=name,
        role=role,
        measure=measure,
        cases=lambda case: case["start"] != "version",
        **options,
    )


def command_of(name: str, role: Role, line: Sequence[str | Path], **options: Any) -> Side:
    """A side whose command says something and ends."""

    async def measure(setting: Setting) -> Figures:
        times = 1 + (TIMES if setting.seconds >= 1 else QUICK_TIMES)
        return {"first_answer_s": statistics.median([_run(line) for _ in range(times)][1:])}

    def takes(case: Case) -> bool:
        return case["start"] == "version"

    return Side(
        name=name,
        role=role,
        measure=measure,
        cases=takes,
        **options,
    )


def _run(line: Sequence[str | Path]) -> float:
    began = time.perf_counter()
    subprocess.run(line, check=True, capture_output=True)
    return time.perf_counter() - began


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def start_pyz(setting: Setting, port: int) -> Process:
    """`ironflow.pyz serve`, unpacking below the folder of the measurement."""
    line = [sys.executable, pyz.PYZ, "serve", HERE / "functions.py", "--port", str(port)]
    line += ["--db", setting.folder / "bench.db"]
    cache = setting.folder / "cache"
    cache.mkdir(exist_ok=True)
    return Process("pyz", line, setting.folder, {"XDG_CACHE_HOME": str(cache)})


def start_bare(setting: Setting, port: int) -> Process:
    """A bare aiohttp server."""
    line = [sys.executable, HERE / "bare_answer.py", str(port)]
    return Process("bare", line, setting.folder)


def start_restate(setting: Setting, port: int) -> Process:
    """Restate's server, without its service."""
    return restate.server_process(setting, port, free_port())


SCENARIOS = (
    Scenario(
        name="start",
        title="start to the first healthy answer",
        sides=(
            side_of("ironflow.pyz", "ours", start_pyz, READY, prepare=pyz.build),
            command_of(
                "ironflow.pyz version",
                "ours",
                (sys.executable, pyz.PYZ, "version"),
                prepare=pyz.build,
            ),
            side_of("bare aiohttp", "ceiling", start_bare, HEALTH),
            command_of("bare Python", "ceiling", (sys.executable, "-c", "pass")),
            side_of(
                restate.NAME,
                "peer",
                start_restate,
                restate.INGRESS_HEALTH,
                prepare=restate.install,
            ),
            side_of(dbos.NAME, "peer", dbos.process, HEALTH, prepare=dbos.install),
        ),
        columns=(
            Column(figure="first_answer_s", title="seconds", digits=3),
            Column(figure="rss_mib", title="RSS MiB"),
        ),
        cases=({"start": "cold"}, {"start": "warm"}, {"start": "version"}),
        quick=({"start": "warm"}, {"start": "version"}),
        rounds=1,
        targets=(
            Target(figure="first_answer_s", at_most=0.6, case={"start": "warm"}),
            Target(figure="first_answer_s", at_most=0.15, case={"start": "version"}),
        ),
        notes="Healthy is `/ready` for ironflow: the database is open, recovery is under way and "
        "work is taken. Files are in the system's cache in every case.",
    ),
)
