"""Keys over HTTP: who may ask what, on every face."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from ironflow.actors.directory.keyring import Keyring
from ironflow.core.access.actions import ACTIONS, BUILT_IN, requirement_of
from ironflow.core.clock import Ids, SystemClock
from ironflow.storage.sqlite.store import open_sqlite


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


async def make(api: Any, name: str, role: str, **facts: Any) -> tuple[str, str]:
    """A key's id and its secret; the first one makes the others."""
    admin = getattr(api, "admin", None)
    if admin is None:
        await api.get("/health")  # what the client holds answers against is asked for now
    headers = bearer(admin) if admin else {}
    answer = await api.post("/api/v1/keys", {"name": name, "role": role} | facts, headers=headers)
    assert answer.status == 201, answer.body
    if admin is None:
        api.admin = answer.json["secret"]
    return answer.json["key"]["id"], answer.json["secret"]


async def test_without_keys_nobody_is_asked_and_the_first_one_is_an_admins(api: Any) -> None:
    assert (await api.get("/api/v1/runs")).status == 200
    assert (await api.get("/api/v1/keys")).json["items"] == []
    refused = await api.post("/api/v1/keys", {"name": "x", "role": "viewer"})
    assert (refused.status, refused.json["field"]) == (422, "role")
    assert (await api.get("/api/v1/runs")).status == 200
    await make(api, "ops", "admin")
    assert (await api.get("/api/v1/runs")).status == 401
    (key,) = (await api.get("/api/v1/keys", headers=bearer(api.admin))).json["items"]
    assert (key["name"], key["role"], key["status"]) == ("ops", "admin", "active")
    assert api.admin.startswith(key["shown"])
    assert api.admin not in str(key)


@pytest.mark.parametrize("role", BUILT_IN)
async def test_a_role_may_do_its_own_and_no_more(memory_api: Any, role: str) -> None:
    api = memory_api
    await make(api, "first", "admin")
    _, secret = await make(api, "mine", role)
    headers, rights = bearer(secret), BUILT_IN[role]
    asked = {
        "runs:read": await api.get("/api/v1/runs", headers=headers),
        "workers:execute": await api.post("/api/v1/workers/w/heartbeat", {}, headers=headers),
        "functions:invoke": await api.post("/api/v1/functions/echo/invoke", {}, headers=headers),
        "apikeys:read": await api.get("/api/v1/keys", headers=headers),
    }
    for right, answer in asked.items():
        allowed = right in rights
        assert (answer.status != 403) is allowed, right
        assert answer.status != 401
        if not allowed:
            assert answer.json["code"] == "permission_denied"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer ifkey_00000000000000000000000000000000"},
        {"Authorization": "Basic !!!"},
        {"X-API-Key": "ifkey_"},
        {"Authorization": "Digest x"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/runs"),
        ("POST", "/api/v1/events"),
        ("GET", "/api/v1/stream"),
        ("POST", "/api/flows/"),
        ("POST", "/api/flow_runs/filter"),
        ("GET", "/workflows"),
        ("POST", "/workflows/x/run"),
        ("GET", "/handlers"),
        ("GET", "/openapi.json"),
        ("POST", "/ironflow.v1.IronflowService/RegisterFunction"),
        ("GET", "/api/v1/no/such/path"),
    ],
)
async def test_without_a_good_key_nothing_is_told(
    memory_api: Any, method: str, path: str, headers: dict[str, str]
) -> None:
    await make(memory_api, "first", "admin")
    async with memory_api.client.request(method, path, headers=headers) as response:
        assert response.status in (401, 404), await response.text()
        assert response.status == 401 or "no/such" in path


async def test_probes_need_no_key(memory_api: Any) -> None:
    await make(memory_api, "first", "admin")
    for path in ("/health", "/ready", "/metrics", "/api/health"):
        async with memory_api.client.get(path) as response:
            assert response.status == 200, path


