"""The benchmarks work: each scenario's own sides and ceilings go through their smallest case.

No figure is judged here: machines differ, and this one may be busy.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from harness import report
from harness.catalog import scenarios
from harness.load import parse_answer
from harness.rounds import Results, Size, measure_all
from harness.scenario import Case, Column, Figures, Scenario, Setting, Side, Target

SPAWNED = ("one-run", "steps-in-process", "workflows-memory")
"""These are measured as they are for figures: each side in a process of its own."""


@pytest.mark.parametrize("name", sorted(scenarios()))
def test_scenario_measures_ours_and_its_ceiling(name: str, tmp_path: Path) -> None:
    scenario = scenarios()[name]
    here = name not in SPAWNED
    size = Size(quick=True, folder=tmp_path, roles=("ours", "ceiling"), here=here)
    results = measure_all([scenario], size, print)
    assert results.failed == {}
    if results.left_out and not os.environ.get("CI"):
        pytest.skip(f"cannot be measured here: {results.left_out}")
    assert results.left_out == {}
    expected = [
        (dict(case), side.name)
        for case in scenario.cases_for(quick=True)
        for side in scenario.sides
        if size.takes(side) and (side.cases is None or side.cases(case))
    ]
    assert [(one.case, one.side) for one in results.measurements] == expected
    for one in results.measurements:
        assert one.figures[scenario.columns[0].figure] > 0
        assert all(math.isfinite(value) for value in one.figures.values())
    assert list(tmp_path.iterdir()) == []  # databases and logs are gone
    text = report.text(results, [scenario])
    assert scenario.title in text
    assert all(column.title in text for column in scenario.columns)


async def fast(setting: Setting) -> Figures:
    return {"per_second": 300.0}


async def slow(setting: Setting) -> Figures:
    return {"per_second": 100.0}


def judged(results: list[tuple[str, Case, float]], *targets: Target) -> tuple[Results, Scenario]:
    """Results of a scenario with two sides, as if they had been measured."""
    scenario = Scenario(
        name="made",
        title="made up",
        sides=(
            Side(name="ironflow", role="ours", measure=fast),
            Side(name="peer", role="peer", measure=slow),
        ),
        columns=(Column(figure="per_second", title="units/s"),),
        targets=targets,
    )
    document = {
        "left_out": {"other": "no npm"},
        "failed": {"made / ironflow (at_once 2)": "it fell over"},
        "measurements": [
            {
                "scenario": "made",
                "case": case,
                "side": side,
                "round": turn,
                "figures": {"per_second": value},
            }
            for turn, (side, case, value) in enumerate(results)
        ],
    }
    return report.read_document(json.loads(json.dumps(document))), scenario


def test_report_shows_medians_ratios_and_whether_targets_are_reached() -> None:
    one, many = {"at_once": 1}, {"at_once": 1000}
    results, scenario = judged(
        [
            ("ironflow", one, 10.0),
            ("ironflow", one, 300.0),
            ("ironflow", one, 299.0),
            ("peer", one, 100.0),
            ("ironflow", many, 2000.0),
        ],
        Target(figure="per_second", at_least=2.5, beside="peer", case=one),
        Target(figure="per_second", at_most=1999, case=many),
    )
    rows = report.rows_of(results, scenario)
    assert rows == [
        ["at once", "side", "units/s", "ours / it"],
        ["1", "ironflow", "299", ""],
        ["1", "peer", "100", "2.99"],
        ["1,000", "ironflow", "2,000", ""],
    ]
    assert report.verdicts(results, scenario) == [
        "reached per_second / peer at at_once 1: 2.99 (target >= 2.5)",
        "missed  per_second at at_once 1,000: 2,000 (target <= 1,999)",
    ]
    assert "| 1 | peer | 100 | 2.99 |" in report.markdown(results, [scenario])
    assert "left out: other: no npm" in report.text(results, [scenario])
    assert "FAILED: made / ironflow (at_once 2): it fell over" in report.text(results, [scenario])


def test_figures_replace_those_between_the_marks_of_a_page() -> None:
    page = f"# Title\n\n{report.BEGIN}\nold\n{report.END}\n\nHow to read it.\n"
    new = report.insert(page, "| new |")
    assert new.startswith("# Title")
    assert new.endswith(f"| new |\n{report.END}\n\nHow to read it.\n")
    assert "old" not in new
    assert report.insert(new, "| newer |").count("newer") == 1
    with pytest.raises(ValueError, match="has no"):
        report.insert("# Title\n", "| new |")
    docs = Path(__file__).resolve().parents[2] / "docs" / "performance.md"
    assert report.BEGIN in docs.read_text()


def test_client_waits_for_the_whole_answer_and_reads_both_forms() -> None:
    plain = b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nhello"
    chunked = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n"
    )
    for whole, status in ((plain, 201), (chunked, 200)):
        for size in range(len(whole) - 2):
            answer, needed = parse_answer(bytearray(whole[:size]))
            assert answer is None
            assert needed in (0, len(whole))
        assert parse_answer(bytearray(whole)) == ((status, b"hello"), 0)
    with pytest.raises(ValueError, match="no known length"):
        parse_answer(bytearray(b"HTTP/1.1 200 OK\r\n\r\n"))
