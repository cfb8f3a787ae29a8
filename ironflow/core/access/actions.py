"""What can be done here, by name, and which of it a request asks for. Pure.

A route is known by its method and template (`/api/v1/runs/{run_id}`). What no rule knows is a read
when it is a GET, and control of runs otherwise, so that a new route is never open to more people
than those that steer runs.
"""

from __future__ import annotations

from typing import NamedTuple

ACTIONS: dict[str, str] = {
    "functions:list": "list functions",
    "functions:read": "see a function",
    "functions:register": "register, change and remove functions",
    "functions:invoke": "start a run of a function",
    "runs:read": "see runs, their steps, results and history",
    "runs:cancel": "cancel a run",
    "runs:control": "pause, resume, retry and patch a run; report its states from a client",
    "runs:delete": "delete a run",
    "runs:redact": "remove what a run holds",
    "events:read": "see events",
    "events:emit": "emit events",
    "events:subscribe": "follow what happens, live",
    "events:redact": "remove what an event holds",
    "workers:read": "see workers",
    "workers:execute": "take jobs and report on them",
    "lanes:read": "see lanes",
    "lanes:manage": "change lanes",
    "breakers:read": "see circuit breakers",
    "breakers:manage": "open, close and reset circuit breakers",
    "server:read": "see statistics, settings and the description of the API",
    "apikeys:read": "see keys, not their secrets",
    "apikeys:manage": "make, revoke and rotate keys",
    "orgs:read": "see the organization",
    "orgs:manage": "rename the organization",
    "projects:read": "see projects",
    "projects:manage": "make, change and delete projects",
    "environments:read": "see environments",
    "environments:manage": "make, rename and delete environments",
    "roles:read": "see roles",
    "roles:manage": "make, change and delete roles",
    "policies:read": "see policies, and what they come to",
    "policies:manage": "make, change and delete policies",
}

_VIEWER = frozenset(
    {name for name in ACTIONS if name.endswith((":read", ":list"))} - {"apikeys:read"}
    | {"events:subscribe"}
)
_WORKER = _VIEWER | {"functions:register", "workers:execute"}
_DEVELOPER = _WORKER | {
    name for name in ACTIONS
    if name.partition(":")[0] in ("functions", "runs", "events", "lanes", "breakers")
}  # fmt: skip
BUILT_IN: dict[str, frozenset[str]] = {
    "admin": frozenset(ACTIONS),
    "developer": frozenset(_DEVELOPER),
    "worker": frozenset(_WORKER),
    "viewer": _VIEWER,
}
"""Roles that are there from the beginning, and what they may do with everything."""


class Requirement(NamedTuple):
    """What a request asks for. `type`: of the thing; `part`: the part of the path that names it;
    `fields`: where a body, or the query of a GET, names it.
    """

    action: str
    type: str
    part: str = ""
    fields: tuple[str, ...] = ()


_OPEN = frozenset(
    {"/health", "/ready", "/metrics", "/api/health", "/api/ready", "/api/hello",
     "/api/v1/capabilities"}
)  # fmt: skip
_READS_BY_POST = ("/filter", "/count", "/history", "/lateness", "/paginate", "/next-runs")
"""Ends of the paths of Prefect's API under which POST reads."""
_EVENT, _FUNCTION = ("name", "event"), ("id", "functionId", "function_id")
_RUN = ("id", "runId", "run_id")

_MANAGED = {
    "keys": ("apikeys", "apikey", "key_id"),
    "apikeys": ("apikeys", "apikey", "key_id"),
    "orgs": ("orgs", "org", "organization"),
    "projects": ("projects", "project", "project"),
    "environments": ("environments", "environment", "environment"),
    "roles": ("roles", "role", "role"),
    "policies": ("policies", "policy", "policy"),
    "lanes": ("lanes", "lane", "name"),
    "circuit-breakers": ("breakers", "breaker", "key"),
}
"""Families of `/api/v1` with two actions, `read` and `manage`: family, type, part of the path."""

_METHODS: dict[str, Requirement] = {
    "RegisterFunction": Requirement("functions:register", "function", fields=_FUNCTION),
    "UpdateFunctionStatus": Requirement("functions:register", "function", fields=_FUNCTION),
    "DeleteFunction": Requirement("functions:register", "function", fields=_FUNCTION),
    "RollbackFunction": Requirement("functions:register", "function", fields=_FUNCTION),
    "GetFunction": Requirement("functions:read", "function", fields=_FUNCTION),
    "GetFunctionAtVersion": Requirement("functions:read", "function", fields=_FUNCTION),
    "ListFunctionHistory": Requirement("functions:read", "function", fields=_FUNCTION),
    "ListFunctions": Requirement("functions:list", "function"),
    "InvokeFunction": Requirement("functions:invoke", "function", fields=_FUNCTION),
    "InvokeFunctionSync": Requirement("functions:invoke", "function", fields=_FUNCTION),
    "Trigger": Requirement("events:emit", "event", fields=_EVENT),
    "TriggerSync": Requirement("events:emit", "event", fields=_EVENT),
    "TriggerBatch": Requirement("events:emit", "event"),
    "Emit": Requirement("events:emit", "event", fields=_EVENT),
    "Publish": Requirement("events:emit", "event", fields=("topic",)),
    "CancelRun": Requirement("runs:cancel", "run", fields=_RUN),
    "DeleteRun": Requirement("runs:delete", "run", fields=_RUN),
    "DeleteRuns": Requirement("runs:delete", "run"),
    "RedactRun": Requirement("runs:redact", "run", fields=_RUN),
    "RedactStep": Requirement("runs:redact", "run"),
    "RedactEvent": Requirement("events:redact", "event"),
    "Subscribe": Requirement("events:subscribe", "event", fields=("pattern",)),
    "JoinConsumerGroup": Requirement("events:subscribe", "event"),
    "Health": Requirement("server:read", "server"),
    "Info": Requirement("server:read", "server"),
}
"""Methods of the Connect services, whatever the service."""


