"""Every decoder takes any bytes: it gives a value of its type or raises the one error it documents,
and is bounded in depth, size and work.
"""

from __future__ import annotations

import asyncio
import json
import string
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ironflow.actors.kernel.outbox import decode_row
from ironflow.actors.runs.rows import fold
from ironflow.core.durations import MAX_SECONDS, parse_duration
from ironflow.core.errors import ConfigError, Damaged, ExpressionError, InvalidInput
from ironflow.core.expressions.compiled import compile_expression, compile_path
from ironflow.core.expressions.syntax import MAX_DEPTH, MAX_LENGTH, MAX_NODES
from ironflow.core.runs.commands import DELIVERABLE
from ironflow.core.runs.entries import KINDS, decode_entry, encode_entry
from ironflow.core.runs.fold import CHANGES
from ironflow.core.runs.state import Run
from ironflow.settings import NAMES, load_settings
from ironflow.storage.maintenance.files import check
from ironflow.storage.maintenance.ndjson import export_ndjson, import_ndjson
from ironflow.storage.ports import Delivery, Entry, Loaded, Snapshot
from ironflow.storage.sqlite.store import open_sqlite
from ironflow.web.queries import decode_cursor, encode_cursor

pytestmark = pytest.mark.blocks_the_loop  # tools of the command line, beside a store
STRUCTS = sorted(KINDS, key=lambda struct: struct.__name__)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
BOMBS = st.sampled_from(
    [
        b"[" * 8_000,
        b'{"a":' * 8_000,
        b'{"json":' + b"[" * 4_000 + b"]" * 4_000 + b"}",
        b'"\xff"',
        b'"\\ud800"',
        b"9" * 5_000,
        b"1e999",
        b"NaN",
        b"\xef\xbb\xbf{}",
        b"{}{}",
        b"",
    ]
)


def attempt(kind: type[Exception], call: Callable[[], Any]) -> tuple[Any, str | None]:
    """What a call gives, or the text of the one error that it may raise."""
    try:
        return call(), None
    except kind as error:
        return None, str(error)


@st.composite
def shaped(draw: Any, struct: type) -> bytes:
    """An object with the fields of a struct, some missing, some of another type, some spoilt."""
    fields = [field.encode_name for field in msgspec.structs.fields(struct)]
    body = {
        name: draw(JSON)
        for name in draw(st.lists(st.sampled_from([*fields, "other", "$x"]), max_size=len(fields)))
    }
    data = bytearray(json.dumps(body).encode())
    if data and draw(st.booleans()):
        at = draw(st.integers(0, len(data) - 1))
        data[at : at + draw(st.integers(0, 3))] = draw(BOMBS | st.binary(max_size=4))
    return bytes(data)


ENTRIES = st.sampled_from(STRUCTS).flatmap(
    lambda struct: st.tuples(
        st.just(KINDS[struct]) | st.sampled_from(["", "run.unknown", "event.emitted"]),
        shaped(struct) | BOMBS | st.binary(max_size=20),
    )
)


@given(ENTRIES)
def test_an_entry_is_read_or_damaged(pair: tuple[str, bytes]) -> None:
    kind, data = pair
    entry, damage = attempt(Damaged, lambda: decode_entry(kind, data))
    if damage is not None:
        assert kind[:20] in damage
        return
    # What was read can be written, and reads the same.
    assert KINDS[type(entry)] == kind
    assert decode_entry(kind, encode_entry(entry)) == entry


@given(st.sampled_from(sorted(DELIVERABLE)), st.data())
def test_a_durable_message_is_read_or_damaged(kind: str, data: Any) -> None:
    body = data.draw(shaped(DELIVERABLE[kind]) | BOMBS | st.binary(max_size=20))
    row = Delivery("id", "router/", kind, body, 0)
    message, damage = attempt(Damaged, lambda: decode_row(row))
    if damage is not None:
        assert "durable message id" in damage
        return
    assert isinstance(message, DELIVERABLE[kind])
    assert message.delivery == "id"


