"""A readable picture of the busiest part of an import graph: which modules, in which row, and
where.

Rows are layers: a module stands above everything that it imports. Only the edges that say something
new are drawn (`os` is not connected to `sys` twice: an import that is implied by a chain of others
is left out), and a long edge gets a place of its own in every row that it passes, so that it runs
between the modules and not through them. Within a row the order follows the neighbours' middle, and
places are the least-squares solution that keeps that order and the gaps. Coordinates are SVG user
units; nothing here is random.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import fmean, median

import msgspec

from ironflow.demo.graph import Graph, component_layers, strong_components

ROW, GAP, HEIGHT, MARGIN = 60.0, 14.0, 28.0, 16.0
GLYPH = 7.3
"""Width of a letter of a label, on the safe side."""
SWEEPS = 24


class Box(msgspec.Struct, frozen=True):
    """A module's label: `x`, `y` are its centre; `node` its index in the graph."""

    node: int
    x: float
    y: float
    width: float


class Wire(msgspec.Struct, frozen=True):
    """An edge of the picture, importer first; `implied` ones are shown on demand only."""

    importer: int
    imported: int
    points: list[tuple[float, float]]
    implied: bool
    in_cycle: bool


class Picture(msgspec.Struct, frozen=True):
    """What the report draws."""

    width: float
    height: float
    boxes: list[Box]
    wires: list[Wire]


class _Item:
    """Something with a place in a row: a module, or a bend of a long edge."""

    __slots__ = ("above", "below", "node", "row", "width", "x")

    def __init__(self, row: int, width: float, node: int = -1) -> None:
        self.row, self.width, self.node, self.x = row, width, node, 0.0
        self.above: list[_Item] = []
        self.below: list[_Item] = []


def pick_nodes(graph: Graph, count: int) -> list[int]:
    """The modules that most other packages import, at most `count`.

    An import by one's own package is no vote, and what is linked to nothing is left out.
    """
    voters: list[set[str]] = [set() for _ in graph.nodes]
    tops = [node.module.partition(".")[0] for node in graph.nodes]
    for a, b in graph.edges:
        if tops[a] != tops[b]:
            voters[b].add(tops[a])
    ranked = sorted(
        range(len(graph.nodes)),
        key=lambda i: (-len(voters[i]), -graph.nodes[i].imported_by, -graph.nodes[i].imports, i),
    )
    linked = {node for edge in graph.edges for node in edge}
    return sorted(node for node in ranked[:count] if node in linked)


def lay_out(graph: Graph, chosen: Sequence[int]) -> Picture:
    """Place the chosen modules and the imports among them."""
    local = {node: i for i, node in enumerate(chosen)}
    edges = {(local[a], local[b]) for a, b in graph.edges if a in local and b in local}
    components = strong_components(len(chosen), edges)
    owner = {node: i for i, component in enumerate(components) for node in component}
    rows = component_layers(components, edges)
    shown = _essential(edges, owner)
    names = [graph.nodes[node].module for node in chosen]
    items = [_Item(rows[i], len(name) * GLYPH + 20, i) for i, name in enumerate(names)]
    bends = {edge: _connect(items, edge) for edge in sorted(shown) if rows[edge[0]] > rows[edge[1]]}
    table = _table([*items, *(bend for path in bends.values() for bend in path)])
    _order(table)
    _place(table)
    return _draw(chosen, items, table, edges, bends, owner)


def _essential(edges: Iterable[tuple[int, int]], owner: dict[int, int]) -> set[tuple[int, int]]:
    """Edges that no chain of other edges implies; within a cycle all of them."""
    edges = set(edges)
    near: dict[int, set[int]] = {}
    for a, b in edges:
        if owner[a] != owner[b]:
            near.setdefault(owner[a], set()).add(owner[b])
    reach: dict[int, set[int]] = {}
    for component in sorted(set(owner.values())):  # what it imports has a smaller number
        below = near.get(component, set())
        reach[component] = below.union(*(reach[other] for other in below))
    kept = set()
    for a, b in edges:
        others = near.get(owner[a], set()) - {owner[b]}
        if owner[a] == owner[b] or not any(owner[b] in reach[other] for other in others):
            kept.add((a, b))
    return kept


