"""`WorkflowServer` as an object, a command, inside `ironflow serve`, and as an ASGI application."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import ClientConnectorError, ClientSession, web
from workflow_server import served_app

from ironflow.core.errors import ConfigError, InvalidInput
from ironflow.sdk.function import Registry
from ironflow.web.workflows import stream
from ironflow.workflows import server as module
from ironflow.workflows.client import RequestRefused, WorkflowClient
from ironflow.workflows.server import WorkflowServer, find_server, main, read_address


def make_server(db: object = "memory", **options: Any) -> WorkflowServer:
    server = WorkflowServer(db=str(db), **options)
    server.add_workflow("greet", served_app.Greet())
    server.add_workflow("gate", served_app.Gate(timeout=None))
    return server


# -- as an object ---------------------------------------------------------------------------------


async def test_contextmanager_starts_and_stops() -> None:
    server = make_server()
    with pytest.raises(RuntimeError, match="not started"):
        _ = server.url
    async with server.contextmanager() as started:
        assert started is server
        assert started.is_started
        with pytest.raises(RuntimeError, match="started already"):
            await server.start()
        client = WorkflowClient(server.url)
        handler = await client.run_workflow("greet", start_event={"name": "Ada"})
        assert handler.result is not None
        assert handler.result.load_event().result == "HELLO ADA"
    assert not server.is_started


async def test_an_event_that_comes_while_a_reader_is_being_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin = stream._begin

    async with make_server().contextmanager() as server, WorkflowClient(server.url) as client:
        handler = await client.run_workflow_nowait("gate", start_event={"ticks": 0})

        async def begin_late(*args: Any) -> web.StreamResponse:
            response = await begin(*args)
            await client.send_event(handler.handler_id, served_app.Go(word="now"))
            async with asyncio.timeout(20):
                while (await client.get_handler(handler.handler_id)).status == "running":  # noqa: ASYNC110
                    await asyncio.sleep(0)
            return response

        monkeypatch.setattr(stream, "_begin", begin_late)
        async with asyncio.timeout(20):  # before the first heartbeat
            events = [event async for event in client.get_workflow_events(handler.handler_id)]
    assert [event.type for event in events] == ["StopEvent"]


async def test_serve_ends_when_it_is_stopped() -> None:
    server = make_server()
    serving = asyncio.create_task(server.serve(port=0))
    while not server.is_started:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0)
    async with WorkflowClient(server.url) as client:
        assert (await client.is_healthy()).status == "healthy"
    await server.stop()
    await serving


async def test_runs_outlive_the_server(tmp_path: Path) -> None:
    db = tmp_path / "own.db"
    async with make_server(db).contextmanager() as server:
        client = WorkflowClient(server.url)
        handler = await client.run_workflow_nowait("gate", start_event={"ticks": 1})
        done = await client.run_workflow("greet")
    async with make_server(db).contextmanager() as server:
        client = WorkflowClient(server.url)
        assert (await client.get_handler(done.handler_id)).status == "completed"
        await client.send_event(handler.handler_id, served_app.Go(word="later"))
        ended = await client.wait_for_handler(handler.handler_id, timeout=30)
        assert ended.result is not None
        assert ended.result.value == {"result": "later"}


async def test_a_workflow_may_be_called_like_the_page() -> None:
    server = WorkflowServer(db="memory")
    server.add_workflow("ui", served_app.Greet())
    async with server.contextmanager(), WorkflowClient(server.url) as client:
        assert (await client.run_workflow("ui")).status == "completed"
        assert (await client.get_workflow_schema("ui")).start["title"] == "StartEvent"


async def test_health_is_asked_about_now() -> None:
    async with make_server().contextmanager() as server:
        url = server.url
        async with WorkflowClient(url) as client:
            assert (await client.is_healthy()).status == "healthy"
    async with WorkflowClient(url) as client:
        with pytest.raises(ClientConnectorError):  # a client that is patient would not say so yet
            async with asyncio.timeout(20):
                await client.is_healthy()


async def test_our_client_says_what_is_refused() -> None:
    async with make_server().contextmanager() as server, WorkflowClient(server.url) as client:
        with pytest.raises(RequestRefused, match="404: Handler not found") as refused:
            await client.get_handler("nothing")
        assert refused.value.status == 404
        with pytest.raises(ValueError, match="Handler not found"):
            async for _ in client.get_workflow_events("nothing"):
                pass
        handler = await client.run_workflow_nowait("gate")
        with pytest.raises(TimeoutError):
            await client.wait_for_handler(handler.handler_id, timeout=0.05)
        page = await client.get_handlers(limit=1, run_status=["waiting", "running"])
        assert [found.run_status in ("waiting", "running") for found in page.handlers] == [True]
        assert (await client.get_handlers(run_status=["paused"])).handlers == []
        stream = client.get_workflow_events(handler.handler_id)
        iter_once = stream.__aiter__()
        with pytest.raises(RuntimeError, match="iterated over once"):
            stream.__aiter__()
        assert (await anext(iter_once)).type == "Progress"
        await stream.aclose()


def test_names_and_options_are_checked() -> None:
    server = make_server()
    with pytest.raises(InvalidInput, match="greet"):
        server.add_workflow("greet", served_app.Greet())
    with pytest.raises(InvalidInput, match="name"):
        server.add_workflow("a/b", served_app.Greet())
    with pytest.raises(InvalidInput, match="workflow"):
        server.add_workflow("other", object())
    with pytest.raises(TypeError, match="colour"):
        WorkflowServer(colour="red")
    with pytest.warns(UserWarning, match="workflow_store has no effect"):
        WorkflowServer(workflow_store=object())


def test_another_server_takes_its_workflows() -> None:
    registry = Registry()
    make_server().mount_into(registry)
    assert {served.id for served in registry.all()} == {"greet", "gate"}


# -- as a command ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "address"),
    [
        ({}, ("127.0.0.1", 8080)),
        ({"WORKFLOWS_PY_SERVER_HOST": "0.0.0.0"}, ("0.0.0.0", 8080)),
        ({"IRONFLOW_HOST": "::1", "IRONFLOW_PORT": "9"}, ("::1", 9)),
        ({"WORKFLOWS_PY_SERVER_PORT": "7", "IRONFLOW_PORT": "9"}, ("127.0.0.1", 7)),
    ],
)
def test_the_environment_says_where(env: dict[str, str], address: tuple[str, int]) -> None:
    assert read_address(env) == address


@pytest.mark.parametrize("port", ["x", "-1", "65536", "1.5"])
def test_a_bad_port_is_named(port: str) -> None:
    with pytest.raises(ConfigError, match="WORKFLOWS_PY_SERVER_PORT"):
        read_address({"WORKFLOWS_PY_SERVER_PORT": port})


def test_the_first_server_of_a_module_is_found() -> None:
    assert find_server(served_app) is served_app.server
    with pytest.raises(ConfigError, match="no WorkflowServer"):
        find_server(module.msgspec)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "usage:"),
        (["--fast", "x.py"], "usage:"),
        (["missing.py"], "error: there is no file missing.py"),
        (["empty.py"], "error: empty defines no WorkflowServer"),
        (["broken.py"], "error: broken.py cannot be imported"),
        (["useless.py"], "error: useless.py cannot be imported: WorkflowConfigurationError"),
    ],
)
def test_bad_arguments_are_one_line_and_code_2(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ironflow.logs.configure_logging", lambda *a: None)
    Path("empty.py").write_text("x = 1\n")
    Path("broken.py").write_text("def\n")
    Path("useless.py").write_text("from ironflow.workflows import Workflow\n\nw = Workflow()\n")
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(said)
    if "useless.py" in arguments:  # it is the user's line that is named
        assert shown.rstrip().endswith("useless.py:3)")
    assert shown.count("\n") == 1


def test_ironflow_serve_finds_servers_and_workflows(tmp_path: Path) -> None:
    (tmp_path / "both.py").write_text(
        "from ironflow.workflows import Workflow, step\n"
        "from ironflow.workflows.events import StartEvent, StopEvent\n"
        "from ironflow.workflows.server import WorkflowServer\n"
        "class Hello(Workflow):\n"
        "    @step\n"
        "    async def hello(self, ev: StartEvent) -> StopEvent:\n"
        "        return StopEvent(result='hi')\n"
        "alone = Hello()\n"
        "served = WorkflowServer()\n"
        "served.add_workflow('named', Hello())\n"
    )
    env = {key: text for key, text in os.environ.items() if not key.startswith("IRONFLOW_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "ironflow", "serve", "both.py", "--port", "0"],
        cwd=tmp_path,
        env=env,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        line = next(line for line in process.stderr if " on http://" in line)
        url = line.split(" on ")[1].split(" ")[0]
        assert f"have a page: {url}/workflows/ui" in next(process.stderr)

        async def look() -> tuple[list[str], set[str | None], int]:
            async with WorkflowClient(url) as client, ClientSession() as session:
                names = (await client.list_workflows()).workflows
                ended = {(await client.run_workflow(name)).status for name in names}
                async with session.get(f"{url}/workflows/ui") as page:
                    return names, ended, page.status

        names, ended, page = asyncio.run(look())
    finally:
        process.terminate()
        process.wait(30)
        process.stderr.close()
    assert (names, ended, page) == (["named", "alone"], {"completed"}, 200)


# -- as an ASGI application -----------------------------------------------------------------------


class Asgi:
    """A caller of an ASGI application."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def ask(
        self, method: str, path: str, body: bytes = b"", root: str = "", query: bytes = b""
    ) -> tuple[int, dict[str, str], bytes]:
        sent: list[dict[str, Any]] = []
        inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        inbox.put_nowait({"type": "http.request", "body": body, "more_body": False})

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": root + path,
            "raw_path": (root + path).encode(),
            "root_path": root,
            "query_string": query,
            "headers": [(b"content-type", b"application/json"), (b"connection", b"close")],
        }
        await self.app(scope, inbox.get, send)
        headers = {name.decode().lower(): text.decode() for name, text in sent[0]["headers"]}
        content = b"".join(message.get("body", b"") for message in sent[1:])
        assert sent[-1]["more_body"] is False
        return sent[0]["status"], headers, content


