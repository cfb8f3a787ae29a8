"""The debugger's page: static files of the package, with a policy that lets nothing else in."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

from aiohttp import web

PATH = "/workflows/ui"
AT_ROOT = "workflows_page_at_root"
"""The name of the route `/` where it shows the page, too."""
POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'"
)
TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
    "LICENSE": "text/plain",
}


class StaticFile(NamedTuple):
    """A file as it is served: as it is, and compressed."""

    content_type: str
    etag: str
    plain: bytes
    packed: bytes


def load_files() -> dict[str, StaticFile]:
    """Every file of the page by its path below the folder."""
    return dict(_walk(files("ironflow.web") / "static" / "workflows", ""))


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, StaticFile]]:
    found = []
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        if item.is_dir():
            found.extend(_walk(item, f"{prefix}{item.name}/"))
            continue
        kind = TYPES.get(item.name.rpartition(".")[2])
        if kind is not None:
            data = item.read_bytes()
            etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
            file = StaticFile(kind, etag, data, gzip.compress(data, mtime=0))
            found.append((prefix + item.name, file))
    return found


class Page:
    """Serves the page; its files are read when somebody asks for the first of them."""

    def __init__(self) -> None:
        self._files: dict[str, StaticFile] | None = None

    async def show(self, request: web.Request) -> web.Response:
        """The page itself."""
        return await self._answer(request, "index.html")

    async def serve(self, request: web.Request) -> web.Response:
        """One of its files."""
        return await self._answer(request, request.match_info["file"])

    async def _answer(self, request: web.Request, name: str) -> web.Response:
        if self._files is None:  # read off the loop; twice, if two ask at once, does no harm
            self._files = await asyncio.to_thread(load_files)
        file = self._files.get(name)
        if file is None:
            raise web.HTTPNotFound
        headers = {
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
            "ETag": file.etag,
            "Vary": "Accept-Encoding",
        }
        if request.headers.get("If-None-Match") == file.etag:
            return web.Response(status=304, headers=headers)
        body = file.plain
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            headers["Content-Encoding"] = "gzip"
            body = file.packed
        return web.Response(
            body=body, content_type=file.content_type, charset="utf-8", headers=headers
        )
