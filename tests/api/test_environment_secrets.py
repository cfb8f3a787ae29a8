"""Secrets of functions that are executed elsewhere: what is none is told at once, and each goes
with the jobs of its environment alone.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from api.served import Served, serving

from ironflow.core.errors import ConfigError

REGISTER = "/ironflow.v1.IronflowService/RegisterFunction"
INVOKE = "/api/v1/functions/f/invoke"


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """A folder with secrets for two environments, and with files that are none."""
    folder = tmp_path / "secrets"
    (folder / "env_staging").mkdir(parents=True)
    (folder / "TOKEN").write_text("for-default\n")
    (folder / "env_staging" / "TOKEN").write_text("for-staging")
    (folder / "BINARY").write_bytes(b"\xff\xfe")
    (folder / "LARGE").write_text("x" * 70_000)
    (folder / "BLANK").write_text("")
    return folder


def named(*secrets: str) -> dict[str, Any]:
    return {"id": "f", "triggers": [], "secrets": secrets}


async def job_of(served: Served, **there: str) -> Any:
    """The job that a worker is given for a run of `f`."""
    worker = {"function_ids": ["f"]}
    await served.made("POST", "/api/v1/workers/w/register", "root", worker, **there)
    run_id = (await served.made("POST", INVOKE, "root", {}, **there))["run_id"]
    poll = "/api/v1/workers/w/jobs?wait=10&available=5"
    (found,) = (await served.made("GET", poll, "root", None, **there))["jobs"]
    assert found["run_id"] == run_id
    return found


async def test_what_is_no_secret_is_told_when_a_function_asks_for_it(
    tmp_path: Path, secrets: Path
) -> None:
    async with serving(tmp_path, secrets=str(secrets)) as served:
        for names, told in (
            (["NONE"], "NONE"), (["BINARY"], "not UTF-8"), (["LARGE"], "larger"), (["a-b"], "name"),
            (["env_staging"], "env_staging"), (["TOKEN", ".."], "name"),
        ):  # fmt: skip
            answer = await served.ask("POST", REGISTER, "root", named(*names))
            assert (answer.status, answer.json["code"]) == (400, "invalid_argument"), answer.text
            assert told in answer.text
        made = await served.made("POST", REGISTER, "root", named("TOKEN", "BLANK"))
        assert made["function"]["secrets"] == ["TOKEN", "BLANK"]
        assert (await job_of(served))["context"] == {
            "secrets": {"TOKEN": "for-default", "BLANK": ""}
        }
    with pytest.raises(ConfigError, match=r"secrets: .*/TOKEN is no folder"):
        async with serving(tmp_path, secrets=str(secrets / "TOKEN")):
            pass


async def test_secrets_go_with_the_jobs_of_their_environment_and_nowhere_else(
    tmp_path: Path, secrets: Path
) -> None:
    there = {"X_Ironflow_Environment_ID": "env_staging"}
    token = secrets / "env_staging" / "TOKEN"
    async with serving(tmp_path, secrets=str(secrets), max_crashes=2) as served:
        await served.made("POST", "/api/v1/environments", "root", {"name": "staging"})
        await served.made("POST", REGISTER, "root", named("TOKEN"))
        assert (await job_of(served))["context"] == {"secrets": {"TOKEN": "for-default"}}
        await served.made("POST", REGISTER, "root", named("TOKEN"), **there)
        assert (await job_of(served, **there))["context"] == {"secrets": {"TOKEN": "for-staging"}}
        token.write_text("rotated\n")
        assert (await job_of(served, **there))["context"] == {"secrets": {"TOKEN": "rotated"}}
        # One that is gone: the run is not handed over, and parked with the reason.
        token.unlink()
        run_id = (await served.made("POST", INVOKE, "root", {}, **there))["run_id"]
        async with asyncio.timeout(20):
            while True:
                path = "/api/v1/workers/w/jobs?wait=1&available=5"
                answer = await served.ask("GET", path, "root", None, **there)
                assert answer.status in (200, 204), answer.text
                assert run_id not in answer.text
                run = await served.made("GET", f"/api/v1/runs/{run_id}", "root", None, **there)
                if run["status"] == "paused":
                    break
        assert "secret TOKEN" in run["reason"], run
        whole = await served.ask("GET", "/api/v1/functions/f", "root", None, **there)
        assert "rotated" not in whole.text
    for name in os.listdir(tmp_path):
        if name.startswith("app"):
            with open(tmp_path / name, "rb") as file:  # noqa: ASYNC230 - the server has ended
                kept = file.read()
            assert b"for-default" not in kept, name
            assert b"rotated" not in kept, name
