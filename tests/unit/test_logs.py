"""Log lines: what users put into them stays theirs."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import logging
from ironflow.logs import configure_logging

configure_logging({format!r}, "info")
evil = "order \\x1b[2Jx\\n2026-01-01T00:00:00Z [info     ] all is well \\u202e"
log = logging.getLogger("ironflow.run.f")
log.info("got %s", evil, extra={{"customer": evil}})
try:
    raise ValueError(evil)
except ValueError:
    log.exception("it failed")
"""


def lines(log_format: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(format=log_format)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stderr.splitlines()


def test_text_of_users_neither_acts_on_a_terminal_nor_looks_like_a_line() -> None:
    found = lines("text")
    said = "\n".join(found)
    assert "got order \\x1b[2Jx" in said
    assert "all is well \\u202e" in said
    assert not {"\x1b", "\u202e"} & set(said)
    assert not [line for line in found if line.startswith("2026-01-01")]
    assert said.count("\n    2026-01-01T00:00:00Z [info     ] all is well \\u202e") == 2
    assert "\n    Traceback (most recent call last)" in said


def test_json_lines_have_it_as_it_was() -> None:
    first, second = map(json.loads, lines("json"))
    assert (
        first["customer"] == "order \x1b[2Jx\n2026-01-01T00:00:00Z [info     ] all is well \u202e"
    )
    assert second["event"] == "it failed"
    assert "ValueError: order" in second["exception"]