def _connect(items: Sequence[_Item], edge: tuple[int, int]) -> list[_Item]:
    """Link two items by a bend in each row between them; answer the bends, top first."""
    upper, lower = items[edge[0]], items[edge[1]]
    bends = [_Item(row, 4.0) for row in range(upper.row - 1, lower.row, -1)]
    chain = [upper, *bends, lower]
    for high, low in pairwise(chain):
        high.below.append(low)
        low.above.append(high)
    return bends


def _table(items: Iterable[_Item]) -> list[list[_Item]]:
    table: list[list[_Item]] = []
    for item in items:
        while len(table) <= item.row:
            table.append([])
        table[item.row].append(item)
    return table


def _order(table: list[list[_Item]]) -> None:
    """Sort each row by its neighbours' middle, up and down; keep what crosses least."""
    for row in table:
        _number(row)
    best, fewest = [list(row) for row in table], _crossings(table)
    for sweep in range(SWEEPS):
        upward = sweep % 2 == 0
        for row in table if upward else reversed(table):
            row.sort(key=lambda item: _middle(item, item.below if upward else item.above))
            _number(row)
        crossings = _crossings(table)
        if crossings < fewest:
            best, fewest = [list(row) for row in table], crossings
    for row, kept in zip(table, best, strict=True):
        row[:] = kept
        _number(row)


def _number(row: Sequence[_Item]) -> None:
    for position, item in enumerate(row):
        item.x = position - len(row) / 2


def _middle(item: _Item, near: Sequence[_Item]) -> float:
    return median(other.x for other in near) if near else item.x


def _crossings(table: Sequence[Sequence[_Item]]) -> int:
    total = 0
    for row in table:
        lines = sorted((item.x, below.x) for item in row for below in item.below)
        for i, (_, low) in enumerate(lines):
            total += sum(other < low for _, other in lines[i + 1 :])
    return total


def _place(table: Sequence[Sequence[_Item]]) -> None:
    for row in table:
        _spread(row, [0.0] * len(row))
    for sweep in range(SWEEPS):
        for row in table if sweep % 2 == 0 else reversed(table):
            _spread(row, [_pull(item) for item in row])


def _pull(item: _Item) -> float:
    near = [other.x for other in (*item.above, *item.below)]
    return fmean(near) if near else item.x


def _spread(row: Sequence[_Item], wanted: Sequence[float]) -> None:
    """Nearest places to the wanted ones that keep order and gaps (pool adjacent violators)."""
    offsets, offset = [], 0.0
    for i, item in enumerate(row):
        if i:
            offset += (row[i - 1].width + item.width) / 2 + GAP
        offsets.append(offset)
    pools: list[tuple[float, int]] = []
    for want, offset in zip(wanted, offsets, strict=True):
        mean, size = want - offset, 1
        while pools and pools[-1][0] >= mean:
            other, count = pools.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        pools.append((mean, size))
    places = [mean for mean, size in pools for _ in range(size)]
    for item, place, offset in zip(row, places, offsets, strict=True):
        item.x = place + offset


def _draw(
    chosen: Sequence[int],
    items: Sequence[_Item],
    table: Sequence[Sequence[_Item]],
    edges: Iterable[tuple[int, int]],
    bends: dict[tuple[int, int], list[_Item]],
    owner: dict[int, int],
) -> Picture:
    everything = [item for row in table for item in row]
    left = min((item.x - item.width / 2 for item in everything), default=0.0) - MARGIN
    right = max((item.x + item.width / 2 for item in everything), default=0.0) + MARGIN
    height = max(len(table) - 1, 0) * ROW + HEIGHT + 2 * MARGIN

    def at(item: _Item) -> tuple[float, float]:
        y = height - MARGIN - HEIGHT / 2 - item.row * ROW
        return round(item.x - left, 1), round(y, 1)

    wires = []
    for a, b in sorted(edges):
        path = [at(items[a]), *(at(bend) for bend in bends.get((a, b), [])), at(items[b])]
        in_cycle = owner[a] == owner[b]
        implied = not in_cycle and (a, b) not in bends
        wires.append(Wire(chosen[a], chosen[b], path, implied, in_cycle))
    boxes = [Box(chosen[item.node], *at(item), round(item.width, 1)) for item in items]
    return Picture(round(right - left, 1), round(height, 1), boxes, wires)
