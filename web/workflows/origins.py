"""Which web pages may call the workflow paths from a browser.

The API has no keys, so a page of another site could start and steer runs of whoever looks at it.
By default only pages from this machine and from the server itself may; a setting names others, or
`*` for any, which is what the original server does.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

PREFIXES = ("/workflows", "/handlers", "/results", "/events", "/health")


def is_workflow_path(path: str) -> bool:
    """Whether a path is one of the workflow face's own."""
    return path.startswith(PREFIXES) and any(
        path == prefix or path.startswith(f"{prefix}/") for prefix in PREFIXES
    )


class Origins:
    """The rule. `allowed` are origins such as `https://ui.example.com`; `*` is any."""

    def __init__(self, allowed: tuple[str, ...] = ()) -> None:
        self.any = "*" in allowed
        self.allowed = frozenset(origin.rstrip("/").lower() for origin in allowed)

    def covers(self, request: web.Request) -> bool:
        """Whether this rule, not the native one, is for the request's path."""
        return is_workflow_path(request.path)

    def exempts(self, request: web.Request) -> bool:
        """Whether the native rule need not ask: the path is ours and the page may."""
        return self.covers(request) and self.allows(request)

    def allows(self, request: web.Request) -> bool:
        """Whether the page that sends a request may."""
        origin = request.headers.get("Origin")
        if origin is None:
            site = request.headers.get("Sec-Fetch-Site", "none")
            return self.any or site in ("same-origin", "none")
        return self.any or self._is_allowed(origin, request.host)

    def _is_allowed(self, origin: str, host: str) -> bool:
        if origin.lower() in self.allowed:
            return True
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https"):
            return False
        return parts.netloc == host or _is_loopback(parts.hostname or "")

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Tell the browser (for the application's `on_response_prepare`)."""
        origin = request.headers.get("Origin")
        if origin is None or not self.covers(request) or not self.allows(request):
            return
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Allow-Credentials"] = "true"
        response.headers.add("Vary", "Origin")

    @web.middleware
    async def answer_preflights(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Tell a browser what may be asked, before it asks."""
        is_preflight = request.method == "OPTIONS" and "Origin" in request.headers
        if not (is_preflight and self.covers(request)):
            return await handler(request)
        headers = {"Access-Control-Max-Age": "600"}
        if self.allows(request):
            headers["Access-Control-Allow-Methods"] = "GET, HEAD, POST, OPTIONS"
            headers["Access-Control-Allow-Headers"] = request.headers.get(
                "Access-Control-Request-Headers", "content-type"
            )
        return web.Response(status=204, headers=headers)


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
