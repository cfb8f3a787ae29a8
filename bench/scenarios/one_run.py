"""One run alone, in process: what a durable step takes when it has no commit to share."""

from __future__ import annotations

import time

from ceilings import group_commit, plain_commit
from harness.processes import Meter
from harness.scenario import Column, Figures, Scenario, Setting, Side, Target, summary


async def timed_steps(setting: Setting) -> Figures:
    """Latencies of single steps, as the body sees them."""
    from functions import CHAIN, STEP_SECONDS

    from ironflow.embedded import open_engine

    async with open_engine(setting.folder / "one.db", durability=setting.durability) as engine:
        await engine.invoke_and_wait("bench-timed", b"%d" % CHAIN)
        STEP_SECONDS.clear()
        meter, began = Meter(), time.perf_counter()
        while time.perf_counter() - began < setting.seconds:
            await engine.invoke_and_wait("bench-timed", b"100")
        spent = time.perf_counter() - began
        return summary(len(STEP_SECONDS), spent, meter.seconds(), STEP_SECONDS)


GROUP, PLAIN = "bare group commit", "bare SQLite"

SCENARIOS = (
    Scenario(
        name="one-run",
        title="one run alone, latency of a step",
        sides=(
            Side(name="ironflow", role="ours", measure=timed_steps),
            Side(name=GROUP, role="ceiling", measure=group_commit),
            Side(name=PLAIN, role="ceiling", measure=plain_commit),
        ),
        columns=(
            Column(figure="p50_ms", title="p50 ms", digits=3),
            Column(figure="p99_ms", title="p99 ms", digits=3),
            Column(figure="per_second", title="steps/s"),
            Column(figure="cpu_us", title="CPU us/step", digits=1),
        ),
        cases=({"at_once": 1},),
        targets=(
            Target(figure="p50_ms", at_most=1.5, beside=GROUP),
            Target(figure="p50_ms", at_most=1.5, beside=PLAIN),
        ),
        notes="Bare SQLite commits a row in a thread that does nothing else, so it has no event "
        "loop and no hop to a thread and back; the bare group commit has both.",
    ),
)
