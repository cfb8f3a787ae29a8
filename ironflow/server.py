"""The assembly: settings to storage to engine to web, started in this order and stopped in reverse.

The only module that builds the concrete parts. `serve` is the whole life of a server process: the
first SIGTERM or SIGINT drains (no new work, running steps finish, everything is committed), the
second ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from aiohttp import web

from ironflow import VERSION
from ironflow.actors.engine import Engine
from ironflow.assembly import Assembly, Runtime
from ironflow.core.access.directory import DEFAULT_ENVIRONMENT
from ironflow.core.clock import Clock, Ids, SystemClock
from ironflow.core.errors import ConfigError, IronflowError
from ironflow.core.remote.signatures import Key
from ironflow.discovery import is_loopback, publish, withdraw
from ironflow.first_start import prepare
from ironflow.launch import command
from ironflow.modules import Watch, load_module
from ironflow.sdk.executor import Executor
from ironflow.sdk.function import Registry, registry
from ironflow.sdk.watchdog import Watchdog
from ironflow.settings import Settings
from ironflow.storage.ports import Store
from ironflow.tuning import tuned_process
from ironflow.web.app import make_app
from ironflow.web.caller import Allowance, HttpCaller
from ironflow.web.environments import Environments
from ironflow.web.fast_path import FastRunner
from ironflow.web.routing import STATE

log = logging.getLogger("ironflow")

FATAL_EXIT = 70
"""Exit code (EX_SOFTWARE) when the journal cannot be trusted any more: better dead than lying."""
RELOAD = -1
"""What a server that ends because its modules have changed returns inside this module."""
DEV_INTERVAL = 0.5
"""Seconds between two looks at the modules' files in development."""


