"""Actor keys: the value in a run's input by which runs of a function belong together, and so are
handed to the same worker.
"""

from __future__ import annotations

import hashlib

import msgspec

from ironflow.core.errors import InvalidInput
from ironflow.core.expressions.compiled import Path, compile_path

LONGEST = 200
"""Characters of a value that are kept as they are; of a longer one the digest is."""


def check_actor_key(text: str) -> str:
    """A key as it is kept. Raises `InvalidInput`."""
    _path(text)
    return text


def actor_of(key: str, data: bytes | None) -> str | None:
    """The value at `key` in a run's input (JSON), as text: `7` and `"7"` are the same. None when it
    is missing or no text, number or truth value: such a run goes to any worker.
    """
    if data is None:
        return None
    found = _path(key).get({"data": msgspec.json.decode(data)}, None)
    if found is None or found == "" or isinstance(found, dict | list):
        return None
    text = found if isinstance(found, str) else msgspec.json.encode(found).decode()
    return text if len(text) <= LONGEST else hashlib.sha256(text.encode()).hexdigest()


def _path(text: str) -> Path:
    """A key as a path below `data`, however it was written."""
    path = text.removeprefix("$.").removeprefix("event.")
    if path != "data" and not path.startswith(("data.", "data[")):
        path = f"data.{path}"
    try:
        return compile_path(path)
    except InvalidInput as error:
        raise InvalidInput("actor_key", error.reason) from None
