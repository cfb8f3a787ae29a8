"""Graphs on paper: layers from left to right, as SVG, as one HTML file, or as mermaid.

A diagram is what is drawn, whatever it shows: a workflow's possible ways, or what one run did.
Nothing is loaded from the network.
"""

from __future__ import annotations

import html
import re
from collections import defaultdict
from typing import Literal

import msgspec

Shape = Literal["step", "event", "start", "stop", "outside", "resource", "failed", "waiting"]
Format = Literal["svg", "html", "mermaid"]

WIDTH, HEIGHT = 168, 40
"""Of a node, in pixels."""
GAP_X, GAP_Y, MARGIN = 72, 22, 24
LETTERS = 22
"""Of a label, at most."""
ROOM = WIDTH - 20
"""For the label of a node, in pixels."""
_LETTER_WIDTHS = {6.9: "", 4.2: "fijlrtI.,:;'|()[] ", 8.6: "ABCDEGHKNOPQRSUVXYZ", 11.0: "MWmw@%…"}
_LETTER_WIDTH = {letter: width for width, letters in _LETTER_WIDTHS.items() for letter in letters}

_FILL = {
    "step": "#dbeafe", "event": "#f1f5f9", "start": "#fde68a", "stop": "#bbf7d0",
    "outside": "#fbcfe8", "resource": "#e9d5ff", "failed": "#fecaca", "waiting": "#fef3c7",
}  # fmt: skip
_MERMAID = {
    "step": '["{}"]', "event": '(["{}"])', "start": '(["{}"])', "stop": '(["{}"])',
    "outside": '{{{{"{}"}}}}', "resource": '[("{}")]', "failed": '["{}"]', "waiting": '["{}"]',
}  # fmt: skip


class Node(msgspec.Struct, frozen=True):
    """A box: `note` is shown when the pointer rests on it."""

    id: str
    label: str
    shape: Shape
    note: str = ""


class Edge(msgspec.Struct, frozen=True):
    """An arrow."""

    source: str
    target: str
    label: str = ""


class Diagram(msgspec.Struct, frozen=True):
    """What is drawn."""

    title: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


def render(diagram: Diagram, format: Format, max_label_length: int | None = None) -> str:
    """The text of a drawing. Raises `ValueError` for another format."""
    match format:
        case "svg":
            return to_svg(diagram, max_label_length)
        case "html":
            return to_html(diagram, max_label_length)
        case "mermaid":
            return to_mermaid(diagram, max_label_length)
        case _:
            raise ValueError(f"format must be svg, html or mermaid, not {format!r}")


def short(label: str, length: int | None) -> str:
    """A label of at most so many letters."""
    if length is None or len(label) <= length:
        return label
    return label[: max(length - 1, 1)] + "…"


# -- mermaid --------------------------------------------------------------------------------------


def to_mermaid(diagram: Diagram, max_label_length: int | None = None) -> str:
    """A flowchart in mermaid's language."""
    ids = {node.id: f"n{number}" for number, node in enumerate(diagram.nodes)}
    lines = ["flowchart LR"]
    for node in diagram.nodes:
        label = _quoted(short(node.label, max_label_length))
        lines.append(f"    {ids[node.id]}{_MERMAID[node.shape].format(label)}:::{node.shape}")
    for edge in diagram.edges:
        label = _quoted(short(edge.label, max_label_length))
        arrow = f'-- "{label}" -->' if label else "-->"
        lines.append(f"    {ids[edge.source]} {arrow} {ids[edge.target]}")
    shapes = dict.fromkeys(node.shape for node in diagram.nodes)
    lines += [f"    classDef {shape} fill:{_FILL[shape]},color:#0f172a" for shape in shapes]
    return "\n".join(lines) + "\n"


def width_of(label: str) -> float:
    """About how wide a label is, in pixels: fonts differ, so rather more than less."""
    return sum(_LETTER_WIDTH.get(sign, 6.9 if sign.isascii() else 12.0) for sign in label)


