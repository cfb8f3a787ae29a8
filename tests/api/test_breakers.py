"""Circuit breakers over HTTP."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from ironflow.actors.endpoints.breakers import IDLE_AFTER, Speak
from ironflow.core.functions.definition import Definition, Endpoint

URL = "https://endpoint.invalid/x"


class NoNetwork:
    """Whoever is called is not there."""

    def check(self, url: str) -> None:
        return None

    async def call(self, url: str, body: bytes, seconds: float) -> Any:
        raise AssertionError("nothing is sent while a breaker is open")


async def test_breakers_are_listed_opened_closed_and_reset(memory_api: Any) -> None:
    api = memory_api
    api.engine.endpoints.caller = NoNetwork()
    made = Definition(id="far", name="far", code="c", placement="push", endpoint=Endpoint(url=URL))
    await api.engine.register_remote(made)
    (breaker,) = (await api.get("/api/v1/circuit-breakers")).json["items"]
    assert (breaker["key"], breaker["state"]) == (f"far|{URL}", "closed")
    path = f"/api/v1/circuit-breakers/{quote(breaker['key'], safe='')}"
    opened = (await api.post(f"{path}/open", {"reason": "maintenance"})).json
    assert (opened["state"], opened["open_until"]) == ("open", None)
    run_id = await api.start("far")
    why = (await api.get(f"/api/v1/runs/{run_id}/why")).json
    assert "circuit breaker" in why["summary"]
    await api.post(f"/api/v1/runs/{run_id}/cancel")
    for word in ("reset", "close"):
        assert (await api.post(f"{path}/{word}")).json["state"] == "closed"
    assert (await api.post("/api/v1/circuit-breakers/none/open")).status == 404


async def test_breakers_that_no_function_uses_are_let_go_of_and_remembered(
    memory_api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, engine = memory_api, memory_api.engine
    engine.endpoints.caller = NoNetwork()

    async def place(number: int) -> str:
        url = f"{URL}{number}"
        await engine.register_remote(
            Definition(id="far", name="far", code=f"c{number}", placement="push",
                       endpoint=Endpoint(url=url))
        )  # fmt: skip
        return f"far|{url}"

    def pass_on() -> None:
        """Idle actors are looked for, much later."""
        for cell in engine.system._cells.values():
            cell.touched -= 2 * IDLE_AFTER
        engine.system._drop_idle()

    keys = [await place(number) for number in range(20)]
    await engine.system.ref("breaker", keys[3]).ask(Speak("open"))
    await engine.system.ref("breaker", keys[19]).ask(Speak("open"))
    assert set(engine.endpoints.breakers) == set(keys)
    pass_on()
    assert set(engine.endpoints.breakers) == {keys[19]}, "what is used stays"
    live = [key for key in keys if engine.system.is_live(f"breaker/{key}")]
    assert live == [keys[19]]
    # What is known of an outage is known again before anything may be sent.
    states: list[str] = []
    add = engine.endpoints.add

    def look(definition: Definition) -> None:
        states.append(engine.endpoints.breakers[keys[3]].status.value)
        add(definition)

    monkeypatch.setattr(engine.endpoints, "add", look)
    assert await place(3) == keys[3]
    assert states == ["open"]
    run_id = await api.start("far")
    assert "circuit breaker" in (await api.get(f"/api/v1/runs/{run_id}/why")).json["summary"]
    await api.post(f"/api/v1/runs/{run_id}/cancel")
    pass_on()
    assert set(engine.endpoints.breakers) == {keys[3]}


async def test_reports_of_no_execution_are_refused_one_by_one(memory_api: Any) -> None:
    report = {"job_id": "x.1", "execution_seq": 1, "lease_token": "t", "command": "leave",
              "data": {}}  # fmt: skip
    body = {"reports": [report, report]}
    answers = (await memory_api.post("/api/v1/executions/commands", body)).json["answers"]
    assert [answer["code"] for answer in answers] == ["STALE_EXECUTION"] * 2
    wrong = await memory_api.post("/api/v1/executions/commands", {"reports": [1]})
    assert wrong.status == 422
