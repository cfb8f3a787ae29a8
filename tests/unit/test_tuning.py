"""How a process is set up for its server."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

from ironflow import tuning
from ironflow.tuning import COLLECT_AFTER, SWITCH_INTERVAL, tuned_process, use_huge_pages

ROLLUP = Path("/proc/self/smaps_rollup")


def huge_kilobytes() -> int:
    """How much of this process lies in huge pages."""
    lines = ROLLUP.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages:"))


@pytest.mark.skipif(not ROLLUP.exists(), reason="only Linux tells of huge pages")
def test_what_lies_in_huge_pages_is_what_it_was() -> None:
    values = {str(number): [number] * 10 for number in range(10_000)}
    pages = use_huge_pages()
    assert values == {str(number): [number] * 10 for number in range(10_000)}
    assert huge_kilobytes() >= 2048 * bool(pages)
    assert use_huge_pages() >= pages  # once more does no harm


def test_elsewhere_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert use_huge_pages() == 0


def state() -> tuple[float, tuple[int, int, int]]:
    return sys.getswitchinterval(), gc.get_threshold()


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often huge pages were asked for."""
    asked: list[int] = []
    monkeypatch.setattr(tuning, "use_huge_pages", lambda: asked.append(1))
    return asked


async def test_a_process_is_left_as_it_was(pages: list[int]) -> None:
    gc.unfreeze()
    before = state()
    with tuned_process():
        assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL)
        assert gc.get_threshold() == COLLECT_AFTER
        assert gc.get_freeze_count() > 0
    assert (state(), gc.get_freeze_count()) == (before, 0)


async def test_what_a_program_has_frozen_stays_so(pages: list[int]) -> None:
    gc.freeze()
    with tuned_process():
        pass
    assert gc.get_freeze_count() > 0


async def test_the_last_server_of_a_program_leaves_the_process_as_it_was(pages: list[int]) -> None:
    before = state()
    one, other = tuned_process(), tuned_process()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert gc.get_threshold() == COLLECT_AFTER
    other.__exit__(None, None, None)
    assert state() == before
    assert len(pages) <= 1
