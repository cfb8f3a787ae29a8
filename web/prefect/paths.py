"""Which paths are this face's."""

from __future__ import annotations

PREFIX = "/api"


def is_ours(path: str) -> bool:
    """Whether a path belongs to this face."""
    return path.startswith("/api/") and not path.startswith("/api/v1/") and path != "/api/v1"
