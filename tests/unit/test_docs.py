"""What README.md and docs/ say holds: every link leads somewhere, every command is one that the
program takes, every setting is there, and every Python block runs.
"""

from __future__ import annotations

import ast
import asyncio
import functools
import re
import shlex
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import ironflow
from ironflow import testing
from ironflow.cli.main import program
from ironflow.sdk.function import registry
from ironflow.settings import NAMES, Settings
from ironflow.workflows.server import WorkflowServer

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *sorted(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"(?:^    .*\n)+", re.MULTILINE)
OURS = re.compile(r"(?:python3 ironflow\.pyz|ironflow) (?=[a-z-])")


@functools.cache
def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


# -- links ----------------------------------------------------------------------------------------


def anchors(page: str) -> set[str]:
    """What GitHub calls the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", BLOCK.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", text_of(page))):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (ROOT / page).parent / name if name else ROOT / page
        assert file.exists(), f"{page} links {target}"
        if anchor:
            assert anchor in anchors(str(file.resolve().relative_to(ROOT))), f"{page}: {target}"


def test_every_page_is_in_the_table_of_the_readme() -> None:
    for page in PAGES[1:]:
        assert f"]({page})" in text_of("README.md"), page


# -- commands -------------------------------------------------------------------------------------


def alternatives(line: str) -> Iterator[list[str]]:
    """The commands of a line: `keys ls | revoke ID` and `breakers ls|open` are two, `[--x]` may be
    there.
    """
    words = shlex.split(re.sub(r"[\[\]]|\.\.\.", "", line), comments=True)
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "|":
            parts.append(parts[0][:1])
        elif word in (">", ">>", "&&", ";"):
            break
        else:
            parts[-1].append(word)
    for part in parts:
        head, *rest = part
        many = rest[0].split("|") if rest and re.fullmatch(r"\w+(\|\w+)+", rest[0]) else None
        yield from [[head, one] for one in many] if many else [part]


def commands(page: str) -> Iterator[tuple[list[str], bool]]:
    """Every command of ours, and whether it stands alone, as one to be typed."""
    text = text_of(page)
    typed = "\n".join(
        [
            *(body for kind, body in BLOCK.findall(text) if kind == ""),
            *(textwrap.dedent(part) for part in INDENTED.findall(BLOCK.sub("\n", text))),
        ]
    )
    for line in typed.splitlines():
        found = re.match(r"\s*" + OURS.pattern, line)
        if found:
            rest = line[found.end() :].partition(" | jq")[0]
            yield from ((words, True) for words in alternatives(rest))
    for span in re.findall(r"`([^`\n]+)`", BLOCK.sub("", text)):
        found = OURS.match(span)
        if found and not span.startswith("ironflow serve's"):
            yield from ((words, False) for words in alternatives(span[found.end() :]))


def take(words: list[str], *, whole: bool) -> None:
    """Have the command line read a command, and not execute it. Raises what it does."""
    context = program.make_context("ironflow", ["1" if word == "N" else word for word in words])
    command: click.Command = program
    rest = [*context._protected_args, *context.args]
    while isinstance(command, click.Group):
        if not rest:
            return  # a group is spoken of
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command = found
        if isinstance(command, click.Group):
            continue
        try:
            command.make_context(name, rest, parent=context)
        except (click.MissingParameter, click.BadOptionUsage):
            if whole:
                raise


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_ones_that_the_program_takes(page: str) -> None:
    for words, whole in commands(page):
        try:
            take(words, whole=whole)
        except click.ClickException as error:
            pytest.fail(f"{page}: ironflow {shlex.join(words)}: {error.format_message()}")


@pytest.mark.parametrize(
    "line", ["runs list", "runs show", "keys ls | remove ID", "breakers ls|shut", "serve --x"]
)
def test_that_a_wrong_command_would_be_found(line: str) -> None:
    *good, wrong = alternatives(line)
    for words in good:
        take(words, whole=False)
    with pytest.raises(click.ClickException):
        take(wrong, whole=True)


# -- settings -------------------------------------------------------------------------------------


def test_the_table_of_settings_has_each_with_its_default() -> None:
    row = re.compile(r"^\| ((?:`\w+`(?:, )?)+) \|([^|]*)\|", re.MULTILINE)
    said = {
        name: default.strip()
        for names, default in row.findall(text_of("docs/operations.md"))
        for name in re.findall(r"`(\w+)`", names)
    }
    assert set(NAMES) <= set(said)
    for name in NAMES:
        value = getattr(Settings(), name)
        if isinstance(value, int | float) and not isinstance(value, bool) and value:
            assert re.search(r"\d", said[name]), f"{name}: {said[name]}"
    assert (said["durability"], said["concurrency"], said["dev"]) == ("`full`", "1000", "off")


# -- Python blocks --------------------------------------------------------------------------------

Names = dict[str, Any]
Run = Callable[[str, Names], None]
RUNS: dict[tuple[str, int], Run] = {}
PYTHON = [
    (page, number, source)
    for page in PAGES
    for number, source in enumerate(
        body for kind, body in BLOCK.findall(text_of(page)) if kind == "python"
    )
]


def block(page: str, number: int) -> Callable[[Run], Run]:
    """Marks what runs a page's Python block, counted from 0."""

    def mark(run: Run) -> Run:
        RUNS[page, number] = run
        return run

    return mark


