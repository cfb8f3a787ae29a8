"""A server of event-driven workflows: `WorkflowServer`, and `python -m ironflow.workflows.server`.

It is the ironflow server with a registry of its own, the debugger's page at `/`, and the rule for
browsers that its clients are used to (any page may call it). Everything that it serves is durable.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import warnings
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from ironflow.core.errors import ConfigError, InvalidInput, IronflowError
from ironflow.modules import load_module
from ironflow.sdk.function import Registry
from ironflow.server import Server, run_loop, stop_on_signals
from ironflow.settings import Settings, load_settings
from ironflow.tuning import tuned_process
from ironflow.workflows.asgi import AsgiApp
from ironflow.workflows.mounting import mount

log = logging.getLogger("ironflow")

HOST, PORT = "127.0.0.1", 8080
HOST_NAMES = ("WORKFLOWS_PY_SERVER_HOST", "IRONFLOW_HOST")
PORT_NAMES = ("WORKFLOWS_PY_SERVER_PORT", "IRONFLOW_PORT")
"""Environment variables, the first one that is set wins."""
USAGE = "usage: python -m ironflow.workflows.server FILE.py"
_WITHOUT_EFFECT = {
    "workflow_store": "runs are stored in the database that `db` names",
    "persistence_backoff": "a write that fails is reported, not tried in the background",
    "idle_timeout": "a run that waits needs no memory after a moment",
    "idle_release_timeout": "a run that waits needs no memory after a moment",
    "runtime": "there is one runtime",
    "serializer": "events are stored as JSON, and read back as the classes that are declared",
    "accept_context_api": "contexts are accepted: they build declared classes only",
}
"""Options of the original server that mean nothing here, and why."""


class WorkflowServer:
    """Serves workflows over HTTP; the same routes, bodies and streams as LlamaIndex's server.

    ```python
    server = WorkflowServer()
    server.add_workflow("greet", Greet())
    asyncio.run(server.serve(port=8080))
    ```
    """

    def __init__(
        self,
        *,
        db: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        **ignored: Any,
    ) -> None:
        """`db` is a file, or `memory`; by default what `IRONFLOW_DB` says, else `ironflow.db`.
        `settings` are others of `ironflow config`. Options of the original server that have no
        meaning here are taken with a warning; unknown ones are a `TypeError`.
        """
        for name in ignored:
            if name not in _WITHOUT_EFFECT:
                raise TypeError(f"WorkflowServer() got an unexpected keyword argument {name!r}")
            warnings.warn(f"{name} has no effect: {_WITHOUT_EFFECT[name]}", stacklevel=2)
        self._settings = dict(settings or {})
        if db is not None:
            self._settings["db"] = str(db)
        self.registry = Registry()
        self.entries: dict[str, tuple[Any, tuple[type[Any], ...]]] = {}
        """By name: the workflow and its additional events."""
        self._server: Server | None = None
        self._stop: asyncio.Event | None = None
        self.app = AsgiApp(self)
        """An ASGI application of this server, to mount in FastAPI or Starlette or to run under
        uvicorn; it starts the server when it is first asked.
        """

    def add_workflow(
        self, name: str, workflow: Any, additional_events: Iterable[type[Any]] | None = None
    ) -> None:
        """Serve a workflow under a name. `additional_events` are event classes that clients may
        send although no step declares them. Raises `InvalidInput` for a name that is taken or is
        none, and what is wrong with the workflow.
        """
        if name in self.entries:
            raise InvalidInput("name", f"a workflow is called {name!r} already")
        events = tuple(additional_events or ())
        mount(workflow, name, events, registry=self.registry)
        self.entries[name] = (workflow, events)

    def mount_into(self, registry: Registry) -> None:
        """Have another server serve these workflows, too: what `ironflow serve` does with a
        `WorkflowServer` that it finds in a module.
        """
        for name, (workflow, events) in self.entries.items():
            mount(workflow, name, events, registry=registry)

    # -- life -------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where it answers. Raises `RuntimeError` before it is started."""
        if self._server is None:
            raise RuntimeError("the server is not started")
        return self._server.url

    @property
    def is_started(self) -> bool:
        """Whether it takes requests."""
        return self._server is not None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> WorkflowServer:
        """Bring back what is unfinished, and listen; `port` 0 is a free one (see `url`). Raises
        `ConfigError`, `StorageError`.
        """
        if self._server is not None:
            raise RuntimeError(f"the server is started already: {self.url}")
        settings = await asyncio.to_thread(self._read_settings, host, port)
        server = Server(settings, self.registry, page_at_root=True)
        await server.start()
        self._server = server
        if not (_is_loopback(settings.host) or server.engine.keyring.is_needed):
            log.warning("anyone who can reach %s can use it: there are no keys", server.url)
        return self

    async def stop(self) -> None:
        """Drain and close: running steps get the setting `drain_timeout` to finish, everything is
        committed.
        """
        if self._stop is not None:
            self._stop.set()
        server, self._server = self._server, None
        if server is not None:
            await self.app.close()
            await server.stop()

    @asynccontextmanager
    async def contextmanager(
        self, host: str = "127.0.0.1", port: int = 0
    ) -> AsyncIterator[WorkflowServer]:
        """The started server, stopped at the end."""
        await self.start(host, port)
        try:
            yield self
        finally:
            await self.stop()

    async def serve(self, host: str = HOST, port: int = PORT, **ignored: Any) -> None:
        """Serve until SIGTERM, SIGINT, `stop()` or the end of this task; a second signal ends the
        process at once. Raises `ConfigError`, `StorageError`. (`uvicorn_config` of the original has
        no effect.)
        """
        if set(ignored) - {"uvicorn_config"}:
            name = min(set(ignored) - {"uvicorn_config"})
            raise TypeError(f"serve() got an unexpected keyword argument {name!r}")
        self._stop = asyncio.Event()
        stop = self._stop
        async with self.contextmanager(host, port):
            stop_on_signals(stop)
            names = ", ".join(self.entries) or "no workflows"
            log.info("serving %s on %s (in a browser: the debugger)", names, self.url)
            keep_awake = self._server is not None and self._server.settings.low_latency
            with tuned_process(keep_awake=keep_awake):
                await stop.wait()
            if self._server is not None:  # else `stop` has drained it
                log.info(
                    "draining: running steps get up to %g s", self._server.settings.drain_timeout
                )

    def _read_settings(self, host: str, port: int) -> Settings:
        values = {"host": host, "port": port, "workflow_origins": "*", **self._settings}
        settings = load_settings(values).settings
        # Who names an address in code has chosen it.
        return msgspec.structs.replace(settings, insecure=True)


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