def fit(label: str, length: int | None) -> str:
    """What of a label stands within a node."""
    found = short(label, min(length or LETTERS, LETTERS))
    while len(found) > 1 and width_of(found) > ROOM:
        found = short(label, len(found) - 1)
    return found


def _quoted(label: str) -> str:
    """A label between quotes: mermaid reads markup in it, and says characters by `#name;`."""
    for sign, name in (("#", "35"), ('"', "quot"), ("<", "lt"), (">", "gt")):
        label = label.replace(sign, f"#{name};")
    return label


# -- layout ---------------------------------------------------------------------------------------


def place(diagram: Diagram) -> dict[str, tuple[int, int]]:
    """Where each node stands: its column, and its row in it.

    A column is the shortest way from where things begin; rows are sorted by the mean row of the
    nodes before them, a few times over, so that few arrows cross.
    """
    targets: dict[str, list[str]] = defaultdict(list)
    sources: dict[str, list[str]] = defaultdict(list)
    for edge in diagram.edges:
        targets[edge.source].append(edge.target)
        sources[edge.target].append(edge.source)
    column: dict[str, int] = {}
    roots = [n.id for n in diagram.nodes if n.shape == "start"]
    roots += [n.id for n in diagram.nodes if not sources[n.id] and n.id not in roots]
    roots += [n.id for n in diagram.nodes]  # whatever stands in circles only
    for root in roots:
        if root in column:
            continue
        column[root] = 0
        todo = [root]
        while todo:
            at = todo.pop(0)
            for target in targets[at]:
                if target not in column:
                    column[target] = column[at] + 1
                    todo.append(target)
    columns: dict[int, list[str]] = defaultdict(list)
    for node in diagram.nodes:
        columns[column[node.id]].append(node.id)
    row = {name: float(r) for names in columns.values() for r, name in enumerate(names)}
    for _ in range(4):
        for _, names in sorted(columns.items()):
            before = {name: [row[s] for s in sources[name]] for name in names}
            names.sort(key=lambda n: sum(before[n]) / len(before[n]) if before[n] else row[n])
            row.update({name: float(r) for r, name in enumerate(names)})
    return {name: (c, r) for c, names in columns.items() for r, name in enumerate(names)}


# -- svg and html ---------------------------------------------------------------------------------