def execute(source: str, names: Names, **more: Any) -> Names:
    """Execute a block that may await at its top level; the names that it leaves."""
    scope = {"__name__": "docs", "ironflow": ironflow, **vars(ironflow_names()), **names, **more}
    code = compile(source, "<docs>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    found = eval(code, scope)
    if found is not None:
        asyncio.run(found)
    return scope


def ironflow_names() -> types.SimpleNamespace:
    """What a reader of a page has imported by then."""
    return types.SimpleNamespace(
        function=ironflow.function, Context=ironflow.Context, testing=testing
    )


def run_body(source: str, wanted: str, **names: Any) -> Any:
    """Run a block that stands inside of a body; the value that `wanted` then has."""
    lines = textwrap.indent(f"{source}\nreturn {wanted}", "    ")
    scope: Names = {}
    exec(f"async def body(ctx):\n{lines}", names, scope)

    async def main(world: testing.World) -> Any:
        return await world.run(ironflow.function(id="body")(scope["body"]))

    ended = testing.run(main)
    assert ended.status in ("completed", "failed"), ended
    return ended


@pytest.mark.parametrize(
    ("page", "number", "source"), PYTHON, ids=[f"{page}-{number}" for page, number, _ in PYTHON]
)
def test_python_blocks_run(
    page: str, number: int, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (page, number) in RUNS, f"{page}: nothing runs its block {number}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IRONFLOW_SIGNING_KEY", "secret")
    monkeypatch.setattr(registry, "_functions", {})  # nothing of this is left to other tests
    shop = types.ModuleType("shop")
    exec(SHOP, vars(shop))
    monkeypatch.setitem(sys.modules, "shop", shop)
    monkeypatch.setitem(sys.modules, "app", shop)
    RUNS[page, number](
        source, {"patch": monkeypatch, **{k: v for k, v in vars(shop).items() if k[:1] != "_"}}
    )


SHOP = """
from ironflow import Context, function

def send(): return "sent"

@function(id="checkout")
async def checkout(ctx: Context, order: dict):
    charge = await ctx.step.run("charge", lambda: "ch_1")
    match = {"data.run": ctx.run_id}
    await ctx.step.wait_for_event("confirmed", "order.confirmed", match=match, timeout="1d")
    return charge

@function(id="refund")
async def refund(ctx: Context, order: dict):
    return await ctx.step.run("refund", lambda: "done")

@function(id="reminder")
async def reminder(ctx: Context, who: dict):
    await ctx.step.sleep("first", "2h")
    sent = await ctx.step.run("send", send)
    await ctx.step.wait_for_event("answer", "user.answered", match={"data.user": who["user"]})
    return sent
"""


@block("README.md", 0)
def _(source: str, names: Names) -> None:
    registry.clear()
    checkout = execute(source, {})["checkout"]

    async def main(world: testing.World) -> Any:
        run_id = await world.start(checkout, {"id": "o-1", "amount": 42})
        await world.emit("payment.settled", {"order_id": "o-1"})  # while it still sleeps
        return await world.wait(run_id)

    ended = testing.run(main)
    assert ended.status == "completed"
    assert ended.result["receipt"] == "charged 42 for o-1"


@block("README.md", 1)
def _(source: str, names: Names) -> None:
    ended = execute(source.replace('__name__ == "__main__"', "False"), {})
    for _ in range(2):  # the second time it is found by its key
        assert ironflow.run_sync(ended["report"], ["monday", "tuesday"], db="r.db", key="w") == 13


@block("docs/endpoints.md", 0)
def _(source: str, names: Names) -> None:
    found = execute(source, {})
    assert [callable(found[name]) for name in ("app", "wsgi", "handler")] == [True] * 3


@block("docs/functions.md", 0)
def _(source: str, names: Names) -> None:
    told: list[str] = []
    welcome = execute(
        source, {}, create_account=lambda mail: f"account of {mail}", send_tips=told.append
    )["welcome"]

    async def main(world: testing.World) -> Any:
        return await world.run(welcome, {"email": "ada@example.com"})

    ended = testing.run(main)
    assert (ended.result, told) == ("account of ada@example.com", ["account of ada@example.com"])


@block("docs/functions.md", 1)
def _(source: str, names: Names) -> None:
    found = execute(source, {})
    assert found["reindex"].definition.flow_control.debounce.max_wait == 120
    assert found["load"].definition.flow_control.batch.size == 100
    assert found["sync"].definition.flow_control.singleton.mode == "skip"


@block("docs/functions.md", 2)
def _(source: str, names: Names) -> None:
    ended = run_body(
        source.replace('executor="process", ', ""), "total", crunch=sum, numbers=[1, 2]
    )
    assert ended.result == 3


@block("docs/functions.md", 3)
def _(source: str, names: Names) -> None:
    ended = run_body(
        source, "shipped", orders=[1, 2], reserve=lambda order: None, ship=lambda order: -order
    )
    assert ended.result == [-1, -2]


@block("docs/functions.md", 4)
def _(source: str, names: Names) -> None:
    undone: list[str] = []

    def fail(trip: str) -> None:
        raise ironflow.NonRetryable("no seat")

    ended = run_body(
        source,
        "flight",
        trip="rome",
        book_hotel=lambda trip: f"hotel in {trip}",
        cancel_hotel=undone.append,
        book_flight=fail,
    )
    assert (ended.status, undone) == ("failed", ["hotel in rome"])


@block("docs/functions.md", 5)
def _(source: str, names: Names) -> None:
    control = execute(source, {})["import_rows"].definition.flow_control
    assert (control.throttle.limit, control.fairness.weights) == (100, {"acme": 3})


@block("docs/functions.md", 6)
def _(source: str, names: Names) -> None:
    execute(source, {}, checkout=names["refund"])
    assert Path("app.db").exists()


@block("docs/testing.md", 0)
def _(source: str, names: Names) -> None:
    execute(source, {})["test_reminder_survives_a_crash"]()


@block("docs/testing.md", 1)
def _(source: str, names: Names) -> None:
    assert "seeds=200" in source
    execute(source.replace("seeds=200", "seeds=2"), {}, checkout=names["checkout"])[
        "test_checkout_in_disasters"
    ]()


@block("docs/testing.md", 2)
def _(source: str, names: Names) -> None:
    execute(source, {}, checkout=names["refund"], order={}, expected="done")


@block("docs/workers.md", 0)
def _(source: str, names: Names) -> None:
    begun: list[int] = []
    names["patch"].setattr(ironflow.Worker, "run", lambda self: begun.append(self.concurrency))
    execute(source, {})
    assert begun == [20]


@block("docs/workers.md", 1)
def _(source: str, names: Names) -> None:
    assert execute(source, {}, Message=dict)["reply"].definition.actor_key == "data.user_id"


def letter() -> Names:
    """What the first block of docs/workflows.md defines."""
    source = next(source for page, _, source in PYTHON if page == "docs/workflows.md")
    return execute(source.replace("asyncio.run(main())", ""), {})


@block("docs/workflows.md", 0)
def _(source: str, names: Names) -> None:
    said: list[str] = []
    execute(source, {}, print=said.append)
    assert said == ["Dear Ada"]


@block("docs/workflows.md", 1)
def _(source: str, names: Names) -> None:
    execute(source, {}, Letter=letter()["Letter"])


@block("docs/workflow-server.md", 0)
def _(source: str, names: Names) -> None:
    begun: list[Any] = []

    async def serve(self: WorkflowServer, *, host: str, port: int) -> None:
        begun.append((host, port))

    names["patch"].setattr(WorkflowServer, "serve", serve)
    execute(source, {"__name__": "__main__"})
    assert begun == [("127.0.0.1", 8080)]


@block("docs/workflow-server.md", 1)
def _(source: str, names: Names) -> None:
    said: list[Any] = []
    page = next(text for page, _, text in PYTHON if page == "docs/workflow-server.md")
    workflow, _ = execute(page, {"__name__": "my_server"})["server"].entries["approve"]

    async def main() -> None:
        server = WorkflowServer(db="memory")
        server.add_workflow("approve", workflow)
        async with server.contextmanager():
            text = source.replace("http://127.0.0.1:8080", server.url)
            scope = {"print": said.append}
            await eval(compile(text, "<docs>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), scope)

    asyncio.run(main())
    assert "'result': 'done'" in str(said)
