"""Which paths are this face's."""

from __future__ import annotations

PREFIX = "/api"


def is_ours(path: str) -> bool:
    """Whether a path belongs to this face."""
    return path.startswith("/api/") and not path.startswith("/api/v1/") and path != "/api/v1"


_UNSTORED = {
    "artifacts": "Artifacts",
    "automations": "Automations",
    "block_documents": "Blocks",
    "block_schemas": "Blocks",
    "block_types": "Blocks",
    "concurrency_limits": "Concurrency limits",
    "deployments": "Deployments",
    "v2": "Concurrency limits",
    "variables": "Variables",
    "work_pools": "Work pools",
    "work_queues": "Work queues",
}
"""Beginnings of paths of Prefect's server that are only read here, and what they are about."""


def explain_missing(path: str) -> str | None:
    """Why there is no such route, where a client may expect one."""
    kind = path.removeprefix(PREFIX).strip("/").partition("/")[0]
    what = _UNSTORED.get(kind)
    return None if what is None else f"{what} are not stored by this server"
