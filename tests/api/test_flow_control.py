"""Flow control over HTTP: what is registered comes back, what makes no sense is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

REGISTER = "/ironflow.v1.IronflowService/RegisterFunction"
FUNCTION = "/api/v1/functions/f"


async def register(api: Any, **facts: Any) -> tuple[int, Any]:
    """Status and body of a registration."""
    async with api.client.post(REGISTER, json={"id": "f", **facts}) as response:
        return response.status, await response.json()


async def test_policies_of_a_registration_come_back(memory_api: Any) -> None:
    policies = {
        "concurrency": {"limit": 2, "key": "org"},
        "priority": "data.urgent ? 1 : 0",
        "fairness": {"key": "data.org", "weights": {"big": 2.0}},
        "rateLimit": {"limit": 10, "periodMs": 60_000, "key": ""},
        "throttle": {"limit": 3, "periodMs": 1000, "key": "data.org"},
        "debounce": {"periodMs": 2000, "key": "data.doc", "maxWaitMs": "9000"},
        "singleton": {"key": "data.org", "mode": "cancel"},
    }
    status, made = await register(memory_api, **policies)
    assert status == 200
    assert {name: made["function"][name] for name in policies} == policies
    _, again = await register(memory_api, **policies)
    assert (again["function"]["version"], again["created"]) == (1, False)
    shown = (await memory_api.get(FUNCTION)).json
    assert shown["flow_control"]["throttle"]["period"] == 1.0
    assert shown["flow_control"]["concurrency"] == [{"limit": 2, "key": "org"}]
    batch = {"size": 5, "waitMs": 100, "key": ""}
    _, other = await register(memory_api, id="g", batch=batch)
    assert other["function"]["batch"] == batch


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        ({"throttle": {"limit": 0, "periodMs": 1000}}, "throttle.limit"),
        ({"throttle": {"limit": 1, "periodMs": 10}}, "throttle.period"),
        ({"debounce": {"periodMs": 5000, "maxWaitMs": 1000}}, "debounce.max_wait"),
        ({"priority": "nobody"}, "priority"),
        ({"concurrency": {"limit": 1, "key": "a b"}}, "concurrency.key"),
    ],
)
async def test_a_registration_that_makes_no_sense_is_refused(
    memory_api: Any, policy: Any, field: str
) -> None:
    status, refused = await register(memory_api, **policy)
    assert (status, refused["code"]) == (400, "invalid_argument")
    assert field in refused["message"]
    assert "flow_control" not in refused["message"]


async def test_a_definition_that_makes_no_sense_is_refused(memory_api: Any) -> None:
    base = {"id": "f", "name": "f", "code": "c", "placement": "pull"}
    for control, field in (
        ({"throttle": {"limit": 0, "period": 5}}, "flow_control.throttle.limit"),
        ({"priority": "nobody"}, "flow_control.priority"),
        ({"concurrency": [{"limit": 0}]}, "flow_control.concurrency.limit"),
    ):
        body = msgspec.json.encode(base | {"flow_control": control})
        refused = await memory_api.ask("PUT", FUNCTION, data=body)
        assert refused.status in (400, 422)
        assert field in str(refused.json)
    twice = base | {"concurrency": [{"limit": 1}], "flow_control": {"concurrency": [{"limit": 1}]}}
    refused = await memory_api.ask("PUT", FUNCTION, data=msgspec.json.encode(twice))
    assert "given twice" in str(refused.json)
