"""The workflow face, put into the application: its routes, its page, its rule for browsers."""

from __future__ import annotations

from aiohttp import web

from ironflow.actors.engine import Engine
from ironflow.web.stream import STREAMS
from ironflow.web.workflows import page, routes
from ironflow.web.workflows.answers import answering
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
    get(f"/results{HANDLER}", answering(routes.get_result))
    get("/handlers", answering(routes.list_handlers))
    get(f"/handlers{HANDLER}", answering(routes.get_handler))
    post(f"/handlers{HANDLER}/cancel", answering(routes.cancel))
    get(f"/events{HANDLER}", answering(_stream), allow_head=False)
    post(f"/events{HANDLER}", answering(routes.send_event))


async def _stream(request: web.Request) -> web.StreamResponse:
    """The events of a run."""
    app = request.app
    row = await routes.find_handler(request)
    return await stream_events(
        request, app[STREAMS].feed, app[RENDERER], row.run_id, heartbeat=app[HEARTBEATS]
    )
