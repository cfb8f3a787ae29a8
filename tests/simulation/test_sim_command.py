"""`ironflow sim`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from ironflow.cli import main as cli
from ironflow.simulation import laws

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["ironflow", *words])
        code = cli.main()
        out, err = capfd.readouterr()
        return code, out, err

    return call


def test_one_case(run: Run) -> None:
    code, out, _ = run("sim", "--seed", "7", "--json")
    report = json.loads(out)
    assert (code, report["findings"], report["story"], report["seed"]) == (0, [], [], 7)
    assert json.loads(run("sim", "--seed", "7", "--json")[1])["digest"] == report["digest"]
    code, out, _ = run("sim", "--seed", "7")
    assert code == 0
    assert report["digest"] in out


def test_many_cases(run: Run) -> None:
    code, out, _ = run("sim", "--seeds", "10", "--from", "50", "--faults", "-clock", "--json")
    summary: dict[str, Any] = json.loads(out)
    assert code == 0
    assert (summary["first"], summary["seeds"], summary["failed"]) == (50, 10, [])
    assert "clock" not in summary["faults"]
    assert "crash" in summary["faults"]
    assert summary["crashes"] > 0
    assert "failed" in run("sim", "--seeds", "2")[1]


def test_a_failure_names_its_seed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody_ends(runs: Any) -> Any:
        yield "is still there"

    monkeypatch.setattr(laws, "every_run_has_ended", nobody_ends)
    code, out, err = run("sim", "--seeds", "5", "--from", "3")
    assert code == 1
    assert "seed 3 breaks every_run_has_ended" in err
    assert "ironflow sim --seed 3 --days 1 --faults none" in err, "every fault can be left out"
    told = re.search(r"^\S+ -> (?:start \S+ .*|emit \d+): (\S+)$", out, re.MULTILINE)
    assert told is not None, "what was done from outside, and what it got, stands in the story"
    assert re.search(
        rf"^\S+    (?:run|event)/{told[1]} 1 (?:run.created|event.emitted)", out, re.MULTILINE
    )
    assert re.search(r"^every_run_has_ended: +is still there$", out, re.MULTILINE)
    code, out, err = run("sim", "--seeds", "2", "--keep-going", "--json")
    assert (code, json.loads(out)["failed"], err) == (1, [0, 1], "")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--seed", "1", "--seeds", "2"], "--seed: plays one case"),
        (["--faults", "earthquake"], "--faults: 'earthquake' is none of"),
        (["--days", "0"], "--days"),
        (["--seed", "x"], "--seed"),
        (["--seeds", "0"], "--seeds"),
        (["--from", "-1"], "--from"),
    ],
)
def test_bad_input_is_one_line(run: Run, words: list[str], told: str) -> None:
    code, out, err = run("sim", *words)
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1