async def test_a_key_comes_in_any_of_three_ways(memory_api: Any) -> None:
    import base64

    await make(memory_api, "first", "admin")
    basic = base64.b64encode(f"me:{memory_api.admin}".encode()).decode()
    for headers in (
        bearer(memory_api.admin),
        {"Authorization": f"Basic {basic}"},
        {"X-API-Key": memory_api.admin},
    ):
        assert (await memory_api.get("/api/v1/runs", headers=headers)).status == 200


async def test_keys_end_are_revoked_and_rotated(memory_api: Any) -> None:
    api = memory_api
    first, _ = await make(api, "first", "admin")
    admin = bearer(api.admin)
    key_id, secret = await make(api, "ci", "viewer", expires_in="90d")
    rotated = await api.post(f"/api/v1/keys/{key_id}/rotate", {"grace": 0}, headers=admin)
    assert rotated.status == 201
    assert (await api.get("/api/v1/runs", headers=bearer(secret))).status == 401
    fresh = rotated.json["secret"]
    assert rotated.json["key"]["expires_at"] is not None
    assert (await api.get("/api/v1/runs", headers=bearer(fresh))).status == 200
    again = await api.post(f"/api/v1/keys/{key_id}/rotate", headers=admin)
    assert again.status == 409
    new_id = rotated.json["key"]["id"]
    gone = await api.ask("DELETE", f"/api/v1/keys/{new_id}", headers=admin)
    assert (gone.status, gone.json["status"]) == (200, "ended")
    assert (await api.get("/api/v1/runs", headers=bearer(fresh))).status == 401
    last = await api.ask("DELETE", f"/api/v1/keys/{first}", headers=admin)
    assert last.status == 409
    assert (await api.ask("DELETE", "/api/v1/keys/none", headers=admin)).status == 404
    for body in ({"name": ""}, {"name": "x", "role": "god"}, {"name": "x", "expires_in": "soon"},
                 {"name": "x", "expires_in": 0}):  # fmt: skip
        assert (await api.post("/api/v1/keys", body, headers=admin)).status == 422
    too_long = await api.post(f"/api/v1/keys/{first}/rotate", {"grace": "8d"}, headers=admin)
    assert (too_long.status, too_long.json["field"]) == (422, "grace")


async def test_prefects_sockets_want_the_key_in_their_first_message(memory_api: Any) -> None:
    await make(memory_api, "first", "admin")
    _, viewer = await make(memory_api, "viewer", "viewer")
    for path, token, good in (
        ("/api/events/out", memory_api.admin, True),
        ("/api/events/out", viewer, True),
        ("/api/events/in", viewer, False),
        ("/api/events/in", memory_api.admin, True),
        ("/api/logs/out", None, False),
        ("/api/logs/out", "ifkey_wrong", False),
    ):
        async with memory_api.client.ws_connect(path, protocols=("prefect",)) as socket:
            await socket.send_json({"type": "auth", "token": token})
            if good:
                assert (await socket.receive_json(timeout=60))["type"] == "auth_success"
            else:
                await socket.receive(timeout=60)
                assert socket.close_code == 1008


async def test_prefects_sockets_take_the_key_as_their_clients_send_it(memory_api: Any) -> None:
    """`user:key` in the first message, or nothing there and the key in the headers."""
    await make(memory_api, "first", "admin")
    key = memory_api.admin
    for token, headers, reason in (
        (f"user:{key}", {}, None),
        (None, bearer(key), None),
        ("", {"X-API-Key": key}, None),
        (None, {"Authorization": f"Basic {base64.b64encode(f'u:{key}'.encode()).decode()}"}, None),
        ("user:wrong", bearer(key), "Auth required: the key is unknown"),
        (None, {}, "set PREFECT_API_AUTH_STRING=user:ifkey_..."),
        (5, {}, "set PREFECT_API_AUTH_STRING=user:ifkey_..."),
    ):
        async with memory_api.client.ws_connect(
            "/api/events/in", protocols=("prefect",), headers=headers
        ) as socket:
            await socket.send_json({"type": "auth", "token": token})
            if reason is None:
                assert (await socket.receive_json(timeout=60))["type"] == "auth_success"
            else:
                said = await socket.receive(timeout=60)
                assert (said.data, reason in said.extra) == (1008, True)