class Server:
    """One server on the running loop."""

    def __init__(
        self,
        settings: Settings,
        functions: Registry = registry,
        clock: Clock | None = None,
        on_fatal: Callable[[str], None] | None = None,
        *,
        page_at_root: bool = False,
        announce_key: bool = False,
    ) -> None:
        """`page_at_root`: `/` shows the workflow debugger. `announce_key`: the first start makes an
        admin's key and says it on stderr.
        """
        self.page_at_root, self.announce_key = page_at_root, announce_key
        self.environment = DEFAULT_ENVIRONMENT
        """The id of the environment that the functions are in, once it is known."""
        self.settings, self.functions = settings, functions
        self.clock = clock or SystemClock()
        self.ids = Ids(self.clock)
        self.on_fatal = on_fatal or _die
        self.port = settings.port
        self.store: Store
        self.engine: Engine
        self.executor: Executor
        self.caller: HttpCaller | None = None
        self._runtime: Runtime | None = None
        self._environments: Environments | None = None
        self._runner: web.AppRunner | None = None
        self._watchdog: Watchdog | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        host = self.settings.host
        if host in ("0.0.0.0", "::"):
            host = "127.0.0.1"
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    async def start(self) -> None:
        """Open, recover, listen. Raises `ConfigError` or `StorageError` in one line; then nothing
        stays open.
        """
        settings = self.settings
        if settings.secrets and not await asyncio.to_thread(os.path.isdir, settings.secrets):
            raise ConfigError(f"secrets: {settings.secrets} is no folder")
        self.caller = make_caller(settings, self.clock)
        assembly = Assembly(settings, self.clock, self.ids, self.caller, self.on_fatal)
        self.store = await assembly.open_store()
        try:
            here = Registry() if settings.environment else self.functions
            runtime = self._runtime = assembly.make(self.store, here)
            self.executor, self.engine = runtime.executor, runtime.engine
            # A first start that fails here must not have shown a key already.
            await check_port(settings.host, settings.port)
            await prepare(
                settings, self.engine.keyring, self.engine.registrar, announce=self.announce_key
            )
            if settings.environment:
                self._place_functions(assembly, here)
            # Listen first: a port that is taken must not let runs begin.
            await self._listen(assembly)
            if settings.blocked_after:
                self._watchdog = Watchdog(
                    settings.blocked_after, self.clock, self.engine.blockages.add
                )
                self._watchdog.start()
            await self.engine.start()
            self.engine.feeds.start()
            if self._environments is not None:
                await self._environments.start()
                self._check_functions(self._environments)
        except BaseException:
            await self.stop(grace=0.0)
            raise

    def _place_functions(self, assembly: Assembly, here: Registry) -> None:
        """Have the functions executed in the environment that the settings name; `here` are those
        of the default one. Raises `ConfigError`.
        """
        given = self.settings.environment
        try:
            self.environment = self.engine.registrar.directory.environment(given).id
        except IronflowError as error:
            raise ConfigError(
                f"environment: {error.message}; make one first (ironflow environments create)"
            ) from error
        if self.environment == DEFAULT_ENVIRONMENT:
            for function in self.functions.all():
                here.add(function)
        else:
            assembly.functions[self.environment] = self.functions

    def _check_functions(self, environments: Environments) -> None:
        """Whether the environment of the functions is at work. Raises `ConfigError`."""
        if self.environment == DEFAULT_ENVIRONMENT:
            return
        if environments.engine(self.environment) is None:
            reason = environments.why_not(self.environment)
            raise ConfigError(f"environment: {self.environment} is not served: {reason}")

    async def _listen(self, assembly: Assembly) -> None:
        settings = self.settings
        app = make_app(
            self.engine,
            version=VERSION,
            started_at=self.clock.now(),
            dev=settings.dev,
            body_limit=settings.body_limit,
            workflow_origins=tuple(settings.workflow_origins.replace(",", " ").split()),
            page_at_root=self.page_at_root,
            opener=assembly,
            streams_per_key=settings.streams_per_key,
            polls_per_key=settings.polls_per_key,
        )
        self._environments = app[STATE].environments
        self._runner = FastRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=2.0
        )
        await self._runner.setup()
        site = web.TCPSite(
            self._runner, settings.host, settings.port, backlog=1024, reuse_address=True
        )
        try:
            await site.start()
        except OSError as error:
            raise _refusal(settings.host, settings.port, error) from error
        self.port = self._runner.addresses[0][1]

    async def stop(self, grace: float | None = None) -> None:
        """Drain and close: no new work, running steps get `grace` seconds, all is committed,
        sockets close.
        """
        if self._watchdog is not None:
            self._watchdog.stop()
        if self._runtime is not None:
            await self._runtime.stop(self.settings.drain_timeout if grace is None else grace)
        if self._environments is not None:
            await self._environments.stop()
        if self.caller is not None:
            await self.caller.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        await self.store.close()


async def check_port(host: str, port: int) -> None:
    """Raise the `ConfigError` of an address that cannot be listened on; bind there for a moment."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found if port else ():
            with socket.socket(family, kind, protocol) as probe:
                if os.name == "posix":
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
    except OSError as error:
        raise _refusal(host, port, error) from error


def _refusal(host: str, port: int, error: OSError) -> ConfigError:
    """Why there is no listening on an address, and which of the two settings is at fault."""
    if isinstance(error, socket.gaierror):
        return ConfigError(f"host: {host} is not known: {error.strerror}")
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigError(f"host: {host} is no address of this machine")
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno == errno.EADDRINUSE:
        reason = "another process listens there"
    return ConfigError(f"port: cannot listen on {host}:{port}: {reason}")


def make_caller(settings: Settings, clock: Clock) -> HttpCaller:
    """What sends requests to endpoints. Raises `ConfigError`."""
    networks = [text.strip() for text in settings.push_networks.split(",") if text.strip()]
    if settings.dev:
        networks += ["127.0.0.0/8", "::1/128"]
    try:
        allowance = Allowance(networks)
    except ValueError as error:
        raise ConfigError(f"push_networks: {error}") from error
    keys = [Key(settings.signing_key, settings.signing_key_id), Key(settings.old_signing_key)]
    if not keys[0] and keys[1]:
        raise ConfigError("old_signing_key: is of no use without a signing_key")
    return HttpCaller(clock, allowance, [key for key in keys if key])


def _die(reason: str) -> None:
    log.critical("stopping: %s", reason)
    logging.shutdown()
    os._exit(FATAL_EXIT)


def serve(settings: Settings, modules: Sequence[str]) -> int:
    """Serve until a signal; the exit code. Raises `ConfigError` and `StorageError` before it
    listens.
    """
    for module in modules:
        _mount_workflows(load_module(module))
    code = run_loop(_serve(settings, modules))
    if code == RELOAD:
        os.execv(sys.executable, [*command(), *sys.argv[1:]])
    return code


def _mount_workflows(module: ModuleType) -> None:
    """Serve the event-driven workflows of a module, ours and LlamaIndex's. What mounts them stands
    above this module and needs pydantic: who has written some has loaded that, or theirs.
    """
    mounting = "ironflow.workflows.mounting"
    if mounting in sys.modules or "workflows.workflow" in sys.modules:
        importlib.import_module(mounting).mount_module(module)


def run_loop(main: object) -> int:
    """Run a coroutine on uvloop where it is installed, on asyncio's loop elsewhere."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)  # type: ignore[arg-type]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)  # type: ignore[arg-type]


