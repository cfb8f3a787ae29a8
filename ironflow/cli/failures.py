"""How a verb ends when it does not succeed: one sentence and an exit code.

0 done; 1 what was asked for failed; 2 wrong usage or input; 3 no server answers; 130 interrupted.
"""

from __future__ import annotations

import sys

FAILED, WRONG, UNREACHABLE, INTERRUPTED, PIPE_CLOSED = 1, 2, 3, 130, 141


class Failed(Exception):
    """What was asked for failed; `message` is the sentence for people, empty when all was said."""

    exit_code = FAILED

    def __init__(self, message: str = "") -> None:
        self.message = message
        super().__init__(message)


class Wrong(Failed):
    """Wrong usage or input; `field` is the option, argument or part of the input."""

    exit_code = WRONG

    def __init__(self, field: str, reason: str) -> None:
        self.field, self.reason = field, reason
        super().__init__(f"{field}: {reason}" if field else reason)


class Unreachable(Failed):
    """No ironflow server answers at this address."""

    exit_code = UNREACHABLE


class Refused(Failed):
    """The server refused a request: `status` and `code` are those of its problem document."""

    def __init__(self, message: str, status: int, code: str) -> None:
        self.status, self.code = status, code
        # 4xx that say "the request itself is wrong"; the others speak of the state of things.
        self.exit_code = WRONG if status in (400, 405, 413, 414, 415, 422, 431) else FAILED
        super().__init__(message)


def wants_traceback() -> bool:
    """Whether `--debug` was given, before the verb or after it."""
    return "--debug" in sys.argv[1:]
