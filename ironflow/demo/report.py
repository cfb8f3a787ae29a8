"""`report.html`: the survey as one page that needs nothing but a browser, and no network.

`render` is pure: the same facts give the same page. Style and script are files of this package, put
into the page; a content security policy in it forbids everything that is not in the page itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from importlib.resources import files

import msgspec

from ironflow.demo.graph import Graph, Node
from ironflow.demo.layout import HEIGHT, Picture, Wire, lay_out, pick_nodes
from ironflow.demo.survey import ModuleFacts

PICTURED = 50
"""Modules in the picture; more of them could not be read."""
TOP = 12
"""Rows of the short tables."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


class ProcessShare(msgspec.Struct, frozen=True):
    """How many times steps were executed by one server process."""

    pid: int
    executions: int


class Origin(msgspec.Struct, frozen=True):
    """Where the page comes from. `at` is RFC 3339 text; `processes` in the order they worked in."""

    run_id: str
    python: str
    at: str
    processes: list[ProcessShare] = []


def render(facts: Sequence[ModuleFacts], graph: Graph, origin: Origin) -> str:
    """The page."""
    picture = lay_out(graph, pick_nodes(graph, PICTURED))
    title = f"How Python {origin.python} imports itself"
    parts = [
        _header(title, origin),
        "<main>",
        _tiles(facts, graph),
        _graph_card(facts, graph, picture),
        '<div class="pair">',
        _most_imported(graph),
        _largest(facts),
        _most_complex(facts),
        _cycles(graph),
        "</div>",
        _all_modules(facts, graph),
        _findings(facts),
        _making(origin),
        "</main>",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_asset('report.css')}</style>\n</head>\n"
        f"<body>\n{chr(10).join(parts)}\n<script>\n{_asset('report.js')}</script>\n</body>\n</html>\n"
    )


@cache
def _asset(name: str) -> str:
    return files("ironflow.demo").joinpath(name).read_text(encoding="utf-8")


def _header(title: str, origin: Origin) -> str:
    return (
        f"<header><div><h1>{escape(title)}</h1>"
        "<p>The standard library, surveyed file by file in run "
        f"<code>{escape(origin.run_id)}</code>, "
        f'<time datetime="{escape(origin.at)}">{escape(_day(origin.at))}</time></p></div>'
        '<button type="button" id="theme" aria-label="Switch between light and dark">◐</button>'
        "</header>"
    )


def _day(at: str) -> str:
    return at[:16].replace("T", " ") + " UTC"


def _tiles(facts: Sequence[ModuleFacts], graph: Graph) -> str:
    figures = [
        ("modules", len(facts)),
        ("lines", sum(each.lines for each in facts)),
        ("functions", sum(each.functions for each in facts)),
        ("classes", sum(each.classes for each in facts)),
        ("imports", len(graph.edges)),
        ("layers deep", graph.layers),
        ("import cycles", len(graph.cycles)),
    ]
    tiles = "".join(f"<div><dd>{count:,}</dd><dt>{name}</dt></div>" for name, count in figures)
    return f'<dl class="tiles">{tiles}</dl>'


# -- the picture ----------------------------------------------------------------------------------


def _graph_card(facts: Sequence[ModuleFacts], graph: Graph, picture: Picture) -> str:
    hidden = sum(wire.implied for wire in picture.wires)
    legend = (
        '<ul class="legend"><li><i class="out"></i>it imports</li>'
        '<li><i class="in"></i>imports it</li>'
        '<li><i class="cycle"></i>cycle</li></ul>'
    )
    return (
        '<section class="card wide"><div class="head"><h2>What everything stands on</h2>'
        f"{legend}"
        '<label><input type="checkbox" id="implied"> '
        f"also the {hidden:,} implied imports</label></div>"
        f"<p>The {len(picture.boxes)} modules that most packages import, each above what "
        "it imports. Imports that follow from a chain of others are left out.</p>"
        f'<div class="scroll" id="scene">{_svg(facts, graph, picture)}</div>'
        '<p id="about" aria-live="polite" '
        'data-hint="Point at a module, or choose one, to see its own imports."></p></section>'
    )


