"""`ironflow sim`: the runtime in simulated disasters."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import click
import msgspec

from ironflow.cli.db import progress
from ironflow.cli.failures import Failed, Wrong
from ironflow.cli.options import Verb, json_option
from ironflow.cli.output import print_fields, print_value
from ironflow.core.errors import InvalidInput

if TYPE_CHECKING:
    from ironflow.simulation.case import Report
    from ironflow.simulation.faults import Fault

MOST_SEEDS = 10_000_000
MOST_DAYS = 3650.0


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What `sim --seeds --json` prints."""

    first: int
    seeds: int
    days: float
    faults: list[str]
    failed: list[int]
    runs: int
    entries: int
    commits: int
    crashes: int
    calls: int


@click.command("sim", cls=Verb)
@click.option("--seed", type=click.IntRange(0), metavar="N", help="Play the case of this seed.")
@click.option(
    "--seeds",
    type=click.IntRange(1, MOST_SEEDS),
    metavar="COUNT",
    help="Play this many cases (default 100).",
)
@click.option(
    "--from",
    "first",
    type=click.IntRange(0),
    metavar="N",
    help="The first seed of many (default 0).",
)
@click.option(
    "--days",
    type=click.FloatRange(0.0, MOST_DAYS, min_open=True),
    default=1.0,
    show_default=True,
    help="Virtual days of traffic in a case.",
)
@click.option(
    "--faults",
    default="all",
    metavar="NAMES",
    show_default=True,
    help="Kinds of faults, by comma; -NAME leaves one out.",
)
@click.option("--keep-going", is_flag=True, help="Play the other seeds, too, after a failure.")
@click.option("--no-shrink", is_flag=True, help="Do not look for fewer faults that still fail.")
@json_option
def sim(
    *,
    seed: int | None,
    seeds: int | None,
    first: int | None,
    days: float,
    faults: str,
    keep_going: bool,
    no_shrink: bool,
    as_json: bool,
) -> None:
    """Play simulated disasters; say which seed breaks a law.

    Random programs run on the real engine on virtual time while their process is
    killed between any two awaits, its disk is slow, full or torn, its clock is set
    and its messages come late and twice. After every commit the laws are checked:
    what was acknowledged is durable, no finished step runs again, every run has
    something that wakes it. The same seed plays the same case, on every machine.

    Faults: crash torn down slow full clock late duplicate order operators; all, none.

    Exit code 1 names the seed that fails, and tells its story.

    Examples:
      ironflow sim --seed 4711 --days 30
      ironflow sim --seeds 5000 --from 100000
      ironflow sim --seeds 500 --faults -clock,-operators --json
    """  # fmt: skip
    from ironflow.simulation.faults import parse_faults

    if seed is not None and (seeds is not None or first is not None):
        raise Wrong("--seed", "plays one case; --seeds and --from are for many")
    try:
        chosen = parse_faults(faults.split(",") if faults.strip() else ["none"])
    except InvalidInput as error:
        raise Wrong("--faults", error.reason) from error
    # What the runtime says of faults that were injected is no news here.
    logging.getLogger("ironflow").setLevel(logging.CRITICAL + 1)
    if seed is not None:
        _play_one(seed, days, chosen, shrinks=not no_shrink, as_json=as_json)
    else:
        count, begin = seeds or 100, first or 0
        _play_many(begin, count, days, chosen, keep_going, not no_shrink, as_json)


def _play_one(
    seed: int, days: float, faults: frozenset[Fault], *, shrinks: bool, as_json: bool
) -> None:
    from ironflow.simulation.case import play, shrink

    report = play(seed, days, faults)
    if not report.ok and shrinks:
        report = shrink(report)
    if as_json:
        print_value(report)
    else:
        _print_report(report)
    if not report.ok:
        raise Failed("" if as_json else _sentence(report))


def _play_many(
    first: int,
    count: int,
    days: float,
    faults: frozenset[Fault],
    keep_going: bool,
    shrinks: bool,
    as_json: bool,
) -> None:
    from ironflow.simulation.case import play, shrink

    failed: list[Report] = []
    totals = dict.fromkeys(("runs", "entries", "commits", "crashes", "calls"), 0)
    played = 0
    with progress("simulating") as report_progress:
        for seed in range(first, first + count):
            report = play(seed, days, faults)
            played += 1
            for name in totals:
                totals[name] += getattr(report, name)
            if report_progress is not None:
                report_progress(played, count)
            if not report.ok:
                failed.append(report)
                if not keep_going:
                    break
    summary = Summary(
        first=first,
        seeds=played,
        days=days,
        faults=sorted(faults),
        failed=[report.seed for report in failed],
        **totals,
    )
    if as_json:
        print_value(summary)
    else:
        print_fields(
            [
                ("seeds", f"{first} to {first + played - 1}"),
                *((name, str(number)) for name, number in totals.items()),
                ("failed", ", ".join(map(str, summary.failed[:20])) or "none"),
            ]
        )
    if failed:
        told = shrink(failed[0]) if shrinks and not as_json else failed[0]
        if not as_json:
            _print_report(told)
        raise Failed("" if as_json else _sentence(told))


def _print_report(report: Report) -> None:
    print_fields(
        [
            ("seed", str(report.seed)),
            ("days", f"{report.days:g}"),
            ("faults", " ".join(report.faults) or "none"),
            ("digest", report.digest),
            ("time", f"{report.virtual_seconds / 86_400:.2f} virtual days"),
            ("runs", str(report.runs)),
            ("entries", f"{report.entries} in {report.commits} commits"),
            ("crashes", str(report.crashes)),
            ("findings", str(len(report.findings) or "none")),
        ]
    )
    for line in report.story:
        print(line)
    for finding in report.findings:
        print(f"{finding.law}: {finding.subject} {finding.message}")


def _sentence(report: Report) -> str:
    again = f"ironflow sim --seed {report.seed} --days {report.days:g}"
    faults = ",".join(report.faults) or "none"
    law = report.findings[0].law
    return f"seed {report.seed} breaks {law}; `{again} --faults {faults}` plays it again"
