"""The demo's pipeline on the jumping clock: broken files, and crashes in the middle."""

from __future__ import annotations

from pathlib import Path

import pytest

from ironflow import testing
from ironflow.demo.executions import Notebook
from ironflow.demo.pipeline import Wanted, survey

MODULES = 25
FLAKY = {"parse m09", "parse m19"}


@pytest.fixture
def wanted(tmp_path: Path) -> Wanted:
    root = tmp_path / "library"
    root.mkdir()
    for i in range(MODULES):
        text = f"import m{(i + 1) % MODULES:02}\ndef f{i}(): return a or b\n"
        (root / f"m{i:02}.py").write_text(text)
    (root / "m03.py").write_text("print 'old'\n")
    (root / "m04.py").write_bytes(b"x = '\xff'\n")
    return Wanted(str(tmp_path), root=str(root))


@pytest.mark.blocks_the_loop  # it looks into files itself
def test_surveys_retries_and_reports(wanted: Wanted) -> None:
    async def main(world: testing.World) -> str:
        ended = await world.run(survey, wanted)
        assert ended.status == "completed", ended.error
        found = ended.result
        assert (found["modules"], found["functions"], found["findings"]) == (MODULES, 23, 2)
        assert (found["imports"], found["cycles"]) == (23, 0)  # a ring, but for two files
        assert found["most_complex"][0] == ["m00.f0", 2]
        retried = {step.name for step in ended.steps.values() if step.attempt == 2}
        assert retried == FLAKY
        notes = Notebook(wanted.folder, ended.run_id).read()
        assert len(notes) == MODULES + len(FLAKY) + 3
        return str(ended.run_id)

    run_id = testing.run(main, functions=[survey])
    page = Path(wanted.folder, "report.html").read_text(encoding="utf-8")
    assert "m03.py" in page
    assert run_id in page


@pytest.mark.parametrize("step", [1, 2, 12, 20, MODULES + 4, MODULES + 5])
def test_a_crash_at_any_step_repeats_only_what_was_under_way(wanted: Wanted, step: int) -> None:
    async def main(world: testing.World) -> None:
        world.crash_at_step(step)
        ended = await world.run(survey, wanted)
        assert ended.status == "completed", ended.error
        assert ended.executions == 2
        names = [name for _, name in world.calls]
        repeated = {name for name in names if names.count(name) > 1} - FLAKY
        assert len(repeated) <= 16  # those that were under way at the same time
        assert ended.result["modules"] == MODULES

    testing.run(main, functions=[survey])


def test_a_python_without_sources_is_said(wanted: Wanted) -> None:
    async def main(world: testing.World) -> None:
        ended = await world.run(survey, Wanted(wanted.folder, root=f"{wanted.folder}/absent"))
        assert ended.status == "failed"
        assert ended.error is not None
        assert "has no library sources" in ended.error.message
        assert {step.attempt for step in ended.steps.values()} == {1}

    testing.run(main, functions=[survey])


def test_the_limit_is_kept(wanted: Wanted) -> None:
    async def main(world: testing.World) -> None:
        ended = await world.run(survey, Wanted(wanted.folder, limit=20, root=wanted.root))
        assert ended.result["modules"] == 20

    testing.run(main, functions=[survey])
