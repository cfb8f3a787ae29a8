"""Simulated disasters: the size that continuous integration has time for. The nightly size is
`IRONFLOW_TEST_SIM_SEEDS` (and `..._SIM_FROM`), or `ironflow sim --seeds`."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ironflow.simulation.case import Report, play, shrink

SEEDS = int(os.environ.get("IRONFLOW_TEST_SIM_SEEDS", "1600"))
FIRST = int(os.environ.get("IRONFLOW_TEST_SIM_FROM", "0"))
PARTS = 16


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What the runtime says of faults that were injected is no news."""
    logger = logging.getLogger("ironflow")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(level)


def tell(report: Report) -> str:
    """A failure as `ironflow sim` would tell it, with the fewest kinds of faults."""
    report = shrink(report)
    findings = "\n".join(f"{f.law}: {f.subject} {f.message}" for f in report.findings)
    story = "\n".join(report.story)
    return (
        f"ironflow sim --seed {report.seed} --faults {','.join(report.faults)}\n{story}\n{findings}"
    )


@pytest.mark.parametrize("part", range(PARTS))
def test_every_law_holds_in_every_disaster(part: int) -> None:
    crashes = entries = 0
    for seed in range(FIRST + part, FIRST + SEEDS, PARTS):
        report = play(seed)
        assert report.ok, tell(report)
        crashes += report.crashes
        entries += report.entries
    assert crashes > SEEDS / PARTS, "the disasters did not take place"
    assert entries > 20 * SEEDS / PARTS


@pytest.mark.parametrize("seed", [1643, 1723, 1890, 1984, 2073, 3848, 11179, 11902, 31716])
def test_what_was_found_once_stays_mended(seed: int) -> None:
    report = play(seed)
    assert report.ok, tell(report)


def test_a_month_of_disasters() -> None:
    report = play(FIRST + 1, days=30)
    assert report.ok, tell(report)
    assert report.virtual_seconds > 29 * 86_400  # the last order comes at a random moment
    assert report.runs > 50


def test_a_seed_plays_the_same_case_in_every_process() -> None:
    seeds = range(FIRST, FIRST + 24)
    code = (
        "import logging; logging.disable(logging.CRITICAL)\n"
        "from ironflow.simulation.case import play\n"
        f"print(*[play(seed).digest for seed in range({seeds.start}, {seeds.stop})])"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "4711"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.split() == [play(seed).digest for seed in seeds]


def test_leaving_out_a_fault_changes_nothing_else() -> None:
    with_all = play(FIRST + 3)
    without = play(FIRST + 3, faults=frozenset({"crash", "slow"}))
    assert without.ok
    assert without.digest != with_all.digest
    assert play(FIRST + 3, faults=frozenset()).crashes == 0
