"""A process finds the user's functions wherever they live: in a file that was served by its path,
in a package, in the main script, beside a namesake, and out of ironflow.pyz.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

APP = """
import os
from ironflow import Context, function
from beside import MARK

def whereabouts() -> list:
    return [os.getpid(), __name__, MARK]

@function(id="where", executor="process", retry=1)
async def where(ctx: Context) -> list:
    return await ctx.step.run("look", whereabouts)
"""
MAIN = (
    APP
    + """
import ironflow
if {guard}:
    print(ironflow.run_sync(where))
"""
)


def lay(folder: Path, name: str = "app.py", text: str = APP) -> Path:
    (folder / "beside.py").write_text("MARK = 'beside'\n")
    path = folder / name
    path.write_text(text)
    return path


def call(*line: str | Path, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        line, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    return done.stdout + done.stderr


def test_a_file_given_by_its_path_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    app = lay(tmp_path / "code")
    said = call(sys.executable, "-m", "ironflow", "run", app, cwd=tmp_path)
    assert '"app","beside"' in said.replace(" ", ""), said


def test_a_module_of_a_package(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    lay(tmp_path / "shop", "orders.py", APP.replace("from beside", "from shop.beside"))
    said = call(sys.executable, "-m", "ironflow", "run", "shop.orders", cwd=tmp_path)
    assert '"shop.orders","beside"' in said.replace(" ", ""), said


def test_a_file_whose_name_another_module_has(tmp_path: Path) -> None:
    """Its folder comes last on the path: a process that imported by name would find the other."""
    app = lay(tmp_path, "turtle.py")
    said = call(sys.executable, "-m", "ironflow", "run", app, cwd=tmp_path)
    assert '"turtle","beside"' in said.replace(" ", ""), said


def test_out_of_the_archive(pyz: Path, tmp_path: Path) -> None:
    app = lay(tmp_path)
    said = call(sys.executable, pyz, "run", app, cwd=tmp_path)
    assert '"app","beside"' in said.replace(" ", ""), said


def test_the_main_script(tmp_path: Path) -> None:
    script = lay(tmp_path, "script.py", MAIN.format(guard='__name__ == "__main__"'))
    said = call(sys.executable, script, cwd=tmp_path)
    assert "'__mp_main__', 'beside'" in said, said


def test_a_main_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    script = lay(tmp_path, "script.py", MAIN.format(guard="True"))
    said = call(sys.executable, script, cwd=tmp_path)
    assert "the main script starts runs when it is loaded" in said, said
    assert 'below `if __name__ == "__main__":`' in said, said
