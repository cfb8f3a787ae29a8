"""Flow control as users say it: what is taken, what is refused, and how it is stored."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

import ironflow
from ironflow.core.errors import IronflowError
from ironflow.core.functions.definition import Definition, check_policies
from ironflow.core.functions.flow_control import (
    Batch,
    Concurrency,
    Debounce,
    Fairness,
    FlowControl,
    RateLimit,
    Singleton,
    Throttle,
    flow_control_of,
)
from ironflow.sdk.function import define


async def body(ctx: Any) -> None:
    """Does nothing."""


def test_mappings_and_objects_mean_the_same() -> None:
    said = {
        "concurrency": [5, {"limit": 1, "key": "data.org"}],
        "priority": "data.plan == 'pro' ? 10 : 0",
        "fairness": {"key": "data.org", "weights": {"big": 3}},
        "rate_limit": {"limit": 10, "period": "1h", "key": "user"},
        "throttle": {"limit": 2, "period": timedelta(minutes=1)},
        "debounce": {"period": 5, "key": "event.data.doc", "max_wait": "1m"},
        "singleton": {"key": "data.org", "mode": "cancel"},
    }
    expected = FlowControl(
        concurrency=(Concurrency(5), Concurrency(1, "data.org")),
        priority="data.plan == 'pro' ? 10 : 0",
        fairness=Fairness("data.org", {"big": 3}),
        rate_limit=RateLimit(10, 3600.0, "user"),
        throttle=Throttle(2, 60.0),
        debounce=Debounce(5.0, "event.data.doc", 60.0),
        singleton=Singleton("data.org", "cancel"),
    )
    assert flow_control_of(said) == flow_control_of(expected) == expected
    assert flow_control_of(None) == FlowControl()
    assert flow_control_of({"batch": {"size": 5, "wait": "2s"}}).batch == Batch(5, 2.0)
    assert ironflow.FlowControl is FlowControl


def test_limits_keep_their_shape_in_what_is_stored() -> None:
    short = define(body, id="f", concurrency=3, flow_control={"priority": 2}).definition
    long = define(body, id="f", flow_control={"concurrency": 3, "priority": 2}).definition
    assert short == long
    assert short.policies == FlowControl(concurrency=(Concurrency(3),), priority=2)
    stored = msgspec.json.decode(msgspec.json.encode(short))
    assert stored["concurrency"] == [{"limit": 3}]
    assert stored["flow_control"] == {"priority": 2}
    plain = msgspec.json.decode(msgspec.json.encode(define(body, id="f").definition))
    assert "flow_control" not in plain
    old = {"id": "f", "name": "f", "code": "c", "concurrency": [{"limit": 1, "key": "a"}]}
    assert msgspec.convert(old, Definition).policies.concurrency == (Concurrency(1, "a"),)


@pytest.mark.parametrize(
    ("said", "field"),
    [
        (5, "flow_control"),
        ({"limit": 5}, "flow_control.limit"),
        ({"concurrency": 0}, "flow_control.concurrency.limit"),
        ({"concurrency": {"limit": 1, "key": "a b"}}, "flow_control.concurrency.key"),
        ({"priority": "plan"}, "flow_control.priority"),
        ({"priority": "1 +"}, "flow_control.priority"),
        ({"priority": 0.5}, "flow_control.priority"),
        ({"priority": True}, "flow_control.priority"),
        ({"priority": 10**9}, "flow_control.priority"),
        ({"fairness": "data.org"}, "flow_control.fairness"),
        ({"fairness": {}}, "flow_control.fairness.key"),
        ({"fairness": {"key": "a", "weights": {"b": 0}}}, "flow_control.fairness.weights.b"),
        ({"fairness": {"key": "a", "weights": [1]}}, "flow_control.fairness.weights"),
        ({"throttle": {"limit": 1}}, "flow_control.throttle.period"),
        ({"throttle": {"limit": 0, "period": 1}}, "flow_control.throttle.limit"),
        ({"throttle": {"limit": 1, "period": 0.5}}, "flow_control.throttle.period"),
        ({"throttle": {"limit": 1, "period": "soon"}}, "flow_control.throttle.period"),
        ({"throttle": {"limit": 10**6, "period": 1}}, "flow_control.throttle.limit"),
        ({"throttle": {"limit": 1, "period": 1, "key": ""}}, "flow_control.throttle.key"),
        ({"throttle": {"limit": 1, "period": 1, "per": "a"}}, "flow_control.throttle.per"),
        ({"rate_limit": {"limit": True, "period": 1}}, "flow_control.rate_limit.limit"),
        ({"rate_limit": Throttle(1, 1)}, "flow_control.rate_limit"),
        ({"debounce": {"period": 0}}, "flow_control.debounce.period"),
        ({"debounce": {"period": 9, "max_wait": 5}}, "flow_control.debounce.max_wait"),
        ({"batch": {"size": 0, "wait": 1}}, "flow_control.batch.size"),
        ({"batch": {"size": 5, "wait": 0}}, "flow_control.batch.wait"),
        ({"batch": Batch(5, 1), "debounce": Debounce(5)}, "flow_control.batch"),
        ({"singleton": {"mode": "queue"}}, "flow_control.singleton.mode"),
        ({"singleton": {"key": "a["}}, "flow_control.singleton.key"),
    ],
)
def test_what_makes_no_sense_is_refused_by_the_name_of_its_field(said: Any, field: str) -> None:
    with pytest.raises(IronflowError) as refused:
        flow_control_of(said)
    assert getattr(refused.value, "field", None) == field


def test_a_limit_is_given_once() -> None:
    twice = Definition(
        id="f",
        name="f",
        code="c",
        concurrency=(Concurrency(1),),
        flow_control=FlowControl(concurrency=(Concurrency(2),)),
    )
    with pytest.raises(IronflowError, match="given twice"):
        check_policies(twice)
