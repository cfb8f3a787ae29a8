"""The demo's reading of sources: imports, complexity, broken files; and the graph made of them."""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironflow.demo.graph import build_graph, component_layers, strong_components
from ironflow.demo.survey import ModuleFacts, Source, list_modules, survey_source


def survey(text: str, module: str = "m", path: str = "m.py") -> ModuleFacts:
    return survey_source(Source(module, path), textwrap.dedent(text).encode())


def facts(module: str, *imports: str, deferred: tuple[str, ...] = ()) -> ModuleFacts:
    return ModuleFacts(module=module, path="x.py", imports=list(imports), deferred=list(deferred))


def test_counts_lines_functions_and_classes() -> None:
    found = survey("class A:\n    def f(self): ...\n    async def g(self): ...\ndef h(): ...")
    assert (found.lines, found.functions, found.classes) == (4, 3, 1)
    assert [each.name for each in found.complex] == ["A.f", "A.g", "h"]
    assert [each.line for each in found.complex] == [2, 3, 4]
    empty = survey("")
    assert (empty.lines, empty.functions, empty.finding) == (0, 0, None)


@pytest.mark.parametrize(
    ("body", "complexity"),
    [
        ("pass", 1),
        ("if a: pass", 2),
        ("if a: pass\n    elif b: pass\n    else: pass", 3),
        ("for x in y: pass\n    else: pass", 2),
        ("while a: break", 2),
        ("try: pass\n    except A: pass\n    except B: pass\n    finally: pass", 3),
        ("return a and b or c", 3),
        ("return a and b and c and d", 4),
        ("return 1 if a else 2", 2),
        ("return [x for x in y if a if b]", 4),
        ("return {x: z for x in y for z in x}", 3),
        ("return lambda: 1 if a else 2", 2),
        ("with a as b, c: assert b", 1),
        ("match a:\n        case 1: pass\n        case 2 if b: pass\n        case _: pass", 3),
        ("match a:\n        case _ if b: pass", 2),
    ],
)
def test_complexity(body: str, complexity: int) -> None:
    found = survey(f"def f(a):\n    {body}\n")
    assert [each.complexity for each in found.complex] == [complexity]


def test_a_nested_function_is_counted_apart() -> None:
    found = survey("""
        def outer():
            if a: pass
            def inner():
                if b: pass
                while c: pass
            class K:
                def method(self): return x or y
    """)
    assert {each.name: each.complexity for each in found.complex} == {
        "outer": 2, "outer.inner": 3, "outer.K.method": 2,
    }  # fmt: skip
    assert found.complexity == 7


def test_most_complex_first_and_only_five_by_name() -> None:
    terms = [" or ".join("a" * (i + 1)) for i in range(9)]
    found = survey("\n".join(f"def f{i}():\n  return {terms[i]}" for i in range(9)))
    assert [each.name for each in found.complex] == ["f8", "f7", "f6", "f5", "f4"]
    assert found.functions == 9


def test_imports_absolute_and_relative() -> None:
    text = """
        import os.path, sys as system
        from json import decoder, loads as load
        from re import *
        from . import sibling
        from .sub import name
        from .. import uncle
        from ..cousin import x
    """
    assert survey(text, "a.b.c", "a/b/c.py").imports == sorted([
        "os.path", "sys", "json.decoder", "json.loads", "re",
        "a.b.sibling", "a.b.sub.name", "a.uncle", "a.cousin.x",
    ])  # fmt: skip
    text = "from . import part\nfrom .part import x\nfrom .. import up"
    inside = survey(text, "a.b", "a/b/__init__.py")
    assert inside.imports == ["a.b.part", "a.b.part.x", "a.up"]


def test_imports_that_run_and_those_that_wait() -> None:
    found = survey("""
        import one
        try:
            import two
        except ImportError:
            import three
        class K:
            import four
            def method(self): import five
        def f():
            if x: import six
            import one
        if TYPE_CHECKING: import seven
        else: import eight
        if typing.TYPE_CHECKING: import nine
        if __name__ == "__main__": import ten
        if os.name == "nt": import eleven
    """)
    assert found.imports == sorted(["one", "two", "three", "four", "eight", "eleven"])
    assert found.deferred == sorted(["five", "six", "seven", "nine", "ten"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"x = 1\nprint 'old'\n", "SyntaxError in line 2: "),
        (b"# -*- coding: ascii -*-\nx = '\xe9'\n", "SyntaxError"),
        (b"# -*- coding: klingon -*-\n", "SyntaxError: unknown encoding"),
        (b"x = '\xff\xfe'\n", "SyntaxError"),
        (b"x = 1\0", "null bytes"),
        (b"(" * 500 + b")" * 500, "too many nested parentheses"),
        (b"x = " + b"-" * 60_000 + b"1", "RecursionError|MemoryError|SyntaxError"),
    ],
)
def test_what_is_no_python_is_a_finding(text: bytes, expected: str) -> None:
    found = survey_source(Source("m", "m.py"), text)
    assert found.finding is not None
    assert any(part in found.finding for part in expected.split("|"))
    assert found.functions == 0
    assert found.lines == text.count(b"\n") + (not text.endswith(b"\n"))


