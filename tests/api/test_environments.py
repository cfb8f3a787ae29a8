"""Environments over real HTTP: what is in one is not there for another, by any route."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Any

import pytest
from api.served import Served, serving

import ironflow.sdk.function as sdk
from ironflow.core.errors import ConfigError
from ironflow.storage.sqlite.store import open_sqlite
from ironflow.web.routing import STATE

MARK = "xyzzy"
"""In the name of everything of the environment that is looked for."""


async def furnish(served: Served) -> dict[str, str]:
    """Environments `dev` and `staging`, and one of everything in staging; their ids."""
    for name in ("dev", "staging"):
        await served.made("POST", "/api/v1/environments", "root", {"name": name})
    await served.key("default", "developer", "default")
    await served.key("dev", "developer", "dev")
    await served.key("dev-admin", "admin", "env_dev")
    await served.key("staging", "developer", "staging")
    function = {
        "id": f"{MARK}-pull", "name": "", "code": "", "placement": "pull",
        "triggers": [{"event": f"{MARK}.*"}], "concurrency": [{"limit": 1, "key": "data.who"}],
    }  # fmt: skip
    pull = f"/api/v1/functions/{MARK}-pull"
    await served.made("PUT", pull, "staging", function)
    push = {
        "id": f"{MARK}-push", "name": "", "code": "", "placement": "push", "endpoint": {"url": f"http://127.0.0.1:9/{MARK}"}
    }  # fmt: skip
    await served.made("PUT", f"/api/v1/functions/{MARK}-push", "staging", push)
    worker = {"worker_id": f"{MARK}-worker", "function_ids": [f"{MARK}-pull"],
              "max_concurrent_jobs": 1}  # fmt: skip
    await served.made("POST", f"/api/v1/workers/{MARK}-worker/register", "staging", worker)
    event = {"name": f"{MARK}.made", "data": {"who": MARK}, "idempotency_key": "k"}
    emitted = await served.made("POST", "/api/v1/events", "staging", event)
    jobs = await served.made("GET", f"/api/v1/workers/{MARK}-worker/jobs?wait=10", "staging", None)
    job = jobs["jobs"][0]
    breakers = await served.made("GET", "/api/v1/circuit-breakers", "staging", None)
    lanes = await served.made("GET", "/api/v1/lanes", "staging", None)
    return {
        "function_id": f"{MARK}-pull",
        "run_id": emitted["run_ids"][0],
        "event_id": emitted["event_id"],
        "worker_id": f"{MARK}-worker",
        "job_id": job["job_id"],
        "key": breakers["items"][0]["key"],
        "name": lanes["items"][0]["name"],
        "handler_id": emitted["run_ids"][0],
        "id": emitted["run_ids"][0],
        "digest": "0" * 64,
        "environment": "env_staging",
        "project": "proj_default_default",
        "organization": "org_default",
        "key_id": next(
            key.id
            for key in served.server.engine.keyring.all()
            if key.name == "staging"
        ),
    }  # fmt: skip


def every_route(served: Served) -> list[tuple[str, str]]:
    runner = served.server._runner
    assert runner is not None
    found = {
        (route.method, route.resource.canonical)
        for route in runner.app.router.routes()  # type: ignore[attr-defined]
        if route.resource is not None and route.method not in ("HEAD", "*")
    }
    return sorted(found, key=lambda one: (one[1], one[0]))


def filled(path: str, ids: dict[str, str]) -> str:
    from urllib.parse import quote

    return re.sub(r"\{(\w+)\}", lambda m: quote(ids.get(m[1], ids["id"]), safe=""), path)


BODIES: dict[str, Any] = {
    "/api/v1/events": {"name": f"{MARK}.made", "data": None},
    "/api/v1/workers/{worker_id}/jobs/{job_id}": {
        "execution_seq": 1, "lease_token": "t", "status": "completed",
    },
    "/api/v1/workers/{worker_id}/jobs/{job_id}/ack": {"execution_seq": 1, "lease_token": "t"},
    "/api/v1/workers/{worker_id}/register": {"worker_id": f"{MARK}-worker",
                                             "function_ids": [f"{MARK}-pull"]},
    "/api/v1/workers/{worker_id}/commands": {"reports": []},
    "/environments/{environment}/api/v1/executions/commands": {
        "reports": [
            {"job_id": "j", "execution_seq": 1, "lease_token": "t", "kind": "k", "data": {}}
        ]
    },
}  # fmt: skip
MAKES = {
    ("PUT", "/api/v1/functions/{function_id}"),
    ("POST", "/environments/{environment}/api/v1/executions/commands"),
}
"""What makes something of that name in the asker's own environment, and reports without a lease."""
OF_ALL = {
    "/health",
    "/ready",
    "/metrics",
    "/api/health",
    "/api/ready",
    "/api/hello",
    "/api/v1/capabilities",
}
SHARED = {"project", "organization"}
"""Parts of paths that the key may see: its environment is in them, too."""


