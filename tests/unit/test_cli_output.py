"""What the CLI prints: tables for pipes and terminals, trees of steps, inputs, moments."""

from __future__ import annotations

import io
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ironflow.cli import moments, output
from ironflow.cli.db import format_size
from ironflow.cli.failures import Wrong
from ironflow.cli.inputs import read_json
from ironflow.cli.output import Column, print_fields, print_json, print_table
from ironflow.cli.run_tree import Node, build, fit, symbol
from ironflow.cli.watch import describe_entry
from ironflow.core.terminal import clean
from ironflow.web.wire.runs import EntryView, FailureView, RunView, StepView

NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
COLUMNS = [Column("run"), Column("function", wide=True), Column("took", right=True)]


def at(seconds: float) -> str:
    return (NOW + timedelta(seconds=seconds)).isoformat()


# -- tables ---------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """Text that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def use_terminal(patch: pytest.MonkeyPatch) -> Terminal:
    """From here on stdout is a terminal. No fixture: pytest sets its own stdout after those."""
    made = Terminal()
    patch.setattr(sys, "stdout", made)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM"):
        patch.delenv(name, raising=False)
    patch.setenv("TERM", "xterm-256color")
    patch.setenv("COLUMNS", "100")
    return made


def test_a_pipe_gets_aligned_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, [["abc", "a-long-function", "1s"], ["de", "f", "250ms"]])
    assert capsys.readouterr().out == (
        "RUN  FUNCTION          TOOK\nabc  a-long-function     1s\nde   f                250ms\n"
    )


def test_columns_without_content_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, [["abc", "", "1s"]])
    assert capsys.readouterr().out == "RUN  TOOK\nabc    1s\n"


def test_an_empty_table_is_nothing_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, [])
    assert capsys.readouterr().out == ""


def test_an_empty_table_is_a_word_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    print_table(COLUMNS, [], empty="no runs")
    assert terminal.getvalue() == "no runs\n"


def test_statuses_are_coloured_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    print_table([Column("status")], [["failed"]])
    assert "\x1b[1;31mfailed" in terminal.getvalue()


def test_what_acts_on_a_terminal_is_shown_as_its_number() -> None:
    assert clean("a\x1b[31m b\x9b c\u202e d\te") == "a\\x1b[31m b\\x9b c\\u202e d\te"


def test_no_color_means_no_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    print_table([Column("status"), Column("x")], [["failed", "y"]])
    print_fields([("status", "failed")])
    assert "\x1b" not in terminal.getvalue()


@given(
    st.lists(
        st.tuples(*[st.text(st.characters(codec="utf-8"), max_size=60)] * 3).filter(any),
        min_size=1,
        max_size=5,
    ),
    st.integers(30, 120),
)
def test_no_line_of_a_narrow_table_is_wider_than_the_terminal(
    rows: list[tuple[str, str, str]], width: int
) -> None:
    from rich.cells import cell_len

    columns = [Column("run", wide=True), Column("function", wide=True), Column("why", note=True)]
    with pytest.MonkeyPatch.context() as patch:
        made = use_terminal(patch)
        patch.setenv("COLUMNS", str(width))
        patch.setenv("NO_COLOR", "1")
        print_table(columns, rows)
    for text in made.getvalue().split("\n"):
        if not text.startswith("    "):  # a note below its row is wrapped by the terminal
            assert cell_len(text) <= width


@given(st.text())
def test_nothing_printed_can_steer_a_terminal(text: str) -> None:
    cleaned = clean(text)
    assert not any(ord(c) < 32 and c not in "\t\n" for c in cleaned)
    assert not any(0x7F <= ord(c) < 0xA0 for c in cleaned)
    assert clean(cleaned) == cleaned


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(
    st.characters(codec="utf-8")), lambda inner: st.lists(inner) | st.dictionaries(
        st.text(st.characters(codec="utf-8")), inner)))  # fmt: skip
def test_results_for_people_are_still_json(value: Any) -> None:
    made = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", made)
        print_json(value)
    assert msgspec.json.decode(made.getvalue()) == value
    assert not any(ord(c) < 32 and c != "\n" for c in made.getvalue())


def test_fields_indent_what_has_several_lines(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields([("run", "x"), ("trace", "a\n\nb"), ("nothing", "")])
    assert capsys.readouterr().out == "run    x\ntrace  a\n\n       b\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (5 << 30, "5.0 GiB"),
        (9 << 50, "9216.0 TiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert format_size(count) == text


def test_moments() -> None:
    assert moments.ago(at(-3600), NOW) == "1h ago"
    assert moments.ago(at(7200), NOW) == "in 2h"
    assert moments.ago(None) == ""
    assert moments.full("2026-01-31T12:00:00.123456Z") == "2026-01-31 12:00:00.123 UTC"
    assert moments.duration(-0.001) == "0s"


# -- inputs ---------------------------------------------------------------------------------------


def test_inputs_from_text_file_and_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "order.json"
    file.write_text('{"a": 1}')
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"[1]")))
    assert bytes(read_json(None, "--input")) == b"null"
    assert bytes(read_json('{"x":9007199254740993.0}', "--input")) == b'{"x":9007199254740993.0}'
    assert bytes(read_json(f"@{file}", "--input")) == b'{"a": 1}'
    assert bytes(read_json("-", "--input")) == b"[1]"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hello", "text needs quotes"),
        ("{bad", "not JSON"),
        ("", "empty"),
        ("@", "cannot read"),
        ("@/nowhere/x", "cannot read '/nowhere/x'"),
        ("@a\x00b", "cannot read"),
        ("NaN", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("\udcff", "not JSON"),
    ],
)
def test_wrong_inputs_are_said_in_one_line(text: str, said: str) -> None:
    with pytest.raises(Wrong, match=said) as caught:
        read_json(text, "--data")
    assert caught.value.message.startswith("--data: ")
    assert len(caught.value.message) < 300