async def test_it_can_be_mounted_in_an_asgi_program() -> None:
    server = make_server()
    asgi = Asgi(server.app)
    status, headers, body = await asgi.ask("GET", "/workflows", root="/wf")
    assert (status, msgspec.json.decode(body)) == (200, {"workflows": ["greet", "gate"]})
    assert headers["content-type"].startswith("application/json")
    start = b'{"start_event": {"name": "Ada"}}'
    status, _, body = await asgi.ask("POST", "/workflows/greet/run", start)
    handler = msgspec.json.decode(body)
    assert handler["result"]["value"] == {"result": "HELLO ADA"}
    path = f"/events/{handler['handler_id']}"
    status, headers, body = await asgi.ask("GET", path, query=b"sse=false")
    assert headers["content-type"] == "application/x-ndjson"
    assert len(body.splitlines()) == 3
    assert (await asgi.ask("GET", "/handlers/nothing"))[0] == 404
    await server.stop()


async def test_it_lives_as_long_as_the_asgi_server_says() -> None:
    server = make_server()
    inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    said: list[str] = []

    async def send(message: Any) -> None:
        said.append(message["type"])
        if len(said) == 1:
            assert server.is_started
            inbox.put_nowait({"type": "lifespan.shutdown"})

    inbox.put_nowait({"type": "lifespan.startup"})
    await server.app({"type": "lifespan"}, inbox.get, send)
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert not server.is_started


async def test_a_reader_that_leaves_is_let_go_of() -> None:
    server = make_server()
    async with server.contextmanager(), WorkflowClient(server.url) as client:
        handler = await client.run_workflow_nowait("gate", start_event={"ticks": 1})
        inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        inbox.put_nowait({"type": "http.request", "body": b"", "more_body": False})

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                inbox.put_nowait({"type": "http.disconnect"})

        path = f"/events/{handler.handler_id}"
        scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
        async with asyncio.timeout(30):
            await server.app(scope, inbox.get, send)
        await client.send_event(handler.handler_id, {"type": "Go", "value": {}})
        assert (await client.wait_for_handler(handler.handler_id)).status == "completed"
