"""Steps in processes of their own: what comes back, what is refused, and who is killed when."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path
from typing import Any

import process_steps as steps
import pytest
from engine_world import is_clean, play

from ironflow import Context, NonRetryable, StepError, function, testing
from ironflow.core.runs.explain import explain
from ironflow.sdk.process_worker import raised
from ironflow.sdk.processes import Raised, describe_exit, take

QUICK = {"max_attempts": 2, "initial_delay": 0.01}


@function(id="in-process", executor="process", retry=QUICK)
async def in_process(ctx: Context, call: dict[str, Any]) -> Any:
    """Any step of `process_steps`, by name."""
    fn = getattr(steps, call["fn"])
    options = {"timeout": call.get("timeout"), "executor": call.get("executor")}
    return await ctx.step.run("work", fn, *call.get("args", []), **options)


@function(id="sync-in-process", executor="process", retry=QUICK)
def sync_in_process(ctx: Any, call: dict[str, Any]) -> Any:
    """The same from a body in a thread."""
    return ctx.step.run("work", getattr(steps, call["fn"]), *call.get("args", []))


def run(call: dict[str, Any], of: Any = in_process) -> testing.Ended:
    async def main(world: testing.World) -> testing.Ended:
        ended = await world.run(of, call)
        is_clean(world)
        return ended

    ended: testing.Ended = play(main, functions=[of])
    return ended


async def appeared(path: Path) -> list[int]:
    """The pids in a file, once a step has written it. Looks in a thread, which holds time."""

    def look() -> list[int]:
        pause = threading.Event()
        while not path.exists():
            pause.wait(0.005)
        return [int(word) for word in path.read_text().split()]

    return await asyncio.get_running_loop().run_in_executor(None, look)


async def gone(pids: list[int]) -> None:
    """Return once no process has these pids (a zombie that nobody reaps is gone, too)."""

    def lives(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False

    def look() -> None:
        pause = threading.Event()
        while any(lives(pid) for pid in pids):
            pause.wait(0.005)

    await asyncio.get_running_loop().run_in_executor(None, look)


@pytest.mark.parametrize("of", [in_process, sync_in_process])
def test_a_step_runs_in_another_process_which_is_used_again(of: Any) -> None:
    async def main(world: testing.World) -> None:
        first = (await world.run(of, {"fn": "pid"})).result
        second = (await world.run(of, {"fn": "pid"})).result
        assert first == second != os.getpid()
        assert world.executor.processes.pids == [first]
        world.executor.processes.close()
        await gone([first])

    play(main)


def test_values_of_own_types_and_large_ones_go_there_and_back() -> None:
    @function(id="process-values")
    async def values(ctx: Context) -> list[Any]:
        order = steps.Order("o-1", 21)
        doubled = await ctx.step.run("double", steps.double, order, executor="process")
        assert doubled == steps.Order("o-1", 42)
        text = await ctx.step.run("large", steps.large, size=3_000_000, executor="process")
        return [doubled.amount, len(text)]

    async def main(world: testing.World) -> None:
        assert (await world.run(values)).result == [42, 3_000_000]

    play(main)


@pytest.mark.parametrize("where", ["process", "thread"])
def test_an_async_step_may_be_sent_off_the_loop(where: Any) -> None:
    @function(id="async-elsewhere")
    async def elsewhere(ctx: Context) -> list[Any]:
        return [
            await ctx.step.run("later", steps.later, "said", executor=where),
            await ctx.step.run("thread", threading_name, executor=where)
            if where == "thread"
            else None,
        ]

    async def main(world: testing.World) -> None:
        said, thread = (await world.run(elsewhere)).result
        assert (said == f"said in {os.getpid()}") == (where == "thread")
        assert where == "process" or thread.startswith("ironflow-step")

    play(main)


async def threading_name() -> str:
    return threading.current_thread().name


@pytest.mark.parametrize(
    ("kind", "name", "message", "attempts"),
    [
        ("value", "ValueError", "too small", 2),
        ("awkward", "Awkward", "mail 5", 2),
        ("unwilling", "Unwilling", "mail 5", 1),
        ("final", "NonRetryable", "never", 1),
        ("exit", "SystemExit", "4", 1),
        ("interrupt", "KeyboardInterrupt", "KeyboardInterrupt", 2),
    ],
)
def test_what_a_step_raises_comes_back(kind: str, name: str, message: str, attempts: int) -> None:
    ended = run({"fn": "fail", "args": [kind]})
    step = ended.steps["work"]
    assert ended.status == "failed"
    assert step.error is not None
    assert (step.error.kind, step.error.message, step.attempt) == (name, message, attempts)
    assert step.error.trace is not None
    assert "in fail" in step.error.trace
    assert "process_steps.py" in step.error.trace


def test_a_policy_knows_an_exception_that_cannot_travel_by_its_name() -> None:
    error = raised(steps.Awkward("mail", 5))
    assert error.error is None
    with pytest.raises(Exception, match="mail 5") as caught:
        take("s", steps.fail, error)
    assert type(caught.value).__name__ == "Awkward"
    with pytest.raises(NonRetryable):
        take("s", steps.fail, raised(steps.Unwilling("mail", 5)))
    # One whose bytes say nothing here is told in words.
    with pytest.raises(Exception, match="told"):
        take("s", steps.fail, Raised(b"nonsense", ("Odd",), "told", "trace", final=False))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("SIGKILL", "SIGKILL (by hand, or the system was out of memory)"),
        ("SIGSEGV", "was killed by SIGSEGV"),
        ("exit", "exit code 3"),
    ],
)
def test_a_process_that_dies_fails_the_attempt_which_is_tried_again(
    how: str, said: str, tmp_path: Path
) -> None:
    async def main(world: testing.World) -> None:
        failures = []
        world.store.journal.subscribe(
            lambda entries: failures.extend(e.data for e in entries if e.kind == "step.failed")
        )
        ended = await world.run(in_process, {"fn": "die", "args": [how, str(tmp_path / "mark")]})
        assert (ended.result, ended.steps["work"].attempt) == ("lived", 2)
        assert len(failures) == 1
        assert said.encode() in failures[0]
        assert b'"retryable":false' not in failures[0]

    play(main)


def test_one_that_is_killed_from_outside_is_told_and_tried_again(tmp_path: Path) -> None:
    file = tmp_path / "pid"

    async def main(world: testing.World) -> None:
        run_id = await world.start(in_process, {"fn": "burn_the_first_time", "args": [str(file)]})
        worker, child = await appeared(file)
        os.kill(worker, signal.SIGKILL)
        assert (await world.wait(run_id)).result == "second time"
        os.kill(child, signal.SIGKILL)  # nobody could know of it any more

    play(main)


def test_a_time_out_kills_the_process_and_all_that_it_started(tmp_path: Path) -> None:
    file = tmp_path / "pid"

    async def main(world: testing.World) -> None:
        call = {"fn": "burn_the_first_time", "args": [str(file)], "timeout": 5}
        run_id = await world.start(in_process, call)
        pids = await appeared(file)
        world.loop.jump(5)  # by itself time stands still while a process works
        await gone(pids)
        ended = await world.wait(run_id)
        assert ended.result == "second time"
        assert ended.steps["work"].attempt == 2

    failed: list[bytes] = []

    async def watched(world: testing.World) -> None:
        world.store.journal.subscribe(
            lambda entries: failed.extend(e.data for e in entries if e.kind == "step.failed")
        )
        await main(world)

    play(watched)
    assert b"ran longer than 5 s; its process was killed" in failed[0]


@pytest.mark.parametrize("of", [in_process, sync_in_process])
@pytest.mark.parametrize(
    ("fn", "how"), [("burn", "terminated"), ("stall_in_c", "killed"), ("ignore_sigterm", "killed")]
)
def test_a_cancel_ends_the_process_and_the_record_shows_it(
    of: Any, fn: str, how: str, tmp_path: Path
) -> None:
    file = tmp_path / "pid"

    async def main(world: testing.World) -> None:
        world.executor.cancel_grace = 0.3
        run_id = await world.start(of, {"fn": fn, "args": [str(file)]})
        pids = await appeared(file)
        assert await world.cancel(run_id, "enough") in ("running", "cancelled")
        ended = await world.wait(run_id)
        await gone(pids)
        assert (ended.status, ended.reason) == ("cancelled", "enough")
        step = ended.steps["work"]
        assert step.error is not None
        assert step.error.kind == "StepProcessLost"
        assert f"was {how}, because the run was to end" in step.error.message
        ladder = ["asked", "terminated", "killed"]
        state = await world.state(run_id)
        assert [rung.rung for rung in state.rungs] == ladder[: ladder.index(how) + 1]
        whom = f"process {pids[0]} of step 'work'"
        assert {rung.whom for rung in state.rungs} == {whom}
        why = explain(state, world.clock.now()).reasons
        assert any(whom in reason.text and "SIGTERM" in reason.text for reason in why)
        is_clean(world)
        # The pool is as good as new, and the run can be taken up again.
        assert isinstance((await world.run(of, {"fn": "pid"})).result, int)
        file.unlink()
        await world.retry(run_id)
        again = await appeared(file)
        await world.cancel(run_id)
        assert (await world.wait(run_id)).status == "cancelled"
        await gone(again)

    play(main, functions=[of])


@pytest.mark.parametrize("fn", ["ask_whether_cancelled", "await_for_ever"])
def test_a_step_that_listens_ends_by_itself_and_its_process_stays(fn: str, tmp_path: Path) -> None:
    file = tmp_path / "pid"

    async def main(world: testing.World) -> None:
        world.executor.cancel_grace = 60.0
        call = {"fn": fn, "args": [str(file)], "executor": "process"}
        run_id = await world.start(in_process, call)
        (pid,) = await appeared(file)
        await world.cancel(run_id)
        ended = await world.wait(run_id)
        assert (ended.status, ended.steps) == ("cancelled", {})
        rungs = (await world.state(run_id)).rungs
        assert [(rung.rung, str(pid) in rung.whom) for rung in rungs] == [("asked", True)]
        assert world.executor.processes.pids == [pid]
        # The next one is not told what was meant for this one.
        assert (await world.run(in_process, {"fn": "cancelled_now"})).result is False

    play(main)


def test_a_crash_of_the_server_leaves_no_process(tmp_path: Path) -> None:
    file = tmp_path / "pid"

    async def main(world: testing.World) -> None:
        run_id = await world.start(in_process, {"fn": "burn_the_first_time", "args": [str(file)]})
        pids = await appeared(file)
        await world.crash()
        await gone(pids)
        assert (await world.wait(run_id)).result == "second time"

    play(main)


def test_more_calls_than_processes_wait_their_turn_and_a_waiting_one_can_be_cancelled(
    tmp_path: Path,
) -> None:
    file = tmp_path / "pid"

    async def main(world: testing.World) -> None:
        world.executor._process_options = 1, None
        world.executor.cancel_grace = 0.1
        busy = await world.start(in_process, {"fn": "burn", "args": [str(file)]})
        await appeared(file)
        waiting = await world.start(in_process, {"fn": "pid"})
        dropped = await world.start(in_process, {"fn": "pid"})
        while len(world.executor.processes._waiting) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await world.cancel(dropped)
        ended = await world.wait(dropped)
        assert (ended.status, ended.steps) == ("cancelled", {})
        await world.cancel(busy)
        assert isinstance((await world.wait(waiting)).result, int)
        assert len(world.executor.processes.pids) == 1

    play(main)


def inner() -> Any:
    def local() -> None:
        return None

    return local


@pytest.mark.parametrize(
    ("fn", "args", "said"),
    [
        (inner(), [], "inner.<locals>.local cannot be imported there (it is defined inside a fun"),
        (lambda: 1, [], "it is defined inside a function"),
        (steps.pid, [lambda: 1], "its arguments cannot be sent there"),
        (steps.pid, [steps.Secret()], "not out of here"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_name(fn: Any, args: Any, said: str) -> None:
    @function(id="unsendable")
    async def unsendable(ctx: Context) -> Any:
        return await ctx.step.run("work", fn, *args, executor="process")

    async def main(world: testing.World) -> None:
        ended = await world.run(unsendable)
        assert ended.status == "failed"
        assert ended.error is not None
        assert ended.error.kind == "InvalidInput"
        assert "executor: step 'work' cannot run in a process" in ended.error.message
        assert said in ended.error.message
        assert ended.steps["work"].attempt == 1

    play(main)


def test_a_result_that_cannot_leave_is_told() -> None:
    ended = run({"fn": "unsendable"})
    assert ended.error is not None
    assert ended.error.kind == "NotSerializable"
    assert "cannot leave the process" in ended.error.message


def test_an_unknown_place_is_refused() -> None:
    @function(id="odd-place", retry=1)
    async def odd(ctx: Context) -> None:
        with pytest.raises(StepError):
            await ctx.step.run("a", steps.pid, executor="moon")  # type: ignore[arg-type]

    async def main(world: testing.World) -> None:
        ended = await world.run(odd)
        assert ended.error is not None
        assert "'moon' is none of loop, thread, process" in ended.error.message

    play(main)


def test_a_mocked_step_needs_no_process() -> None:
    async def main(world: testing.World) -> None:
        world.mock_step("work", "mocked")
        assert (await world.run(in_process, {"fn": "pid"})).result == "mocked"
        assert "processes" not in vars(world.executor)

    play(main)


@pytest.mark.parametrize(
    ("code", "words"),
    [(1, "exit code 1"), (0, "exit code 0"), (-11, "SIGSEGV"), (-99, "signal 99")],
)
def test_how_a_process_ended_in_words(code: int, words: str) -> None:
    assert words in describe_exit(code)


@pytest.mark.parametrize("where", ["process", "thread", "loop"])
def test_a_step_that_raises_stop_iteration_fails_and_does_not_hang(where: Any) -> None:
    @function(id="stops", retry=1)
    async def stops(ctx: Context) -> None:
        await ctx.step.run("stop", steps.stop_iteration, executor=where)

    async def main(world: testing.World) -> None:
        ended = await world.run(stops)
        assert ended.status == "failed"
        error = ended.steps["stop"].error
        assert error is not None
        assert "StopIteration" in f"{error.kind}: {error.message}"

    play(main, functions=[stops])
