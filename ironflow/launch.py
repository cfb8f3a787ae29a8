"""How this process was started, and how it starts another one of the very same kind."""

from __future__ import annotations

import sys

PYZ: str | None = None
"""Absolute path of the ironflow.pyz this process was started from; its bootstrap sets it."""


def command() -> list[str]:
    """The beginning of a command line that starts this same ironflow again."""
    return [sys.executable, PYZ] if PYZ else [sys.executable, "-m", "ironflow"]
