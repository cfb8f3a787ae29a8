"""Benchmarks, one command: `python bench/run.py [SCENARIO ...]`. Every figure of ours stands beside
its bare ceiling and the peers, measured in turn in the same minutes, each in a process and a folder
of its own; the table shows medians of the rounds and ratios.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from harness import report
from harness.catalog import scenarios
from harness.rounds import Results, Size, measure_all, measure_one
from harness.scenario import Scenario

DOCS = Path(__file__).resolve().parents[1] / "docs" / "performance.md"


def main() -> int:
    """Measure what the command line asks for."""
    parser = make_parser()
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure_one(json.loads(options.measure))))
        return 0
    known = scenarios()
    if options.list:
        print("\n".join(f"{name:<20} {one.title}" for name, one in known.items()))
        return 0
    unknown = [name for name in options.scenario if name not in known]
    if unknown:
        parser.error(f"no such scenario: {', '.join(unknown)}; there are {', '.join(known)}")
    chosen = [known[name] for name in options.scenario or known]
    if options.read:
        show(report.read_document(json.loads(options.read.read_text())), chosen, options)
        return 0
    results = measure_all(chosen, size_of(options), note)
    show(results, chosen, options)
    if options.json:
        document = report.document(results, options.durability)
        options.json.write_text(json.dumps(document, indent=1) + "\n")
        note(f"wrote {options.json}")
    return 1 if results.failed else 0


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", nargs="*", help="which to run; default: all (see --list)")
    parser.add_argument("--list", action="store_true", help="say which scenarios there are")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true", help="the smallest loads, one round each")
    sizes.add_argument(
        "--standard", action="store_true", help="the size of docs/performance.md (default)"
    )
    parser.add_argument("--rounds", type=int, help="of each case; default: as the scenario says")
    parser.add_argument("--seconds", type=float, help="of load in each round")
    parser.add_argument(
        "--side", nargs="+", default=(), help="only sides whose names begin with one of these"
    )
    parser.add_argument(
        "--where", nargs="+", default=(), metavar="NAME=VALUE", help="only cases such as at_once=16"
    )
    parser.add_argument("--durability", choices=("full", "process"), default="full")
    parser.add_argument("--folder", type=Path, help="where databases go; default: temporary")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round to this file")
    parser.add_argument("--markdown", action="store_true", help="print tables as Markdown")
    parser.add_argument(
        "--docs", action="store_true", help=f"put the tables into {DOCS.parent.name}/{DOCS.name}"
    )
    parser.add_argument(
        "--read", type=Path, metavar="FILE", help="measure nothing, print what --json has written"
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser


def size_of(options: argparse.Namespace) -> Size:
    """How much is to be measured."""
    return Size(
        quick=options.quick,
        rounds=options.rounds,
        seconds=options.seconds,
        durability=options.durability,
        folder=options.folder,
        sides=options.side,
        where=dict(map(parse_parameter, options.where)),
    )


def parse_parameter(text: str) -> tuple[str, Any]:
    """`at_once=16` as a name and a number, anything else as text."""
    name, sign, value = text.partition("=")
    if not sign:
        raise SystemExit(f"--where: {text!r} is not NAME=VALUE")
    return name, int(value) if value.lstrip("-").isdigit() else value


def show(results: Results, chosen: list[Scenario], options: argparse.Namespace) -> None:
    """Print the results in the form that is asked for, or put them into the docs."""
    if options.docs:
        figures = report.markdown(results, chosen)
        DOCS.write_text(report.insert(DOCS.read_text(), figures))
        note(f"wrote {DOCS}")
    else:
        print((report.markdown if options.markdown else report.text)(results, chosen))


def note(text: str) -> None:
    """Progress, apart from the results."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
