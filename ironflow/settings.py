"""What a server can be told, where each value came from, and what is wrong with it.

A value is taken from a flag, else from the environment (`IRONFLOW_*`), else from a TOML file, else
it is the default. Unknown names are errors, with the nearest known one.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from ironflow.core.durations import parse_duration
from ironflow.core.errors import ConfigError, InvalidInput

PREFIX = "IRONFLOW_"
DEFAULT_FILE = "ironflow.toml"
NOT_SETTINGS = frozenset(
    {
        "IRONFLOW_SERVER_URL",
        "IRONFLOW_CONFIG",
        "IRONFLOW_PYZ",
        "IRONFLOW_API_KEY",
        "IRONFLOW_CRASH_POINT",
        "IRONFLOW_ENV",
        "IRONFLOW_NO_DISCOVERY",
    }
)
"""Names of the same prefix that clients and the launcher read."""

_OF_KUBERNETES = re.compile(r"(.*_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_ADDRESS = re.compile(r"(tcp|udp|sctp)://")

Doc = Meta


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """A server's settings. Durations are seconds; 0 or None of a retention limit keeps
    everything.
    """

    host: Annotated[str, Doc(description="address to listen on")] = "127.0.0.1"
    port: Annotated[
        int, Doc(ge=0, le=65535, description="port to listen on; 0 picks a free one")
    ] = 4200
    db: Annotated[str, Doc(description="database file, or `memory` for none")] = "ironflow.db"
    durability: Annotated[
        Literal["full", "process"],
        Doc(description="an acknowledged write survives: `full` a power loss, `process` a crash"),
    ] = "full"
    log_format: Annotated[Literal["text", "json"], Doc(description="how log lines look")] = "text"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Doc(description="least severe line to log")
    ] = "info"
    dev: Annotated[
        bool, Doc(description="development: start again when a module changes, ask for no keys")
    ] = False
    auth: Annotated[
        Literal["auto", "required"],
        Doc(
            description="whether requests need a key: `required`, or `auto`: beyond loopback, and "
            "once a key was made"
        ),
    ] = "auto"
    discovery: Annotated[
        bool, Doc(description="tell tools in this folder where the server is, on loopback")
    ] = True
    insecure: Annotated[
        bool, Doc(description="listen beyond loopback although the API asks for no key")
    ] = False
    bootstrap_key_file: Annotated[
        str, Doc(description="file for the admin's key that the first start makes")
    ] = ""
    environment: Annotated[
        str,
        Doc(
            max_length=200,
            description="environment that the modules' functions are in: its id or name; empty: "
            "the default one",
        ),
    ] = ""
    secrets: Annotated[
        str,
        Doc(
            description="folder with a file for each secret that functions of workers and "
            "endpoints may ask for"
        ),
    ] = ""
    concurrency: Annotated[int, Doc(ge=1, description="runs that execute at once")] = 1000
    max_crashes: Annotated[
        int, Doc(ge=1, description="times a run may take the process down before it is paused")
    ] = 5
    drain_timeout: Annotated[
        float, Doc(ge=0, description="seconds that running steps get to finish on shutdown")
    ] = 20.0
    linger: Annotated[
        float, Doc(ge=0, description="seconds that a waiting run's body stays in memory")
    ] = 2.0
    low_latency: Annotated[
        bool,
        Doc(
            description="keep processors awake while the server is busy, where Linux lets it and "
            "there are at most 8"
        ),
    ] = True
    step_threads: Annotated[int, Doc(ge=1, description="threads for sync steps")] = 32
    step_processes: Annotated[
        int, Doc(ge=0, description="processes for steps that ask for one; 0 is one a core")
    ] = 0
    cancel_grace: Annotated[
        float,
        Doc(
            ge=0,
            description="seconds that a step in a process gets to end when it is asked to, and "
            "after SIGTERM; 0: it is killed",
        ),
    ] = 2.0
    signing_key: Annotated[
        str, Doc(description="key that signs what is sent to endpoints; empty: nothing is signed")
    ] = ""
    signing_key_id: Annotated[
        str, Doc(max_length=100, description="name of the key that goes along with signatures")
    ] = ""
    old_signing_key: Annotated[
        str,
        Doc(description="the key before, which signs, too, while endpoints may still have only it"),
    ] = ""
    push_networks: Annotated[
        str,
        Doc(description="networks beside public addresses that endpoints may be in, by comma"),
    ] = ""
    public_url: Annotated[
        str, Doc(description="where endpoints reach this server, to report while they work")
    ] = ""
    worker_lease: Annotated[
        float,
        Doc(ge=1, description="seconds that a worker that says nothing keeps the runs it has"),
    ] = 90.0
    actor_wait: Annotated[
        float,
        Doc(
            ge=0,
            description="seconds that a run waits for the worker of its actor while that is full; "
            "0: as long as it takes",
        ),
    ] = 0
    blocked_after: Annotated[
        float,
        Doc(ge=0, description="seconds that code may hold the event loop unreported; 0: for ever"),
    ] = 0.25
    body_limit: Annotated[int, Doc(ge=1024, description="largest request body, in bytes")] = (
        16 * 1024 * 1024
    )
    streams_per_key: Annotated[
        int, Doc(ge=1, description="live streams that one key may have open")
    ] = 1000
    polls_per_key: Annotated[
        int, Doc(ge=1, description="requests of one key that may wait for something")
    ] = 10_000
    workflow_origins: Annotated[
        str,
        Doc(
            description="web pages, besides this machine's, that may call the workflow paths: "
            "origins with commas between, or `*`"
        ),
    ] = ""
    keep_completed: Annotated[
        float, Doc(ge=0, description="seconds to keep completed runs; 0 keeps them")
    ] = 0
    keep_failed: Annotated[
        float, Doc(ge=0, description="seconds to keep failed runs; 0 keeps them")
    ] = 0
    keep_cancelled: Annotated[
        float, Doc(ge=0, description="seconds to keep cancelled runs; 0 keeps them")
    ] = 0
    keep_events: Annotated[float, Doc(ge=0, description="seconds to keep events; 0 keeps them")] = 0
    keep_prefect_events: Annotated[
        float,
        Doc(ge=0, description="seconds to keep events of Prefect clients; 0 keeps them"),
    ] = 7 * 86_400.0
    max_completed: Annotated[int, Doc(ge=0, description="completed runs to keep; 0 is all")] = 0
    max_failed: Annotated[int, Doc(ge=0, description="failed runs to keep; 0 is all")] = 0
    max_cancelled: Annotated[int, Doc(ge=0, description="cancelled runs to keep; 0 is all")] = 0
    max_events: Annotated[int, Doc(ge=0, description="events to keep; 0 is all")] = 0


DURATIONS = frozenset(
    {
        "actor_wait",
        "blocked_after",
        "cancel_grace",
        "drain_timeout",
        "linger",
        "worker_lease",
        "keep_completed",
        "keep_failed",
        "keep_cancelled",
        "keep_events",
        "keep_prefect_events",
    }
)
SECRETS = frozenset({"signing_key", "old_signing_key"})
"""Settings whose values are not to be shown."""
NAMES = tuple(field.name for field in msgspec.structs.fields(Settings))


class Loaded(msgspec.Struct, frozen=True):
    """Settings, and for each name where its value came from: `flag`, `env NAME`, `file PATH` or
    `default`.
    """

    settings: Settings
    origins: dict[str, str]
    file: str | None = None


def describe(name: str) -> str:
    """The one-line documentation of a setting."""
    hint = get_type_hints(Settings, include_extras=True)[name]
    meta: Meta = get_args(hint)[1]
    return meta.description or ""


def load_settings(
    flags: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
    file: str | Path | None = None,
) -> Loaded:
    """Settings from flags (None: not given), environment and file. Raises `ConfigError` naming name
    and origin.
    """
    env = os.environ if env is None else env
    path = _find_file(file, env)
    values: dict[str, Any] = {}
    origins = dict.fromkeys(NAMES, "default")
    sources: list[tuple[str, Mapping[str, Any]]] = []
    if path is not None:
        sources.append((f"file {path}", _read_file(path)))
    sources.append(("env", _read_env(env)))
    sources.append(("flag", {k: v for k, v in (flags or {}).items() if v is not None}))
    for origin, found in sources:
        for name, value in found.items():
            said = f"env {PREFIX}{name.upper()}" if origin == "env" else origin
            if name not in origins:
                raise ConfigError(f"{said}: there is no setting {name!r}" + _nearest(name, NAMES))
            values[name] = _convert(name, value, said)
            origins[name] = said
    return Loaded(Settings(**values), origins, str(path) if path is not None else None)


def _find_file(file: str | Path | None, env: Mapping[str, str]) -> Path | None:
    named = file or env.get("IRONFLOW_CONFIG")
    if named is not None:
        path = Path(named)
        if not path.is_file():
            what = "is not a file" if path.exists() else "does not exist"
            raise ConfigError(f"config file {path} {what}")
        return path
    path = Path(DEFAULT_FILE)
    return path if path.is_file() else None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"config file {path} is not TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"config file {path} cannot be read: {error.strerror}") from error


def _read_env(env: Mapping[str, str]) -> dict[str, str]:
    found = {}
    known = [PREFIX + name.upper() for name in NAMES]
    for name, value in env.items():
        if not name.startswith(PREFIX) or name in NOT_SETTINGS or name.startswith("IRONFLOW_TEST_"):
            continue
        if _is_of_kubernetes(name.removeprefix(PREFIX), value):
            continue
        if name not in known:
            raise ConfigError(f"environment: there is no setting {name}" + _nearest(name, known))
        found[name.removeprefix(PREFIX).lower()] = value
    return found


def _is_of_kubernetes(name: str, value: str) -> bool:
    """Whether a variable tells of a service that is called ironflow: Kubernetes puts those into
    every container beside it, `IRONFLOW_PORT=tcp://10.0.0.7:4200` among them.
    """
    return bool(_OF_KUBERNETES.fullmatch(name) or (name.endswith("PORT") and _ADDRESS.match(value)))


def _nearest(name: str, known: Any) -> str:
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _convert(name: str, value: Any, origin: str) -> Any:
    hint = get_type_hints(Settings, include_extras=True)[name]
    try:
        if name in DURATIONS:
            value = parse_duration(_number(value), name)
        if get_args(hint)[0] is bool and isinstance(value, str):
            value = {"1": True, "true": True, "yes": True, "on": True}.get(
                value.lower(),
                {"0": False, "false": False, "no": False, "off": False}.get(value.lower(), value),
            )
        return msgspec.convert(value, hint, strict=not isinstance(value, str))
    except InvalidInput as error:
        raise ConfigError(f"{origin}: {name}: {error.reason}") from error
    except msgspec.ValidationError as error:
        shown = "" if name in SECRETS else f" is {value!r}:"
        raise ConfigError(f"{origin}: {name}{shown} must be {_wanted(hint)}") from error


def _wanted(hint: Any) -> str:
    """What a setting may be, in words."""
    kind, meta = get_args(hint)
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(get_args(kind))
    words = {bool: "on or off", int: "a whole number", float: "a duration", str: "text"}[kind]
    if meta.max_length is not None:
        words += f" of at most {meta.max_length} characters"
    if meta.ge is not None:
        words += f", at least {meta.ge}"
    if meta.le is not None:
        words += f" and at most {meta.le}"
    return words


def _number(value: Any) -> Any:
    """Plain digits in an environment variable are seconds."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