@given(shaped(Run) | BOMBS | st.binary(max_size=20))
def test_a_snapshot_is_read_or_damaged(data: bytes) -> None:
    loaded = Loaded(Snapshot(7, data), [])
    run, damage = attempt(Damaged, lambda: fold("r", loaded))
    assert isinstance(run, Run) or "snapshot of run r" in (damage or "")


def test_a_damaged_entry_is_named_with_its_place() -> None:
    loaded = Loaded(None, [Entry(9, "run/r", 4, 0, "run.parked", b"[")])
    with pytest.raises(Damaged, match="entry 4 of run r cannot be read"):
        fold("r", loaded)


@given(st.text(max_size=40) | st.text(string.ascii_letters + string.digits + "-_=", max_size=60))
@example("é")
@example("\ud800")
@example("W" + "1" * 100)
def test_a_cursor_is_one_that_was_given_out_or_refused(text: str) -> None:
    found, refused = attempt(InvalidInput, lambda: decode_cursor(text))
    if refused is not None:
        assert refused.startswith("cursor: ")
        return
    assert found is not None
    assert decode_cursor(encode_cursor(*found)) == found


@given(
    JSON
    | st.text("0123456789.msdhw -+e", max_size=80)
    | st.floats()
    | st.timedeltas()
    | st.binary(max_size=5)
    | st.sampled_from([10**400, -(10**400), "9" * 10_000 + "s", "1" * 64 + "h", True, object()])
)
def test_a_duration_is_within_its_bounds_or_refused(value: Any) -> None:
    seconds, refused = attempt(InvalidInput, lambda: parse_duration(value, "here"))
    assert (refused or "here").startswith("here")
    assert refused is not None or 0 <= seconds <= MAX_SECONDS


