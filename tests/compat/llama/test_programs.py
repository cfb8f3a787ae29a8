"""Programs written for LlamaIndex Workflows: with their import lines changed they do the same, and
an instance can be served as it is.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from server_process import ServerProcess

HERE = Path(__file__).parent


def output_of(*line: str | Path, cwd: Path) -> Any:
    done = subprocess.run(
        list(map(str, line)), capture_output=True, text=True, timeout=120, cwd=cwd, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_a_program_does_the_same_after_its_import_lines_are_changed(
    peer_python: Callable[[str], Path], tmp_path: Path
) -> None:
    source = HERE / "program.py"
    changed = tmp_path / "program.py"
    text = source.read_text(encoding="utf-8")
    changed.write_text(text.replace("from workflows", "from ironflow.workflows"), encoding="utf-8")
    theirs = output_of(peer_python("llama-server"), source, cwd=tmp_path)
    ours = output_of(sys.executable, changed, cwd=tmp_path)
    for name, expected in theirs.items():
        assert ours[name] == expected, name


def folder_of(python: Path, cwd: Path) -> Path:
    """Where a peer's packages lie."""
    find = "import workflows; print(__import__('json').dumps(workflows.__path__[0]))"
    return Path(output_of(python, "-c", find, cwd=cwd)).parent


APP = """
import sys
sys.path.append({folder!r})
from workflows import Workflow, step
from workflows.events import StartEvent, StopEvent

class Hello(Workflow):
    @step
    async def greet(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=f"hello {{ev.name}}")

hello = Hello()
"""


def test_a_file_that_knows_nothing_of_ironflow_is_served(
    peer_python: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = folder_of(peer_python("llama-server"), tmp_path)
    app = tmp_path / "their_app.py"
    app.write_text(APP.format(folder=str(folder)))
    server = ServerProcess(tmp_path, app)
    server.start()
    try:
        assert server.get("/workflows") == {"workflows": ["hello"]}
        handler = server.post("/workflows/hello/run", {"start_event": {"name": "Ada"}})
        assert handler["result"]["value"] == {"result": "hello Ada"}
    finally:
        server.kill()


@pytest.mark.parametrize("peer", ["llama-server", "llama-2.11"])
def test_an_instance_is_served_as_it_is(
    peer_python: Callable[[str], Path], tmp_path: Path, peer: str
) -> None:
    folder = folder_of(peer_python(peer), tmp_path)
    status, result, told, drawn, statuses = output_of(
        sys.executable, HERE / "mounted.py", folder, cwd=tmp_path
    )
    assert status == "completed"
    assert result == {"text": "x [0, 1, 2] 3 ok"}
    assert told == ["Part", "InputRequiredEvent", "Result"]
    assert drawn
    assert statuses == ["running", "queued"]  # of two runs that may not execute at once