def _svg(facts: Sequence[ModuleFacts], graph: Graph, picture: Picture) -> str:
    lines = {each.module: each.lines for each in facts}
    most = max((graph.nodes[box.node].imported_by for box in picture.boxes), default=0)
    wires = "".join(_wire(wire) for wire in picture.wires)
    boxes = []
    for i, box in enumerate(picture.boxes):
        node = graph.nodes[box.node]
        about = _describe(node, lines.get(node.module, 0))
        weight = 1 + min(4, round(4 * (node.imported_by / most) ** 0.5)) if most else 1
        boxes.append(
            f'<g class="node w{weight}{" knot" if node.cycle >= 0 else ""}" data-n="{box.node}" '
            f'role="button" tabindex="{0 if i == 0 else -1}" aria-label="{escape(about)}" '
            f'transform="translate({box.x:g} {box.y:g})">'
            f'<rect x="{-box.width / 2:g}" y="{-HEIGHT / 2:g}" '
            f'width="{box.width:g}" height="{HEIGHT:g}" rx="7"/>'
            f'<text y="4.5">{escape(node.module)}</text></g>'
        )
    return (
        f'<svg viewBox="0 0 {picture.width:g} {picture.height:g}" role="group" '
        f'aria-label="Import graph" style="--natural:{picture.width:g}px">'
        f'<g id="wires">{wires}</g><g id="boxes">{"".join(boxes)}</g></svg>'
    )


def _describe(node: Node, lines: int) -> str:
    text = (
        f"{node.module}: {lines:,} lines, imports {node.imports}, imported by {node.imported_by}, "
        f"layer {node.layer}"
    )
    return text + (", in a cycle" if node.cycle >= 0 else "")


def _wire(wire: Wire) -> str:
    kinds = [kind for kind, on in (("implied", wire.implied), ("cycle", wire.in_cycle)) if on]
    label = f' class="{" ".join(kinds)}"' if kinds else ""
    return f'<path{label} data-a="{wire.importer}" data-b="{wire.imported}" d="{_curve(wire)}"/>'


def _curve(wire: Wire) -> str:
    """A smooth line through the bends; between two modules of one row an arc below them."""
    points = wire.points
    (x, y), (last_x, last_y) = points[0], points[-1]
    if y == last_y:
        return f"M{x:g} {y:g}Q{(x + last_x) / 2:g} {y + HEIGHT / 2 + 14:g} {last_x:g} {last_y:g}"
    # How far each point leans sideways a row: as its neighbours lie; the ends start and arrive
    # upright.
    lean = [0.0, *((c[0] - a[0]) / 2 for a, c in zip(points, points[2:], strict=False)), 0.0]
    path = [f"M{x:g} {y:g}"]
    for i, (next_x, next_y) in enumerate(points[1:]):
        third = (next_y - y) / 3
        path.append(
            f"C{x + lean[i] / 3:.1f} {y + third:.1f} "
            f"{next_x - lean[i + 1] / 3:.1f} {next_y - third:.1f} "
            f"{next_x:g} {next_y:g}"
        )
        x, y = next_x, next_y
    return "".join(path)


# -- tables ---------------------------------------------------------------------------------------


