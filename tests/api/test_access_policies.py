"""Roles and policies over real HTTP, and how much one key may hold open."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from api.served import Served, serving

from ironflow.actors.directory.keyring import Keyring
from ironflow.core.access.actions import ACTIONS, requirement_of
from ironflow.core.access.irn import TYPES
from ironflow.core.access.keys import Unauthenticated
from ironflow.core.clock import SECOND, Ids
from ironflow.storage.memory.store import MemoryStore

FUNCTIONS = "irn:ironflow:*:*:function:*:"
EVENTS = "irn:ironflow:*:*:event:*:"


async def policy(served: Served, name: str, effect: str, actions: str, *resources: str) -> str:
    body = {"name": name, "effect": effect, "actions": actions.split(), "resources": resources}
    made = await served.made("POST", "/api/v1/policies", "root", body)
    return str(made["id"])


async def desk(served: Served) -> str:
    """A key `desk` that may invoke and see orders, and emit them, but for refunds; its id."""
    await policy(
        served, "orders", "allow", "functions:invoke functions:read", f"{FUNCTIONS}order.*"
    )
    await policy(served, "emit", "allow", "events:emit", f"{EVENTS}order.*")
    await policy(served, "no-refund", "deny", "*", f"{FUNCTIONS}order.refund", f"{EVENTS}*.refund")
    role = {"name": "desk", "policies": ["orders", "emit", "no-refund"]}
    await served.made("POST", "/api/v1/roles", "root", role)
    for id_ in ("order.new", "order.refund", "other"):
        function = {"id": id_, "name": "", "code": "", "placement": "pull"}
        await served.made("PUT", f"/api/v1/functions/{id_}", "root", function)
    made = await served.made("POST", "/api/v1/keys", "root", {"name": "desk", "roles": ["desk"]})
    served.keys["desk"] = made["secret"]
    return str(made["key"]["id"])


async def test_a_role_of_ones_own_does_what_its_policies_say(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await desk(served)
        for method, path, body, allowed in (
            ("POST", "/api/v1/functions/order.new/invoke", {}, True),
            ("GET", "/api/v1/functions/order.new", None, True),
            ("POST", "/api/v1/functions/order.refund/invoke", {}, False),
            ("POST", "/api/v1/functions/other/invoke", {}, False),
            ("PUT", "/api/v1/functions/order.new", {}, False),
            ("GET", "/api/v1/functions", None, False),
            ("GET", "/api/v1/runs", None, False),
            ("GET", "/api/v1/stream", None, False),
            ("GET", "/api/v1/keys", None, False),
            ("GET", "/no/such/path", None, False),
            ("POST", "/api/v1/events", {"name": "order.new", "data": 1}, True),
            ("POST", "/api/v1/events", {"name": "order.refund", "data": 1}, False),
            ("POST", "/api/v1/events", {"name": "other", "data": 1}, False),
            ("POST", "/api/v1/events", {"data": 1}, False),
            ("POST", "/api/v1/events", ["order.new"], False),
            ("POST", "/api/v1/events", {"name": "order.new", "event": "order.refund"}, False),
            ("POST", "/api/v1/events/batch", [{"name": "order.new", "data": 1}], False),
            ("POST", "/ironflow.v1.IronflowService/RegisterFunction", {"id": "order.new"}, False),
        ):
            answer = await served.ask(method, path, "desk", body)
            where = f"{method} {path} {body}"
            assert (answer.status in (200, 201)) is allowed, (where, answer.text)
            assert allowed or answer.status in (403, 404), (where, answer.text)
            if not allowed and answer.json.get("title"):
                assert answer.json["code"] == "permission_denied"


async def test_a_body_that_cannot_be_read_here_is_about_anything(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await desk(served)
        url, key = f"{served.server.url}/api/v1/events", served.keys["desk"]
        headers = {"Authorization": f"Bearer {key}"}
        for data in (
            b"",
            b"{",
            b"\xff",
            b"[" * 5000,
            b'{"name": "order.new", "name": "order.refund"}',
        ):
            async with served.session.post(url, data=data, headers=headers) as response:
                assert response.status == 403, data
        body = gzip.compress(b'{"name": "order.refund", "data": 1}')
        packed = headers | {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        async with served.session.post(url, data=body, headers=packed) as response:
            assert response.status == 403
        body = gzip.compress(b'{"name": "order.new", "data": 1}')
        async with served.session.post(url, data=body, headers=packed) as response:
            assert response.status == 201, await response.text()


async def test_changes_hold_from_the_next_request_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        key_id = await desk(served)
        invoke = "/api/v1/functions/other/invoke"
        assert (await served.ask("POST", invoke, "desk", {})).status == 403
        body = {"name": "orders", "effect": "allow", "actions": ["functions:*"],
                "resources": [f"{FUNCTIONS}*"]}  # fmt: skip
        await served.made("PUT", "/api/v1/policies/orders", "root", body)
        assert (await served.ask("POST", invoke, "desk", {})).status == 201
        await served.made("PATCH", "/api/v1/roles/desk", "root", {"policies": ["no-refund"]})
        assert (await served.ask("POST", invoke, "desk", {})).status == 403
        roles = {"role_ids": ["viewer", "desk"]}
        view = await served.made("PUT", f"/api/v1/keys/{key_id}/roles", "root", roles)
        assert view["roles"] == ["viewer", "role_desk"]
        assert (await served.ask("GET", "/api/v1/functions/other", "desk")).status == 200
        assert (await served.ask("GET", "/api/v1/functions/order.refund", "desk")).status == 403
    async with serving(tmp_path) as again:
        again.keys |= served.keys
        assert (await again.ask("GET", "/api/v1/functions/other", "desk")).status == 200
        assert (await again.ask("GET", "/api/v1/functions/order.refund", "desk")).status == 403


async def test_what_is_in_use_stays_and_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await desk(served)
        for method, path, body, status in (
            ("DELETE", "/api/v1/policies/orders", None, 409),
            ("DELETE", "/api/v1/roles/desk", None, 409),
            ("DELETE", "/api/v1/roles/admin", None, 409),
            ("PATCH", "/api/v1/roles/viewer", {"name": "x"}, 409),
            ("POST", "/api/v1/roles", {"name": "desk", "policies": ["orders"]}, 409),
            ("POST", "/api/v1/roles", {"name": "x", "policies": ["nothing"]}, 404),
            ("POST", "/api/v1/roles", {"name": "x", "policies": []}, 422),
            ("POST", "/api/v1/keys", {"name": "x", "roles": ["nothing"]}, 422),
            ("POST", "/api/v1/keys", {"name": "x", "environment": "nothing"}, 404),
            ("GET", "/api/v1/policies/nothing", None, 404),
            ("GET", "/api/v1/roles/nothing", None, 404),
        ):
            answer = await served.ask(method, path, "root", body)
            assert answer.status == status, (method, path, answer.text)
        good = {"name": "x", "effect": "allow", "actions": ["*"], "resources": [f"{FUNCTIONS}*"]}
        for change, field in (
            ({"effect": "maybe"}, "effect"),
            ({"actions": ["runs:raed"]}, "actions[0]"),
            ({"resources": ["irn:ironflow:*"]}, "resources[0]"),
            ({"condition": "true"}, "condition"),
        ):
            answer = await served.ask("POST", "/api/v1/policies", "root", good | change)
            assert (answer.status, answer.json["field"]) == (422, field)


async def test_nobody_gives_more_than_he_has(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        every = f"irn:ironflow:*:*:{'*'}:*:*"
        await policy(served, "clerk", "allow", "apikeys:* roles:* policies:*", every)
        await served.made("POST", "/api/v1/roles", "root", {"name": "clerk", "policies": ["clerk"]})
        made = await served.made("POST", "/api/v1/keys", "root", {"name": "c", "roles": ["clerk"]})
        served.keys["clerk"] = made["secret"]
        await served.made("POST", "/api/v1/keys", "clerk", {"name": "own", "roles": ["clerk"]})
        root = next(k for k in served.server.engine.keyring.all() if k.name == "bootstrap").id
        for method, path, body in (
            ("POST", "/api/v1/keys", {"name": "x", "roles": ["admin"]}),
            ("POST", "/api/v1/keys", {"name": "x"}),
            ("PUT", f"/api/v1/keys/{made['key']['id']}/roles", {"role_ids": ["admin"]}),
            ("PUT", f"/api/v1/keys/{root}/roles", {"role_ids": ["clerk"]}),
            ("POST", f"/api/v1/keys/{root}/rotate", {}),
            ("PATCH", "/api/v1/roles/clerk", {"policies": ["clerk"]}),
            ("DELETE", "/api/v1/policies/clerk", None),
        ):
            assert (await served.ask(method, path, "clerk", body)).status == 403, (method, path)
        demoted = {"role_ids": ["viewer"]}
        last = await served.ask("PUT", f"/api/v1/keys/{root}/roles", "root", demoted)
        assert last.status == 409, "somebody must remain who can"


async def test_a_dry_check_says_who_decides(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        key_id = await desk(served)
        here = "irn:ironflow:org_default:proj_default_default:function:env_default:"

        async def check(**asked: Any) -> Any:
            return await served.made("POST", "/api/v1/policies/check", "root", asked)

        for id_, allowed, decided_by in (
            ("order.new", True, "orders"), ("order.refund", False, "no-refund"), ("x", False, None),
        ):  # fmt: skip
            said = await check(key=key_id, action="functions:invoke", resource=here + id_)
            assert (said["allowed"], said["decided_by"]) == (allowed, decided_by)
            real = await served.ask("POST", f"/api/v1/functions/{id_}/invoke", "desk", {})
            assert (real.status != 403) is allowed
        both = await check(roles=["viewer"], action="runs:cancel", resource=here + "x")
        assert (both["allowed"], both["reason"]) == (False, "no role allows it")
        bound = {"name": "b", "role": "admin", "environment": "default"}
        made = await served.made("POST", "/api/v1/keys", "root", bound)
        other = here.replace("env_default", "env_other")
        said = await check(key=made["key"]["id"], action="runs:read", resource=other + "x")
        assert (said["allowed"], "another environment" in said["reason"]) == (False, True)
        for asked in ({"key": key_id, "roles": ["viewer"]}, {}):
            answer = await served.ask(
                "POST", "/api/v1/policies/check", "root",
                {"action": "runs:read", "resource": here + "x", **asked},
            )  # fmt: skip
            assert (answer.status, answer.json["field"]) == (422, "key")


async def test_every_route_is_an_action_on_a_thing(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        runner = served.server._runner
        assert runner is not None
        for route in runner.app.router.routes():  # type: ignore[attr-defined]
            needed = requirement_of(route.method, route.resource.canonical)
            if needed is None:
                continue
            assert needed.action in ACTIONS, route
            assert needed.type in TYPES, route
            assert not needed.part or f"{{{needed.part}" in route.resource.canonical, route


# -- keys that are not good -----------------------------------------------------------------------


async def test_hostile_keys_and_headers(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        url = f"{served.server.url}/api/v1/runs"
        for headers in (
            {"Authorization": "Bearer " + "x" * 8000},
            {"Authorization": "Bearer \xff\xfe"},
            {"X-API-Key": "ifkey_" + "0" * 32},
            {"Authorization": "Basic " + "!" * 100},
            {"X-Ironflow-Environment-ID": "*"},
            {"X-Ironflow-Environment": "../../etc/passwd"},
        ):
            async with served.session.get(url, headers=headers) as response:
                assert response.status == 401, headers
                assert (await response.json(content_type=None))["code"] == "unauthenticated"
        for value in ("x" * 9000, "x" * 100_000):
            try:
                async with served.session.get(
                    url, headers={"X-Ironflow-Environment": value}
                ) as huge:
                    assert huge.status in (400, 431)
            except aiohttp.ClientError:
                pass  # it hangs up before the end of such a header: as good
        root = {"Authorization": f"Bearer {served.keys['root']}"}
        for given in ("*", "env_*", "../app", "\u00e9", " ", "x" * 5000):
            sent = root | {"X-Ironflow-Environment": given}
            async with served.session.get(url, headers=sent) as response:
                assert response.status in (200 if given == " " else 404, 404), given
        assert (await served.ask("GET", "/api/v1/runs", "root")).status == 200


class SetClock:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.at = 1_800_000_000_000_000

    def now(self) -> int:
        return self.at


async def test_a_key_is_refused_from_the_moment_on_at_which_it_ends() -> None:
    clock = SetClock()
    keyring = Keyring(MemoryStore(), clock, Ids(clock))  # type: ignore[arg-type]
    await keyring.create("root", ("admin",))
    key, secret = await keyring.create("ci", ("viewer",), lifetime=60)
    clock.at += 60 * SECOND - 1
    assert keyring.check(secret).id == key.id
    clock.at += 1
    with pytest.raises(Unauthenticated, match="good for a while only"):
        keyring.check(secret)
    old, former = await keyring.create("old", ("viewer",))
    made, fresh = await keyring.rotate(old.id, grace=10)
    assert keyring.check(former).id == old.id, "both are good while they are changed"
    clock.at += 10 * SECOND
    with pytest.raises(Unauthenticated, match="has ended: rotated"):
        keyring.check(former)
    assert keyring.check(fresh).id == made.id


# -- how much one key may hold --------------------------------------------------------------------


async def test_a_key_holds_so_many_streams_and_no_more(tmp_path: Path) -> None:
    async with serving(tmp_path, streams_per_key=2) as served:
        await served.key("eye", "viewer", None)
        await served.key("other", "viewer", None)
        url = f"{served.server.url}/api/v1/stream"
        headers = {"Authorization": f"Bearer {served.keys['eye']}"}
        async with asyncio.timeout(30):
            first = await served.session.get(url, headers=headers)
            second = await served.session.get(url, headers=headers)
            third = await served.ask("GET", "/api/v1/stream", "eye")
            assert (third.status, third.json["code"]) == (429, "resource_exhausted")
            assert int(third.headers["Retry-After"]) >= 1
            assert "streams_per_key" in third.text
            assert (await served.ask("GET", "/api/v1/runs", "eye")).status == 200
            async with served.session.get(
                url, headers={"Authorization": f"Bearer {served.keys['other']}"}
            ) as foreign:
                assert foreign.status == 200
            first.close()
            while (again := await served.session.get(url, headers=headers)).status == 429:
                again.close()
            assert again.status == 200, "what is closed is free"
            again.close()
            second.close()


async def test_a_key_holds_so_many_polls_and_no_more(tmp_path: Path) -> None:
    async with serving(tmp_path, polls_per_key=1) as served:
        await served.made("POST", "/api/v1/environments", "root", {"name": "dev"})
        for key, environment in (("one", "default"), ("two", "dev")):
            await served.key(key, "developer", environment)
            function = {"id": "f", "name": "", "code": "", "placement": "pull"}
            await served.made("PUT", "/api/v1/functions/f", key, function)
            worker = {"worker_id": "w", "function_ids": ["f"], "max_concurrent_jobs": 1}
            await served.made("POST", "/api/v1/workers/w/register", key, worker)
            poll = "/api/v1/workers/w/jobs?wait=25"
            held = asyncio.create_task(served.ask("GET", poll, key))
            async with asyncio.timeout(30):
                while True:
                    more = await served.ask("GET", "/api/v1/workers/w/jobs?wait=0", key)
                    if more.status == 429:
                        break
            assert "polls_per_key" in more.text
            assert "Retry-After" in more.headers
            held.cancel()
            await asyncio.gather(held, return_exceptions=True)


async def test_a_body_that_is_too_large_or_too_deep_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, body_limit=2048) as served:
        large = await served.ask(
            "POST", "/api/v1/events", "root", {"name": "a", "data": "x" * 5000}
        )
        assert (large.status, large.json["code"]) == (413, "too_large")
        deep: Any = 1
        for _ in range(400):
            deep = [deep]
        nested = await served.ask("POST", "/api/v1/events", "root", {"name": "a", "data": deep})
        assert nested.status == 422
        assert msgspec.json.decode(nested.text)["field"] == "data"


@pytest.mark.parametrize("template", ["/api/v1/runs", "/ironflow.v1.IronflowService/GetRun"])
def test_what_is_answered_at_once_is_not_counted(template: str) -> None:
    from ironflow.web.limits import kind_held

    assert kind_held("GET", template) == ""


async def test_a_trail_is_for_who_may_see_its_run(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        function = {"id": "f", "name": "", "code": "", "placement": "pull"}
        await served.made("PUT", "/api/v1/functions/f", "root", function)
        start = "/api/v1/functions/f/invoke"
        mine, other = [(await served.made("POST", start, "root", {}))["run_id"] for _ in range(2)]
        runs = "irn:ironflow:*:*:run:*:"
        await policy(served, "mine", "allow", "runs:read", f"{runs}{mine}")
        await policy(served, "all", "allow", "runs:read", f"{runs}*")
        await policy(served, "not-other", "deny", "runs:read", f"{runs}{other}")
        for name, policies in (("one", ["mine"]), ("most", ["all", "not-other"])):
            await served.made("POST", "/api/v1/roles", "root", {"name": name, "policies": policies})
            key = {"name": name, "roles": [name]}
            made = await served.made("POST", "/api/v1/keys", "root", key)
            served.keys[name] = made["secret"]
            for query, status in (
                (f"run_id={mine}", 200),
                (f"run_id={other}", 403),
                (f"run_id={mine}&run_id={other}", 403),
            ):
                answer = await served.ask("GET", f"/api/v1/audit?{query}", name)
                assert answer.status == status, (name, query, answer.text)
