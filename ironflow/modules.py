"""Loading the user's modules by path or by name, with errors that name the file and line,
and noticing when they change."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from ironflow.core.errors import ConfigError

log = logging.getLogger("ironflow")

_files: dict[str, str] = {}


def loaded_files() -> dict[str, str]:
    """The modules that were loaded by path: their files by name."""
    return dict(_files)


def load_module(name: str) -> ModuleType:
    """Import `app.py`, `folder/app.py` or `package.app`. Raises `ConfigError` in one line.

    A file's folder is put on `sys.path`, so that what lies beside it can be imported, and the
    module is known by the file's stem, so that types in stored results are found again.
    """
    is_file = name.endswith(".py") or "/" in name or "\\" in name
    try:
        return _load_file(Path(name)) if is_file else importlib.import_module(name)
    except ConfigError:
        raise
    except ModuleNotFoundError as error:
        if not is_file and error.name is not None and name.startswith(error.name):
            raise ConfigError(
                f"there is no module {name!r} (a file is given as {name}.py)"
            ) from error
        raise ConfigError(f"{name} cannot be imported: {_where(error)}") from error
    except Exception as error:
        raise ConfigError(f"{name} cannot be imported: {_where(error)}") from error
    except SystemExit as error:
        raise ConfigError(f"{name} cannot be imported: it calls exit({error.code!r})") from error


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    path = path.resolve()
    stem = path.stem
    known = sys.modules.get(stem)
    if known is not None:
        if getattr(known, "__file__", None) == str(path):
            return known
        raise ConfigError(f"{path} cannot be imported: a module named {stem!r} is loaded already")
    spec = importlib.util.spec_from_file_location(stem, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file")
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.append(folder)
    module = importlib.util.module_from_spec(spec)
    sys.modules[stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(stem, None)
        raise
    _files[stem] = str(path)
    return module


def _where(error: BaseException) -> str:
    """The error and the innermost line of the user's code."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    ours = os.path.dirname(__file__) + os.sep
    own = [f for f in frames if "importlib" not in f.filename and not f.filename.startswith(ours)]
    place = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {error}{place}"


class Watch:
    """The source files beside the served modules, and whether they have changed."""

    def __init__(self, names: Sequence[str]) -> None:
        folders = {str(Path(name).resolve().parent) for name in names if name.endswith(".py")}
        self._folders = tuple(folders)
        self._seen = self._look()

    def changed(self) -> str | None:
        """The first file that has changed since the last look and compiles, if any."""
        now = self._look()
        before, self._seen = self._seen, now
        for path, stamp in now.items():
            if before.get(path, stamp) != stamp:
                try:
                    compile(Path(path).read_text(encoding="utf-8"), path, "exec")
                except (SyntaxError, UnicodeDecodeError, OSError) as error:
                    log.warning("%s has changed but cannot be loaded: %s", path, error)
                else:
                    return path
        return None

    def _look(self) -> dict[str, int]:
        found = {}
        for module in list(sys.modules.values()):
            path = getattr(module, "__file__", None)
            if path and path.endswith(".py") and os.path.dirname(path) in self._folders:
                try:
                    found[path] = os.stat(path).st_mtime_ns
                except OSError:
                    continue
        return found