def _table(head: Iterable[str], rows: Iterable[Sequence[str | int]], label: str) -> str:
    """A table that the script makes sortable. Whole numbers stand right, with separators."""
    rows = list(rows)
    numeric = [isinstance(cell, int) for cell in rows[0]] if rows else []
    heads = "".join(
        f'<th scope="col"{_number(i, numeric)}><button type="button">{escape(name)}</button></th>'
        for i, name in enumerate(head)
    )
    body = "\n".join(
        "<tr>"
        + "".join(f"<td{_number(i, numeric)}>{_cell(cell)}</td>" for i, cell in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table aria-label="{escape(label)}"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _number(i: int, numeric: Sequence[bool]) -> str:
    return ' class="num"' if i < len(numeric) and numeric[i] else ""


def _cell(cell: str | int) -> str:
    return f"{cell:,}" if isinstance(cell, int) else escape(cell)


def _card(heading: str, body: str, note: str = "", *, wide: bool = False) -> str:
    note = f"<p>{note}</p>" if note else ""
    return (
        f'<section class="card{" wide" if wide else ""}"><h2>{heading}</h2>{note}{body}</section>'
    )


def _most_imported(graph: Graph) -> str:
    top = sorted(graph.nodes, key=lambda node: (-node.imported_by, node.module))[:TOP]
    rows = [(node.module, node.imported_by, node.imports, node.layer) for node in top]
    head = ("module", "imported by", "imports", "layer")
    return _card("Most imported", _table(head, rows, "Most imported modules"))


def _largest(facts: Sequence[ModuleFacts]) -> str:
    top = sorted(facts, key=lambda each: (-each.lines, each.module))[:TOP]
    rows = [(each.module, each.lines, each.functions, each.classes) for each in top]
    return _card(
        "Largest modules",
        _table(("module", "lines", "functions", "classes"), rows, "Largest modules"),
    )


def most_complex(facts: Sequence[ModuleFacts], count: int) -> list[tuple[str, str, int, int]]:
    """Module, function, line and complexity of the most complex functions, the worst first."""
    every = [(each.module, f.name, f.line, f.complexity) for each in facts for f in each.complex]
    return sorted(every, key=lambda row: (-row[3], row[0], row[2]))[:count]


def _most_complex(facts: Sequence[ModuleFacts]) -> str:
    rows = [
        (name, module, line, complexity)
        for module, name, line, complexity in most_complex(facts, TOP)
    ]
    table = _table(("function", "module", "line", "complexity"), rows, "Most complex functions")
    return _card("Most complex functions", table)


def _cycles(graph: Graph) -> str:
    note = (
        "Modules that import one another while they are being imported. With the imports that are "
        f"put off into functions ({graph.deferred:,} of them), {graph.tangled:,} modules would be "
        "in a cycle."
    )
    if not graph.cycles:
        return _card("Import cycles", '<p class="good">There are none.</p>', note)
    rows = [(" ⇄ ".join(cycle), len(cycle)) for cycle in graph.cycles]
    return _card("Import cycles", _table(("modules", "size"), rows, "Import cycles"), note)


def _all_modules(facts: Sequence[ModuleFacts], graph: Graph) -> str:
    nodes = {node.module: node for node in graph.nodes}
    rows = []
    for each in sorted(facts, key=lambda each: each.module):
        node = nodes[each.module]
        worst = max((f.complexity for f in each.complex), default=0)
        rows.append(
            (
                each.module,
                each.lines,
                each.functions,
                each.classes,
                node.imports,
                node.imported_by,
                node.layer,
                worst,
            )
        )
    head = (
        "module",
        "lines",
        "functions",
        "classes",
        "imports",
        "imported by",
        "layer",
        "max complexity",
    )
    search = (
        '<input type="search" id="filter" placeholder="Filter modules" aria-label="Filter modules" '
        'autocomplete="off"> <span id="shown" aria-live="polite"></span>'
    )
    table = _table(head, rows, "All modules")
    return _card("All modules", f'<div id="all">{search}{table}</div>', wide=True)


def _findings(facts: Sequence[ModuleFacts]) -> str:
    rows = [(each.module, each.path, each.finding) for each in facts if each.finding is not None]
    if not rows:
        return _card(
            "Findings", '<p class="good">Every file could be read and parsed.</p>', wide=True
        )
    table = _table(("module", "file", "what is wrong"), rows, "Findings")
    return _card("Findings", table, "Files that this Python cannot parse.", wide=True)


def _making(origin: Origin) -> str:
    rows = [
        (f"process {i}, pid {share.pid}", share.executions)
        for i, share in enumerate(origin.processes, 1)
    ]
    if len(rows) > 1:
        note = (
            f"{len(rows)} server processes worked on this run: each went on where the one before "
            "it was killed."
        )
    else:
        note = "One server process worked on this run."
    return _card(
        "How this page was made",
        _table(("server process", "steps executed"), rows, "Server processes") if rows else "",
        note,
        wide=True,
    )
