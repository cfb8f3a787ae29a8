"""What a Prefect client asks of the server itself: versions, health, settings; and saved lists."""

from __future__ import annotations

import msgspec

from ironflow.core.errors import NotFound
from ironflow.core.prefect.faults import Refusal
from ironflow.core.prefect.filters import MAX_LIMIT
from ironflow.web.prefect.routing import API_VERSION, Answer, Call, Route
from ironflow.web.prefect.sockets import CHUNK

SERVER_VERSION = "3.9.1"
"""The version of Prefect that this face answers like: clients compare it with their own."""


_EMPTY_SECTIONS = (
    "api", "cli", "client", "cloud", "deployments", "events", "experiments", "flows", "internal",
    "logging", "plugins", "results", "runner", "tasks", "telemetry", "testing", "worker",
)  # fmt: skip


class CsrfQuery(msgspec.Struct, frozen=True):
    """Which client asks for a token."""

    client: str


class StorageBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where results are stored by default."""

    default_result_storage_block_id: str | None = None


async def read_health(call: Call[None, None]) -> Answer:
    """The process answers."""
    return 200, True


async def read_ready(call: Call[None, None]) -> Answer:
    """Work is taken."""
    if call.engine.draining or not call.engine.started:
        raise Refusal(503, "The server takes no work now.", retry_after=1.0)
    return 200, {"message": "OK"}


async def read_hello(call: Call[None, None]) -> Answer:
    """A friendly sign of life."""
    return 200, "👋"


async def read_api_version(call: Call[None, None]) -> Answer:
    """The version of the API."""
    return 200, API_VERSION


async def read_server_version(call: Call[None, None]) -> Answer:
    """The version that clients compare with their own."""
    return 200, SERVER_VERSION


async def read_csrf_token(call: Call[CsrfQuery, None]) -> Answer:
    """There are no tokens: requests of web pages of other sites are refused by their origin."""
    raise Refusal(422, "CSRF protection is disabled.")


async def read_settings(call: Call[None, None]) -> Answer:
    """Prefect's settings that have a meaning here; sections without any are empty."""
    sections: dict[str, object] = {name: {} for name in _EMPTY_SECTIONS}
    return 200, {
        **sections,
        "home": ".",
        "profiles_path": "./profiles.toml",
        "debug_mode": False,
        "silence_api_url_misconfiguration": False,
        "ui_url": None,
        "server": {
            "api": {"default_limit": MAX_LIMIT, "csrf_protection_enabled": False},
            "events": {"stream_out_enabled": True, "websocket_backfill_page_size": CHUNK},
            "logs": {"stream_out_enabled": True, "stream_publishing_enabled": True},
            "ui": {"enabled": False},
        },
    }


async def read_storage(call: Call[None, None]) -> Answer:
    """Where results are stored by default: nowhere in particular, so that the client decides."""
    return 200, {"default_result_storage_block_id": None}


async def update_storage(call: Call[None, StorageBody]) -> Answer:
    """Naming a storage block needs one that is stored."""
    block = call.body.default_result_storage_block_id
    if block is not None:
        raise NotFound("block document", block)
    return 200, {"default_result_storage_block_id": None}


async def clear_storage(call: Call[None, None]) -> Answer:
    """Back to the client's own choice."""
    return 204, None


ROUTES = (
    Route(method="GET", path="/health", handle=read_health),
    Route(method="GET", path="/ready", handle=read_ready),
    Route(method="GET", path="/hello", handle=read_hello),
    Route(method="GET", path="/version", handle=read_api_version),
    Route(method="GET", path="/csrf-token", handle=read_csrf_token, query=CsrfQuery),
    Route(method="GET", path="/admin/version", handle=read_server_version),
    Route(method="GET", path="/admin/settings", handle=read_settings),
    Route(method="GET", path="/admin/storage", handle=read_storage),
    Route(method="PUT", path="/admin/storage", handle=update_storage, body=StorageBody),
    Route(method="DELETE", path="/admin/storage", handle=clear_storage),
)
