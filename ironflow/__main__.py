"""Entry point of `ironflow`, `python -m ironflow` and `ironflow.pyz`.

`version` answers here, before anything heavy is imported; every other verb belongs to
`ironflow.cli.main`. `command()` is how a process of ours starts another one of the very same kind.
"""

from __future__ import annotations

import sys

from ironflow import VERSION

PYZ: str | None = None
"""Absolute path of the ironflow.pyz this process was started from; its bootstrap sets it."""


def command() -> list[str]:
    """Return the beginning of a command line that starts this same ironflow again."""
    return [sys.executable, PYZ] if PYZ else [sys.executable, "-m", "ironflow"]


def main() -> int:
    """Run the command line in `sys.argv` and return the exit code."""
    if sys.argv[1:] in (["version"], ["--version"]):
        print(f"ironflow {VERSION}")
        return 0
    from ironflow.cli.main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
