"""`ironflow.testing.simulate`, as a user of it sees it."""

from __future__ import annotations

from typing import Any

import pytest

from ironflow import WaitTimeout, function, testing
from ironflow.core.errors import InvalidInput
from ironflow.simulation.user import Outside


@function(id="simulate-order", retry={"max_attempts": 3, "initial_delay": 1})
async def order(ctx: Any, number: int) -> Any:
    """Sound: whatever it does between steps it would do again."""
    charged = await ctx.step.run("charge", charge, number)
    await ctx.step.sleep("rest", "1h")
    both = await ctx.step.map("pack", lambda n: ctx.step.run("one", charge, n), [1, 2])
    event = await ctx.step.wait_for_event("picked", "order.picked", timeout="10d")
    return [charged, both, event.data["by"]]


async def charge(number: int) -> int:
    return number * 2


async def pick(outside: Outside, run_id: str) -> None:
    await outside.advance("2h")
    await outside.emit("order.picked", {"by": "Ada"})


def test_a_sound_function_ends_the_same_in_every_disaster() -> None:
    seen: list[tuple[int, int]] = []
    done = testing.simulate(
        order, 7, seeds=40, drive=pick, progress=lambda *at: seen.append(at), functions=[order]
    )
    assert done.expected.result == [14, [2, 4], "Ada"]
    assert done.seeds == 40
    assert seen[-1] == (40, 40)
    assert done.crashes > 20
    assert done.calls > 40 * 3, "steps that were cut off run again"


def test_what_no_step_records_is_found() -> None:
    written: list[str] = []

    @function(id="simulate-careless")
    async def careless(ctx: Any) -> int:
        written.append("header")  # a side effect between steps: every replay does it again
        await ctx.step.sleep("rest", 1)
        await ctx.step.run("write", write)
        return len(written)

    def write() -> None:
        written.append("line")

    def check(ended: testing.Ended) -> None:
        found, written[:] = list(written), []
        assert found == ["header", "line"], found

    done = testing.simulate(careless, seeds=3, faults=["none"], check=check, functions=[careless])
    assert done.expected.result == 2
    with pytest.raises(testing.SimulationFailed) as failed:
        testing.simulate(careless, seeds=range(100), check=check, functions=[careless])
    assert failed.value.findings[0].law == "check"
    assert "'header', 'header'" in str(failed.value) or "'line', 'line'" in str(failed.value)
    assert f"seeds=[{failed.value.seed}]" in str(failed.value)
    assert "!! life 1 is up" in str(failed.value)


def test_a_body_that_is_not_deterministic_is_found() -> None:
    turns: list[int] = []

    @function(id="simulate-fickle", retry=False)
    async def fickle(ctx: Any) -> int:
        turns.append(1)
        await ctx.step.run(f"step-{len(turns) % 2}", charge, 1)
        await ctx.step.sleep("rest", 60)
        return 1

    with pytest.raises(testing.SimulationFailed, match="ends_as_in_quiet"):
        testing.simulate(fickle, seeds=30, functions=[fickle], linger=0.0)


def test_only_faults_that_keep_the_result_are_injected_unless_asked_for() -> None:
    @function(id="simulate-patient")
    async def patient(ctx: Any) -> str:
        try:
            await ctx.step.wait_for_event("picked", "order.picked", timeout="3h")
        except WaitTimeout:
            return "too late"
        return "in time"

    done = testing.simulate(patient, seeds=25, drive=pick, functions=[patient])
    assert done.expected.result == "in time"
    with pytest.raises(InvalidInput, match="earthquake"):
        testing.simulate(patient, seeds=1, faults=["earthquake"], functions=[patient])


def test_steps_are_mocked_by_name() -> None:
    done = testing.simulate(
        order, 7, seeds=5, drive=pick, functions=[order], mocks={"charge": 1, "one": lambda n: n}
    )
    assert done.expected.result == [1, [1, 2], "Ada"]


def test_a_run_that_waits_for_ever_is_told() -> None:
    with pytest.raises(testing.SimulationFailed, match="waits for"):
        testing.simulate(order, 7, seeds=1, functions=[order], limit="20h", check=lambda _: True)