def to_svg(diagram: Diagram, max_label_length: int | None = None) -> str:
    """A drawing that stands for itself."""
    places = place(diagram)
    labels = [short(edge.label, max_label_length or LETTERS) for edge in diagram.edges]
    gap = max([GAP_X, *(int(width_of(label)) + 20 for label in labels if label)])
    points = {
        name: (MARGIN + c * (WIDTH + gap), MARGIN + 24 + r * (HEIGHT + GAP_Y))
        for name, (c, r) in places.items()
    }
    width = max((x for x, _ in points.values()), default=0) + WIDTH + MARGIN
    height = max((y for _, y in points.values()), default=0) + HEIGHT + MARGIN
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img" '
            f'aria-label="{html.escape(diagram.title)}" '
            'font-family="system-ui, sans-serif" font-size="12">'
        ),
        f"<title>{html.escape(diagram.title)}</title>",
        (
            '<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
            'markerHeight="7" orient="auto-start-reverse">'
            '<path d="M0 0L10 5L0 10z" fill="#64748b"/></marker></defs>'
        ),
    ]
    arrows = [_arrow(edge, points) for edge in diagram.edges]
    parts += [path for path, _ in arrows]
    parts += [_box(node, points[node.id], max_label_length) for node in diagram.nodes]
    # Last, on a ground of their own: lines that pass do not strike them out.
    parts += [_text(label, at) for label, (_, at) in zip(labels, arrows, strict=True) if label]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _arrow(edge: Edge, points: dict[str, tuple[int, int]]) -> tuple[str, tuple[int, int]]:
    """The line of an edge, and its middle."""
    (x1, y1), (x2, y2) = points[edge.source], points[edge.target]
    if x2 > x1:
        start, end = (x1 + WIDTH, y1 + HEIGHT // 2), (x2, y2 + HEIGHT // 2)
        bend = max((end[0] - start[0]) // 2, 24)
        path = (
            f"M{start[0]} {start[1]}C{start[0] + bend} {start[1]} {end[0] - bend} {end[1]} "
            f"{end[0]} {end[1]}"
        )
        deep = (start[1] + end[1]) // 2
    else:  # back, or within a column: around below
        start, end = (x1 + WIDTH // 2, y1 + HEIGHT), (x2 + WIDTH // 2, y2 + HEIGHT)
        depth = max(start[1], end[1]) + GAP_Y
        path = f"M{start[0]} {start[1]}C{start[0]} {depth} {end[0]} {depth} {end[0]} {end[1]}"
        deep = (start[1] + end[1] + 6 * depth) // 8
    line = (
        f'<path d="{path}" fill="none" stroke="#64748b" stroke-width="1.2" '
        'marker-end="url(#arrow)"/>'
    )
    return line, ((start[0] + end[0]) // 2, deep)


def _text(label: str, at: tuple[int, int]) -> str:
    """What an edge says, on its middle."""
    return (
        f'<text x="{at[0]}" y="{at[1] - 4}" text-anchor="middle" fill="#475569" stroke="#fff" '
        f'stroke-width="4" stroke-linejoin="round" paint-order="stroke">{html.escape(label)}</text>'
    )


def _box(node: Node, at: tuple[int, int], longest: int | None) -> str:
    x, y = at
    radius = HEIGHT // 2 if node.shape in ("event", "start", "stop") else 6
    label = html.escape(fit(node.label, longest))
    note = html.escape(node.note or node.label)
    return (
        f'<g class="node {node.shape}" data-id="{html.escape(node.id)}"><title>{note}</title>'
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="{radius}" '
        f'fill="{_FILL[node.shape]}" stroke="#475569"/>'
        f'<text x="{x + WIDTH // 2}" y="{y + HEIGHT // 2 + 4}" text-anchor="middle" '
        f'fill="#0f172a">{label}</text></g>'
    )


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
  body {{ margin: 0; font: 14px system-ui, sans-serif; background: #fff; color: #0f172a; }}
  header {{ padding: 12px 24px; border-bottom: 1px solid #cbd5e1; }}
  h1 {{ font-size: 18px; margin: 0 0 4px; }}
  ul {{ display: flex; flex-wrap: wrap; gap: 12px; list-style: none; margin: 0; padding: 0; }}
  li::before {{ content: ""; display: inline-block; width: 12px; height: 12px; margin-right: 6px;
    border: 1px solid #475569; background: var(--fill); vertical-align: -1px; }}
  main {{ overflow: auto; padding: 8px; }}
  svg {{ max-width: none; }}
</style>
</head>
<body>
<header><h1>{title}</h1><ul>{legend}</ul></header>
<main>{svg}</main>
</body>
</html>
"""


def to_html(diagram: Diagram, max_label_length: int | None = None) -> str:
    """One file with the drawing in it."""
    shapes = dict.fromkeys(node.shape for node in diagram.nodes)
    legend = "".join(f'<li style="--fill: {_FILL[shape]}">{shape}</li>' for shape in shapes)
    svg = to_svg(diagram, max_label_length)
    return _PAGE.format(title=html.escape(diagram.title), legend=legend, svg=svg)


def format_of(filename: str) -> Format:
    """The format that a file's name asks for; HTML without one. Raises `ValueError` for a name that
    would lie.
    """
    if re.search(r"\.svg$", filename, re.IGNORECASE):
        return "svg"
    if re.search(r"\.(mmd|mermaid|md|txt)$", filename, re.IGNORECASE):
        return "mermaid"
    other = re.search(r"\.(bmp|dot|gif|jpe?g|json|pdf|png|webp)$", filename, re.IGNORECASE)
    if other is not None:
        raise ValueError(
            f"drawings are HTML, SVG or mermaid, not {other[1]}: "
            "name the file .html, .svg or .mermaid"
        )
    return "html"
