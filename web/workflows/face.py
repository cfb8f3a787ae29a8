"""The workflow face, put into the application: its routes, its page, its rule for browsers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from ironflow.actors.engine import Engine
from ironflow.web.fast_path import FAST_PATH, Headers, Reply, Serve
from ironflow.web.problems import respond, unexpected
from ironflow.web.stream import STREAMS
from ironflow.web.workflows import page, routes
from ironflow.web.workflows.answers import answering, refusal_of
from ironflow.web.workflows.events import Renderer
from ironflow.web.workflows.origins import Origins
from ironflow.web.workflows.stream import HEARTBEAT, stream_events

RENDERER = web.AppKey("workflow_renderer", Renderer)
HEARTBEATS = web.AppKey("workflow_heartbeat", float)
WORKFLOW, HANDLER = "/workflows/{name}", "/{handler_id}"


def add_workflow_routes(
    app: web.Application,
    engine: Engine,
    origins: Origins,
    *,
    heartbeat: float = HEARTBEAT,
    page_at_root: bool = False,
) -> None:
    """Serve event-driven workflows; `heartbeat` in seconds. The streams of `web.stream` must have
    been added: they share what was committed lately.
    """
    app[RENDERER], app[HEARTBEATS] = Renderer(engine.load_payload), heartbeat
    app.on_response_prepare.append(origins.add_headers)
    shown = page.Page()
    get, post = app.router.add_get, app.router.add_post
    # What is fixed comes before `{name}`: a workflow may be called `ui`.
    get(page.PATH, shown.show)
    if page_at_root:
        get("/", shown.show, name=page.AT_ROOT)
    get(f"{page.PATH}/static/{{file:.+}}", shown.serve)
    get("/workflows", answering(routes.list_workflows))
    get(f"{WORKFLOW}/schema", answering(routes.get_schema))
    get(f"{WORKFLOW}/events", answering(routes.get_event_schemas))
    get(f"{WORKFLOW}/representation", answering(routes.get_graph))
    post(f"{WORKFLOW}/run", answering(routes.run))
    post(f"{WORKFLOW}/run-nowait", answering(routes.run_nowait))
    fast = app.get(FAST_PATH)
    if fast is not None:
        fast.add_named("POST", f"{WORKFLOW}/run", _serve(engine, "run", routes.run_to_end))
        fast.add_named(
            "POST", f"{WORKFLOW}/run-nowait", _serve(engine, "run-nowait", routes.begin_run)
        )
    get(f"/results{HANDLER}", answering(routes.get_result))
    get("/handlers", answering(routes.list_handlers))
    get(f"/handlers{HANDLER}", answering(routes.get_handler))
    post(f"/handlers{HANDLER}/cancel", answering(routes.cancel))
    get(f"/events{HANDLER}", answering(_stream), allow_head=False)
    post(f"/events{HANDLER}", answering(routes.send_event))


def _serve(
    engine: Engine, verb: str, start: Callable[[Engine, str, bytes], Awaitable[tuple[int, bytes]]]
) -> Serve:
    """How the fast path starts runs."""

    async def serve(_: Headers, path: dict[str, str], body: bytes) -> Reply:
        try:
            return await start(engine, path["name"], body)
        except Exception as error:  # noqa: BLE001 - every error becomes a response
            where = f"POST /workflows/{path['name']}/{verb}"
            return refusal_of(error) or respond(unexpected(where, error, engine.ids.new()))

    return serve


async def _stream(request: web.Request) -> web.StreamResponse:
    """The events of a run."""
    app = request.app
    row = await routes.find_handler(request)
    return await stream_events(
        request, app[STREAMS].feed, app[RENDERER], row.run_id, heartbeat=app[HEARTBEATS]
    )