async def test_older_prefect_clients_give_their_key_in_the_headers_of_a_socket(
    memory_api: Any,
) -> None:
    """They do not introduce themselves, and send events at once; a key in `PREFECT_API_URL` is in
    the headers of all that they ask.
    """
    await make(memory_api, "first", "admin")
    _, viewer = await make(memory_api, "viewer", "viewer")
    for secret, reason in (
        (memory_api.admin, None),
        (viewer, "Auth required: events:emit"),
        ("ifkey_wrong", "Auth required: the key is unknown"),
        (None, "PREFECT_API_URL=http://user:ifkey_"),
    ):
        basic = base64.b64encode(f"user:{secret}".encode()).decode()
        headers = {} if secret is None else {"Authorization": f"Basic {basic}"}
        async with memory_api.client.ws_connect(
            "/api/events/in", headers=headers, autoping=False
        ) as socket:
            if reason is None:
                await socket.ping(b"first")
                assert (await socket.receive(timeout=60)).data == b"first"
            else:
                said = await socket.receive(timeout=60)
                assert (said.data, reason in said.extra) == (1008, True)


async def test_keys_are_known_after_a_restart_and_stored_as_hashes(tmp_path: Any) -> None:
    path, clock = tmp_path / "keys.db", SystemClock()
    store = await open_sqlite(path)
    keyring = Keyring(store, clock, Ids(clock))
    await keyring.start()
    key, secret = await keyring.create("ops", ("admin",))
    await store.close()
    assert secret.encode() not in path.read_bytes()
    store = await open_sqlite(path)
    again = Keyring(store, clock, Ids(clock))
    await again.start()
    assert again.check(secret).id == key.id
    await store.close()


def test_every_kind_of_request_has_its_action() -> None:
    for method, path, action in (
        ("OPTIONS", "/api/v1/runs", None),
        ("GET", "/metrics", None),
        ("POST", "/api/v1/executions/commands", None),
        ("POST", "/environments/{environment}/api/v1/executions/commands", None),
        ("GET", "/workflows/ui", None),
        ("GET", "/api/v1/keys", "apikeys:read"),
        ("DELETE", "/api/v1/keys/{key_id}", "apikeys:manage"),
        ("PUT", "/api/v1/functions/{function_id}", "functions:register"),
        ("POST", "/api/v1/functions/{function_id}/invoke", "functions:invoke"),
        ("GET", "/api/v1/workers/{worker_id}/jobs", "workers:execute"),
        ("GET", "/api/v1/workers", "workers:read"),
        ("GET", "/anything/else", "server:read"),
        ("POST", "/anything/else", "runs:control"),
        ("POST", "/api/flow_runs/filter", "runs:read"),
        ("POST", "/api/flow_runs/count", "runs:read"),
        ("POST", "/api/flow_runs/", "functions:invoke"),
        ("POST", "/api/flow_runs/{id}/set_state", "runs:control"),
        ("DELETE", "/api/flow_runs/{id}", "runs:delete"),
        ("POST", "/api/flows/", "functions:register"),
        ("POST", "/api/v1/runs/{run_id}/cancel", "runs:cancel"),
        ("POST", "/api/v1/policies/check", "policies:read"),
        ("POST", "/handlers/{handler_id}/cancel", "runs:cancel"),
        ("POST", "/ironflow.v1.IronflowService/RegisterFunction", "functions:register"),
        ("POST", "/ironflow.v1.IronflowService/GetRun", "runs:read"),
        ("POST", "/ironflow.v1.EnvironmentService/DeleteEnvironment", "environments:manage"),
    ):
        needed = requirement_of(method, path)
        assert (needed.action if needed else None) == action, (method, path)
        assert action is None or action in ACTIONS
