"""The demo's page: a picture that can be read, and HTML that needs nothing but itself."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironflow.demo.graph import Graph, build_graph
from ironflow.demo.layout import GAP, HEIGHT, Picture, lay_out, pick_nodes
from ironflow.demo.report import Origin, ProcessShare, most_complex, render
from ironflow.demo.survey import FunctionFacts, ModuleFacts

VOID = {"meta", "link", "input", "br", "rect", "path"}
AT = "2026-01-02T03:04:05+00:00"
ORIGIN = Origin("run-1", "3.11.7", AT, [ProcessShare(11, 40), ProcessShare(12, 30)])


def facts(module: str, *imports: str, lines: int = 1, finding: str | None = None) -> ModuleFacts:
    worst = [FunctionFacts("f", 3, lines + 1)]
    return ModuleFacts(
        module=module, path=f"{module}.py", lines=lines, functions=1, imports=list(imports),
        complex=worst, finding=finding,
    )  # fmt: skip


SMALL = [
    facts("app", "lib", "base", "util", lines=1234), facts("lib", "base"), facts("base"),
    facts("util", "lib", "twin"), facts("twin", "util"), facts("lone", lines=7),
    facts("broken", finding="SyntaxError in line 1: <b>no</b> & no"),
]  # fmt: skip


class Page(HTMLParser):
    """A strict reading: every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def page_of(every: list[ModuleFacts], origin: Origin = ORIGIN) -> tuple[str, Page]:
    text = render(every, build_graph(every), origin)
    page = Page(text)
    assert page.open == []
    return text, page


def test_the_page_is_whole_and_needs_no_network() -> None:
    text, page = page_of(SMALL)
    assert text.startswith("<!doctype html>")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    links = [a for _, a in page.tags if {"src", "href"} & a.keys()]
    assert [a.get("href", a.get("src")) for a in links] == ["data:,"]
    policy = next(a["content"] for a in page.named("meta") if "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe-eval" not in policy
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'getElementById\("(\w+)"\)', text)) <= set(ids)


def test_the_page_says_what_was_found() -> None:
    text, page = page_of(SMALL)
    words = " ".join(page.text)
    assert "How Python 3.11.7 imports itself" in words
    assert "run-1" in words
    assert "1,246" in words  # lines of all
    assert "twin ⇄ util" in words
    assert "process 2, pid 12" in words
    assert "SyntaxError in line 1: <b>no</b> & no" in words
    assert "<b>" not in text
    assert words.count("lone") == 4  # three short tables and the list; the picture leaves it out


def test_without_findings_and_cycles_it_says_so() -> None:
    _, page = page_of([facts("a", "b"), facts("b")], Origin("r", "3.12.1", AT))
    words = " ".join(page.text)
    assert "Every file could be read and parsed." in words
    assert "There are none." in words
    assert "One server process worked on this run." in words


def test_a_page_of_nothing() -> None:
    _, page = page_of([])
    words = " ".join(page.text)
    assert "0 modules 0 lines" in words
    assert "There are none." in words
    assert "Every file could be read and parsed." in words


def test_tables_have_as_many_cells_as_headings() -> None:
    text, _ = page_of(SMALL)
    for table in re.findall(r"<table.*?</table>", text, re.DOTALL):
        heads = table.count("<th ")
        for row in re.findall(r"<tr>(.*?)</tr>", table.partition("<tbody>")[2], re.DOTALL):
            assert row.count("<td") == heads


def test_the_same_facts_give_the_same_page() -> None:
    assert page_of(SMALL)[0] == page_of(SMALL)[0]


def test_most_complex_functions_of_all_modules() -> None:
    assert most_complex(SMALL, 2) == [("app", "f", 3, 1235), ("lone", "f", 3, 8)]


# -- the picture ----------------------------------------------------------------------------------


def picture_of(every: list[ModuleFacts], count: int = 50) -> tuple[Graph, Picture]:
    graph = build_graph(every)
    return graph, lay_out(graph, pick_nodes(graph, count))


def test_picks_what_other_packages_import() -> None:
    every = [facts(f"own.m{i}", "own.popular", "shared") for i in range(5)]
    every += [facts("own.popular"), facts("shared"), facts("other", "shared"), facts("idle")]
    graph = build_graph(every)
    names = [graph.nodes[i].module for i in pick_nodes(graph, 2)]
    assert names == ["own.popular", "shared"]
    assert "idle" not in [graph.nodes[i].module for i in pick_nodes(graph, 99)]


def test_implied_imports_are_marked_and_cycles_too() -> None:
    graph, picture = picture_of(SMALL)
    names = [node.module for node in graph.nodes]
    wires = {(names[w.importer], names[w.imported]): w for w in picture.wires}
    implied = {pair for pair, wire in wires.items() if wire.implied}
    assert implied == {("app", "base"), ("app", "lib")}
    in_cycle = {pair for pair, wire in wires.items() if wire.in_cycle}
    assert in_cycle == {("util", "twin"), ("twin", "util")}


modules = st.integers(2, 14).flatmap(
    lambda n: st.lists(
        st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), min_size=1, max_size=30
    ).map(lambda edges: [facts(f"m{i}", *{f"m{b}" for a, b in edges if a == i}) for i in range(n)])
)


@given(modules)
@settings(max_examples=60)
def test_boxes_keep_apart_and_stand_above_what_they_import(every: list[ModuleFacts]) -> None:
    _, picture = picture_of(every)
    rows: dict[float, list[tuple[float, float]]] = {}
    for box in picture.boxes:
        rows.setdefault(box.y, []).append((box.x, box.width))
        assert box.x - box.width / 2 >= 0
        assert box.x + box.width / 2 <= picture.width
        assert HEIGHT / 2 <= box.y <= picture.height - HEIGHT / 2
    for row in rows.values():
        for (x, width), (other, other_width) in pairwise(sorted(row)):
            assert other - x >= (width + other_width) / 2 + GAP - 0.5  # rounding
    height = {box.node: box.y for box in picture.boxes}
    for wire in picture.wires:
        assert wire.in_cycle == (height[wire.importer] == height[wire.imported])
        assert wire.in_cycle or height[wire.importer] < height[wire.imported]
        assert wire.implied <= (not wire.in_cycle)


@given(modules)
@settings(max_examples=60)
def test_what_is_drawn_reaches_as_far_as_what_is(every: list[ModuleFacts]) -> None:
    _, picture = picture_of(every)

    def reach(wires: list[tuple[int, int]]) -> dict[int, set[int]]:
        found = {box.node: {box.node} for box in picture.boxes}
        for _ in found:
            for a, b in wires:
                found[a] |= found[b]
        return found

    drawn = [(w.importer, w.imported) for w in picture.wires if not w.implied]
    assert reach(drawn) == reach([(w.importer, w.imported) for w in picture.wires])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_small_picture(count: int) -> None:
    _, picture = picture_of(SMALL, count)
    assert len(picture.boxes) == count
