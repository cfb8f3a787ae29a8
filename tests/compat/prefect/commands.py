"""The real program `prefect`, imported once: each command is a process of its own that is forked
from this one. Importing takes three times as long as what a command then does.

Reads a JSON list of words a line, and answers each with a line: exit code, stdout, stderr. Runs in
Prefect's environment.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile

import prefect.cli.flow
import prefect.cli.flow_run
import prefect.client.orchestration  # noqa: F401 - with the above all that a command would load
from prefect.cli import app


def run(words: list[str]) -> tuple[int, str, str]:
    """What `prefect WORDS` ends with, and what it printed."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.argv = ["prefect", *words]
            sys.exit(app())
        _, status = os.waitpid(child, 0)
        printed = []
        for file in (out, err):
            file.seek(0)
            printed.append(file.read().decode())
    return os.waitstatus_to_exitcode(status), printed[0], printed[1]


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