@pytest.mark.parametrize("key", ["default", "dev", "dev-admin"])
async def test_no_route_tells_a_foreign_key_of_another_environment(
    tmp_path: Path, key: str
) -> None:
    async with serving(tmp_path) as served:
        ids = await furnish(served)
        before = await _picture(served, ids)
        for method, template in every_route(served):
            if template.startswith("/workflows/ui") or template in ("/openapi.json", "/"):
                continue  # the page and the description are the same for everybody
            path, body = filled(template, ids), BODIES.get(template, {})
            sent = None if method == "GET" else body
            where = f"{method} {path} for {key}"
            answer = await served.ask(method, path, key, sent)
            telling = answer.text.replace(path, "").replace(ids["run_id"], "", 0)
            named = set(re.findall(r"\{(\w+)\}", template)) - SHARED
            if template in OF_ALL:
                assert MARK not in answer.text, where
                continue
            if named and (method, template) not in MAKES:
                refused = answer.status in (403, 404, 410, 422) or answer.text == "[]"
                assert refused, (where, answer.status, answer.text)
            assert answer.status < 500 or answer.status == 501, (where, answer.text)
            for secret in (ids["event_id"], "env_staging", "staging"):
                assert secret not in telling or secret in path, (where, answer.text)
            there = {"X_Ironflow_Environment_ID": "env_staging"}
            inside = await served.ask(method, path, key, sent, **there)
            if not template.endswith("/api/v1/executions/commands"):
                assert inside.status == 403, (where, inside.text)
                assert inside.json.get("code", "permission_denied") == "permission_denied", where
            by_name = await served.ask(method, path, key, sent, X_Ironflow_Environment="staging")
            nothing = await served.ask(method, path, key, sent, X_Ironflow_Environment="nothing")
            assert by_name.status == nothing.status, where
            assert MARK not in by_name.text.replace(path, ""), where
        assert await _picture(served, ids) == before


async def _picture(served: Served, ids: dict[str, str]) -> list[Any]:
    """What staging looks like to itself."""
    paths = ("/functions", "/events", "/runs", "/workers", "/lanes", "/circuit-breakers")
    pages = [(await served.ask("GET", f"/api/v1{path}", "staging")).json for path in paths]
    for worker in pages[3]["workers"]:
        worker.pop("last_heartbeat")
    pages.append((await served.ask("GET", f"/api/v1/runs/{ids['run_id']}/history", "staging")).json)
    return pages


