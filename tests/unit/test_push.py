"""Push: endpoints that answer, hang, lie and fall over, on virtual time. Bodies run in our own
endpoint, called without a network; the plain protocol is answered by the tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from engine_world import is_clean
from push_network import KEY, URL, Network, definition, own, pushed

from ironflow import Endpoint, testing
from ironflow.actors.endpoints.breakers import Speak
from ironflow.actors.endpoints.endpoints import breaker_key
from ironflow.core.errors import InvalidInput
from ironflow.core.functions import definition as fn
from ironflow.core.functions.secrets import SecretMissing
from ironflow.core.remote.breaker import BreakerPolicy
from ironflow.core.remote.push import CallFailure, Reply
from ironflow.core.runs.entries import RunOptions
from ironflow.core.runs.retry import RetryPolicy
from ironflow.sdk.function import Function


async def register(world: testing.World, *functions: Function, **endpoint: Any) -> None:
    for function in functions:
        facts = {"url": URL, "reports": "commands"} | endpoint
        import msgspec

        made = msgspec.structs.replace(
            function.spec.definition, placement="push", endpoint=fn.Endpoint(**facts)
        )
        await world.engine.register_remote(made)


@pytest.mark.parametrize("steps", [None, 1, 2])
@pytest.mark.parametrize("crash", [False, True])
def test_a_body_behind_an_endpoint_does_everything(steps: int | None, crash: bool) -> None:
    calls: list[str] = []

    async def note(name: str, value: Any) -> Any:
        calls.append(name)
        return value

    @own(id="kid")
    async def kid(ctx: Any, value: int) -> int:
        return await ctx.step.run("double", note, "double", value * 2)  # type: ignore[no-any-return]

    async def flaky() -> str:
        calls.append("flaky")
        if calls.count("flaky") < 3:
            raise ValueError("not yet")
        return "at last"

    @own(id="whole", on="whole.go")
    async def whole(ctx: Any, order: dict[str, Any]) -> Any:
        big = await ctx.step.run("big", note, "big", "x" * 100_000)
        await ctx.step.sleep("nap", "1h")

        async def branch(number: int) -> int:
            await ctx.step.sleep("pause", f"{number}m")
            return await ctx.step.run("leaf", note, f"leaf{number}", number)  # type: ignore[no-any-return]

        numbers = await ctx.step.map("branches", branch, [3, 1, 2])
        tried = await ctx.step.run("flaky", flaky)
        paid = await ctx.step.wait_for_event("paid", "paid", match={"data.id": order["id"]})
        child = await ctx.step.invoke("kid", "kid", 21)
        return [len(big), numbers, tried, paid.data["sum"], child]

    async def main(world: testing.World, network: Network) -> None:
        network.serve(Endpoint([whole, kid], signing_key=KEY, max_steps=steps, clock=world.clock))
        await register(world, whole, kid)
        (run_id,) = (await world.emit("whole.go", {"id": 1})).run_ids
        for _ in range(6):
            await world.advance("20m")
            if crash:
                await world.crash()
        await world.emit("paid", {"id": 1, "sum": 7})
        ended = await world.wait(run_id, "1d")
        assert ended.result == [100_000, [3, 1, 2], "at last", 7, 42]
        assert {name: calls.count(name) for name in set(calls)} == {
            "big": 1, "leaf1": 1, "leaf2": 1, "leaf3": 1, "flaky": 3, "double": 1,
        }  # fmt: skip
        is_clean(world)

    pushed(main)


def test_a_cancelled_run_is_sent_again_to_compensate() -> None:
    calls: list[str] = []

    @own(id="saga", compensate_on=["cancelled"])
    async def saga(ctx: Any) -> None:
        await ctx.step.run("book", calls.append, "book")
        ctx.step.compensate("unbook", calls.append, "unbook")
        await ctx.step.run("slow", asyncio.sleep, 5)
        await ctx.step.sleep("long", "10d")

    async def main(world: testing.World, network: Network) -> None:
        network.serve(Endpoint([saga], signing_key=KEY, clock=world.clock))
        await register(world, saga)
        run_id = await world.start("saga")
        await world.advance(2)
        await world.cancel(run_id)
        ended = await world.wait(run_id, "1m")
        assert (ended.status, calls.count("unbook")) == ("cancelled", 1)
        is_clean(world)

    pushed(main)


def test_the_plain_protocol_is_spoken() -> None:
    async def main(world: testing.World, network: Network) -> None:
        await world.engine.register_remote(definition())
        answers: list[Any] = []
        until = (world.now() + timedelta(days=2)).isoformat()

        async def answer() -> Any:
            return answers.pop(0)

        network.answer(answer)
        step = {"id": "RUN:a:0", "name": "a", "type": "invoke", "status": "completed", "output": 1}
        answers += [
            {"status": "yielded", "steps": [step],
             "yield": {"step_id": "RUN:nap:0", "type": "sleep", "until": until}},
            {"status": "failed", "error": {"message": "once", "retryable": True}, "steps": []},
            {"status": "completed", "result": {"ok": 1}, "steps": []},
        ]  # fmt: skip
        run_id = await world.start("far", {"n": 1})
        ended = await world.wait(run_id, "4d")
        assert (ended.status, ended.result) == ("completed", {"ok": 1})
        first, second, third = network.calls
        assert (first["steps"], first["attempt"], first["event"]["data"]) == ([], 1, {"n": 1})
        assert [s["status"] for s in second["steps"]] == ["completed", "completed"]
        assert third["attempt"] == 2

    pushed(main)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (500, "answered 500"),
        (404, "answered 404"),
        (302, "answered 302"),
        (CallFailure("cannot be reached"), "cannot be reached"),
        (Reply(200, b"<html>"), "no answer of an endpoint"),
        (Reply(200, b"[]"), "no answer of an endpoint"),
        (Reply(200, b'{"status":"yielded"}'), "yield"),
        (Reply(200, b'{"status":"dancing"}'), "no answer of an endpoint"),
        (Reply(200, b"[" * 100_000), "no answer of an endpoint"),
    ],
)
def test_a_call_that_does_not_come_through_is_tried_again(bad: Any, reason: str) -> None:
    async def main(world: testing.World, network: Network) -> None:
        await world.engine.register_remote(definition())
        network.answer(bad, {"status": "completed", "result": 5})
        run_id = await world.start("far")
        await world.advance(0.5)
        run = await world.state(run_id)
        assert run.error is not None
        assert (run.error.code, run.attempt) == ("endpoint_failed", 1)
        assert reason in run.error.message
        assert (await world.wait(run_id)).result == 5
        assert network.calls[1]["attempt"] == 1

    pushed(main)


def test_a_run_that_can_never_be_delivered_is_paused_with_the_reason() -> None:
    async def main(world: testing.World, network: Network) -> None:
        await world.engine.register_remote(
            definition(endpoint={"breaker": BreakerPolicy(failures=100)})
        )
        network.answer(500)
        run_id = await world.start("far")
        await world.advance("1h")
        run = await world.state(run_id)
        assert (run.status, run.paused_cause, len(network.calls)) == ("paused", "crash_loop", 3)
        assert "answered 500" in (run.reason or "")
        network.answer({"status": "completed"})
        await world.resume(run_id)
        assert (await world.wait(run_id)).status == "completed"

    pushed(main, max_crashes=2)


def test_retry_after_is_honoured_and_an_endpoint_that_hangs_is_left() -> None:
    async def hang() -> None:
        await asyncio.sleep(1000)

    async def main(world: testing.World, network: Network) -> None:
        await world.engine.register_remote(definition(endpoint={"timeout": 4.0}))
        network.answer(Reply(503, b"", 42.0), hang, {"status": "completed"})
        run_id = await world.start("far")
        await world.advance(1)
        run = await world.state(run_id)
        assert (run.retry_at or 0) - run.updated_at == 42_000_000
        await world.advance(46)
        run = await world.state(run_id)
        assert run.error is not None
        assert "within 4 s" in run.error.message
        assert (await world.wait(run_id)).status == "completed"

    pushed(main)


def test_the_breaker_opens_runs_wait_and_one_probe_decides() -> None:
    async def main(world: testing.World, network: Network) -> None:
        made = definition(options=RunOptions(retry=RetryPolicy(max_attempts=1, initial_delay=0)))
        await world.engine.register_remote(made)
        assert made.endpoint is not None
        key = breaker_key("far", made.endpoint)
        network.answer(500)
        ids = [await world.start("far", n) for n in range(20)]
        await world.advance(30)
        state = world.engine.endpoints.breakers[key]
        assert (state.status, state.openings) == ("open", 1)
        sent = len(network.calls)
        waiting = [i for i in ids if (await world.state(i)).status == "queued"]
        assert len(waiting) >= 15
        assert "circuit breaker" in (world.engine.host.held_up("far") or "")
        await world.crash()  # an outage is not forgotten
        await world.advance(25)
        assert len(network.calls) == sent
        await world.advance(10)  # the pause is over: one probe, which fails
        assert len(network.calls) == sent + 1
        assert world.engine.endpoints.breakers[key].openings == 2
        network.answer({"status": "completed"})
        await world.advance(100)
        assert len(network.calls) == sent + 1  # the second pause is twice as long
        for run_id in waiting:
            assert (await world.wait(run_id)).status == "completed"
        assert world.engine.endpoints.breakers[key].status == "closed"
        is_clean(world)

    pushed(main)


def test_operators_open_close_and_reset() -> None:
    async def main(world: testing.World, network: Network) -> None:
        made = definition()
        await world.engine.register_remote(made)
        assert made.endpoint is not None
        breaker = world.engine.system.ref("breaker", breaker_key("far", made.endpoint))
        network.answer({"status": "completed"})
        assert await breaker.ask(Speak("open")) == "open"
        run_id = await world.start("far")
        await world.advance("2d")
        assert (await world.state(run_id)).status == "queued"
        assert "operator" in (world.engine.host.held_up("far") or "")
        assert await breaker.ask(Speak("close")) == "closed"
        assert (await world.wait(run_id, "1m")).status == "completed"

    pushed(main)


def test_no_more_calls_at_once_than_the_endpoint_wants() -> None:
    async def work() -> dict[str, Any]:
        await asyncio.sleep(1)
        return {"status": "completed"}

    async def main(world: testing.World, network: Network) -> None:
        await world.engine.register_remote(definition(endpoint={"concurrency": 3}))
        network.answer(work)
        ids = [await world.start("far", n) for n in range(10)]
        for run_id in ids:
            assert (await world.wait(run_id)).status == "completed"
        assert network.most == 3
        assert [call["event"]["data"] for call in network.calls] == list(range(10))

    pushed(main)


class Drawer:
    """Secrets that are at hand."""

    def __init__(self, **values: str) -> None:
        self.values = values

    async def read(self, names: Sequence[str]) -> dict[str, str]:
        for name in names:
            if name not in self.values:
                raise SecretMissing(name, "is not in the drawer")
        return {name: self.values[name] for name in names}


def test_a_call_brings_the_secrets_of_its_function_as_they_are_then() -> None:
    async def main(world: testing.World, network: Network) -> None:
        engine, drawer = world.engine, Drawer(A="one", B="two", C="three")
        plain = definition()
        made = msgspec.structs.replace(plain, secrets=("A", "B"))
        with pytest.raises(InvalidInput, match="secrets: secret A: this server was given none"):
            await engine.register_remote(made)
        engine.secrets = engine.endpoints.secrets = drawer
        await engine.register_remote(made)
        network.answer({"status": "completed"})
        assert (await world.wait(await world.start("far"))).status == "completed"
        drawer.values["B"] = "new"
        assert (await world.wait(await world.start("far"))).status == "completed"
        del drawer.values["A"]
        run_id = await world.start("far")
        await world.advance(0.5)
        run = await world.state(run_id)
        assert run.error is not None
        assert "secret A: is not in the drawer" in run.error.message
        assert run.attempt == 1, "it uses up no attempt"
        drawer.values["A"] = "again"
        assert (await world.wait(run_id, "1m")).status == "completed"
        await engine.register_remote(plain)
        assert (await world.wait(await world.start("far"))).status == "completed"
        assert [call.get("secrets") for call in network.calls] == [
            {"A": "one", "B": "two"}, {"A": "one", "B": "new"}, {"A": "again", "B": "new"}, None
        ]  # fmt: skip
        for names in (["-"], ["a/b"], [""], ["x" * 101], ["A"] * 101):
            with pytest.raises(InvalidInput) as refused:
                await engine.register_remote(msgspec.structs.replace(plain, secrets=tuple(names)))
            assert refused.value.field == "secrets"

    pushed(main)


def test_functions_of_one_address_share_its_calls_in_the_order_of_arrival() -> None:
    async def work() -> dict[str, Any]:
        await asyncio.sleep(1)
        return {"status": "completed"}

    async def main(world: testing.World, network: Network) -> None:
        for id_, concurrency in (("far", 2), ("wide", 3), ("broken", 3)):
            made = definition(endpoint={"concurrency": concurrency})
            await world.engine.register_remote(msgspec.structs.replace(made, id=id_))
        url = definition().endpoint.url  # type: ignore[union-attr]
        await world.engine.system.ref("breaker", f"broken|{url}").ask(Speak("open"))
        network.answer(work)
        held = await world.start("broken")
        order = ["far", "far", "far", "wide", "wide", "far", "wide", "far"]
        ids = [await world.start(id_, n) for n, id_ in enumerate(order)]
        assert world.engine.endpoints.load_at(url) == (3, 3)
        assert world.engine.endpoints.load("far")[0] == 2
        for run_id in ids:
            assert (await world.wait(run_id)).status == "completed"
        assert network.most == 3
        sent = [(call["function_id"], call["event"]["data"]) for call in network.calls]
        # `far` has two at most, so that `wide` (3) goes before the third of it (2).
        assert [n for _, n in sent] == [0, 1, 3, 2, 4, 5, 6, 7]
        assert world.engine.endpoints.load_at(url) == (0, 3)
        pull = msgspec.structs.replace(definition(), id="wide", placement="pull", endpoint=None)
        await world.engine.register_remote(msgspec.structs.replace(pull))
        assert world.engine.endpoints.load_at(url) == (0, 3)  # `broken` may have three, too
        assert (await world.state(held)).status == "queued"
        await world.engine.system.ref("breaker", f"broken|{url}").ask(Speak("close"))
        assert (await world.wait(held)).status == "completed"

    pushed(main)


def test_a_function_that_moves_is_called_at_its_new_address_alone() -> None:
    async def work() -> dict[str, Any]:
        await asyncio.sleep(10)
        return {"status": "completed"}

    async def main(world: testing.World, network: Network) -> None:
        endpoints, new = world.engine.endpoints, "https://new.example/ironflow"
        await world.engine.register_remote(definition(endpoint={"concurrency": 1}))
        old = definition().endpoint.url  # type: ignore[union-attr]
        network.answer(work)
        network.answer({"status": "completed"}, url=new)
        first, second = await world.start("far", 1), await world.start("far", 2)
        await world.advance(0.5)
        assert (endpoints.load_at(old), endpoints.load("far")) == ((1, 1), (1, 1))
        await world.engine.register_remote(definition(url=new, endpoint={"concurrency": 1}))
        await world.advance(0.5)
        # The one that is under way counts for the function; its old address is not forgotten yet.
        assert (endpoints.load_at(old), endpoints.load_at(new)) == ((1, 0), (0, 1))
        for run_id in (first, second):
            assert (await world.wait(run_id, "1m")).status == "completed"
        assert (endpoints.load_at(old), endpoints.load_at(new)) == ((0, 0), (0, 1))
        assert old not in endpoints._addresses

    pushed(main)


def test_a_function_moves_between_workers_and_endpoints() -> None:
    async def main(world: testing.World, network: Network) -> None:
        pull = msgspec.structs.replace(definition(), placement="pull", endpoint=None)
        await world.engine.register_remote(pull)
        run_id = await world.start("far")
        network.answer({"status": "completed"})
        await world.engine.register_remote(definition())
        assert (await world.wait(run_id, "1m")).status == "completed"
        for url in ("forbidden://x", "http://forbidden/"):
            with pytest.raises(InvalidInput) as refused:
                await world.engine.register_remote(definition(url=url))
            assert refused.value.field == "endpoint.url"

    pushed(main)
