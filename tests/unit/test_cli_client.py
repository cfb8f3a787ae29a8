"""The CLI's own HTTP client, event stream reader and run id search, against a small real server."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironflow.cli.client import PAGE, Client, decode, segment
from ironflow.cli.failures import Failed, Refused, Unreachable, Wrong
from ironflow.cli.run_ids import resolve, short_id
from ironflow.cli.streaming import Message, follow, parse
from ironflow.web.wire.server import Health

JSON = "application/json"
PROBLEM = "application/problem+json"


class Request(BaseHTTPRequestHandler):
    """Answers what the test's `answer` says, and notes what was asked."""

    protocol_version = "HTTP/1.1"
    answer: Callable[[Request], tuple[int, str, bytes] | None]
    seen: list[tuple[str, str]]

    def handle_any(self) -> None:
        type(self).seen.append((self.command, self.path))
        length = int(self.headers.get("Content-Length", 0))
        self.body = self.rfile.read(length)
        answered = type(self).answer(self)
        if answered is None:
            self.close_connection = True
            return
        status, kind, body = answered
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = handle_any  # noqa: N815 - the names that http.server looks for

    def stream(self, *chunks: bytes) -> None:
        """An event stream of these chunks, ended by closing the connection."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for chunk in chunks:
            self.wfile.write(chunk)

    def log_message(self, *_: Any) -> None:
        return


class Server:
    def __init__(self) -> None:
        self.handler = type("Handler", (Request,), {"seen": [], "answer": None})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self.handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def answers(self, answer: Callable[[Any], tuple[int, str, bytes] | None]) -> Client:
        self.handler.answer = staticmethod(answer)
        return Client(self.url, timeout=10.0)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.http.shutdown()
    thread.join()
    made.http.server_close()


def problem(status: int, detail: str, **more: Any) -> tuple[int, str, bytes]:
    body = {"title": "No", "status": status, "detail": detail, "code": "x", **more}
    return status, PROBLEM, json.dumps(body).encode()


# -- requests -------------------------------------------------------------------------------------


def test_get_returns_the_body_as_it_came(server: Server) -> None:
    client = server.answers(lambda _: (200, JSON, b'{"b": 1,  "a":2}'))
    assert client.get("/runs", {"limit": 5, "cursor": None}) == b'{"b": 1,  "a":2}'
    assert server.handler.seen == [("GET", "/api/v1/runs?limit=5")]
    client.close()


def test_post_sends_json(server: Server) -> None:
    def answer(request: Request) -> tuple[int, str, bytes]:
        assert request.headers["Content-Type"] == JSON
        return 201, JSON, request.body

    client = server.answers(answer)
    assert client.post("/events", {"name": "x"}) == b'{"name":"x"}'
    assert client.post("/events") == b"{}"
    client.close()


def test_one_connection_serves_many_requests(server: Server) -> None:
    peers = set()

    def answer(request: Request) -> tuple[int, str, bytes]:
        peers.add(request.client_address)
        return 200, JSON, b"{}"

    client = server.answers(answer)
    for _ in range(3):
        client.get("/runs")
    client.close()
    assert len(peers) == 1


def test_an_idle_connection_that_the_server_closed_is_opened_again(server: Server) -> None:
    def answer(request: Request) -> tuple[int, str, bytes]:
        request.close_connection = True  # behind the client's back
        return 200, JSON, b"{}"

    client = server.answers(answer)
    assert [client.get("/runs"), client.get("/runs")] == [b"{}", b"{}"]
    client.close()


def test_a_request_that_may_have_been_done_is_not_sent_twice(server: Server) -> None:
    def answer(request: Request) -> tuple[int, str, bytes] | None:
        return (200, JSON, b"{}") if request.command == "GET" else None

    client = server.answers(answer)
    client.get("/runs")
    with pytest.raises(Unreachable):
        client.post("/events", {})
    assert [method for method, _ in server.handler.seen] == ["GET", "POST"]


@pytest.mark.parametrize(
    ("status", "exit_code"), [(400, 2), (422, 2), (404, 1), (409, 1), (429, 1), (503, 1), (507, 1)]
)
def test_problems_become_refusals(server: Server, status: int, exit_code: int) -> None:
    client = server.answers(lambda _: problem(status, "input.name: too long", field="input.name"))
    with pytest.raises(Refused) as caught:
        client.get("/runs")
    assert caught.value.message == "input.name: too long"
    assert (caught.value.status, caught.value.exit_code) == (status, exit_code)
    client.close()


def test_the_field_is_named_once(server: Server) -> None:
    client = server.answers(lambda _: problem(422, "is empty", field="name"))
    with pytest.raises(Refused, match=r"^name: is empty$"):
        client.get("/runs")
    client.close()


@pytest.mark.parametrize(("status", "kind"), [(200, "text/html"), (404, "text/html"), (500, JSON)])
def test_a_server_of_another_kind(server: Server, status: int, kind: str) -> None:
    client = server.answers(lambda _: (status, kind, b"<html>"))
    with pytest.raises(Unreachable, match="not as ironflow does") as caught:
        client.get("/runs")
    assert caught.value.exit_code == 3
    client.close()


def test_nobody_there() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(Unreachable) as caught:
        Client(url).get("/runs")
    assert url in caught.value.message
    assert "ironflow serve" in caught.value.message


def test_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Client(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.05)
        with pytest.raises(Unreachable, match="did not answer in time"):
            client.get("/runs")


@pytest.mark.parametrize("url", ["", "localhost", "ftp://x", "http://", "http://x:y", "http://[::"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(Wrong, match="--server"):
        Client(url)


def test_a_prefix_in_the_url_is_kept(server: Server) -> None:
    server.answers(lambda _: (200, JSON, b"{}"))
    client = Client(server.url + "/proxy/")
    client.get("/runs")
    assert server.handler.seen == [("GET", "/proxy/api/v1/runs")]
    client.close()


def test_an_answer_of_another_version_is_said_so() -> None:
    with pytest.raises(Unreachable, match="same version"):
        decode(b'{"status": 1}', Health)


@given(st.text())
def test_a_segment_stays_one_segment(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    assert not set(segment(text)) & set("/?#%".replace("%", ""))


# -- pages and ids --------------------------------------------------------------------------------


def serve_ids(server: Server, ids: list[str]) -> Client:
    def answer(request: Request) -> tuple[int, str, bytes]:
        query = parse_qs(urlsplit(request.path).query)
        start, limit = int(query.get("cursor", ["0"])[0]), int(query["limit"][0])
        end = start + limit
        page = {
            "items": [{"id": run_id} for run_id in ids[start:end]],
            "next_cursor": str(end) if end < len(ids) else None,
        }
        return 200, JSON, json.dumps(page).encode()

    return server.answers(answer)


def run_id(number: int, end: str = "") -> str:
    tail = end or f"{number * 7919:012x}"
    return f"0192f1d2-7c1a-7d4e-9a51-{tail}"


def test_lists_go_on_until_the_limit(server: Server) -> None:
    client = serve_ids(server, [run_id(n) for n in range(PAGE * 2 + 10)])
    assert len(list(client.items("/runs", {}, PAGE + 5))) == PAGE + 5
    assert len(list(client.items("/runs", {}, 10_000))) == PAGE * 2 + 10
    client.close()


def test_a_whole_id_asks_nobody(server: Server) -> None:
    client = server.answers(lambda _: pytest.fail("asked"))
    assert resolve(client, run_id(1)) == run_id(1)
    assert resolve(client, "not-hex!") == "not-hex!"


@pytest.mark.parametrize(
    "part", ["00abcdef1234", "1234", "00abc", "00ABCDEF", "9a51-00abcdef1234", "ab00-00abcdef1234"]
)
def test_either_end_of_what_lists_show_finds_a_run(server: Server, part: str) -> None:
    wanted = (
        "0192f1d2-7c1a-7d4e-ab00-00abcdef1234" if part[:2] == "ab" else run_id(0, "00abcdef1234")
    )
    client = serve_ids(server, [run_id(1), wanted, run_id(2)])
    assert resolve(client, part) == wanted
    assert short_id(wanted) == "00abcdef1234"
    client.close()


def test_a_beginning_finds_a_run_that_is_alone_with_it(server: Server) -> None:
    client = serve_ids(server, ["aaaaaaaa-0000-8000-8000-000000000000", run_id(1)])
    assert resolve(client, "aaaa").startswith("aaaaaaaa")
    client.close()


def test_an_ambiguous_part_names_the_runs(server: Server) -> None:
    client = serve_ids(server, [run_id(1), run_id(2)])
    with pytest.raises(Wrong, match="ambiguous: 2 runs fit") as caught:
        resolve(client, "0192f1d2")
    assert run_id(1) in caught.value.message
    client.close()


def test_no_such_run_and_too_short(server: Server) -> None:
    client = serve_ids(server, [run_id(1)])
    with pytest.raises(Failed, match="no run 'ffff'"):
        resolve(client, "ffff")
    with pytest.raises(Wrong, match="too short"):
        resolve(client, "f")
    client.close()


# -- streams --------------------------------------------------------------------------------------


def frame(number: int, data: str = "{}") -> bytes:
    return f"id: {number}\nevent: entry\ndata: {data}\n\n".encode()


@given(
    st.lists(
        st.tuples(
            st.integers(0, 9999),
            st.sampled_from(["", "entry", "x y"]),
            st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8")), min_size=1),
        )
    ),
    st.sampled_from(["\n", "\r\n"]),
)
def test_what_is_framed_is_parsed(messages: list[tuple[int, str, list[str]]], newline: str) -> None:
    lines: list[bytes] = []
    for number, event, data in messages:
        parts = [": heartbeat", "", f"id: {number}", f"event: {event}" if event else "retry: 5"]
        parts += [f"data: {part}" for part in data] + [""]
        lines += [f"{part}{newline}".encode() for part in parts]
    wanted = [
        Message(event or "message", str(number), "\n".join(data).encode())
        for number, event, data in messages
    ]
    assert list(parse(lines)) == wanted


def test_an_id_alone_is_where_to_go_on(server: Server) -> None:
    asked: list[str | None] = []

    def answer(request: Request) -> None:
        asked.append(request.headers.get("Last-Event-ID"))
        request.stream(b"id: 7\nretry: 1000\n\n" if len(asked) == 1 else frame(8))

    stream = follow(server.answers(answer), "/stream", {}, pause=lambda _: None)
    assert next(stream).id == "8"
    stream.close()
    assert asked == [None, "7"]


def test_a_message_that_was_cut_off_is_dropped() -> None:
    lines = (frame(1) + b"id: 2\ndata: {").splitlines(keepends=True)
    assert [message.id for message in parse(lines)] == ["1"]


def test_a_broken_stream_goes_on_where_it_stood(server: Server) -> None:
    asked: list[str | None] = []
    states: list[bool] = []
    pauses: list[float] = []

    def answer(request: Request) -> tuple[int, str, bytes] | None:
        asked.append(request.headers.get("Last-Event-ID"))
        match len(asked):
            case 1:
                request.stream(frame(1), frame(2), b"id: 3\ndata: {")
                return None
            case 2:
                return problem(503, "draining")
            case 3:
                return None  # closed without an answer
            case _:
                request.stream(b": heartbeat\n\n", frame(3), frame(4))
                return None

    client = server.answers(answer)
    stream = follow(
        client,
        "/stream",
        {},
        last_id="0",
        on_connection=lambda reason: states.append(reason is None),
        pause=pauses.append,
    )
    assert [next(stream).id for _ in range(4)] == ["1", "2", "3", "4"]
    stream.close()
    assert asked == ["0", "2", "2", "2"]
    assert states == [True, False, False, False, True]
    assert len(pauses) == 3
    assert pauses[2] > pauses[0] / 2


def test_a_stream_that_is_refused_is_not_tried_again(server: Server) -> None:
    client = server.answers(lambda _: problem(404, "no run 'x'"))
    with pytest.raises(Refused, match="no run"):
        next(follow(client, "/runs/x/stream", {}))
    assert len(server.handler.seen) == 1


def test_a_stream_without_a_server_says_so_at_once() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        client = Client(f"http://127.0.0.1:{probe.getsockname()[1]}")
    with pytest.raises(Unreachable):
        next(follow(client, "/stream", {}))
