"""Benchmarks, one command: `python bench/run.py`. Each scenario runs in a process and a folder of
its own, in turn with its bare ceiling, several rounds; the table shows medians and the ratio of the
two, `--json FILE` keeps all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from ceilings import group_commit, sqlite_version

HERE = Path(__file__).resolve().parent
SIZES = (1, 16, 256, 1000)


def main() -> int:
    """Run what the command line asks for."""
    options = parse()
    if options.one:
        return run_one(options)
    results = []
    for runs in options.at_once:
        for turn in range(options.rounds):
            for scenario in ("steps", "ceiling"):
                note(f"{scenario} at {runs}, round {turn + 1} of {options.rounds}")
                figures = spawn(scenario, runs, options)
                results.append({"scenario": scenario, "at_once": runs, "round": turn, **figures})
    print(table(results, options))
    if options.json:
        document = {"machine": machine(), "durability": options.durability, "results": results}
        options.json.write_text(json.dumps(document, indent=2) + "\n")
        note(f"wrote {options.json}")
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--at-once", type=int, nargs="+", default=SIZES, help="runs at the same time"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round")
    parser.add_argument("--durability", choices=("full", "process"), default="full")
    parser.add_argument(
        "--folder", type=Path, help="where databases go; default: a temporary folder"
    )
    parser.add_argument("--json", type=Path, help="write every round to this file")
    parser.add_argument("--one", choices=("steps", "ceiling"), help=argparse.SUPPRESS)
    return parser.parse_args()


def spawn(scenario: str, runs: int, options: argparse.Namespace) -> dict[str, float]:
    """One scenario in a fresh process."""
    folder = Path(tempfile.mkdtemp(prefix="ironflow-bench-", dir=options.folder))
    line = [sys.executable, str(HERE / "run.py"), "--one", scenario, "--at-once", str(runs)]
    line += ["--seconds", str(options.seconds), "--durability", options.durability]
    line += ["--folder", str(folder)]
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{scenario} at {runs} failed:\n{done.stderr}")
        figures: dict[str, float] = json.loads(done.stdout)
        return figures
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_one(options: argparse.Namespace) -> int:
    """The inside of `spawn`."""
    runs, folder = options.at_once[0], options.folder
    if options.one == "steps":
        from steps import steps as scenario
    else:
        scenario = group_commit
    sys.setswitchinterval(0.0005)
    work = scenario(folder, runs, options.seconds, options.durability)
    try:
        import uvloop
    except ImportError:
        figures = asyncio.run(work)
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            figures = runner.run(work)
    figures["rss_mib"] = rss()
    print(json.dumps(figures))
    return 0


def rss() -> float:
    """The largest resident set of this process, in MiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def table(results: list[dict[str, float]], options: argparse.Namespace) -> str:
    """Medians as text."""
    lines = [
        (
            f"durable steps in process, durability {options.durability}, "
            f"medians of {options.rounds} rounds\n"
            f"{'at once':>8} {'steps/s':>10} {'bare rows/s':>12} {'ratio':>6} {'CPU us/step':>12}"
            f" {'run p50 ms':>11} {'run p99 ms':>11} {'bare p50 ms':>12} {'RSS MiB':>8}"
        )
    ]
    for runs in options.at_once:
        ours = [r for r in results if r["scenario"] == "steps" and r["at_once"] == runs]
        bare = [r for r in results if r["scenario"] == "ceiling" and r["at_once"] == runs]
        speed, ceiling = median(ours, "per_second"), median(bare, "per_second")
        lines.append(
            f"{runs:>8} {speed:>10,.0f} {ceiling:>12,.0f} {speed / ceiling:>6.2f}"
            f" {median(ours, 'cpu_us'):>12.1f} {median(ours, 'p50_ms'):>11.2f}"
            f" {median(ours, 'p99_ms'):>11.2f} {median(bare, 'p50_ms'):>12.3f}"
            f" {median(ours, 'rss_mib'):>8.0f}"
        )
    return "\n".join(lines)


def median(rows: list[dict[str, float]], name: str) -> float:
    """The middle of a figure over the rounds."""
    return statistics.median(row[name] for row in rows)


def machine() -> dict[str, object]:
    """Where it was measured."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "sqlite": sqlite_version(),
    }


def note(text: str) -> None:
    """Progress, apart from the results."""
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