# -- the command ----------------------------------------------------------------------------------


def find_server(module: ModuleType) -> WorkflowServer:
    """The first `WorkflowServer` among a module's names, in alphabetical order. Raises
    `ConfigError`.
    """
    for name in sorted(vars(module)):
        found = getattr(module, name)
        if isinstance(found, WorkflowServer):
            return found
    raise ConfigError(f"{module.__name__} defines no WorkflowServer")


def read_address(env: Mapping[str, str]) -> tuple[str, int]:
    """Where to listen. Raises `ConfigError` naming the variable."""
    host = next((env[name] for name in HOST_NAMES if env.get(name)), HOST)
    for name in PORT_NAMES:
        text = env.get(name)
        if not text:
            continue
        if not (text.isascii() and text.isdigit() and int(text) <= 65535):
            raise ConfigError(f"env {name}: {text!r} is not a port")
        return host, int(text)
    return host, PORT


def main(arguments: list[str]) -> int:
    """Serve the `WorkflowServer` of a file; the exit code."""
    from ironflow.logs import configure_logging

    if len(arguments) != 1 or arguments[0].startswith("-"):
        sys.stderr.write(f"{USAGE}\n")
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        settings = load_settings().settings
        configure_logging(settings.log_format, settings.log_level)
        host, port = read_address(os.environ)
        server = find_server(load_module(arguments[0]))
        run_loop(server.serve(host, port))
    except IronflowError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    # This module under its own name: a `WorkflowServer` in the file is one of that.
    from ironflow.workflows.server import main as run_main

    sys.exit(run_main(sys.argv[1:]))
