"""The debugger's page while things go on under the hand that uses it: answers that come late, runs
that stream, questions that gather, a server that goes away.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from workflow_server.desk import Desk, at_rest, expect, node, status
from workflow_server.process import Served

APP = Path(__file__).with_name("live_app.py")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    server = Served(tmp_path_factory.mktemp("live"), APP).start()
    yield server
    server.kill()  # its runs would go on for hours


class Held:
    """Answers to the page that come when the test says so."""

    def __init__(self, page: Any, pattern: str, method: str = "GET") -> None:
        self.page, self.pattern, self.method = page, pattern, method
        self.routes: list[Any] = []
        page.route(pattern, self._take)

    def _take(self, route: Any) -> None:
        if route.request.method == self.method:
            self.routes.append(route)
        else:
            route.continue_()

    def wait(self, count: int = 1) -> None:
        while len(self.routes) < count:
            self.page.wait_for_timeout(10)

    def let(self, index: int = 0) -> None:
        """Let one of them go on, and wait until it is answered."""
        route = self.routes.pop(index)
        with self.page.expect_response(lambda answer: answer.request == route.request):
            route.continue_()

    def end(self) -> None:
        self.page.unroute(self.pattern)


def test_a_late_answer_for_other_chips_is_not_shown(desk: Desk) -> None:
    page = desk.open("?workflow=brief")
    page.click("#start button[type=submit]")
    expect(status(page)).to_have_text("completed")
    expect(page.locator(".run-row")).to_have_count(1)
    held = Held(page, "**/handlers?workflow_name=*")
    page.click(".chip[data-status=failed]")
    held.wait(1)
    page.click(".chip[data-status=failed]")
    held.wait(2)
    held.let(1)
    expect(page.locator(".run-row")).to_have_count(1)
    held.let(0)
    page.wait_for_timeout(50)
    expect(page.locator(".run-row")).to_have_count(1)
    expect(page.locator(".run-row .pill")).to_have_text("completed")
    held.end()


def test_the_list_keeps_older_runs_when_a_run_ends(desk: Desk) -> None:
    page = desk.open("?workflow=many")
    for _ in range(35):
        page.request.post(f"{desk.url}/workflows/many/run", data={"start_event": {}})
    page.click("[aria-label='look again']")
    expect(page.locator(".run-row")).to_have_count(30)
    page.get_by_role("button", name="Older runs").click()
    expect(page.locator(".run-row")).to_have_count(35)
    page.click("#start button[type=submit]")
    expect(status(page)).to_have_text("completed")
    expect(page.locator(".run-row")).to_have_count(36)


def test_a_run_that_began_late_is_not_put_under_another_workflow(desk: Desk) -> None:
    page = desk.open("?workflow=brief")
    held = Held(page, "**/workflows/brief/run-nowait", "POST")
    page.click("#start button[type=submit]")
    held.wait()
    page.select_option("#workflow", "many")
    expect(page.locator("#start h2")).to_be_visible()
    held.let()
    page.wait_for_timeout(50)
    expect(page).to_have_url(re.compile("workflow=many"))
    assert "run=" not in page.url
    held.end()


def test_a_run_that_was_left_before_it_was_read_is_not_followed(desk: Desk) -> None:
    page = desk.open("?workflow=ticks")
    page.click("#start button[type=submit]")
    expect(status(page)).to_have_text("running")
    left = page.locator(".run-name").inner_text()
    page.click("#start button[type=submit]")
    expect(page.locator(".run-name")).not_to_have_text(left)
    other = page.locator(".run-name").inner_text()
    held = Held(page, f"**/handlers?handler_id={left}")
    followed: list[str] = []
    page.on("request", lambda request: followed.append(request.url))
    page.click(f".run-row[data-run='{left}'] .run-open")
    held.wait()
    page.click(f".run-row[data-run='{other}'] .run-open")
    held.let()
    expect(page.locator(".log-item")).not_to_have_count(0)
    assert not [url for url in followed if f"/events/{left}" in url]
    held.end()
    for run in (left, other):
        assert page.request.post(f"{desk.url}/handlers/{run}/cancel").ok


def test_ctrl_enter_twice_starts_one_run(desk: Desk) -> None:
    page = desk.open("?workflow=brief")
    held = Held(page, "**/workflows/brief/run-nowait", "POST")
    page.focus("#start .key")
    page.keyboard.press("Control+Enter")
    page.keyboard.press("Control+Enter")
    held.wait()
    page.wait_for_timeout(50)
    assert len(held.routes) == 1
    held.let()
    expect(status(page)).to_have_text("completed")
    held.end()


def test_another_question_does_not_take_the_answer_from_under_the_hand(desk: Desk) -> None:
    page = desk.open("?workflow=asks")
    page.click("#start button[type=submit]")
    expect(page.locator("p.question")).to_contain_text("number 0")
    page.fill(".prompts [name=response]", "half an ans")
    run = page.locator(".run-name").inner_text()
    more = {"event": {"type": "More", "value": {}}}
    assert page.request.post(f"{desk.url}/events/{run}", data=more).ok
    expect(page.locator(".prompt h3")).to_contain_text("2 questions")
    expect(page.locator(".prompts [name=response]")).to_have_value("half an ans")
    page.click(".prompts button[type=submit]")
    # One question is answered, one is left.
    expect(page.locator("p.question")).to_contain_text("number 1")
    expect(page.locator(".prompt h3")).not_to_contain_text("questions")
    page.reload()
    expect(page.locator("p.question")).to_contain_text("number 1")
    page.fill(".prompts [name=response]", "the end")
    page.click(".prompts button[type=submit]")
    expect(status(page)).to_have_text("completed")


def test_each_of_several_questions_can_be_answered(desk: Desk) -> None:
    page = desk.open("?workflow=asks")
    page.click("#start button[type=submit]")
    expect(page.locator("p.question")).to_contain_text("number 0")
    first = page.locator(".run-name").inner_text()
    page.click("#start button[type=submit]")
    expect(page.locator(".run-name")).not_to_have_text(first)
    expect(status(page)).to_have_text("waiting")
    run = page.locator(".run-name").inner_text()
    page.click(f".run-row[data-run='{first}'] .run-open")
    # The list goes on saying of the other one what was seen of it.
    expect(page.locator(f".run-row[data-run='{run}'] .pill")).to_have_text("waiting")
    assert page.request.post(f"{desk.url}/handlers/{first}/cancel").ok
    page.click(f".run-row[data-run='{run}'] .run-open")
    more = {"event": {"type": "More", "value": {}}}
    assert page.request.post(f"{desk.url}/events/{run}", data=more).ok
    choice = page.locator(".question-choice button")
    expect(choice).to_have_count(2)
    other = desk.context.new_page()
    other.goto(page.url)
    expect(other.locator(".question-choice button")).to_have_count(2)
    choice.last.focus()
    page.keyboard.press("Enter")
    expect(choice.last).to_be_focused()
    expect(page.locator("p.question")).to_contain_text("number 1")
    page.fill(".prompts [name=response]", "to the second one")
    page.click(".prompts button[type=submit]")
    expect(page.locator("p.question")).to_contain_text("number 0")
    expect(choice).to_have_count(0)
    page.reload()
    expect(page.locator("p.question")).to_contain_text("number 0")
    for colleague in (other, desk.context.new_page()):  # one looked on, one comes by a link
        if colleague is not other:
            colleague.goto(page.url)
        expect(colleague.locator("p.question")).to_contain_text("number 0")
        expect(colleague.locator(".question-choice button")).to_have_count(0)
    assert page.request.post(f"{desk.url}/handlers/{run}/cancel").ok


def test_an_answer_goes_to_the_step_that_asked(desk: Desk) -> None:
    page = desk.open("?workflow=experts")
    page.click("#start button[type=submit]")
    expect(node(page, "ask").locator(".note")).to_have_text("2 waiting")
    page.locator(".question-choice button", has_text="Bob").click()
    # What tells whose answer it is stands in the form, though the class is declared nowhere.
    expect(page.locator(".prompts [name=who]")).to_have_value("Bob")
    page.fill(".prompts [name=response]", "no")
    page.click(".prompts button[type=submit]")
    expect(node(page, "ask").locator(".note")).to_have_text("1 done, 1 waiting")
    expect(page.locator(".prompts [name=who]")).to_have_value("Ada")
    page.fill(".prompts [name=response]", "yes")
    page.click(".prompts button[type=submit]")
    expect(status(page)).to_have_text("completed")
    expect(node(page, "ask").locator(".note")).to_have_text("2 done")
    page.click("#tab-result")
    expect(page.locator("#pane-result")).to_contain_text("Bob says no")


def test_a_failed_run_is_no_error_of_the_page(desk: Desk) -> None:
    page = desk.open("?workflow=contract")
    page.click("#start button[type=submit]")
    page.fill(".prompts [name=response]", "Ada")
    page.click(".prompts button[type=submit]")
    expect(status(page)).to_have_text("failed")
    page.reload()
    expect(status(page)).to_have_text("failed")
    expect(page.locator(".log-item.failed")).to_contain_text("nobody signs Ada")
    assert desk.heard == []


def test_a_server_that_is_not_ready_is_called_unhealthy(desk: Desk) -> None:
    body = '{"status": "unhealthy"}'
    desk.page.route("**/health", lambda route: route.fulfill(status=503, body=body))
    page = desk.open("?workflow=brief")
    expect(page.locator("#health")).to_have_text("unhealthy")


def test_who_stands_in_line_is_counted(desk: Desk) -> None:
    page = desk.open("?workflow=line")
    page.click("#start button[type=submit]")
    note = node(page, "serve").locator(".note")
    expect(note).to_have_text("1 running, 2 queued")
    body = node(page, "serve").locator(".body")
    widths = [each.evaluate("(part) => part.getBBox().width") for each in (note, body)]
    assert widths[0] < widths[1] - 10


def test_long_names_stay_within_their_nodes(desk: Desk) -> None:
    page = desk.open("?workflow=wordy")
    outside = page.locator(".canvas .node").evaluate_all(
        """(nodes) => nodes.filter((node) => {
          const box = (part) => node.querySelector(part).getBBox();
          const [label, body] = [box(".label"), box(".body")];
          return label.x < body.x + 6 || label.x + label.width > body.x + body.width - 6;
        }).map((node) => node.dataset.id)"""
    )
    assert outside == []


def test_a_question_answered_in_the_middle_of_a_step_is_not_asked_again(desk: Desk) -> None:
    page = desk.open("?workflow=interview")
    page.click("#start button[type=submit]")
    expect(page.locator("p.question")).to_contain_text("name?")
    page.fill(".prompts .key", "response")
    page.fill(".prompts .value", "Ada")
    page.click(".prompts button[type=submit]")
    expect(page.locator(".log-item", has_text="Noted")).to_have_count(1)
    expect(page.locator(".prompt")).to_have_count(0)
    page.reload()
    expect(page.locator(".log-item", has_text="Noted")).to_have_count(1)
    expect(page.locator(".prompt")).to_have_count(0)
    expect(status(page)).to_have_text("running")


def test_the_keyboard_stays_where_it_is_while_runs_stream(desk: Desk) -> None:
    page = desk.open("?workflow=ticks")
    page.click("#start button[type=submit]")
    expect(status(page)).to_have_text("running")
    run = page.locator(".run-name").inner_text()
    first = page.locator(f".run-row[data-run='{run}'] .run-open")
    first.focus()
    seen = page.locator(".log-item")
    count = seen.count()
    expect(seen).not_to_have_count(count)
    expect(first).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # marks the run for comparison
    page.keyboard.press("c")
    column = page.locator(".column-head .link")
    expect(column).to_have_count(1)
    column.focus()
    text = page.locator(".column-head .muted").inner_text()
    expect(page.locator(".column-head .muted")).not_to_have_text(text)
    expect(column).to_be_focused()


def test_who_confirms_is_not_interrupted_by_what_the_run_does(desk: Desk) -> None:
    page = desk.open("?workflow=asks")
    page.click("#start button[type=submit]")
    expect(page.locator("p.question")).to_contain_text("number 0")
    run = page.locator(".run-name").inner_text()
    button = page.locator(".run-tools .danger")
    button.click()
    expect(button).to_have_text("Cancel for good?")
    answer = {"event": {"type": "Reply", "value": {"response": "yes"}}}
    assert page.request.post(f"{desk.url}/events/{run}", data=answer).ok
    expect(page.locator(".prompt")).to_have_count(0)
    page.wait_for_timeout(300)
    expect(button).to_have_text("Cancel for good?")
    button.click()
    expect(status(page)).to_have_text("cancelled")


def test_what_is_no_json_can_be_mended(desk: Desk) -> None:
    page = desk.open("?workflow=forms")
    page.fill("[name=address]", "{oops")
    page.click("#start button[type=submit]")
    page.wait_for_timeout(50)
    assert "run=" not in page.url
    page.click("#start .mode")  # as JSON: not before it is JSON
    page.fill("[name=address]", '{"street": "Main", "zip": "1"}')
    page.click("#start button[type=submit]")
    expect(status(page)).to_have_text("completed")


def test_json_and_fields_are_two_views_of_one_form(desk: Desk) -> None:
    page = desk.open("?workflow=forms")
    page.fill("[name=address]", '{"street": "Main", "zip": "1"}')
    page.locator("[name=colour]").select_option(label="blue")
    page.click("#start .mode")
    code = page.locator("#start textarea.code")
    value = code.input_value()
    assert '"blue"' in value
    code.fill(value.replace("blue", "red").replace("Main", "Side"))
    page.click("#start .mode")
    expect(page.locator("[name=address]")).to_have_value(re.compile("Side"))
    page.click("#start button[type=submit]")
    expect(status(page)).to_have_text("completed")
    page.click("#tab-result")
    expect(page.locator("#pane-result")).to_contain_text("red Side")


def test_a_run_chosen_while_the_server_is_away_comes_when_it_is_back(
    desk: Desk, served: Served
) -> None:
    page = desk.open("?workflow=brief")
    page.click("#start button[type=submit]")
    expect(status(page)).to_have_text("completed")
    run = page.locator(".run-name").inner_text()
    page.goto(f"{desk.url}/workflows/ui?workflow=brief")
    row = page.locator(f".run-row[data-run='{run}'] .run-open")
    expect(row).to_be_visible()
    expect(page.locator("#health")).to_have_text("healthy")
    served.kill()
    row.click()
    expect(page.locator(".run-body")).to_contain_text("the server does not answer")
    expect(page.locator("#health")).to_have_text("no answer")
    served.start()
    expect(page.locator("#health")).to_have_text("healthy")
    expect(status(page)).to_have_text("completed")


def test_back_shows_no_runs_of_the_workflow_before(desk: Desk) -> None:
    page = desk.open("?workflow=brief")
    page.click("#start button[type=submit]")
    expect(status(page)).to_have_text("completed")
    page.select_option("#workflow", "forms")
    expect(page.locator("[name=address]")).to_be_visible()
    page.select_option("#workflow", "brief")
    expect(page.locator(".run-row")).not_to_have_count(0)
    held = Held(page, "**/handlers?workflow_name=forms*")
    page.go_back()
    expect(page.locator("[name=address]")).to_be_visible()
    held.wait()
    expect(page.locator(".run-row")).to_have_count(0)
    page.unroute_all(behavior="ignoreErrors")


def test_a_link_to_a_run_shows_the_workflow_of_the_run(desk: Desk) -> None:
    answer = desk.page.request.post(
        f"{desk.url}/workflows/brief/run", data={"start_event": {}}
    ).json()
    page = desk.open(f"?workflow=forms&run={answer['handler_id']}")
    expect(status(page)).to_have_text("completed")
    expect(page.locator("#workflow")).to_have_value("brief")


def test_a_long_question_leaves_room_for_its_answer(desk: Desk) -> None:
    page = desk.open("?workflow=contract")
    page.click("#start button[type=submit]")
    answer = page.locator(".prompts [name=response]")
    answer.wait_for()
    assert answer.evaluate("e => e.getBoundingClientRect().bottom < innerHeight")
    answer.fill("this")
    page.click(".prompts button[type=submit]")
    expect(status(page)).to_have_text("failed")
    expect(page.locator(".log-item.failed")).to_contain_text("sign: ValueError: nobody signs this")
    expect(node(page, "sign")).to_contain_text("failed")
    desk.shoot("failed")


def test_a_graph_that_is_too_large_is_shown_from_its_top_and_legible(desk: Desk) -> None:
    page = desk.open("?workflow=chain")
    first = node(page, "StartEvent")
    at_rest(first)
    box = first.bounding_box()
    assert box is not None
    assert box["height"] >= 18
    assert box["y"] > page.locator(".canvas").bounding_box()["y"]
    page.keyboard.press("f")  # all of it
    last = node(page, "StopEvent")
    at_rest(last)
    below = last.bounding_box()
    assert below is not None
    assert below["y"] + below["height"] < 720
    assert below["height"] >= 15  # it is folded into columns


def test_fields_are_called_what_they_are_and_say_what_they_take(desk: Desk) -> None:
    page = desk.open("?workflow=forms")
    address = page.locator("[name=address]")
    expect(page.locator("label", has=page.locator("code", has_text="address"))).to_contain_text(
        "address *"
    )
    expect(address).to_have_attribute("placeholder", '{"street":"","zip":""}')
    expect(page.locator("[name=due]")).to_have_attribute("type", "date")
    expect(page.locator("[name=at]")).to_have_attribute("placeholder", "2026-01-31T12:00:00Z")