# -- the tree -------------------------------------------------------------------------------------


def make_run(status: str = "running", **more: Any) -> RunView:
    facts: dict[str, Any] = dict.fromkeys(RunView.__struct_fields__)  # fmt: skip
    facts.update(
        id="0192f1d2-7c1a-7d4e-9a51-00abcdef1234", function_id="fan", status=status, attempt=1,
        created_at=at(-10), started_at=at(-9), updated_at=at(0), execution=1, crashes=0, version=3,
        steps_total=0, waiting_for=[],
    )  # fmt: skip
    return RunView(**{**facts, **more})


def make_step(name: str, status: str = "completed", scope: str = "", **more: Any) -> StepView:
    facts: dict[str, Any] = dict.fromkeys(StepView.__struct_fields__)
    facts.update(key=scope + name, name=name, kind="run", status=status, scope=scope, position=0,
                 attempt=1, started_at=at(-2))  # fmt: skip
    if status in ("completed", "failed"):
        facts.update(ended_at=at(-1), duration=1.0)
    return StepView(**{**facts, **more})


def outline(node: Node, height: int = 1000) -> list[str]:
    return [
        f"{'  ' * row.depth}{row.status} {row.name} {row.detail}".rstrip()
        for row in fit(node, height)
    ]


def test_branches_are_nested_by_scope() -> None:
    steps = [
        make_step("load"),
        make_step("a", scope="work/b0/"),
        make_step("a", "running", scope="work/b%2F1/", started_at=at(-5)),
        make_step("now", kind="value"),
    ]
    assert outline(build(make_run(), steps, NOW)) == [
        "running fan 00abcdef1234 running, 9s",
        "  completed load 1s",
        "  running work",
        "    completed b0",
        "      completed a 1s",
        "    running b/1",
        "      running a 5s",
    ]


def test_waits_say_what_for_and_how_long() -> None:
    failure = FailureView(kind="OSError", message="no", code="error", retryable=True, trace="")
    steps = [
        make_step("nap", "waiting", kind="sleep", until=at(90)),
        make_step("paid", "waiting", kind="event", event="order.paid", until=at(7200)),
        make_step("late", "waiting", kind="event", event="x", until=at(-1)),
        make_step("child", "waiting", kind="invoke", child_run_id=make_run().id,
                  child_function_id="other"),
        make_step("again", "retrying", attempt=2, until=at(4), error=failure, duration=0.5),
    ]  # fmt: skip
    assert outline(build(make_run("waiting"), steps, NOW))[1:] == [
        "  waiting nap 1m 30s left",
        "  waiting paid for event order.paid, gives up in 2h",
        "  waiting late for event x, due now",
        "  waiting child run 00abcdef1234 of other",
        "  retrying again 500ms, attempt 2, again in 4s, OSError: no",
    ]


def test_compensations_are_a_block_of_their_own() -> None:
    steps = [make_step("refund", scope="@compensate/")]
    assert "  completed compensations" in outline(build(make_run("failed"), steps, NOW))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "w/a/", "w/b/", "w/c/", "w/a/x/1/", "z/1/"]),
            st.sampled_from(["completed", "running", "waiting", "failed", "retrying"]),
        ),
        max_size=120,
    ),
    st.integers(24, 200),
)
@example([("", "waiting")] * 50 + [("", "running")], 24)
def test_the_tree_fits_and_keeps_what_is_under_way(
    parts: list[tuple[str, str]], height: int
) -> None:
    steps = [make_step(f"s{n}", status, scope) for n, (scope, status) in enumerate(parts)]
    root = build(make_run(), steps, NOW)
    rows = fit(root, height)
    # At the least: the run, 6 groups, for each two finished, one other and twice "n more".
    assert len(rows) <= max(height, 1 + 7 * 6)
    if any(status == "running" for _, status in parts):
        assert any(row.status == "running" for row in rows[1:])
    if root.size() <= height:
        assert len(rows) == root.size()


def test_symbols_move_only_for_what_runs() -> None:
    assert symbol("running", 0, ascii_only=False) != symbol("running", 1, ascii_only=False)
    assert symbol("completed", 0, ascii_only=False) == symbol("completed", 1, ascii_only=False)
    for status in output.STYLES:
        assert symbol(status, 7, ascii_only=True).isascii()


# -- entries --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        ("run.created", {"function_id": "greet", "event": {"id": "x", "name": "e"}},
         "greet, event e"),
        ("step.completed", {"key": "a/b", "started_at": 1769860798500000}, "a/b, 1.5s"),
        ("step.failed", {"key": "a", "attempt": 2, "error": {"kind": "E", "message": "m"}},
         "a, attempt 2, E: m"),
        ("wait.ended", {"key": "w", "outcome": "timed_out"}, "w, timed_out"),
        ("run.cancelled", {"reason": "tired"}, "tired"),
        ("run.woken", {}, ""),
        ("run.woken", None, ""),
    ],
)  # fmt: skip
def test_entries_in_a_line(kind: str, data: Any, said: str) -> None:
    entry = EntryView(seq=1, stream="run/x", version=1, at=at(0), kind=kind, data=data)
    assert describe_entry(entry) == said
