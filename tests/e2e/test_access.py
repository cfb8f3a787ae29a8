"""Environments, roles and policies from the command line, and workers in an environment: real
processes, ours and the published SDK's.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.test_first_start import KEY, LIMIT, Started, environment, started

HERE = "irn:ironflow:org_default:proj_default_default:function"

OUR_WORKER = """
import ironflow

@ironflow.function
async def twice(ctx, n):
    return n * 2

ironflow.Worker().run()
"""
SDK_WORKER = """
from ironflow.worker import Worker, function

@function(id="thrice", triggers=[], secrets=["FACTOR"])
async def thrice(ctx):
    async def body():
        return ctx.event.data["n"] * int(ctx.secrets["FACTOR"])
    return await ctx.step.run("thrice", body)

Worker(functions=[thrice]).run()
"""
SDK_ADMIN = """
import os
from ironflow import IronflowClient

client = IronflowClient(os.environ["IRONFLOW_SERVER_URL"], os.environ["IRONFLOW_API_KEY"])
assert client.capabilities()["auth_required"] is True
made = client.environments_create({"name": "made-by-sdk"})
assert made["id"] in [one["id"] for one in client.environments_list()]
key = client.api_keys_create({"name": "sdk", "env_id": made["id"], "role_ids": ["viewer"]})
assert key["key"].startswith(key["key_prefix"]), key
assert client.api_keys_get(key["id"])["environment_id"] == made["id"]
assert client.api_keys_update_roles(key["id"], {"role_ids": ["worker"]})["role_ids"] == ["worker"]
fresh = client.api_keys_rotate(key["id"])
assert fresh["key"] != key["key"]
client.api_keys_delete(fresh["id"])
assert fresh["id"] not in [one["id"] for one in client.api_keys_list()]
assert "developer" in [role["name"] for role in client.roles_list()]
project = client.projects_create({"name": "sdk"})
client.projects_delete(project["id"])
client.environments_delete(made["id"])
print("done")
"""


class Shell:
    """The command line against a server, with its admin's key."""

    def __init__(self, folder: Path, server: Started) -> None:
        self.folder, self.server = folder, server
        self.key = (folder / "admin.key").read_text().strip()

    def env(self, **more: str) -> dict[str, str]:
        base = {"IRONFLOW_SERVER_URL": self.server.url, "IRONFLOW_API_KEY": self.key}
        return environment(**(base | more))

    def run(self, *line: str, code: int = 0, **env: str) -> tuple[str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "ironflow", *line], cwd=self.folder, env=self.env(**env),
            capture_output=True, text=True, timeout=LIMIT, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout, done.stderr

    def json(self, *line: str, **env: str) -> Any:
        return json.loads(self.run(*line, "--json", **env)[0])


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    key = str(tmp_path / "admin.key")
    secrets = tmp_path / "secrets" / "env_staging"
    secrets.mkdir(parents=True)
    (secrets / "FACTOR").write_text("3\n")
    options = ["--auth", "required", "--bootstrap-key-file", key, "--secrets", "secrets"]
    with started(tmp_path, *options) as server:
        yield Shell(tmp_path, server)


def test_everything_is_made_shown_and_removed_from_the_command_line(shell: Shell) -> None:
    assert shell.run("projects", "create", "shop", "--description", "all of it")[0].strip() == (
        "proj_default_shop"
    )
    made = shell.json("environments", "create", "prod", "--project", "shop")
    assert made["id"] == "env_shop_prod"
    assert "env_shop_prod" in shell.run("environments", "ls")[0]
    assert "live" in shell.run("environments", "rename", "prod", "live")[0]
    shell.run(
        "policies", "create", "orders", "--allow", "--action", "functions:*",
        "--resource", "irn:ironflow:*:*:function:*:order.*",
    )  # fmt: skip
    shell.run(
        "policies", "create", "stop", "--deny", "--action", "*",
        "--resource", "irn:ironflow:*:*:function:*:order.refund",
    )  # fmt: skip
    shell.run("roles", "create", "desk", "--policy", "orders", "--policy", "stop")
    assert "orders, stop" in shell.run("roles", "ls")[0]
    key = shell.json("keys", "create", "clerk", "--role", "desk", "--env", "live")
    assert key["key"]["environment"] == "env_shop_prod"

    asked = ("policies", "check", "--role", "desk", "--action", "functions:invoke", "--resource")
    assert shell.run(*asked, f"{HERE}:env_default:order.new")[0] == (
        "allowed: policy orders allows it\n"
    )
    assert shell.run(*asked, f"{HERE}:env_default:order.refund", code=1)[0] == (
        "denied: policy stop denies it\n"
    )
    out, err = shell.run(*asked, "irn:ironflow:o:p:functoin:e:x", code=2)
    assert (out, "functoin" in err) == ("", True)

    _, err = shell.run("policies", "rm", "stop", "--yes", code=1)
    assert "roles have the policy stop: desk" in err
    _, err = shell.run("environments", "rm", "live", code=2)
    assert "--yes" in err
    assert "is gone" in shell.run("environments", "rm", "live", "--yes")[0]
    shell.run("projects", "rm", "shop", "--yes")


def test_workers_of_an_environment_work_there_and_nowhere_else(
    shell: Shell, peer_python: Callable[[str], Path]
) -> None:
    shell.run("environments", "create", "staging")
    bound = shell.run("keys", "create", "w", "--role", "developer", "--env", "staging")[0].strip()
    assert KEY.fullmatch(bound)
    (shell.folder / "ours.py").write_text(OUR_WORKER)
    (shell.folder / "theirs.py").write_text(SDK_WORKER)
    workers = [
        # Ours has a key for all environments and says where, theirs a key that is bound.
        subprocess.Popen(
            [sys.executable, "ours.py"], cwd=shell.folder, env=shell.env(IRONFLOW_ENV="staging")
        ),
        subprocess.Popen(
            [str(peer_python("ironflow-py")), "theirs.py"], cwd=shell.folder,
            env=shell.env(IRONFLOW_API_KEY=bound),
        ),
    ]  # fmt: skip
    try:
        _wait_for(shell, {"twice", "thrice"}, workers)
        for function, value in (("twice", "21"), ("thrice", '{"n": 14}')):
            line = ("invoke", function, "--input", value, "--wait", "60s")
            ended = shell.json("--env", "staging", *line)
            assert ended["result"] == 42
            _, err = shell.run(*line, code=1)
            assert "function" in err, "it is not there for others"
        runs = shell.run("runs", "ls", "--json", IRONFLOW_ENV="staging")[0].splitlines()
        assert len(runs) == 2
        assert shell.run("runs", "ls", "--json")[0] == ""
        assert len(shell.run("runs", "ls", "--json", IRONFLOW_API_KEY=bound)[0].splitlines()) == 2
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait(LIMIT)


def _wait_for(shell: Shell, wanted: set[str], workers: list[subprocess.Popen[bytes]]) -> None:
    """Return once workers of these functions are there."""
    while all(worker.poll() is None for worker in workers):
        out = shell.run("--env", "staging", "workers", "ls", "--json")[0]
        if wanted <= {
            name for line in out.splitlines() for name in json.loads(line)["function_ids"]
        }:
            return
    pytest.fail("a worker ended")


def test_the_published_sdk_administers(shell: Shell, peer_python: Callable[[str], Path]) -> None:
    done = subprocess.run(
        [str(peer_python("ironflow-py")), "-c", SDK_ADMIN], cwd=shell.folder, env=shell.env(),
        capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert done.stdout == "done\n", done.stderr
