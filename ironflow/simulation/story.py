"""What happened in a simulated case: entries, faults and what the outside did, with their time.

The digest of a story tells whether two runs of a seed were the same. Of a failed case the part is
told that helps: the last lines that speak of what broke, and the faults among them.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import msgspec

from ironflow.core.clock import to_rfc3339
from ironflow.storage.ports import Entry

LONGEST = 60
"""Lines of a told story."""


class Line(NamedTuple):
    """Something that happened: an `entry`, a `fault` or what the `outside` did. About a stream."""

    at: int
    kind: str
    subject: str
    text: str
    data: bytes = b""


class Story:
    """The lines of one case, in order."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._hash = hashlib.sha256()

    def tell(self, at: int, kind: str, subject: str, text: str, data: bytes = b"") -> None:
        """Add a line."""
        self.lines.append(Line(at, kind, subject, text, data))
        self._hash.update(f"{at} {kind} {subject} {text}\n".encode())
        self._hash.update(data)

    def enter(self, now: int, entry: Entry) -> None:
        """Add an entry of the journal."""
        self.tell(
            now, "entry", entry.stream, f"{entry.stream} {entry.version} {entry.kind}", entry.data
        )

    @property
    def digest(self) -> str:
        """16 hex digits that two equal stories share."""
        return self._hash.hexdigest()[:16]

    def excerpt(self, subject: str, limit: int = LONGEST) -> list[str]:
        """The last lines about `subject` (a stream; empty: about everything), and all faults among
        them.
        """
        # With the runs that it invoked and was invoked by, which its entries name.
        name = subject.partition("/")[2].encode()
        told = [
            line
            for line in self.lines
            if not subject
            or line.kind == "fault"
            or line.subject == subject
            or (name and name in line.data)
            or (name and name.decode() in line.text)
        ][-limit:]
        return [_print(line) for line in told]


def _print(line: Line) -> str:
    mark = {"fault": "!!", "outside": "->"}.get(line.kind, "  ")
    return f"{to_rfc3339(line.at)[5:23]} {mark} {line.text}{_detail(line.data)}"


def _detail(data: bytes) -> str:
    """What tells one entry from another of its kind."""
    if not data.startswith(b"{"):
        return ""
    try:
        facts = msgspec.json.decode(data)
    except msgspec.DecodeError:
        return ""
    names = ("key", "execution", "attempt", "until", "child", "outcome", "reason", "parks")
    shown = [f"{name}={facts[name]}" for name in names if facts.get(name) not in (None, "")]
    error = facts.get("error")
    if isinstance(error, dict):
        shown.append(f"error={error.get('kind')}: {str(error.get('message'))[:60]}")
    return f"  {' '.join(shown)}" if shown else ""
