"""Secrets of functions: names that are registered, and values that only an execution is handed.

A value is in no journal, log or answer: it is read at the moment of the hand-over, and goes to
whoever executes the function.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from ironflow.core.errors import InvalidInput, NotFound

MOST = 100
"""Secrets of one function."""
LONGEST = 64 * 1024
"""Bytes of a value."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


class SecretSource(Protocol):
    """Where the values are."""

    async def read(self, names: Sequence[str]) -> dict[str, str]:
        """The values of these names. Raises `SecretMissing`."""
        ...


class SecretMissing(NotFound):
    """A secret that a function is to be handed is not there, or cannot be read."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__("secret", name)
        self.message = f"secret {name}: {reason}"
        self.args = (self.message,)


class NoSecrets:
    """Nowhere."""

    async def read(self, names: Sequence[str]) -> dict[str, str]:
        """See `SecretSource`."""
        for name in names:
            raise SecretMissing(name, "this server was given none (serve --secrets FOLDER)")
        return {}


def check_secrets(names: Sequence[str]) -> None:
    """Raise `InvalidInput` for names that can be none."""
    if len(names) > MOST:
        raise InvalidInput("secrets", f"has more than {MOST} names")
    for name in names:
        if not _NAME.fullmatch(name):
            raise InvalidInput(
                "secrets", f"{name!r:.110} is no name: letters, digits and _, at most 100"
            )
