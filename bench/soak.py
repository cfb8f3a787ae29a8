"""A long soak of a real server: `python bench/soak.py` (30 minutes), `--minutes`, `--json FILE`.

Mixed load runs all the time: runs with steps, branches and children, events, sleeps, waits,
cancels, failures, steps in processes, cron, readers of the stream that reconnect, retention. In the
first half the server is killed with SIGKILL at random moments and started again; in the second half
it lives, so that what grows in it can be seen. At the end it is killed once more, everything that
was acknowledged must have ended right, and `ironflow db check` must find nothing.

Memory, file descriptors, threads, database and WAL are sampled. Each must stay flat over the second
half: the median slope between pairs of samples, over the whole half, must not exceed the tolerance
that stands in the table. Exit code 1 when a run went wrong, 2 when something grew.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from harness.load import encode_request
from harness.processes import MIB, Process, free_port
from soak_load import Load

HERE = Path(__file__).resolve().parent
READY = encode_request("GET", "/ready", headers={"connection": "close"})
LEAST_MINUTES = 8.0
"""A shorter soak is no ground to say that something stays flat: retention has hardly begun."""
SAMPLES = 240


@dataclass
class Sample:
    """The server at one moment."""

    second: float
    rss_mib: float
    fds: int
    threads: int
    db_mib: float
    wal_mib: float
    open_runs: int


FIGURES = {
    "rss_mib": ("resident memory, MiB", 0.10, 8.0),
    "fds": ("file descriptors", 0.10, 10.0),
    "threads": ("threads", 0.10, 4.0),
    "db_mib": ("database, MiB", 0.10, 8.0),
    "wal_mib": ("WAL, MiB", 0.10, 8.0),
}
"""What is judged: its name, and how much it may grow over the half, as a part and at least."""


class Soak:
    """One server, its load, its killer and its sampler."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.seconds = options.minutes * 60
        self.rng = random.Random(options.seed)
        self.port = free_port()
        self.kept = max(3.0, min(120.0, self.seconds / 12))
        longest = max(2.0, min(60.0, self.seconds / 12))
        self.load = Load(f"http://127.0.0.1:{self.port}", options.rate, options.seed, longest)
        self.samples: list[Sample] = []
        self.kills = 0
        self.starts: list[float] = []
        self.process: Process

    async def run(self) -> dict[str, Any]:
        """The whole soak; what came of it."""
        await self.start()
        began = time.monotonic()
        stopped = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            load = group.create_task(self.load.run(stopped))
            sampler = group.create_task(self.sample(began))
            group.create_task(self.progress(began, load))
            await self.kill_at_random(began)
            await asyncio.sleep(max(0.0, began + self.seconds - time.monotonic()))
            sampler.cancel()
            note("the load stops; one more kill; everything acknowledged must end")
            stopped.set()
            await self.kill()
        self.process.stop()
        code = self.process.popen.returncode
        if code != 0:
            self.load.ledger.fault(f"the server ended with {code} when asked to stop")
        await self.check_database()
        return self.report(time.monotonic() - began)

    # -- the server -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start it; what it said so far is kept."""
        line = [sys.executable, "-m", "ironflow", "serve", str(HERE / "soak_functions.py")]
        line += ["--port", str(self.port), "--db", str(self.folder / "soak.db")]
        for kind in ("completed", "failed", "cancelled", "events"):
            line += [f"--keep-{kind}", f"{self.kept}s"]
        # Whether a run is one that takes the process down it cannot tell here: all of them are.
        line += ["--max-crashes", "1000000"]
        self.process = Process("soak", line, self.folder)
        self.starts.append(await self.process.answers(self.port, READY))

    async def kill(self) -> None:
        """SIGKILL, and start again."""
        await asyncio.to_thread(self.process.kill)
        self.kills += 1
        await self.start()

    async def kill_at_random(self, began: float) -> None:
        """Until half-time."""
        mean = max(2.0, min(30.0, self.seconds / 12))
        while True:
            pause = self.rng.uniform(0.2, 2 * mean)
            if time.monotonic() + pause > began + self.seconds / 2:
                return
            await asyncio.sleep(pause)
            await self.kill()

    # -- looking ----------------------------------------------------------------------------------

    async def sample(self, began: float) -> None:
        """Look at it again and again."""
        while True:
            await asyncio.sleep(self.seconds / SAMPLES)
            # A process that was just killed has no memory, no files and half a status.
            with contextlib.suppress(OSError, IndexError, KeyError, ValueError):
                self.samples.append(self.look(time.monotonic() - began))

    def look(self, second: float) -> Sample:
        """One sample. Raises `OSError` or `KeyError` while the server is down."""
        pid = self.process.popen.pid
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        db = self.folder / "soak.db"
        return Sample(
            round(second, 1),
            round(int(status["VmRSS"].split()[0]) / 1024, 1),
            len(os.listdir(f"/proc/{pid}/fd")),
            int(status["Threads"]),
            round(db.stat().st_size / MIB, 1),
            round(db.with_name("soak.db-wal").stat().st_size / MIB, 1),
            len(self.load.ledger.open),
        )

    async def progress(self, began: float, load: asyncio.Task[None]) -> None:
        """A line now and then, until the load has ended."""
        while not load.done():
            await asyncio.wait([load], timeout=max(5.0, self.seconds / 30))
            ledger, last = self.load.ledger, self.samples[-1] if self.samples else None
            looks = (
                f"RSS {last.rss_mib} MiB, {last.fds} fds, db {last.db_mib}, WAL {last.wal_mib} MiB"
                if last
                else ""
            )
            note(
                f"{(time.monotonic() - began) / 60:5.1f} min, {self.kills} kills: "
                f"{ledger.started.total()} runs acknowledged, {len(ledger.open)} open, "
                f"{len(ledger.faults)} faults; {looks}"
            )

    # -- the end ----------------------------------------------------------------------------------

    async def check_database(self) -> None:
        """Integrity and the journal's laws, as `ironflow db check` knows them."""
        line = [
            sys.executable,
            "-m",
            "ironflow",
            "db",
            "check",
            "--db",
            str(self.folder / "soak.db"),
        ]
        done = await asyncio.create_subprocess_exec(
            *line, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        said, _ = await done.communicate()
        if done.returncode:
            self.load.ledger.fault(f"ironflow db check: {said.decode(errors='replace')[-500:]}")

    def report(self, seconds: float) -> dict[str, Any]:
        """Everything, for the table and the JSON."""
        ledger = self.load.ledger
        half = [s for s in self.samples if s.second > self.seconds / 2]
        return {
            "minutes": round(seconds / 60, 1),
            "seed": self.options.seed,
            "rate": self.options.rate,
            "kept_seconds": self.kept,
            "kills": self.kills,
            "start_seconds": {
                "median": round(statistics.median(self.starts), 2),
                "longest": round(max(self.starts), 2),
            },
            "acknowledged": ledger.started.total(),
            "ended_right": dict(sorted(ledger.ended.items())),
            "stream": {"entries": ledger.events_read, "connections": ledger.reconnects},
            "faults": ledger.faults,
            "figures": {name: judge(half, name) for name in FIGURES},
            "long_enough": self.options.minutes >= LEAST_MINUTES,
            "samples": [asdict(sample) for sample in self.samples],
        }


def judge(half: list[Sample], name: str) -> dict[str, Any]:
    """How a figure went over the second half, and whether that is flat."""
    _, part, least = FIGURES[name]
    points = [(sample.second, float(getattr(sample, name))) for sample in half]
    if len(points) < 4:
        return {"flat": None, "samples": len(points)}
    values = [value for _, value in points]
    middle = statistics.median(values)
    growth = slope(points) * (points[-1][0] - points[0][0])
    tolerance = max(part * middle, least)
    quarter = max(1, len(values) // 4)
    return {
        "first": round(statistics.median(values[:quarter]), 1),
        "last": round(statistics.median(values[-quarter:]), 1),
        "largest": max(values),
        "growth": round(growth, 2),
        "tolerance": round(tolerance, 2),
        "flat": growth <= tolerance,
    }


def slope(points: Iterable[tuple[float, float]]) -> float:
    """The median of the slopes between all pairs (Theil and Sen): a few spikes do not move it."""
    pairs = combinations(points, 2)
    return statistics.median((y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in pairs if x2 > x1)


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    right = ", ".join(f"{count} {kind}" for kind, count in report["ended_right"].items())
    starts, stream = report["start_seconds"], report["stream"]
    about = (
        f"{report['minutes']:g} minutes, {report['rate']:g} requests for work a second, "
        f"{report['kills']} kills, seed {report['seed']}; what has ended is kept for "
        f"{report['kept_seconds']:g} s."
    )
    outcome = (
        f"{report['acknowledged']} runs were acknowledged; {len(report['faults'])} faults. Ended "
        f"right: {right}. Readers saw {stream['entries']} entries over {stream['connections']} "
        f"connections. A start, recovery included, took {starts['median']} s (median), "
        f"{starts['longest']} s at most."
    )
    lines = [
        about,
        "",
        outcome,
        "",
        "| over the second half | first quarter | last quarter | largest | growth | tolerance | |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (title, _, _) in FIGURES.items():
        found = report["figures"][name]
        if found["flat"] is None:
            lines.append(f"| {title} | too few samples | | | | | |")
            continue
        verdict = "flat" if found["flat"] else "GROWS"
        if not report["long_enough"]:
            verdict = "too short to tell"
        lines.append(
            f"| {title} | {found['first']:g} | {found['last']:g} | {found['largest']:g} "
            f"| {found['growth']:+g} | {found['tolerance']:g} | {verdict} |"
        )
    lines += ["", *(f"FAULT: {fault}" for fault in report["faults"][:20])]
    return "\n".join(lines).strip()


def note(text: str) -> None:
    """Progress, apart from the results."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="default 30")
    parser.add_argument("--rate", type=float, default=20.0, help="pieces of work a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write everything to this file")
    parser.add_argument("--folder", type=Path, help="keep database and log here")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="ironflow-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    soak = Soak(options, folder)
    try:
        report = asyncio.run(soak.run())
    finally:
        with contextlib.suppress(AttributeError):
            soak.process.kill()
    print(table(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if report["faults"]:
        note(f"the server's log and database are in {folder}")
        return 1
    if options.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    grown = [name for name, found in report["figures"].items() if found["flat"] is False]
    return 2 if grown and report["long_enough"] else 0


if __name__ == "__main__":
    sys.exit(main())
