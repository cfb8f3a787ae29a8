"""The import graph of surveyed modules: who imports whom, in which layers, and where it is
circular.

An edge means that importing one module runs the other. `import a.b` and `from a.b import c` are
edges to the deepest module of that name; that a package is imported before its parts is no edge.
Cycles are the strongly connected components of more than one module; a module's layer is the length
of the longest chain of imports below it, a cycle counting as one. All of it is deterministic.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from ironflow.demo.survey import ModuleFacts


class Node(msgspec.Struct, frozen=True):
    """A module in the graph. `cycle` is an index into the graph's cycles, or -1."""

    module: str
    imports: int
    imported_by: int
    layer: int
    cycle: int


class Graph(msgspec.Struct, frozen=True):
    """Nodes by name; edges as pairs of indexes, importer first; cycles largest first.

    `outside` counts imports of modules without Python source (built in, extensions, other
    systems'), `deferred` the edges that only exist once functions are called, and `tangled` the
    modules that would be in some cycle if those counted.
    """

    nodes: list[Node]
    edges: list[tuple[int, int]]
    cycles: list[list[str]]
    layers: int
    outside: int
    deferred: int
    tangled: int


def build_graph(facts: Sequence[ModuleFacts]) -> Graph:
    """The graph of all modules in `facts`."""
    names = sorted(each.module for each in facts)
    index = {name: i for i, name in enumerate(names)}
    edges: set[tuple[int, int]] = set()
    deferred: set[tuple[int, int]] = set()
    outside: set[tuple[str, str]] = set()
    for each in facts:
        here = index[each.module]
        for kind, imported in ((edges, each.imports), (deferred, each.deferred)):
            for dotted in imported:
                there = resolve(dotted, index)
                if there is None:
                    outside.add((each.module, dotted.partition(".")[0]))
                elif there != here:
                    kind.add((here, there))
    deferred -= edges
    components = strong_components(len(names), edges)
    levels = component_layers(components, edges)
    cycles = sorted((c for c in components if len(c) > 1), key=lambda c: (-len(c), c))
    cycle_of = {node: i for i, cycle in enumerate(cycles) for node in cycle}
    out, into = degrees(len(names), edges)
    tangled = strong_components(len(names), edges | deferred)
    return Graph(
        nodes=[
            Node(name, out[i], into[i], levels[i], cycle_of.get(i, -1))
            for i, name in enumerate(names)
        ],
        edges=sorted(edges),
        cycles=[[names[node] for node in cycle] for cycle in cycles],
        layers=max(levels, default=-1) + 1,
        outside=len(outside),
        deferred=len(deferred),
        tangled=sum(len(c) for c in tangled if len(c) > 1),
    )


def resolve(dotted: str, index: dict[str, int]) -> int | None:
    """The deepest known module of a dotted name: `os.path.join` is in `os` if `os.path` is none."""
    while dotted:
        if dotted in index:
            return index[dotted]
        dotted = dotted.rpartition(".")[0]
    return None


def degrees(size: int, edges: Iterable[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Edges out of and into each node."""
    out, into = [0] * size, [0] * size
    for a, b in edges:
        out[a] += 1
        into[b] += 1
    return out, into


def _neighbours(size: int, edges: Iterable[tuple[int, int]]) -> list[list[int]]:
    near: list[list[int]] = [[] for _ in range(size)]
    for a, b in sorted(edges):
        near[a].append(b)
    return near


def strong_components(size: int, edges: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Tarjan's algorithm without recursion: sorted components, each after all that it can reach."""
    near = _neighbours(size, edges)
    number, low = [-1] * size, [0] * size
    waiting: list[int] = []
    is_waiting = [False] * size
    components: list[list[int]] = []
    count = 0
    for root in range(size):
        if number[root] >= 0:
            continue
        path = [(root, 0)]
        while path:
            node, position = path.pop()
            if position == 0:
                number[node] = low[node] = count
                count += 1
                waiting.append(node)
                is_waiting[node] = True
            else:
                low[node] = min(low[node], low[near[node][position - 1]])
            for next_one in range(position, len(near[node])):
                there = near[node][next_one]
                if number[there] < 0:
                    path += [(node, next_one + 1), (there, 0)]
                    break
                if is_waiting[there]:
                    low[node] = min(low[node], number[there])
            else:
                if low[node] == number[node]:
                    component = waiting[waiting.index(node) :]
                    del waiting[-len(component) :]
                    for member in component:
                        is_waiting[member] = False
                    components.append(sorted(component))
    return components


def component_layers(
    components: Sequence[Sequence[int]], edges: Iterable[tuple[int, int]]
) -> list[int]:
    """The layer of each node; components in the order of `strong_components`. 0 imports nothing."""
    size = sum(len(component) for component in components)
    near = _neighbours(size, edges)
    owner = [0] * size
    for i, component in enumerate(components):
        for node in component:
            owner[node] = i
    layer = [0] * len(components)
    for i, component in enumerate(components):
        below = [layer[owner[b]] + 1 for a in component for b in near[a] if owner[b] != i]
        layer[i] = max(below, default=0)
    return [layer[owner[node]] for node in range(size)]
