"""Entry point of `ironflow`, `python -m ironflow` and `ironflow.pyz`.

`version` answers here, before anything heavy is imported; every other verb belongs to
`ironflow.cli.main`.
"""

from __future__ import annotations

import contextlib
import os
import sys

from ironflow import VERSION


def main() -> int:
    """Run the command line in `sys.argv` and return the exit code."""
    open_standard_streams()
    if sys.argv[1:] in (["version"], ["--version"]):
        with contextlib.suppress(OSError):  # the command line knows what to say of that
            print(f"ironflow {VERSION}", flush=True)
            return 0
    from ironflow.cli.main import main as run

    return run()


def open_standard_streams() -> None:
    """Have all three, also where whoever started this process closed some: what is opened next
    would get the number of one, and whatever is written to that.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest that is free: this one
            setattr(sys, name, os.fdopen(descriptor, "w" if number else "r", encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