def test_deep_nesting_does_not_exhaust_the_stack() -> None:
    chain = "if a: pass\n" + "".join(f"elif b{i}: pass\n" for i in range(900))
    found = survey("def f():\n" + textwrap.indent(chain, " "))
    assert found.finding is None
    assert found.complex[0].complexity == 902


def test_lists_what_belongs_to_the_library(tmp_path: Path) -> None:
    for name in (
        "b.py", "a.py", "_private.py", "pkg/__init__.py", "pkg/mod.py", "pkg/_inner.py",
        "pkg/data.txt", "test/t.py", "pkg/tests/t.py", "site-packages/x.py",
        "pkg/__pycache__/mod.py",
        "config-3-x86/script.py", "not-a-name.py", "lib2to3/x.py", "idlelib/x.py",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    found = list_modules(str(tmp_path))
    assert [each.module for each in found] == ["a", "b", "pkg", "pkg.mod", "_private", "pkg._inner"]
    assert [each.is_package for each in found] == [False, False, True, False, False, False]
    assert found[3].path == "pkg/mod.py"
    assert list_modules(str(tmp_path), 2) == found[:2]
    with pytest.raises(NotADirectoryError, match="no library sources"):
        list_modules(str(tmp_path / "absent"))


def test_surveys_the_library_of_this_python() -> None:
    source = Source("ast", "ast.py")
    found = survey_source(source, Path(ast.__file__).read_bytes())
    assert found.finding is None
    assert {"re", "contextlib.contextmanager"} & set(found.imports)
    assert found.functions > 50
    assert found.lines > 500


# -- the graph ------------------------------------------------------------------------------------


def test_edges_lead_to_the_deepest_known_module() -> None:
    graph = build_graph([
        facts("a", "p.q", "p.name", "os.path", "sys.version", "a"),
        facts("os"), facts("p", "p.q"), facts("p.q"),
    ])  # fmt: skip
    names = [node.module for node in graph.nodes]
    assert names == ["a", "os", "p", "p.q"]
    assert [(names[i], names[j]) for i, j in graph.edges] == [
        ("a", "os"), ("a", "p"), ("a", "p.q"), ("p", "p.q"),
    ]  # fmt: skip
    assert graph.outside == 1
    assert [(n.imports, n.imported_by, n.layer) for n in graph.nodes] == [
        (3, 0, 2), (0, 1, 0), (1, 1, 1), (0, 2, 0),
    ]  # fmt: skip
    assert graph.layers == 3


def test_cycles_and_what_is_only_tangled() -> None:
    graph = build_graph([
        facts("a", "b"), facts("b", "c"), facts("c", "a", "d"), facts("d", deferred=("e",)),
        facts("e", "d"), facts("x", "y"), facts("y", "x"), facts("z", "z.z"),
    ])  # fmt: skip
    assert graph.cycles == [["a", "b", "c"], ["x", "y"]]
    assert {node.module: node.cycle for node in graph.nodes} == {
        "a": 0, "b": 0, "c": 0, "d": -1, "e": -1, "x": 1, "y": 1, "z": -1,
    }  # fmt: skip
    assert {node.module: node.layer for node in graph.nodes if node.module in "abcd"} == {
        "a": 1, "b": 1, "c": 1, "d": 0,
    }  # fmt: skip
    assert graph.deferred == 1
    assert graph.tangled == 7


def test_no_modules_at_all() -> None:
    graph = build_graph([])
    assert (graph.nodes, graph.edges, graph.cycles, graph.layers) == ([], [], [], 0)


def test_a_long_chain_needs_no_recursion() -> None:
    size = 5000
    components = strong_components(size, {(i, i + 1) for i in range(size - 1)})
    assert component_layers(components, {(i, i + 1) for i in range(size - 1)})[0] == size - 1
    ring = {(i, (i + 1) % size) for i in range(size)}
    assert strong_components(size, ring) == [list(range(size))]


@given(
    st.integers(1, 9).flatmap(
        lambda n: st.tuples(st.just(n), st.sets(st.tuples(*[st.integers(0, n - 1)] * 2)))
    )
)
def test_components_are_mutual_reachability(case: tuple[int, set[tuple[int, int]]]) -> None:
    size, edges = case
    reach = [{i} for i in range(size)]
    for _ in range(size):
        for a, b in edges:
            reach[a] |= reach[b]
    components = strong_components(size, edges)
    nodes = range(size)
    expected = {frozenset(j for j in reach[i] if i in reach[j]) for i in nodes}
    assert {frozenset(component) for component in components} == expected
    assert sorted(node for component in components for node in component) == list(range(size))
    layers = component_layers(components, edges)
    for a, b in edges:
        together = a in reach[b]
        assert layers[a] == layers[b] if together else layers[a] > layers[b]