async def _serve(settings: Settings, modules: Sequence[str]) -> int:
    began = time.perf_counter()
    server = Server(settings, announce_key=True)
    await server.start()
    stop = asyncio.Event()
    stop_on_signals(stop)
    functions, folder = len(server.functions), _publish(server)
    log.info(
        "ironflow %s serves %d function%s on %s (%s, durability %s, ready in %.2f s)",
        VERSION,
        functions,
        "" if functions == 1 else "s",
        server.url,
        settings.db,
        settings.durability,
        time.perf_counter() - began,
    )
    workflows = sum(one.definition.kind == "workflow" for one in server.functions.all())
    if workflows:
        log.info("the workflows among them have a page: %s/workflows/ui", server.url)
    if modules and not functions:
        log.warning("the given modules define no functions")
    if settings.insecure and not server.engine.keyring.is_needed:
        address = f"{settings.host} port {server.port}"
        log.warning("anyone who can reach %s can use it: there are no keys", address)
    watcher = asyncio.create_task(_watch(modules, stop)) if settings.dev else None
    with tuned_process(keep_awake=settings.low_latency):
        await stop.wait()
        if folder is not None:
            withdraw(folder)
        log.info("draining: running steps get up to %g s", settings.drain_timeout)
        await server.stop()
    log.info("stopped")
    changed = watcher is not None and watcher.done() and not watcher.cancelled()
    if watcher is not None and not changed:
        watcher.cancel()
    return RELOAD if changed else 0


def _publish(server: Server) -> Path | None:
    """Let tools in this folder find the server; where that is said. Only one whose API is open to
    this machine, and to no other, says so.
    """
    settings = server.settings
    if not settings.discovery or not is_loopback(settings.host):
        return None
    folder = Path.cwd()
    try:
        if publish(folder, server.url, server.environment):
            return folder
        log.info("another server is the one that tools find from %s", folder)
    except OSError as error:
        log.info("tools do not find this server by themselves: %s", error)
    return None


async def _watch(modules: Sequence[str], stop: asyncio.Event) -> None:
    """Development: end the server, to be started again, when a module's source changes."""
    watch = Watch(modules)
    while (path := watch.changed()) is None:  # noqa: ASYNC110 - files do not tell of changes
        await asyncio.sleep(DEV_INTERVAL)
    log.info("%s has changed: starting again", path)
    stop.set()


def stop_on_signals(stop: asyncio.Event) -> None:
    """The first SIGTERM or SIGINT sets the event, the second ends the process at once."""
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stop.is_set():
            log.warning("second signal: ending at once")
            logging.shutdown()
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # Windows
            loop.add_signal_handler(number, on_signal, number)
