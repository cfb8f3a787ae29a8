"""The same requests to the real Prefect server and to ironflow: the answers differ in nothing but
identifiers, moments and made-up names.
"""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from compat.prefect.event_cases import Questions, events
from compat.prefect.filter_cases import data, question
from compat.prefect.normal_form import NormalForm, differences
from compat.prefect.sequences import (
    Operation,
    flow_sequence,
    other_words,
    pause_sequence,
    task_sequence,
)
from compat.prefect.servers import Answer, Server

TRIES = 6
"""The real server refuses with 503 when its database is locked; then all is tried anew."""


class Busy(Exception):
    """The real server's database is locked."""


def play(
    server: Server,
    operations: list[Operation],
    known: dict[str, str] | None = None,
    form: NormalForm | None = None,
) -> list[tuple[Answer, Any]]:
    """The answers of one server, each with its normal form. Ends at a defect of the server."""
    known = {"nonce": str(uuid.uuid4())} if known is None else known
    form = form or NormalForm()
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


def assert_alike(real: Server, ours: Server, operations: list[Operation]) -> None:
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


@pytest.mark.parametrize("seed", range(45))
def test_flow_runs_take_the_same_states(real: Server, ours: Server, seed: int) -> None:
    assert_alike(real, ours, flow_sequence(seed))


@pytest.mark.parametrize("seed", range(45))
def test_task_runs_take_the_same_states(real: Server, ours: Server, seed: int) -> None:
    assert_alike(real, ours, task_sequence(1000 + seed))


@pytest.mark.parametrize("seed", range(12))
def test_flow_runs_pause_and_resume_alike(real: Server, ours: Server, seed: int) -> None:
    assert_alike(real, ours, pause_sequence(2000 + seed))


def test_what_is_said_in_other_words_is_taken_alike(real: Server, ours: Server) -> None:
    """Or refused by both: how a refusal is put is each server's own matter."""
    forms = {real: NormalForm(), ours: NormalForm()}
    known = {server: {"nonce": str(uuid.uuid4())} for server in forms}
    wrong = []
    for operation in other_words():
        answers = []
        for server, form in forms.items():
            path, body = operation.filled(known[server])
            answer = until_free(server, operation.method, path, body)
            if operation.keep:
                known[server][operation.keep] = answer.body["id"]
            told = form.of(answer.body) if answer.status < 400 else answer.status
            answers.append([answer.status, told])
        wrong += [f"{str(operation)[:300]}: {line}" for line in differences(*answers)]
    assert not wrong, "\n-- ".join(wrong)


class Stored:
    """The data that filters are asked over, on one server."""

    def __init__(self, server: Server) -> None:
        for _ in range(TRIES):
            self.server, self.form = server, NormalForm()
            self.known = {"nonce": str(uuid.uuid4())}
            try:
                made = play(server, data(), self.known, self.form)
            except Busy:
                continue
            assert all(answer.status < 400 for answer, _ in made), made
            return
        pytest.fail("the real server was busy")

    def answer(self, operation: Operation) -> tuple[Answer, Any]:
        """To one question."""
        for _ in range(TRIES):
            try:
                return play(self.server, [operation], self.known, self.form)[0]
            except Busy:
                continue
        pytest.fail("the real server was busy")


def test_changes_of_flows_are_told_alike(real: Server, ours: Server) -> None:
    told = []
    for server in (real, ours):
        name, form = f"told-{uuid.uuid4()}", NormalForm()
        made = {"name": name, "tags": ["a"], "labels": {"n": 1}}
        id_ = until_free(server, "POST", "/flows/", made).body["id"]
        until_free(server, "PATCH", f"/flows/{id_}", {"tags": ["b", "c"]})
        until_free(server, "DELETE", f"/flows/{id_}")
        wanted = {"resource": {"id": [f"prefect.flow.{id_}"]}, "order": "ASC"}
        events: list[Any] = []
        while len(events) < 3:
            events = until_free(server, "POST", "/events/filter", {"filter": wanted}).body["events"]
        for event in events:
            assert event["resource"].pop("prefect.resource.name") == name
            assert event["payload"].pop("name") == name
        told.append(form.of(events))
    found = differences(*told)
    assert not found, "\n-- ".join(found)


def until_free(server: Server, method: str, path: str, body: Any = None) -> Answer:
    """The answer, however often the real server's database is locked."""
    while (answer := server.ask(method, path, body)).status == 503:
        continue
    return answer


@pytest.fixture(scope="module")
def stored(real: Server, ours: Server) -> tuple[Stored, Stored]:
    return Stored(real), Stored(ours)


@pytest.mark.parametrize("seed", range(90))
def test_filters_find_the_same(stored: tuple[Stored, Stored], seed: int) -> None:
    operation = question(seed)
    (there, theirs), (here, mine) = (one.answer(operation) for one in stored)
    assert here.status == there.status, f"{operation}\nreal {there}\nours {here}"
    found = differences(theirs, mine)
    if operation.path == "/task_runs/paginate":  # the real server leaves fields out there
        found = [line for line in found if "real has none" not in line]
    assert not found, f"{operation}\n-- " + "\n-- ".join(found)


@pytest.fixture(scope="module")
def told(real: Server, ours: Server) -> tuple[str, list[dict[str, Any]]]:
    """Both servers have the same events; the real one takes its time to show them."""
    nonce = f"n{uuid.uuid4().hex}"
    given = events(nonce)
    mine = {"filter": {"resource": {"id_prefix": [nonce]}}, "limit": 1}
    for server in (real, ours):
        while server.ask("POST", "/events", given).status == 503:
            continue
        while (found := server.ask("POST", "/events/filter", mine)).status == 503 or (
            found.body["total"] < len(given)
        ):
            continue
    return nonce, given


@pytest.mark.parametrize("seed", range(40))
def test_events_are_found_alike(
    real: Server, ours: Server, told: tuple[str, list[dict[str, Any]]], seed: int
) -> None:
    nonce, given = told
    operation = Questions(seed, nonce, given).draw()
    there, here = (server.ask("POST", operation.path, operation.body) for server in (real, ours))
    assert here.status == there.status, f"{operation}\nreal {there}\nours {here}"
    for answer in (there, here):
        for event in answer.body["events"] if isinstance(answer.body, dict) else ():
            event.pop("received")
        if isinstance(answer.body, dict):
            # Its page token is a server's own; that there is one is not.
            answer.body["next_page"] = answer.body["next_page"] is not None
    form = NormalForm().of
    found = differences(form(there.body), form(here.body))
    assert not found, f"{operation}\n-- " + "\n-- ".join(found)