def requirement_of(method: str, template: str) -> Requirement | None:
    """What a request needs; None for what anybody may ask."""
    if method == "OPTIONS" or template in _OPEN:
        return None
    if template.endswith("/api/v1/executions/commands"):
        return None  # its lease token is the credential
    reads = method in ("GET", "HEAD")
    if reads and template.startswith(("/workflows/ui", "/static/")):
        return None  # the page itself; what it asks for needs a key
    parts = template.strip("/").split("/")
    if parts[:2] == ["api", "v1"]:
        return _native(method, reads, parts[2:])
    if parts[0] == "api":
        return _prefect(method, reads, template, parts[1] if len(parts) > 1 else "")
    if parts[0].startswith("ironflow.v1."):
        return _connect(parts[0].removeprefix("ironflow.v1."), parts[-1])
    if parts[0] in ("workflows", "handlers", "results", "events"):
        return _workflow(reads, parts)
    if template in ("/", "/openapi.json"):
        return Requirement("server:read", "server")
    return _other(reads)


def _other(reads: bool) -> Requirement:
    return Requirement("server:read", "server") if reads else Requirement("runs:control", "run")


def _native(method: str, reads: bool, parts: list[str]) -> Requirement:
    family, rest = parts[0] if parts else "", parts[1:]
    if family in _MANAGED:
        name, kind, part = _MANAGED[family]
        looks = reads or (family == "policies" and rest == ["check"])
        named = part if f"{{{part}}}" in rest else ""
        return Requirement(f"{name}:{'read' if looks else 'manage'}", kind, named)
    if family == "functions":
        if reads and not rest:
            return Requirement("functions:list", "function")
        action = "read" if reads else "invoke" if rest[-1:] == ["invoke"] else "register"
        return Requirement(f"functions:{action}", "function", "function_id")
    if family == "endpoints":
        return Requirement("functions:list" if reads else "functions:register", "function")
    if family == "runs":
        action = {"GET": "read", "HEAD": "read", "DELETE": "delete"}.get(method, "control")
        if rest[-1:] == ["cancel"]:
            action = "cancel"
        return Requirement(f"runs:{action}", "run", "run_id" if "{run_id}" in rest else "")
    if family == "events":
        if not reads:
            return Requirement("events:emit", "event", fields=() if rest else _EVENT)
        return Requirement("events:read", "event", "event_id" if "{event_id}" in rest else "")
    if family == "audit":
        return Requirement("runs:read", "run", fields=("run_id",))
    if family == "stream":
        return Requirement("events:subscribe", "event")
    if family == "workers":
        if reads and not rest:
            return Requirement("workers:read", "worker")
        return Requirement("workers:execute", "worker", "worker_id")
    if family == "values":
        return Requirement("workers:execute", "worker")
    return _other(reads)


def _prefect(method: str, reads: bool, template: str, family: str) -> Requirement:
    """Prefect's paths: its flows are functions, its flow and task runs are runs."""
    reads = reads or template.rstrip("/").endswith(_READS_BY_POST) or "/count" in template
    if family == "flows":
        return Requirement("functions:read" if reads else "functions:register", "function")
    if family == "events":
        if template.endswith("/in"):
            return Requirement("events:emit", "event")
        if template.endswith("/out"):
            return Requirement("events:subscribe", "event")
        return Requirement("events:read" if reads else "events:emit", "event")
    part = "id" if "{id}" in template else ""
    if family in ("flow_runs", "task_runs"):
        if reads:
            return Requirement("runs:read", "run", part)
        if method == "DELETE" or template.endswith("bulk_delete"):
            return Requirement("runs:delete", "run", part)
        if not part and not template.endswith("bulk_set_state"):
            return Requirement("functions:invoke", "function")
        return Requirement("runs:control", "run", part)
    if family in ("flow_run_states", "task_run_states", "logs", "ui"):
        return Requirement("runs:read" if reads else "runs:control", "run")
    return _other(reads)


def _connect(service: str, name: str) -> Requirement:
    known = _METHODS.get(name)
    if known is not None:
        return known
    reads = name.startswith(("Get", "List", "Read", "Query", "Poll", "Stream"))
    if service == "WorkerService":
        return Requirement("workers:execute", "worker")
    if service == "EnvironmentService":
        return Requirement(f"environments:{'read' if reads else 'manage'}", "environment")
    fields = _RUN if service in ("TimeTravelService", "AuditService") or "Run" in name else ()
    return Requirement("runs:read" if reads else "runs:control", "run", fields=fields)


def _workflow(reads: bool, parts: list[str]) -> Requirement:
    if parts[0] == "workflows":
        if len(parts) == 1:
            return Requirement("functions:list", "function")
        return Requirement("functions:read" if reads else "functions:invoke", "function", "name")
    if reads:
        return Requirement("runs:read", "run")
    return Requirement("runs:cancel" if parts[-1] == "cancel" else "runs:control", "run")
