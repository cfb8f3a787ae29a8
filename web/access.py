"""Who may ask what, and in which environment.

A key comes as `Authorization: Bearer`, as the password of Basic authentication, or as `X-API-Key`;
websockets of Prefect's client send it in their first message. The environment is the key's, or for
a key that is bound to none what `X-Ironflow-Environment-ID` or `X-Ironflow-Environment` names.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from functools import partial

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from ironflow.actors.engine import Engine
from ironflow.core.access.actions import Requirement, requirement_of
from ironflow.core.access.directory import DEFAULT_ENVIRONMENT, Directory
from ironflow.core.access.keys import Key, PermissionDenied, Unauthenticated
from ironflow.web.environments import Environments
from ironflow.web.limits import Held, HeldLimits, kind_held, waits
from ironflow.web.prefect.paths import is_ours as is_prefect
from ironflow.web.scope import KEY
from ironflow.web.whole import read_ahead
from ironflow.web.workflows.origins import is_workflow_path
from ironflow.web.workflows.page import AT_ROOT, PATH

SOCKETS = ("/api/events/in", "/api/events/out", "/api/logs/out")
"""Websockets whose first message has the key, or else their headers."""
HEADER, NAME_HEADER = "X-Ironflow-Environment-ID", "X-Ironflow-Environment"
METRICS = "/metrics"

_OF_ALL = ("/health", "/ready", "/openapi.json", "/", "/api/v1/capabilities")
_ADMINISTERED = frozenset(
    {"keys", "apikeys", "orgs", "projects", "environments", "roles", "policies"}
)
_EVERYTHING = "*"
"""Stands for the id of a thing where a request is about all of them, or does not say which."""


def secret_of(headers: Mapping[str, str]) -> str | None:
    """The key that a request carries in its headers."""
    found = headers.get("X-API-Key")
    if found:
        return found
    scheme, _, rest = headers.get("Authorization", "").partition(" ")
    rest = rest.strip()
    if scheme.lower() == "bearer":
        return rest
    if scheme.lower() == "basic":
        try:
            text = base64.b64decode(rest, validate=True).decode()
        except (binascii.Error, ValueError):
            return None
        return secret_in(text)
    return None


def secret_in(text: str) -> str:
    """The key in an authentication string: a key alone, or `user:key`."""
    return text.partition(":")[2] or text


def is_of_all(path: str) -> bool:
    """Whether a path is about the server and not about one of its environments."""
    if path in _OF_ALL or path.startswith("/environments/"):
        return True
    parts = path.split("/", 4)
    return path.startswith("/api/v1/") and len(parts) > 3 and parts[3] in _ADMINISTERED


def choose_environment(request: web.Request, key: Key | None, directory: Directory) -> str:
    """The id of the environment in which a request asks. Raises `NotFound`, `PermissionDenied` for
    a key of another one (which is not told what there is).
    """
    headers = request.headers
    given = headers.get(HEADER) or headers.get(NAME_HEADER)
    bound = key.environment if key is not None else None
    if not given:
        return bound or DEFAULT_ENVIRONMENT
    if bound is None:
        return directory.environment(given).id
    if not directory.names(bound, given):
        raise PermissionDenied("this key is bound to another environment")
    return bound


_READ_SERVER = Requirement("server:read", "server")


class Requirements:
    """What the routes of an application need, each looked up once."""

    def __init__(self) -> None:
        self._known: dict[web.AbstractRoute, tuple[Requirement | None, Held]] = {}

    def find(self, request: web.Request) -> tuple[Requirement | None, Held]:
        """What a request needs (None for what anybody may ask), and what it holds open."""
        route = request.match_info.route
        try:
            return self._known[route]
        except KeyError:
            pass
        if route.resource is None:  # there is nothing there: the same for everybody with a key
            return requirement_of(request.method, request.path), ""
        # Where `/` shows the debugger's page, it is as open as the page is elsewhere.
        template = PATH if route.name == AT_ROOT else route.resource.canonical
        needed = requirement_of(request.method, template), kind_held(request.method, template)
        if route.method == request.method:
            self._known[route] = needed
        return needed


async def _check(
    request: web.Request, directory: Directory, key: Key, needed: Requirement, environment: str
) -> None:
    """Ask the policies of a key's roles. Raises `PermissionDenied`."""
    id_ = request.match_info.get(needed.part) if needed.part else None
    grant = directory.grant(key.roles)
    if id_ is None and needed.fields and grant.plain is None:
        if request.method in ("GET", "HEAD"):
            id_ = _only([v for name in needed.fields for v in request.query.getall(name, ())])
        else:
            id_ = _named_in(await read_ahead(request), needed.fields)
    resource = directory.irn(environment, needed.type, id_ or _EVERYTHING)
    decision = grant.decide(needed.action, resource)
    if not decision.allowed:
        raise PermissionDenied(f"{needed.action} on {resource}: {decision.reason}")


