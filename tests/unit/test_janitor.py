"""How often retention looks, and that an old run does not outlive its age by long."""

from __future__ import annotations

import pytest
from engine_world import play

from ironflow import Context, function, testing
from ironflow.actors.janitor import EVERY, pause_between
from ironflow.core.errors import NotFound
from ironflow.storage.ports import RetentionRule

SECOND = 1_000_000
DAY = 86_400 * SECOND


@pytest.mark.parametrize(
    ("rules", "seconds"),
    [
        ([RetentionRule(kind="completed", max_age=30 * DAY)], EVERY),
        ([RetentionRule(kind="completed", max_age=600 * SECOND)], 60),
        ([RetentionRule(kind="completed", max_age=SECOND)], 1),
        ([RetentionRule(kind="events", max_count=10)], 60),
        (
            [
                RetentionRule(kind="events", max_age=DAY),
                RetentionRule(kind="failed", max_age=100 * SECOND),
            ],
            10,
        ),
    ],
)
def test_it_looks_as_often_as_the_shortest_age_asks_for(
    rules: list[RetentionRule], seconds: float
) -> None:
    assert pause_between(rules) == seconds


@function(id="kept-for-a-while")
async def kept(ctx: Context) -> int:
    return 1


def test_a_run_goes_soon_after_its_age() -> None:
    async def main(world: testing.World) -> None:
        ended = await world.run(kept)
        await world.advance(99)
        assert (await world.state(ended.run_id)).result is not None
        await world.advance(12)
        with pytest.raises(NotFound):
            await world.state(ended.run_id)

    play(main, retention=[RetentionRule(kind="completed", max_age=100 * SECOND)])