async def test_the_same_names_in_two_environments_are_two_things(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        ids = await furnish(served)
        function = {"id": f"{MARK}-pull", "name": "", "code": "", "placement": "pull",
                    "triggers": [{"event": f"{MARK}.*"}]}  # fmt: skip
        path = f"/api/v1/functions/{MARK}-pull"
        made = await served.ask("PUT", path, "dev", function)
        assert (made.status, made.json["version"]) == (201, 1), "it is new here"
        event = {"name": f"{MARK}.made", "data": {"who": "else"}, "idempotency_key": "k"}
        emitted = await served.made("POST", "/api/v1/events", "dev", event)
        assert emitted["created"], "its idempotency key was never seen here"
        assert len(emitted["run_ids"]) == 1
        assert emitted["run_ids"] != [ids["run_id"]]
        for key, count in (("dev", 1), ("staging", 1), ("default", 0)):
            runs = (await served.ask("GET", "/api/v1/runs", key)).json["items"]
            assert len(runs) == count, key
        worker = {"worker_id": "w", "function_ids": [f"{MARK}-pull"], "max_concurrent_jobs": 5}
        await served.made("POST", "/api/v1/workers/w/register", "dev", worker)
        jobs = await served.made("GET", "/api/v1/workers/w/jobs?available=5&wait=5", "dev", None)
        assert [job["run_id"] for job in jobs["jobs"]] == emitted["run_ids"]


async def test_an_event_wakes_who_waits_in_its_own_environment_only(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await furnish(served)
        waits = {"id": "waits", "name": "", "code": "", "placement": "pull"}
        runs = {}
        for key in ("dev", "staging"):
            await served.made("PUT", "/api/v1/functions/waits", key, waits)
            await served.made(
                "POST", f"/api/v1/workers/{key}/register", key,
                {"worker_id": key, "function_ids": ["waits"], "max_concurrent_jobs": 1},
            )  # fmt: skip
            runs[key] = (await served.made("POST", "/api/v1/functions/waits/invoke", key, {}))[
                "run_id"
            ]
            jobs = await served.made("GET", f"/api/v1/workers/{key}/jobs?wait=10", key, None)
            (job,) = jobs["jobs"]
            await served.made(
                "PUT", f"/api/v1/workers/{key}/jobs/{job['job_id']}", key,
                {
                    "execution_seq": job["execution_seq"], "lease_token": job["lease_token"],
                    "status": "yielded",
                    "yield": {"type": "wait_for_event", "step_id": f"{job['run_id']}:go:0",
                              "event_filter": {"event": "door.opened", "timeout": "7d"}},
                },
            )  # fmt: skip
        await served.made("POST", "/api/v1/events", "dev", {"name": "door.opened", "data": 1})
        jobs = await served.made("GET", "/api/v1/workers/dev/jobs?wait=10", "dev", None)
        assert [job["run_id"] for job in jobs["jobs"]] == [runs["dev"]]
        asleep = await served.ask("GET", f"/api/v1/runs/{runs['staging']}", "staging")
        assert asleep.json["status"] == "waiting"
        nothing = await served.ask("GET", "/api/v1/workers/staging/jobs?wait=0", "staging")
        assert nothing.status == 204


async def test_a_key_for_all_environments_chooses_with_a_header(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await furnish(served)
        for header in ("X-Ironflow-Environment-ID", "X-Ironflow-Environment"):
            for given in ("env_staging", "staging", "default/staging"):
                page = await served.ask("GET", "/api/v1/functions", "root", **{header: given})
                assert [one["id"] for one in page.json["items"]] == [f"{MARK}-pull", f"{MARK}-push"]
        assert (await served.ask("GET", "/api/v1/functions", "root")).json["items"] == []
        gone = await served.ask("GET", "/api/v1/runs", "root", X_Ironflow_Environment="nothing")
        assert (gone.status, gone.json["code"]) == (404, "not_found")
        own = await served.ask("GET", "/api/v1/runs", "staging", X_Ironflow_Environment="staging")
        assert own.status == 200
        metrics = await served.ask("GET", "/metrics", "staging")
        assert 'ironflow_events_emitted_total{source_kind="api"} 1.0' in metrics.text
        open_to_all = await served.ask("GET", "/metrics", "nobody")
        assert "ironflow_events_emitted_total{" not in open_to_all.text
        hidden = await served.ask("GET", "/metrics", "x", X_Ironflow_Environment="staging")
        assert hidden.status == 401


async def test_the_same_name_in_two_projects_must_be_said_in_full(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        shop = await served.made("POST", "/api/v1/projects", "root", {"name": "shop"})
        for project in (None, shop["id"]):
            body = {"name": "prod", "project_id": project}
            made = await served.made("POST", "/api/v1/environments", "root", body)
            assert made["status"] == "active"
        assert made["id"] == "env_shop_prod"
        vague = await served.ask("GET", "/api/v1/runs", "root", X_Ironflow_Environment="prod")
        assert vague.status == 422
        assert "env_shop_prod" in vague.text
        for given in ("shop/prod", "env_shop_prod"):
            said = await served.ask("GET", "/api/v1/runs", "root", X_Ironflow_Environment=given)
            assert said.status == 200
        taken = await served.ask("POST", "/api/v1/environments", "root", {"name": "prod"})
        assert taken.status == 409
        kept = await served.ask("DELETE", "/api/v1/projects/shop", "root")
        assert kept.status == 409
        for name in ("", "Prod", "a/b", "..", "x" * 64, "-a"):
            bad = await served.ask("POST", "/api/v1/environments", "root", {"name": name})
            assert (bad.status, bad.json["field"]) == (422, "name")


async def test_environments_are_there_after_a_restart_and_gone_when_deleted(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        ids = await furnish(served)
        keys = served.keys
        assert (tmp_path / "app.env_staging.db").exists()
    async with serving(tmp_path) as served:
        served.keys |= keys
        run = await served.ask("GET", f"/api/v1/runs/{ids['run_id']}", "staging")
        assert (run.status, run.json["status"]) == (200, "running")
        kept = await served.ask("DELETE", "/api/v1/environments/staging", "root")
        assert kept.status == 409, "a run has not ended"
        gone = await served.ask("DELETE", "/api/v1/environments/staging?force=true", "root")
        assert gone.json == {"status": "deleted", "deleted": "env_staging"}
        assert (await served.ask("GET", "/api/v1/runs", "staging")).status == 401
        assert not [name for name in os.listdir(tmp_path) if name.startswith("app.env_staging")]
        again = await served.made("POST", "/api/v1/environments", "root", {"name": "staging"})
        assert again["id"] == "env_staging_2", "what was bound to the first is not to the second"
        default = await served.ask("DELETE", "/api/v1/environments/default", "root")
        assert default.status == 409
    (tmp_path / "app.env_dev.db").unlink()
    (tmp_path / "app.env_staging.db").write_bytes(b"left behind by a deletion that was killed")
    async with serving(tmp_path) as served:
        served.keys |= keys
        missing = await served.ask("GET", "/api/v1/runs", "dev")
        assert missing.status == 503
        assert "missing" in missing.text
        assert (await served.ask("GET", "/api/v1/runs", "root")).status == 200
        found = (await served.ask("GET", "/api/v1/environments", "root")).json
        assert {one["id"]: one["status"] for one in found} == {
            "env_default": "active", "env_dev": "unavailable", "env_staging_2": "active",
        }  # fmt: skip
        assert not [name for name in os.listdir(tmp_path) if "env_staging.db" in name]


async def test_what_a_killed_creation_left_is_taken_and_what_is_somebodys_is_not(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as served:
        await (await open_sqlite(tmp_path / "app.env_left.db")).close()
        await served.made("POST", "/api/v1/environments", "root", {"name": "left"})
        await served.key("left", "developer", "left")
        await served.made("POST", "/api/v1/events", "left", {"name": "a", "data": 1})
    os.rename(tmp_path / "app.env_left.db", tmp_path / "app.env_mine.db")
    async with serving(tmp_path) as served:
        taken = await served.ask("POST", "/api/v1/environments", "root", {"name": "mine"})
        assert (taken.status, taken.json["code"]) == (409, "conflict")
        assert "app.env_mine.db" in taken.text
        assert (tmp_path / "app.env_mine.db").exists()


async def test_prefect_and_workflow_paths_are_the_default_environments(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await furnish(served)
        for method, path in (("POST", "/api/flows/filter"), ("GET", "/workflows"),
                             ("GET", "/handlers"), ("GET", "/api/admin/version")):  # fmt: skip
            assert (await served.ask(method, path, "dev", {})).status == 403
            assert (await served.ask(method, path, "default", {})).status in (200, 403)
        for path in ("/api/events/in", "/api/events/out", "/api/logs/out"):
            async with served.session.ws_connect(
                served.server.url + path, protocols=("prefect",)
            ) as socket:
                await socket.send_json({"type": "auth", "token": served.keys["dev"]})
                await socket.receive(timeout=10)
                assert socket.close_code == 1008


async def test_a_bound_admin_rules_in_its_environment_only(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        ids = await furnish(served)
        for method, path, body in (
            ("POST", "/api/v1/environments", {"name": "more"}),
            ("DELETE", "/api/v1/environments/dev", None),
            ("PUT", "/api/v1/environments/dev", {"name": "x"}),
            ("POST", "/api/v1/projects", {"name": "x"}),
            ("PATCH", "/api/v1/orgs/org_default", {"name": "x"}),
            ("POST", "/api/v1/keys", {"name": "x", "environment": "staging"}),
        ):
            answer = await served.ask(method, path, "dev-admin", body)
            assert answer.status == 403, (method, path, answer.text)
        keys = (await served.ask("GET", "/api/v1/keys", "dev-admin")).json["items"]
        assert {key["name"] for key in keys} == {"dev", "dev-admin"}
        made = await served.made("POST", "/api/v1/keys", "dev-admin", {"name": "own"})
        assert made["key"]["environment"] == "env_dev"
        foreign = await served.ask("DELETE", f"/api/v1/keys/{ids['key_id']}", "dev-admin")
        assert foreign.status == 404
        listed = (await served.ask("GET", "/api/v1/environments", "dev-admin")).json
        assert [one["id"] for one in listed] == ["env_dev"]


async def test_the_stream_of_the_journal_has_no_keys(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.made("POST", "/api/v1/environments", "root", {"name": "dev"})
        await served.key("eye", "viewer", None)
        await served.made("POST", "/api/v1/events", "root", {"name": "seen", "data": 1})
        headers = {"Authorization": f"Bearer {served.keys['eye']}"}
        async with (
            asyncio.timeout(20),
            served.session.get(
                f"{served.server.url}/api/v1/stream?after=0", headers=headers
            ) as live,
        ):
            text = b""
            while b"event.emitted" not in text:
                text += await live.content.readany()
        assert b"key.created" not in text
        assert b"environment.put" not in text


async def test_a_key_says_when_it_was_used(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.key("used", "viewer", None)
        await served.key("idle", "viewer", None)
        await served.ask("GET", "/api/v1/runs", "used")
    async with serving(tmp_path) as served:
        keys = (await served.ask("GET", "/api/v1/keys", "root")).json["items"]
        used = {key["name"]: key["last_used_at"] for key in keys}
        assert used["used"] is not None
        assert used["idle"] is None


async def test_what_waits_names_the_environment_that_it_waits_in(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.made("POST", "/api/v1/environments", "root", {"name": "staging"})
        function = {
            "id": "calm", "name": "", "code": "", "placement": "pull",
            "triggers": [{"event": "user.*"}],
            "flow_control": {"debounce": {"period": 86400.0}},
        }  # fmt: skip
        for where in ("env_default", "env_staging"):
            there = {"X_Ironflow_Environment_ID": where}
            await served.made("PUT", "/api/v1/functions/calm", "root", function, **there)
            event = {"name": "user.changed", "data": 1}
            await served.made("POST", "/api/v1/events", "root", event, **there)
            base = "/api/v1/debounce/entries"
            (entry,) = await served.made("GET", base, "root", None, **there)
            assert entry["environment_id"] == where
            other = "env_staging" if where == "env_default" else "env_default"
            for wrong in (other, "nowhere", "default"):
                path = f"{base}/{wrong}/calm/-"
                if (wrong, where) != ("default", "env_default"):
                    assert (await served.ask("DELETE", path, "root", **there)).status == 404
            gone = await served.ask("DELETE", f"{base}/{where}/calm/-", "root", **there)
            assert gone.status == 200, gone.text


async def test_functions_of_the_server_are_in_the_environment_that_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sdk, "registry", sdk.Registry())
    gate, entered = asyncio.Event(), asyncio.Event()

    async def pass_gate() -> str:
        entered.set()
        await gate.wait()
        return "through"

    async def work(ctx: Any) -> Any:
        return await ctx.step.run("gate", pass_gate)

    function = sdk.function(work, id="work")
    start, there = "/api/v1/functions/work/invoke", {"X_Ironflow_Environment": "staging"}
    async with serving(tmp_path) as served:
        await served.made("POST", "/api/v1/environments", "root", {"name": "staging"})
    async with serving(tmp_path, function, environment="staging", drain_timeout=0) as served:
        assert (await served.ask("POST", start, "root", {})).status == 404
        run = await served.made("POST", start, "root", {}, **there)
        async with asyncio.timeout(20):
            await entered.wait()
    gate.set()
    async with serving(tmp_path, function, environment="env_staging") as served:
        path = f"/api/v1/runs/{run['run_id']}/result?wait=20s"  # goes on where it is
        ended = await served.made("GET", path, "root", None, **there)
        assert (ended["status"], ended["result"]) == ("completed", "through")
        fresh = await served.made("POST", f"{start}?wait=20s", "root", {}, **there)
        assert fresh["result"] == "through"
    async with serving(tmp_path, function, environment="default") as served:
        assert (await served.made("POST", f"{start}?wait=20s", "root", {}))["result"] == "through"
    for name, missing, reason in (
        ("nowhere", False, "environment: no environment 'nowhere'; .*environments create"),
        ("staging", True, "environment: env_staging is not served: .* is missing"),
    ):
        if missing:
            (tmp_path / "app.env_staging.db").unlink()
        with pytest.raises(ConfigError, match=reason):
            async with serving(tmp_path, function, environment=name):
                pass


async def test_an_environment_is_made_though_its_client_has_hung_up(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        runner = served.server._runner
        assert runner is not None
        environments = runner.app[STATE].environments  # type: ignore[attr-defined]
        opened, open_one = asyncio.Event(), environments._open

        async def note(environment: str, *, new: bool) -> None:
            await open_one(environment, new=new)
            opened.set()

        environments._open = note
        async with served.server.engine.registrar._turn:  # another change is on its way to the disk
            asked = asyncio.ensure_future(environments.create("late", None))
            await opened.wait()
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
        await environments.create("next", None)
        assert {"env_late", "env_next"} <= set(environments.directory.environments)
        assert environments.engine("env_late") is not None
