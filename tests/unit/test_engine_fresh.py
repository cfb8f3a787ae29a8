"""A run whose id was just made up is not looked for in the journal; the fence stands behind it."""

from __future__ import annotations

from typing import Any

import pytest
from engine_world import is_clean, play

from ironflow import function, testing
from ironflow.core.errors import IronflowError
from ironflow.core.runs import commands as c
from ironflow.core.values.payloads import pack


@function(id="fresh-echo")
async def echo(ctx: Any, number: int) -> int:
    return number


def create(number: int) -> c.CreateRun:
    return c.CreateRun(
        function_id="fresh-echo", input=pack(b"%d" % number)[0], input_hash=str(number)
    )


def count_loads(world: testing.World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    loads: list[str] = []
    load = world.store.reader.load

    async def counted(stream: str) -> Any:
        loads.append(stream)
        return await load(stream)

    monkeypatch.setattr(world.store.reader, "load", counted)
    return loads


def test_a_new_run_is_not_read_and_one_with_a_key_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(world: testing.World) -> None:
        loads = count_loads(world, monkeypatch)
        created = await world.engine.invoke("fresh-echo", b"2")
        assert loads == []
        keyed = await world.engine.invoke("fresh-echo", b"3", idempotency_key="k")
        assert loads == [f"run/{keyed.run_id}"]
        await world.wait(created.run_id)
        await world.wait(keyed.run_id)
        assert world.engine.environment.fresh == set()
        is_clean(world)

    play(main, functions=[echo])


def test_a_refused_invocation_leaves_no_trace() -> None:
    async def main(world: testing.World) -> None:
        for function_id, data in (("fresh-unknown", b"1"), ("fresh-echo", b"{")):
            with pytest.raises(IronflowError):
                await world.engine.invoke(function_id, data)
        assert world.engine.environment.fresh == set()

    play(main, functions=[echo])


def test_an_id_that_was_taken_after_all_is_refused_by_the_fence() -> None:
    async def main(world: testing.World) -> None:
        run_id = await world.start(echo, 1)
        await world.wait(run_id)
        await world.advance(120)  # its actor has left
        before = await world.store.reader.load(f"run/{run_id}")
        world.engine.environment.fresh.add(run_id)
        with pytest.raises(IronflowError):
            await world.engine.system.ref("run", run_id).ask(create(2))
        await world.advance(60)
        assert await world.store.reader.load(f"run/{run_id}") == before
        assert (await world.wait(run_id)).result == 1
        is_clean(world)

    play(main, functions=[echo])
