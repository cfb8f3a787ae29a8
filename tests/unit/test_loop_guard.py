"""The guard of the event loop sees what blocks, also when the code swallows its error, and leaves
alone what does not.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import loop_guard
import pytest

import ironflow
from ironflow import Context, function


@function(id="guard-sleeps", executor="loop", retry=1)
async def sleeps(ctx: Context) -> None:
    await ctx.step.run("nap", time.sleep, 0)


@function(id="guard-swallows", retry=1)
async def swallows(ctx: Context) -> None:
    with suppress(Exception):
        Path(__file__).read_bytes()  # noqa: ASYNC240 - that is the point


@function(id="guard-behaves", retry=1)
async def behaves(ctx: Context) -> None:
    await ctx.step.run("nap", time.sleep, 0)  # in a thread
    await ctx.step.sleep("rest", 0.001)


@pytest.mark.parametrize(
    ("of", "call"), [(sleeps, "time.sleep"), (swallows, "io.BufferedReader.read"), (behaves, None)]
)
async def test_what_blocks_the_loop_is_found(of: Any, call: str | None, tmp_path: Path) -> None:
    # The call itself fails, too.
    with loop_guard.guarded() as found, suppress(ironflow.RunError):
        await ironflow.run(of, db=tmp_path / "guard.db")
    if call is None:
        assert found == []
    else:
        assert call in found[0]
        assert Path(__file__).name in found[0] or "call_step" in found[0]


async def test_what_the_test_itself_does_is_its_own_affair() -> None:
    with loop_guard.guarded() as found:
        time.sleep(0)  # noqa: ASYNC251 - that is the point
        Path(__file__).read_bytes()  # noqa: ASYNC240
    assert found == []
