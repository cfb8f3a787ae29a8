"""What users type as input: JSON, a file of JSON, or stdin."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from ironflow.cli.failures import Wrong


def read_json(text: str | None, field: str) -> msgspec.Raw:
    """The JSON of `text`, of the file after an `@`, or of stdin for `-`; nothing is null.

    Raises `Wrong` naming `field`.
    """
    if text is None:
        return msgspec.Raw(b"null")
    if text == "-":
        data, source = sys.stdin.buffer.read(), "stdin"
    elif text.startswith("@"):
        source = text[1:]
        try:
            data = Path(source).read_bytes()
        except OSError as error:
            raise Wrong(field, f"cannot read {source!r}: {error.strerror}") from error
        except ValueError as error:  # a NUL in the name
            raise Wrong(field, f"cannot read {source!r}: {error}") from error
    else:
        data, source = text.encode("utf-8", "surrogateescape"), ""
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Wrong(field, _reason(data, source, str(error))) from error
    return msgspec.Raw(data)


def _reason(data: bytes, source: str, error: str) -> str:
    where = f"{source} is" if source else f"{data[:60].decode('utf-8', 'replace')!r} is"
    hint = ""
    if not source and data[:1].isalpha():
        hint = """; text needs quotes: '"text"'"""
    elif not data.strip():
        return f"{where} empty"
    return f"{where} not JSON ({error}){hint}"
