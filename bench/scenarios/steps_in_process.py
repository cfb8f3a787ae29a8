"""Durable steps in process: N runs at once, each a chain of ten trivial steps, each result
committed before the next step begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ceilings import group_commit
from harness.load import closed_loop
from harness.processes import Meter, own_rss
from harness.scenario import Column, Figures, Scenario, Setting, Side, Target, summary

if TYPE_CHECKING:
    from ironflow.actors.engine import Engine


async def steps(setting: Setting) -> Figures:
    """Steps per second; the latencies are of whole runs, start to finish."""
    from functions import CHAIN

    from ironflow.embedded import open_engine

    path = setting.folder / "steps.db"
    async with open_engine(path, durability=setting.durability) as engine:

        async def run_chain() -> None:
            _, run = await engine.invoke_and_wait("bench-chain", b"%d" % CHAIN)
            if run is None or run.status != "completed":
                raise RuntimeError(f"a run did not complete: {run}")

        await run_chain()
        meter = Meter()
        load = await closed_loop([run_chain] * setting.case["at_once"], setting.seconds)
        figures = summary(load.count, load.seconds, meter.seconds(), load.latencies, CHAIN)
        figures["rss_mib"] = own_rss()
        await _check(engine, load.count + 1, CHAIN)
        return figures


async def _check(engine: Engine, runs: int, length: int) -> None:
    """What was counted is in the journal."""
    counted = await engine.store.reader.count_runs()
    if counted != {("bench-chain", "completed"): runs}:
        raise RuntimeError(f"{runs} runs were reported, the journal has {counted}")
    last = engine.store.journal.last_seq
    # created, started, the steps, completed; and one entry for the function.
    if last < runs * (length + 3):
        raise RuntimeError(f"{runs} runs cannot be in {last} entries")


SCENARIOS = (
    Scenario(
        name="steps-in-process",
        title="durable steps in process, runs of 10 steps",
        sides=(
            Side(name="ironflow", role="ours", measure=steps),
            Side(name="bare group commit", role="ceiling", measure=group_commit),
        ),
        columns=(
            Column(figure="per_second", title="steps/s"),
            Column(figure="cpu_us", title="CPU us/step", digits=1),
            Column(figure="p50_ms", title="run p50 ms", digits=2),
            Column(figure="p99_ms", title="run p99 ms", digits=2),
            Column(figure="rss_mib", title="RSS MiB"),
        ),
        cases=({"at_once": 1}, {"at_once": 16}, {"at_once": 256}, {"at_once": 1000}),
        quick=({"at_once": 16},),
        targets=(Target(figure="per_second", at_least=20_000, case={"at_once": 256}),),
        notes="The ceiling commits one bare row where a step commits its entry; its p50 and p99 "
        "are of one row.",
    ),
)