def _named_in(body: bytes, fields: tuple[str, ...]) -> str | None:
    """What a body says that it is about; None where it does not, or is not one that can be read
    here: then it may be about anything.
    """
    try:
        message = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(message, dict):
        return None
    return _only([message[field] for field in fields if isinstance(message.get(field), str)])


def _only(named: list[str]) -> str | None:
    return named[0] if len(set(named)) == 1 else None


def _says_where(request: web.Request) -> bool:
    """Whether a request for what everybody may ask of the server means an environment of it."""
    headers = request.headers
    return HEADER in headers or NAME_HEADER in headers or "Authorization" in headers


class Gate:
    """Tells at a look whether a request that names no environment is for the default one, and
    nobody would refuse it.
    """

    def __init__(self, engine: Engine, environments: Environments) -> None:
        self._keyring, self._environments = engine.keyring, environments

    @property
    def asks_for_keys(self) -> bool:
        """Whether requests need one."""
        return self._keyring.is_needed

    def admits(self, secret: str | None, needed: Requirement | None) -> bool:
        """False: look closer, perhaps it is refused. `secret` is the key that it carries."""
        keyring = self._keyring
        if not keyring.is_needed:
            return secret is None  # a key that nobody asks for may say where
        if needed is None:
            return True
        try:
            key = keyring.check(secret)
        except Unauthenticated:
            return False
        grant = self._environments.directory.grant(key.roles)
        return (
            key.environment in (None, DEFAULT_ENVIRONMENT)
            and grant.plain is not None
            and needed.action in grant.plain
        )


def make_access_middleware(
    engine: Engine, environments: Environments, limits: HeldLimits
) -> Middleware:
    """Refuses requests without a key that is good for them, and hands on those for another
    environment than the default one.
    """
    keyring, requirements = engine.keyring, Requirements()

    @web.middleware
    async def admit(request: web.Request, handler: Handler) -> web.StreamResponse:
        key: Key | None = None
        needed: Requirement | None = None
        held: Held = ""
        if keyring.is_needed:
            needed, held = requirements.find(request)
            if needed is None:
                if request.path != METRICS or not _says_where(request):
                    return await handler(request)
                needed = _READ_SERVER
            if request.path not in SOCKETS or "Upgrade" not in request.headers:
                request[KEY] = key = keyring.check(secret_of(request.headers))
        elif "Authorization" in request.headers:
            key = keyring.find(secret_of(request.headers))  # nobody asks for it, but it says where
        environment = choose_environment(request, key, environments.directory)
        if needed is not None and key is not None:
            grant = environments.directory.grant(key.roles)
            if grant.plain is None or needed.action not in grant.plain:
                await _check(request, environments.directory, key, needed, environment)
        if environment != DEFAULT_ENVIRONMENT and not is_of_all(request.path):
            if is_prefect(request.path) or is_workflow_path(request.path):
                raise PermissionDenied("Prefect and workflow paths are in the default environment")
            handler = partial(environments.serve, environment)
        if held and key is not None and (held != "wait" or waits(request)):
            with limits.holding(key, "poll" if held == "wait" else held):
                return await handler(request)
        return await handler(request)

    return admit