LINES = st.one_of(
    st.sampled_from(
        [
            b'{"ironflow":"export","schema":SCHEMA}', b'{"end":{}}', b'{"end":[]}', b'{"end":null}',
            b'{"meta":["a","b"]}', b'{"meta":[null,"b"]}', b'{"meta":["a",{"utf8":1}]}',
            b'{"meta":["a",{"base64":"!"}]}', b'{"meta":["a",[1]]}', b'{"meta":["a",true]}',
            b'{"meta":[' + b"9" * 30 + b',"b"]}', b'{"journal":["x"]}', b'{"sqlite_master":[1]}',
            b'{"journal":' + b"[" * 4_000 + b"]" * 4_000 + b"}", b"", b"\n", b"\x00", b"{}",
        ]
    ),
    BOMBS,
    st.binary(max_size=30),
)  # fmt: skip


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The lines of an export of a new database."""
    path = tmp_path_factory.mktemp("export") / "source.db"

    async def make() -> None:
        await (await open_sqlite(path)).close()

    asyncio.run(make())
    target = path.with_suffix(".ndjson")
    with target.open("wb") as out:
        export_ndjson(path, out)
    return target.read_bytes().splitlines(keepends=True)


@settings(max_examples=60)
@given(data=st.data())
def test_an_import_is_whole_or_refused_with_its_line(
    data: Any, exported: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = list(exported)
    schema = json.loads(lines[0])["schema"]
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(lines)))
        line = data.draw(LINES).replace(b"SCHEMA", str(schema).encode())
        lines[at : at + data.draw(st.integers(0, 1))] = [line]
    path = tmp_path_factory.mktemp("import") / "target.db"
    _, refused = attempt(InvalidInput, lambda: import_ndjson(path, lines))
    if refused is not None:
        assert refused.startswith("line ")
        assert {found.name for found in path.parent.iterdir()} <= {"target.db.lock"}
    else:
        assert check(path).findings == []


TOML = st.one_of(
    st.builds(
        "{} = {}\n".format,
        st.sampled_from([*NAMES, "prot", '""', "a.b", '"host"', "dev"]),
        st.sampled_from(
            [
                "1", "-1", "0", "1.5", "inf", "nan", "true", '"on"', '"1h"', '""', "[]", "{}",
                "99999999999999999999", "1979-05-27", "07:32:00", '"\\u0000"', "[" * 5000, "0x10",
                '"full"', '"memory"', "1e400", '"' + "9" * 5000 + '"',
            ]
        ),
    ),
    st.text(max_size=30),
).map(str)  # fmt: skip


@given(text=st.lists(TOML, max_size=3).map("".join), tail=st.binary(max_size=3))
def test_settings_are_read_or_refused_in_one_way(
    text: str, tail: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass") + tail)
    loaded, refused = attempt(ConfigError, lambda: load_settings({}, {}, path))
    if refused is not None:
        assert "fuzzed.toml" in refused
        return
    assert set(loaded.origins) == set(NAMES)


# -- the expression language: bounded in depth, size and work ------------------------------------

VARIABLES = frozenset({"event", "data"})
PIECES = st.sampled_from(
    [
        "data", ".a", "[0]", '["a"]', "(", ")", "[", "]", "{", "}", ",", ":", "?", "!", "-", "+",
        "*", "/", "%", "&&", "||", "==", "!=", "<", "in", "null", "true", "1", "1.5", "9" * 400,
        "1e999",
        '"x"', "'", '"', "\\", 'r"\\d"', "has(", "size(", "matches(", "string(", "int(", "\x00",
        "\ud800", "💥", " ", "\n", "data.matches('(a*)*b')", "startsWith(",
        "__class__", ".__init__",
    ]
)  # fmt: skip
HUGE = {"a": "x" * 200_000, "n": 10**300, "deep": None, "l": list(range(50_000))}
for _ in range(60):
    HUGE = {"a": HUGE, "l": HUGE["l"], "s": "ab" * 50_000}


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=25).map("".join) | st.text(max_size=60), JSON)
def test_an_expression_ends_in_a_value_or_an_expression_error(text: str, value: Any) -> None:
    compiled, refused = attempt(ExpressionError, lambda: compile_expression(text, VARIABLES))
    if refused is not None:
        assert refused.startswith("expression: ")
        return
    for data in (value, HUGE, None):
        bindings = {"event": {"data": data}, "data": data}
        assert compiled.matches(bindings) in (True, False)
        attempt(ExpressionError, lambda bindings=bindings: compiled.evaluate(bindings))


@pytest.mark.parametrize("size", [10, 100, 1_000, 10_000, 1_000_000])
@pytest.mark.parametrize(
    "make",
    [
        lambda n: "(" * n + "1" + ")" * n,
        lambda n: "[" * n + "]" * n,
        lambda n: "!" * n + "true",
        lambda n: "-" * n + "1",
        lambda n: "1" + "+1" * n,
        lambda n: "true" + "&&true" * n,
        lambda n: "data" + ".a" * n,
        lambda n: "data" + "[0]" * n,
        lambda n: "true?" * n + "1" + ":1" * n,
        lambda n: "size(" * n + "data" + ")" * n,
        lambda n: '"' + "x" * n + '"',
        lambda n: "9" * n,
        lambda n: '{"a":' * n + "1" + "}" * n,
        lambda n: "data.matches('" + "(" * n + "')",
        lambda n: "data.matches('" + "a?" * n + "a" * n + "')",
        lambda n: "[" + "data," * n + "] == [" + "data," * n + "]",
    ],
)
def test_whatever_grows_is_refused_before_it_costs(make: Any, size: int) -> None:
    text = make(size)
    try:
        compiled = compile_expression(text, VARIABLES)
    except ExpressionError:
        assert size >= 10
    else:
        # Small enough for its bounds: neither long, nor many parts.
        assert len(text) <= MAX_LENGTH
        assert size <= max(MAX_NODES, MAX_DEPTH)
        compiled.matches({"event": {}, "data": "a" * 30})
    with pytest.raises(InvalidInput):
        compile_path("a" * (size + 512))


def test_every_kind_of_entry_has_its_change_of_a_run() -> None:
    assert set(CHANGES) == set(KINDS)
