"""What a user's script does, under the real Prefect client: run by the interpreter of its own
environment, with `PREFECT_API_URL` naming the server.

Each scenario runs flows, then asks the server through the real client what it knows of them, and
answers with plain data. One line of JSON a scenario: `{"scenario", "answer"}`, `{"scenario",
"error"}`, or `{"scenario", "since"}` when this release is older than what it is about. They share
one process because importing Prefect takes seconds.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import traceback

from scenario import RELEASE, SCENARIOS

PARTS = ("running", "keeping", "steering", "habits")
"""The modules beside this one that declare scenarios."""
SINCE = {"live_logs": (3, 4)}
"""Releases before which there was no such thing."""


async def main(chosen: list[str]) -> None:
    """Run the chosen scenarios, or all of them, one after the other."""
    for part in PARTS:
        importlib.import_module(part)
    for name in chosen or SCENARIOS:
        if SINCE.get(name, RELEASE) > RELEASE:
            line = {"scenario": name, "since": SINCE[name]}
            print(json.dumps(line), file=answers, flush=True)
            continue
        try:
            line = {"scenario": name, "answer": await SCENARIOS[name]()}
        except BaseException as error:  # noqa: BLE001 - it is the answer
            text = "".join(traceback.format_exception(error))
            line = {"scenario": name, "error": text[-4000:]}
        print(json.dumps(line, default=str), file=answers, flush=True)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what flows print is no answer
    asyncio.run(main(sys.argv[1:]))
