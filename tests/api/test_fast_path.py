"""The fast path answers plain requests as aiohttp's way does, and leaves all others to it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from api.fast_site import HEAD, Line, Site, encode, make_key

from ironflow.actors.kernel.actor import Actor, Behavior
from ironflow.actors.prefect.doors import Ask
from ironflow.storage.memory.store import MemoryStore
from ironflow.web import fast_path, patience

NOWHERE = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def few_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_path, "MOST_HEADS", 2)


def blind(body: bytes) -> Any:
    """An answer without what differs from one time to the next."""
    found = msgspec.json.decode(body)
    if isinstance(found, dict):
        for key in ("id", "created", "updated", "name", "expected_start_time", "state_id", "state"):
            found.pop(key, None)
        found.pop("estimated_start_time_delta", None)
    return found


REQUESTS = {
    "created": ("POST", "/flows/", {"name": "f"}),
    "moved": ("POST", "/flow_runs/{run}/set_state", {"state": {"type": "PENDING"}}),
    "refused": ("POST", "/task_runs/{task}/set_state", {"state": {"type": "RUNNING"}}),
    "seen": ("GET", "/flow_runs/{run}", None),
    "listed": ("POST", "/flow_runs/filter", {"limit": 0}),
    "listed-by-default": ("POST", "/flows/count", b""),
    "logged": ("POST", "/logs/", []),
    "logged-badly": ("POST", "/logs/", b'[{"name":1}]'),
    "nowhere": ("POST", f"/flow_runs/{NOWHERE}/set_state", {"state": {"type": "PENDING"}}),
    "conflict": ("POST", "/flow_runs/", {"flow_id": NOWHERE}),
    "no-json": ("POST", "/flow_runs/", b"{"),
    "no-body": ("POST", "/task_runs/", b""),
    "faults": ("POST", "/flow_runs/{run}/set_state", {"state": {"type": "ODD"}}),
    "limit": ("POST", "/flow_runs/filter", {"limit": 201}),
    "deep": ("POST", "/flow_runs/filter", b"[" * 5000),
    "not-text": ("POST", "/flow_runs/filter", b'{"sort":"\xff"}'),
}


@pytest.mark.parametrize("case", REQUESTS)
async def test_the_answer_is_the_one_that_aiohttp_gives(site: Site, case: str) -> None:
    method, path, body = REQUESTS[case]
    line = await site.dial()
    run = await site.run(line)
    task = await site.make(
        line, "/task_runs/", {"flow_run_id": run, "task_key": "a", "dynamic_key": "0"}
    )
    request = encode(method, path.format(run=run, task=task), body)
    slow = await line.ask(
        encode(method, path.format(run=run, task=task), body, f"X-Case: {case}\r\n{HEAD}")
    )
    await line.ask(request)
    before = site.taken
    fast = await line.ask(request)
    assert site.taken == before + 1
    if case in ("created", "moved"):  # the first time it was new
        slow = await line.ask(encode(method, path.format(run=run), body, f"X-Again: 1\r\n{HEAD}"))
    for one in (slow, fast):
        one[1].pop("Content-Length")
    assert fast[:2] == slow[:2]
    assert blind(fast[2]) == blind(slow[2])


@pytest.mark.parametrize(
    ("status", "head", "path"),
    [
        (403, "Origin: https://elsewhere.example\r\n", "/flows/"),
        (403, "Sec-Fetch-Site: cross-site\r\n", "/flows/"),
        (404, "X-Ironflow-Environment: nowhere\r\n", "/flows/"),
        (400, "X-PREFECT-API-VERSION: 0.1.0\r\n", "/flows/"),
        (200, "X-PREFECT-API-VERSION: 0.8.4\r\n", "/flows/"),
        (200, "", "/flows/?x=1"),
        (307, "", "/flows"),
        (405, "", f"/flow_runs/{NOWHERE}"),
    ],
)
async def test_what_somebody_looks_at_is_looked_at(
    site: Site, status: int, head: str, path: str
) -> None:
    line = await site.dial()
    await site.make(line, "/flows/", {"name": "f"})
    for _ in range(3):
        found, *_ = await line.ask(encode("POST", path, {"name": "f"}, HEAD + head))
        assert found == status


async def test_a_request_may_come_in_pieces(site: Site) -> None:
    line = await site.dial()
    request = encode("POST", "/flows/", {"name": "f"})
    whole = await line.ask(request)
    for place in range(1, len(request)):
        piecewise = await site.dial()
        assert (await piecewise.ask(request))[0] == 200
        piecewise.writer.write(request[:place])
        await piecewise.writer.drain()
        await asyncio.sleep(0)
        assert (await piecewise.ask(request[place:]))[2] == (await line.ask(request))[2]
        assert (await piecewise.ask(request))[2] == (await line.ask(request))[2]
        piecewise.writer.close()
    assert whole[0] == 201


async def test_who_does_not_wait_is_answered_in_order(site: Site) -> None:
    line = await site.dial()
    run = await site.run(line)
    names = [f"f{n}" for n in range(40)]
    requests = [encode("POST", "/flows/", {"name": name}) for name in names]
    requests.insert(20, encode("GET", f"/flow_runs/{run}"))
    requests.insert(30, encode("GET", "/health"))
    for size in (1, 3, 41):
        for start in range(0, len(requests), size):
            line.writer.write(b"".join(requests[start : start + size]))
            await asyncio.sleep(0)
        answers = [msgspec.json.decode((await line.read())[2]) for _ in requests]
        assert answers.pop(30) is True
        assert answers.pop(20)["id"] == run
        assert [answer["name"] for answer in answers] == names


async def test_other_ways_to_send_a_body_are_understood(site: Site) -> None:
    line = await site.dial()
    data, flow = b'{"name":"f"}', await site.make(await site.dial(), "/flows/", {"name": "f"})
    chunked = f"POST /api/flows/ HTTP/1.1\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode()
    plain = encode("POST", "/flows/", data)
    for request in (plain, plain, chunked + b"c\r\n%b\r\n0\r\n\r\n" % data, plain, plain):
        status, _, body = await line.ask(request)
        assert (status, msgspec.json.decode(body)["id"]) == (200, flow)
    line = await site.dial()
    await line.ask(plain)
    expecting = encode("POST", "/flows/", data, HEAD + "Expect: 100-continue\r\n")
    line.writer.write(expecting[: -len(data)])
    assert (await line.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
    assert (await line.ask(data))[0] == 200
    closing = encode("POST", "/flows/", data, HEAD + "Connection: close\r\n")
    for _ in range(2):
        line = await site.dial()
        assert (await line.ask(closing))[1]["Connection"] == "close"
        assert await line.reader.read() == b""


async def test_bodies_are_limited(serve: Any) -> None:
    async with serve(MemoryStore(), body_limit=100) as api:
        site = Site(api)
        line = await site.dial()
        for length, statuses in ((60, {200, 201}), (101, {413}), (60, {200}), (200_000, {413})):
            body = {"name": f"{length:x<{length - 11}}"}
            for _ in range(2):
                line = await site.dial() if length > 100 else line
                found, _, answer = await line.ask(encode("POST", "/flows/", body))
                assert found in statuses, answer
        for line in site.lines:
            line.writer.close()


async def test_keys_are_asked_for(site: Site) -> None:
    line = await site.dial()
    request = encode("POST", "/flows/", {"name": "f"})
    reading = "GET", f"/flow_runs/{NOWHERE}", None
    await line.ask(request)
    await line.ask(request)
    admin = await make_key(site, "admin", "")
    assert (await line.ask(request))[0] == 401
    viewer = await make_key(site, "viewer", admin)
    for secret, expected in ((admin, (200, 404)), (viewer, (403, 404)), ("ifkey_no", (401, 401))):
        head = f"{HEAD}Authorization: Bearer {secret}\r\n"
        for _ in range(3):
            before = site.taken
            changed, *_ = await line.ask(encode("POST", "/flows/", {"name": "f"}, head))
            seen, *_ = await line.ask(encode(*reading, head))
            assert (changed, seen) == expected
        assert site.taken - before == sum(status not in (401, 403) for status in expected)


async def test_answers_are_counted_under_their_routes(site: Site) -> None:
    line = await site.dial()
    run = await site.run(line)
    for _ in range(4):
        await line.ask(encode("GET", f"/flow_runs/{run}"))
    async with site.api.client.get("/metrics") as response:
        text = await response.text()
    assert 'route="/api/flow_runs/{id}",status="200"} 4.0' in text
    assert site.taken


async def test_many_heads_push_out_others(site: Site, few_heads: None) -> None:
    line = await site.dial()
    for number in range(20):
        head = f"{HEAD}X-Number: {number % 5}\r\n"
        for _ in range(2):
            assert (await line.ask(encode("POST", "/flows/", {"name": "f"}, head)))[0] < 300
    assert site.taken == 20


class Late:
    """An actor that does not answer before it is told to."""

    def __init__(self) -> None:
        self.asked, self.left = asyncio.Event(), asyncio.Event()
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def send(self, message: Any, then: Any, **_: Any) -> None:
        self.asked.set()
        self.answer.add_done_callback(lambda answer: then((200, answer.result()), None))

    async def read(self, *_: Any) -> bytes:
        self.asked.set()
        await asyncio.sleep(0)
        try:
            return await self.answer
        finally:
            self.left.set()


WAYS = {"asked": ("POST", "/set_state"), "stepped": ("GET", "")}


async def hold(site: Site, line: Line, way: str) -> tuple[bytes, Late]:
    """A request, and who will be slow to answer it."""
    run, late, prefect = await site.run(line), Late(), site.api.engine.prefect
    method, suffix = WAYS[way]
    body = {"state": {"type": "PENDING"}} if suffix else None
    request = encode(method, f"/flow_runs/{run}{suffix}", body)
    await line.ask(request)
    prefect.ask_for_flow_run_state = lambda *_, **__: Ask(late, None)  # type: ignore[arg-type]
    prefect.read_flow_run = late.read
    return request, late


@pytest.mark.parametrize("name", ["Content-Length", "content-length", "CONTENT-LENGTH"])
@pytest.mark.parametrize("last", [True, False])
async def test_a_head_with_another_length_is_the_same(site: Site, name: str, last: bool) -> None:
    line = await site.dial()
    for number, length in enumerate((12, 13, 120, 1200, 16_000, 17_000, 15)):
        body = msgspec.json.encode({"name": "f" * (length - 11)})
        size = f"{name}: {len(body)}\r\n"
        head = f"{HEAD}{size}" if last else f"{size}{HEAD}"
        before = site.taken
        line.writer.write(f"POST /api/flows/ HTTP/1.1\r\n{head}\r\n".encode() + body)
        status, _, answer = await line.read()
        assert (status, len(msgspec.json.decode(answer)["name"])) == (201, length - 11)
        is_fast = number > 0 and length < 16_384 and name != "CONTENT-LENGTH"
        assert site.taken - before == is_fast


@pytest.mark.parametrize(
    "length", ["+12", "1 2", "12, 12", "0x0c", "-1", "12\r\nContent-Length: 13"]
)
async def test_a_length_that_is_none_is_refused(site: Site, length: str) -> None:
    line = await site.dial()
    request = encode("POST", "/flows/", b'{"name":"f"}')
    await line.ask(request)
    before = site.taken
    line.writer.write(request.replace(b"Length: 12", f"Length: {length}".encode()))
    async with asyncio.timeout(20):
        assert (await line.reader.readline()).endswith(b" 400 Bad Request\r\n")
    assert site.taken == before


@pytest.mark.parametrize("way", WAYS)
async def test_one_that_hangs_up_waits_for_nothing(site: Site, way: str) -> None:
    line = await site.dial()
    request, late = await hold(site, line, way)
    line.writer.write(request)
    await late.asked.wait()
    line.writer.close()
    assert await site.counts(f"/api/flow_runs/{{id}}{WAYS[way][1]}", 499)
    assert late.left.is_set() is (way == "stepped")
    if way == "asked":
        late.answer.set_result(b"nobody hears it")


@pytest.mark.parametrize("way", WAYS)
async def test_who_asks_meanwhile_is_answered_after(site: Site, way: str) -> None:
    line = await site.dial()
    request, late = await hold(site, line, way)
    line.writer.write(request)
    await late.asked.wait()
    for name in ("a", "b"):
        line.writer.write(encode("POST", "/flows/", {"name": name}))
        await line.writer.drain()
        await asyncio.sleep(0.01)
    late.answer.set_result(b'"at last"')
    assert (await line.read())[2] == b'"at last"'
    for name in ("a", "b"):
        assert msgspec.json.decode((await line.read())[2])["name"] == name


@pytest.mark.parametrize("way", WAYS)
async def test_a_server_that_ends_answers_first(site: Site, way: str) -> None:
    line = await site.dial()
    request, late = await hold(site, line, way)
    line.writer.write(request)
    await late.asked.wait()
    ending = asyncio.create_task(site.api.client.server.close())
    await asyncio.sleep(0)
    late.answer.set_result(b'"at last"')
    assert (await line.read())[2] == b'"at last"'
    assert await line.reader.read() == b""
    await ending


async def test_an_answer_that_does_not_come_is_waited_for_in_vain(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_path, "ANSWER_SECONDS", 0.1)
    line = await site.dial()
    request, late = await hold(site, line, "asked")
    line.writer.write(request)
    status, headers, body = await line.read()
    assert (status, headers["Retry-After"]) == (503, "1")
    assert b"may or may not" in body
    late.answer.set_result(b'"too late"')
    flow = encode("POST", "/flows/", {"name": "f"})
    assert msgspec.json.decode((await line.ask(flow))[2])["name"] == "f"


@pytest.mark.parametrize("known", [True, False], ids=["asked", "looked-up"])
async def test_runs_are_made_as_on_aiohttps_way(site: Site, known: bool) -> None:
    """Their actors are asked when all is known of them, and else something is looked up."""
    line, asked = await site.dial(), list[bool]()
    flow = await site.make(line, "/flows/", {"name": "f"})
    prefect, ask = site.api.engine.prefect, site.api.engine.prefect.ask_for_flow_run

    def note(*args: Any) -> Any:
        if not known:
            prefect._flows.clear()
        found = ask(*args)
        asked.append(found is not None)
        return found

    prefect.ask_for_flow_run = note
    body = {"flow_id": flow, "parameters": {"x": 1}, "tags": ["a"]}
    slow = await line.ask(encode("POST", "/flow_runs/", body, f"X-Way: slow\r\n{HEAD}"))
    fast = await line.ask(encode("POST", "/flow_runs/", body))
    assert asked == [known]
    assert (fast[0], blind(fast[2])) == (slow[0], blind(slow[2])) == (201, blind(slow[2]))
    run = msgspec.json.decode(fast[2])["id"]
    task = {"flow_run_id": run, "task_key": "a", "dynamic_key": "0"}
    made, found = [await line.ask(encode("POST", "/task_runs/", task)) for _ in range(2)]
    id_ = msgspec.json.decode(made[2])["id"]
    assert (made[0], found[0], msgspec.json.decode(found[2])["id"]) == (201, 200, id_)
    moved = await line.ask(
        encode(
            "POST",
            f"/task_runs/{id_}/set_state",
            {"state": {"type": "RUNNING"}, "force": True},
        )
    )
    assert msgspec.json.decode(moved[2])["status"] == "ACCEPT"
    assert site.api.engine.environment.fresh == set()


async def test_a_run_that_finds_no_room_leaves_no_trace(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = await site.dial()
    flow = await site.make(line, "/flows/", {"name": "f"})
    full = Behavior("flow_run", Actor, bound=0)
    monkeypatch.setitem(site.api.engine.system._behaviors, "flow_run", full)
    assert (await line.ask(encode("POST", "/flow_runs/", {"flow_id": flow})))[0] == 503
    assert site.api.engine.environment.fresh == set()


async def test_a_full_mailbox_refuses(site: Site) -> None:
    line = await site.dial()
    run = await site.run(line)
    request = encode("POST", f"/flow_runs/{run}/set_state", {"state": {"type": "PENDING"}})
    await line.ask(request)
    system = site.api.engine.system
    cell, full = system.cell(f"flow_run/{run}"), Behavior("flow_run", Actor, bound=0)
    cell.behavior, behavior = full, cell.behavior
    before = site.taken
    assert (await line.ask(request))[0] == 503
    cell.behavior = behavior
    assert (await line.ask(request))[0] == 200
    assert site.taken == before + 2


async def test_what_nobody_expected_is_a_500_with_an_id(site: Site) -> None:
    line = await site.dial()
    run = await site.run(line)
    request = encode("GET", f"/flow_runs/{run}")
    await line.ask(request)

    async def fail(*_: Any) -> None:
        raise ZeroDivisionError

    site.api.engine.prefect.read_flow_run = fail
    status, _, body = await line.ask(request)
    assert (status, b"the log has it under error" in body) == (500, True)
    assert (await line.ask(encode("GET", "/health")))[0] == 200


async def test_one_that_says_half_a_request_is_hung_up_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = await site.dial()
    request = encode("POST", "/flows/", {"name": "f"})
    await line.ask(request)
    monkeypatch.setattr(patience, "HEAD_SECONDS", 0.1)
    line.writer.write(request[:-3])
    async with asyncio.timeout(20):
        assert (await line.reader.read()).startswith(b"HTTP/1.1 408 ")
