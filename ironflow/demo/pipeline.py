"""The durable function of the demo: every source of the standard library, each parsed in a step of
its own.

    list ──> parse a │ parse b │ parse c │ ... (16 at once) ──> graph ──> report

Each step notes that it is executed in `executions.log`, before it does anything: a witness beside
the journal, by which the demo proves that no finished step ran twice. Every tenth file pretends to
be unreadable the first time, so that the run has failures to retry; files that are no Python are
findings of the survey.
"""

from __future__ import annotations

import os
import platform
import sysconfig
from collections import Counter

import msgspec

from ironflow.core.runs.retry import RetryPolicy
from ironflow.demo.executions import Notebook
from ironflow.demo.graph import Graph, build_graph
from ironflow.demo.report import Origin, ProcessShare, most_complex, render
from ironflow.demo.survey import ModuleFacts, Source, list_modules, survey_source
from ironflow.sdk.context import Context
from ironflow.sdk.function import function

FUNCTION = "stdlib-survey"
AT_ONCE = 16
FLAKY_EVERY = 10
RETRY = RetryPolicy(
    max_attempts=4, initial_delay=0.3, max_delay=5.0, no_retry_on=("NotADirectoryError",)
)
REPORT = "report.html"


class Wanted(msgspec.Struct, frozen=True):
    """The input. `folder` takes report and log; `root` is this Python's library if None."""

    folder: str
    limit: int | None = None
    root: str | None = None


class Survey(msgspec.Struct, frozen=True):
    """The result. `most_complex` holds function names with their complexity, the worst first."""

    modules: int
    lines: int
    functions: int
    classes: int
    imports: int
    layers: int
    cycles: int
    findings: int
    most_complex: list[tuple[str, int]]
    report: str


def list_sources(notes: Notebook, root: str, limit: int | None) -> list[Source]:
    """Step: the files to survey."""
    notes.add("list")
    return list_modules(root, limit)


def parse_module(notes: Notebook, root: str, source: Source, flaky: bool) -> ModuleFacts:
    """Step: the facts of one file."""
    name = f"parse {source.module}"
    notes.add(name)
    if flaky and notes.count(name) == 1:
        raise OSError(f"{source.path} cannot be read just now (the demo pretends)")
    with open(os.path.join(root, source.path), "rb") as file:
        return survey_source(source, file.read())


def join_modules(notes: Notebook, facts: list[ModuleFacts]) -> Graph:
    """Step: the import graph of all modules."""
    notes.add("graph")
    return build_graph(facts)


def write_report(notes: Notebook, at: str, facts: list[ModuleFacts], graph: Graph) -> str:
    """Step: `report.html`, whole or not at all; its path."""
    notes.add("report")
    by_process = Counter(execution.pid for execution in notes.read())
    processes = [ProcessShare(pid, count) for pid, count in by_process.items()]
    origin = Origin(notes.run_id, platform.python_version(), at, processes)
    path = os.path.join(notes.folder, REPORT)
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        file.write(render(facts, graph, origin))
    os.replace(f"{path}.new", path)
    return path


@function(id=FUNCTION, retry=RETRY)
async def survey(ctx: Context, wanted: Wanted) -> Survey:
    """Survey the standard library and write `report.html`."""
    notes = Notebook(wanted.folder, ctx.run_id)
    root = wanted.root or sysconfig.get_path("stdlib")
    sources = await ctx.step.run("list", list_sources, notes, root, wanted.limit)
    ctx.log.info("surveying %d modules below %s", len(sources), root)

    async def parse(numbered: tuple[int, Source]) -> ModuleFacts:
        number, source = numbered
        flaky = number % FLAKY_EVERY == FLAKY_EVERY - 1
        name = f"parse {source.module}"
        facts: ModuleFacts = await ctx.step.run(name, parse_module, notes, root, source, flaky)
        return facts

    facts = await ctx.step.map("modules", parse, enumerate(sources), concurrency=AT_ONCE)
    graph = await ctx.step.run("graph", join_modules, notes, facts)
    written_at = ctx.now().isoformat(timespec="seconds")
    path = await ctx.step.run("report", write_report, notes, written_at, facts, graph)
    return Survey(
        modules=len(facts),
        lines=sum(each.lines for each in facts),
        functions=sum(each.functions for each in facts),
        classes=sum(each.classes for each in facts),
        imports=len(graph.edges),
        layers=graph.layers,
        cycles=len(graph.cycles),
        findings=sum(each.finding is not None for each in facts),
        most_complex=[(f"{row[0]}.{row[1]}", row[3]) for row in most_complex(facts, 3)],
        report=path,
    )
