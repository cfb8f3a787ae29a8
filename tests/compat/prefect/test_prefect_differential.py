"""The same requests to the real Prefect server and to ironflow: the answers differ in nothing but
identifiers, moments and made-up names.
"""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from compat.prefect.normal_form import NormalForm, differences
from compat.prefect.sequences import Operation, flow_sequence, pause_sequence, task_sequence
from compat.prefect.servers import Answer, Server

TRIES = 6
"""The real server refuses with 503 when its database is locked; then all is tried anew."""


class Busy(Exception):
    """The real server's database is locked."""


def play(server: Server, operations: list[Operation]) -> list[tuple[Answer, Any]]:
    """The answers of one server, each with its normal form. Ends at a defect of the server."""
    known = {"nonce": str(uuid.uuid4())}
    form = NormalForm()
    answers = []
    for operation in operations:
        path, body = operation.filled(known)
        answer = server.ask(operation.method, path, body)
        if answer.status == 503:
            raise Busy
        if operation.keep and isinstance(answer.body, dict) and "id" in answer.body:
            known[operation.keep] = answer.body["id"]
        answers.append((answer, form.of(answer.body)))
        if answer.status >= 500:
            break
    return answers


def compare(real: Server, ours: Server, operations: list[Operation]) -> None:
    """Both answer the same, operation by operation; where the real one has a defect, ours has
    none.
    """
    for _ in range(TRIES):
        try:
            theirs = play(real, operations)
            break
        except Busy:
            continue
    else:
        pytest.fail(f"the real server was busy {TRIES} times")
    mine = play(ours, operations)
    for number, (there, here) in enumerate(zip(theirs, mine, strict=False)):
        said = "\n  ".join(str(operation) for operation in operations[: number + 1])
        assert here[0].status < 500, f"{said}\n{here[0]}"
        if there[0].status >= 500:
            return
        found = differences(there[1], here[1])
        if here[0].status != there[0].status:
            found.insert(0, f"status: real {there[0].status}, ours {here[0].status}")
        assert not found, f"{said}\n-- " + "\n-- ".join(found)


@pytest.mark.parametrize("seed", range(40))
def test_flow_runs_take_the_same_states(real: Server, ours: Server, seed: int) -> None:
    compare(real, ours, flow_sequence(seed))


@pytest.mark.parametrize("seed", range(40))
def test_task_runs_take_the_same_states(real: Server, ours: Server, seed: int) -> None:
    compare(real, ours, task_sequence(1000 + seed))


@pytest.mark.parametrize("seed", range(12))
def test_flow_runs_pause_and_resume_alike(real: Server, ours: Server, seed: int) -> None:
    compare(real, ours, pause_sequence(2000 + seed))
