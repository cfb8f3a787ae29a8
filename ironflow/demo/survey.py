"""What one Python source file says of itself: pure functions over text and `ast`, nothing durable
in here.

`list_modules` finds the files below a root, `survey_source` reads one. A file that is no Python
(wrong encoding, syntax of another version) is a finding in its facts and never an error. Complexity
is McCabe's: 1 for a function, and 1 for each place where it can go two ways.
"""

from __future__ import annotations

import ast
import heapq
import os
from collections.abc import Iterator

import msgspec

LEFT_OUT = frozenset({
    "test", "tests", "idlelib", "idle_test", "lib2to3", "site-packages", "dist-packages",
    "__pycache__",
})  # fmt: skip
"""Folders that are not surveyed: tests, an editor, broken examples, what is not of the library."""
MOST_COMPLEX = 5
"""Functions that are kept by name, for each module."""


class Source(msgspec.Struct, frozen=True):
    """A file to survey. `path` is relative to the root, with `/`."""

    module: str
    path: str

    @property
    def is_package(self) -> bool:
        """Whether it is the `__init__.py` of its package."""
        return self.path.rpartition("/")[2] == "__init__.py"


class FunctionFacts(msgspec.Struct, frozen=True):
    """One function or method, by its qualified name."""

    name: str
    line: int
    complexity: int


class ModuleFacts(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One file. `imports` run when it is imported, `deferred` ones only later, inside functions."""

    module: str
    path: str
    lines: int = 0
    functions: int = 0
    classes: int = 0
    complexity: int = 0
    imports: list[str] = []
    deferred: list[str] = []
    complex: list[FunctionFacts] = []
    finding: str | None = None


def list_modules(root: str, limit: int | None = None) -> list[Source]:
    """The sources below `root`, most public first: top-level ones, then in packages, then
    `_private`.

    Raises `NotADirectoryError` when there is no such folder.
    """
    if not os.path.isdir(root):
        raise NotADirectoryError(f"{root} is not a folder: this Python has no library sources")
    found = [Source(_module_name(path), path) for path in _python_files(root)]
    found.sort(key=_publicity)
    return found[:limit]


def _python_files(root: str) -> Iterator[str]:
    for folder, subfolders, names in os.walk(root):
        # Folders whose name is no identifier hold scripts, such as config-3.11-x86_64-linux-gnu.
        subfolders[:] = sorted(s for s in subfolders if s.isidentifier() and s not in LEFT_OUT)
        base = os.path.relpath(folder, root).replace(os.sep, "/")
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix == ".py" and stem.isidentifier() and (base != "." or stem != "__init__"):
                yield name if base == "." else f"{base}/{name}"


def _module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _publicity(source: Source) -> tuple[bool, int, str]:
    parts = source.module.split(".")
    return any(part.startswith("_") for part in parts), len(parts), source.module


def survey_source(source: Source, text: bytes) -> ModuleFacts:
    """The facts of one file, given its bytes."""
    lines = text.count(b"\n") + (not text.endswith(b"\n") and bool(text))
    try:
        tree = ast.parse(text, source.path)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        finding = _explain(error)
        return ModuleFacts(module=source.module, path=source.path, lines=lines, finding=finding)
    found = _Findings(source)
    found.walk(tree)
    functions = [FunctionFacts(f.name, f.line, f.complexity) for f in found.functions]
    return ModuleFacts(
        module=source.module,
        path=source.path,
        lines=lines,
        functions=len(functions),
        classes=found.classes,
        complexity=sum(each.complexity for each in functions),
        imports=sorted(found.imports),
        deferred=sorted(found.deferred - found.imports),
        complex=heapq.nsmallest(MOST_COMPLEX, functions, lambda f: (-f.complexity, f.line)),
    )


def _explain(error: Exception) -> str:
    kind = type(error).__name__
    if not isinstance(error, SyntaxError):
        return f"{kind}: {error}" if str(error) else f"{kind}: nested too deeply"
    return f"{kind} in line {error.lineno}: {error.msg}" if error.lineno else f"{kind}: {error.msg}"


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_FORKS = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler)
_LEAVES = (ast.Name, ast.Constant, ast.expr_context, ast.operator, ast.alias, ast.arg)


def forks(node: ast.AST) -> int:
    """How many further ways through the code this very node opens."""
    match node:
        case ast.comprehension():
            return 1 + len(node.ifs)
        case ast.BoolOp():
            return len(node.values) - 1
        case ast.match_case(pattern=ast.MatchAs(pattern=None), guard=None):
            return 0  # the case that takes the rest, as `else` does
        case ast.match_case():
            return 1
        case _:
            return int(isinstance(node, _FORKS))


class _Counted:
    """A function while its inside is being walked."""

    __slots__ = ("complexity", "line", "name")

    def __init__(self, name: str, line: int) -> None:
        self.name, self.line, self.complexity = name, line, 1


class _Findings:
    """One walk over a module, with a stack: some sources nest deeper than recursion may go."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.imports: set[str] = set()
        self.deferred: set[str] = set()
        self.functions: list[_Counted] = []
        self.classes = 0

    def walk(self, tree: ast.Module) -> None:
        # Nodes with the function they belong to, their prefix, and whether importing runs them.
        stack: list[tuple[ast.AST, _Counted | None, str, bool]] = [(tree, None, "", True)]
        while stack:
            node, owner, prefix, runs = stack.pop()
            if isinstance(node, _LEAVES):
                continue
            if isinstance(node, ast.Import | ast.ImportFrom):
                (self.imports if runs else self.deferred).update(self._imported(node))
                continue
            if owner is not None and (ways := forks(node)):
                owner.complexity += ways
            if isinstance(node, _FUNCTIONS):
                owner = _Counted(prefix + node.name, node.lineno)
                self.functions.append(owner)
                prefix, runs = f"{prefix}{node.name}.", False
            elif isinstance(node, ast.ClassDef):
                self.classes += 1
                prefix = f"{prefix}{node.name}."
            elif isinstance(node, ast.If) and runs and _is_skipped_by_import(node.test):
                stack.extend((child, owner, prefix, False) for child in node.body)
                stack.extend((child, owner, prefix, runs) for child in node.orelse)
                continue
            stack.extend((child, owner, prefix, runs) for child in ast.iter_child_nodes(node))

    def _imported(self, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
        """Dotted names; `from a import b` gives `a.b`, a module or a name inside of `a`."""
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
            return
        base = node.module or ""
        if node.level:
            package = self.source.module.split(".")
            up = node.level - self.source.is_package
            package = package[: len(package) - up] if up else package
            base = ".".join([*package, *([base] if base else [])])
        for alias in node.names:
            yield base if alias.name == "*" else f"{base}.{alias.name}".strip(".")


def _is_skipped_by_import(test: ast.expr) -> bool:
    """`if TYPE_CHECKING:` and `if __name__ == "__main__":`."""
    match test:
        case ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"):
            return True
        case ast.Compare(left=ast.Name(id="__name__"), ops=[ast.Eq()]):
            return True
        case _:
            return False
