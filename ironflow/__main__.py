"""Entry point of `ironflow`, `python -m ironflow` and `ironflow.pyz`.

`version` answers here, before anything heavy is imported; every other verb belongs to
`ironflow.cli.main`.
"""

from __future__ import annotations

import sys

from ironflow import VERSION


def main() -> int:
    """Run the command line in `sys.argv` and return the exit code."""
    if sys.argv[1:] in (["version"], ["--version"]):
        print(f"ironflow {VERSION}")
        return 0
    from ironflow.cli.main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
