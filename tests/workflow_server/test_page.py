"""The debugger's page in a real Chromium: each thing it offers, at a desk and on a phone, by mouse
and by keyboard, light and dark.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from workflow_server.desk import PHONE, Desk, at_rest, expect, node, status
from workflow_server.process import Served


def test_a_run_from_the_form_of_its_start_event(desk: Desk) -> None:
    page = desk.open()
    for name in ("greet", "checkout", "approve"):
        expect(page.locator(f"#workflow option[value={name}]")).to_have_count(1)
    page.select_option("#workflow", "checkout")
    expect(page.locator("#start h2 code")).to_have_text("Order")
    customer, amount = page.get_by_label("Customer"), page.get_by_label("Amount")
    expect(customer).to_have_attribute("required", "")
    expect(amount).to_have_attribute("min", "1")
    expect(amount).to_have_attribute("max", "1000")
    expect(page.locator(".hint", has_text="Who pays")).to_be_visible()
    page.click("#start button[type=submit]")
    expect(page.locator(".run-name")).to_be_hidden()  # the browser asks for the customer
    customer.fill("Ada")
    amount.fill("3")
    page.get_by_label("Priority").select_option(label="high")
    page.get_by_label("Express").check()
    page.click("#start button[type=submit]")
    expect(status(page)).to_have_text("completed")
    for step in ("check", "charge"):
        expect(node(page, step)).to_have_class(re.compile("done"))
    expect(page.locator(".canvas .edge.taken")).to_have_count(4)
    expect(page.locator(".log-item", has_text="Receipt")).to_contain_text("total: 28.5")
    page.click("#tab-result")
    expect(page.locator("#pane-result")).to_contain_text("28.5")
    desk.shoot("checkout")


def test_a_form_of_another_workflow_is_not_there_to_be_filled(desk: Desk) -> None:
    page = desk.open("?workflow=greet")
    held: list[Any] = []
    page.route("**/workflows/gate/schema", lambda route: held.append(route))  # noqa: PLW0108 - it keeps a mark at what it calls
    with page.expect_request("**/workflows/gate/schema"):
        page.select_option("#workflow", "gate")
    expect(page.locator("#start")).to_have_text("Looking…")
    expect(page.locator("#start button")).to_have_count(0)
    held.pop().continue_()
    page.fill("#start .key", "ticks")
    page.fill("#start .value", "4")
    page.click("#start button[type=submit]")
    expect(page.locator(".log-item")).to_have_count(4)


def test_a_workflow_that_cannot_be_read_is_asked_for_again(desk: Desk) -> None:
    page = desk.open("?workflow=greet")
    page.route("**/workflows/gate/schema", lambda route: route.fulfill(status=500))
    page.select_option("#workflow", "gate")
    expect(page.locator("#start .error")).to_contain_text("500")
    page.unroute("**/workflows/gate/schema")
    page.click("#start button")
    expect(page.locator("#start button[type=submit]")).to_be_visible()
    expect(node(page, "tick")).to_be_visible()


def test_what_the_server_refuses_is_said_at_the_form(desk: Desk) -> None:
    page = desk.open("?workflow=checkout")
    page.click("#start .mode")
    page.fill("#start textarea.code", '{"customer": "Ada", "amount": 0}')
    page.click("#start button[type=submit]")
    expect(page.locator("#start .error")).to_contain_text("amount")
    page.fill("#start textarea.code", "{nonsense")
    page.click("#start button[type=submit]")
    page.wait_for_selector("#start textarea.code:invalid")


def test_steps_light_up_while_they_run(desk: Desk) -> None:
    desk.start("toils")
    page = desk.page
    expect(node(page, "labour")).to_have_class(re.compile("running"))
    expect(node(page, "labour").locator(".note")).to_have_text("1 running")
    expect(status(page)).to_have_text("running")
    desk.shoot("running")
    page.click("#tab-send")
    page.select_option("#send-type", "Go")
    page.click("#pane-send button[type=submit]")
    expect(status(page)).to_have_text("completed")
    expect(node(page, "labour")).not_to_have_class(re.compile("running"))
    expect(node(page, "rest")).to_have_class(re.compile("step done"))
    expect(node(page, "rest~2")).to_have_class(re.compile("event done"))  # of the same name


def test_workers_are_counted(desk: Desk) -> None:
    desk.start("fan")
    expect(status(desk.page)).to_have_text("completed")
    expect(node(desk.page, "work").locator(".badge")).to_have_text("×6")
    desk.shoot("fan")


def test_a_failure_is_shown_where_it_happened(desk: Desk) -> None:
    desk.start("fails")
    page = desk.page
    expect(status(page)).to_have_text("failed")
    expect(node(page, "fail")).to_have_class(re.compile("failed"))
    page.click("#tab-result")
    expect(page.locator("#pane-result .failure")).to_contain_text("it cannot work")
    desk.shoot("failed")


def test_nodes_can_be_moved_and_put_back(desk: Desk) -> None:
    page = desk.open("?workflow=greet")
    shout = node(page, "shout")
    before = at_rest(shout)
    box = shout.bounding_box()
    page.mouse.move(box["x"] + 10, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + 110, box["y"] + 40, steps=4)
    page.mouse.up()
    expect(shout).not_to_have_attribute("transform", before)
    moved = at_rest(shout)
    page.reload()
    page.wait_for_selector(".node")
    kept = [float(text) for text in re.findall(r"[-\d.]+", at_rest(shout))]
    wanted = [float(text) for text in re.findall(r"[-\d.]+", moved)]
    assert kept == pytest.approx(wanted, abs=1)
    shout.focus()
    page.keyboard.press("ArrowRight")
    expect(shout).not_to_have_attribute("transform", moved)
    page.click("[aria-label='put the nodes back']")
    expect(shout).to_have_attribute("transform", before)


def test_the_graph_zooms_pans_and_fits(desk: Desk) -> None:
    page = desk.open("?workflow=greet")
    scene = page.locator(".canvas .scene")
    page.keyboard.press("f")
    fitted = at_rest(scene)
    page.click("[aria-label='zoom in']")
    expect(scene).not_to_have_attribute("transform", fitted)
    page.mouse.move(330, 650)
    page.mouse.down()
    page.mouse.move(360, 600, steps=3)
    page.mouse.up()
    page.keyboard.press("f")
    expect(scene).to_have_attribute("transform", fitted)


def test_facts_of_a_node(desk: Desk) -> None:
    page = desk.open("?workflow=approve")
    node(page, "Decision").click()
    card = page.locator(".node-card")
    expect(card).to_contain_text("The human's answer.")
    expect(card).to_contain_text("response: string")
    expect(card.get_by_role("button", name="Send this event")).to_be_disabled()
    page.keyboard.press("n")
    page.keyboard.press("Control+Enter")
    expect(status(page)).to_have_text("waiting")
    card.get_by_role("button", name="Send this event").click()
    expect(page.locator("#send-type")).to_have_value("Decision")


def test_the_log_filters_and_opens_events(desk: Desk) -> None:
    desk.start("greet")
    page = desk.page
    expect(page.locator(".log-item")).to_have_count(3)
    page.get_by_label("internal").check()
    expect(page.locator(".log-item")).to_have_count(7)
    page.fill("#event-filter", "thinking")
    expect(page.locator(".log-item")).to_have_count(1)
    page.click(".log-line")
    expect(page.locator(".log-content")).to_contain_text('"text": "thinking"')
    page.fill("#event-filter", "no such thing")
    expect(page.locator(".log-box .empty")).to_contain_text("No event matches")


def test_the_human_answers(desk: Desk) -> None:
    run = desk.start("approve")
    page = desk.open("?workflow=approve")
    row = page.locator(f".run-row[data-run='{run}']")
    expect(row.locator(".pill")).to_have_text("waiting")  # though nobody has opened it
    page.click(".chip[data-status=running]")
    expect(row).to_have_count(0)
    page.click(".chip[data-status=running]")
    page.click(".chip[data-status=waiting]")
    row.locator(".run-open").click()
    expect(page.locator(".prompt")).to_contain_text("May this go on?")
    expect(status(page)).to_have_text("waiting")
    expect(node(page, "external_step")).to_have_class(re.compile("waiting"))
    desk.shoot("waiting")
    page.locator(".prompt").get_by_label("Response").fill("by all means")
    page.click(".prompt button[type=submit]")
    expect(status(page)).to_have_text("completed")
    expect(page.locator(".prompt")).to_have_count(0)
    expect(page.locator(".log-item", has_text="they said by all means")).to_be_visible()


def test_one_click_answers_yes_or_no(desk: Desk) -> None:
    desk.start("sign")
    page = desk.page
    expect(page.locator(".prompt")).to_contain_text("The parties agree.")
    page.get_by_role("button", name="Approved: yes").click()
    expect(page.locator(".log-item", has_text="result: signed")).to_be_visible()


def test_a_step_in_the_middle_is_answered(desk: Desk) -> None:
    desk.start("waiter")
    page = desk.page
    expect(page.locator(".prompt")).to_contain_text("your name?")
    page.locator(".prompt .key").fill("response")
    page.locator(".prompt .value").fill("Ada")
    page.click(".prompt button[type=submit]")
    expect(page.locator(".log-item", has_text="hello Ada")).to_be_visible()


def test_any_declared_event_can_be_sent(desk: Desk) -> None:
    desk.start("gate")
    page = desk.page
    expect(page.locator(".log-item")).to_have_count(3)
    page.click("#tab-send")
    expect(page.locator("#send-type option", has_text="Go")).to_have_count(1)
    page.select_option("#send-type", "Go")
    page.locator("#pane-send").get_by_label("Word").fill("sesame")
    desk.shoot("send")
    page.locator("#pane-send button[type=submit]").click()
    expect(status(page)).to_have_text("completed")
    expect(page.locator("#pane-send")).to_contain_text("takes no more events")
    page.click("#tab-events")
    expect(page.locator(".log-item", has_text="result: sesame")).to_be_visible()


def test_runs_side_by_side(desk: Desk) -> None:
    page = desk.open("?workflow=gate")
    ids: list[str] = []
    for ticks in ("2", "5", "4"):
        page.fill("#start .key", "ticks")
        page.fill("#start .value", ticks)
        page.click("#start button[type=submit]")
        expect(page.locator(".log-item")).to_have_count(int(ticks))
        ids.append(page.locator(".run-name").inner_text())
        page.locator(".run-tools").get_by_role("button", name="Compare").click()
    page.keyboard.press("c")
    expect(page.locator(".column")).to_have_count(3)
    events = page.locator(".compare-table tr", has_text="Progress")
    expect(events).to_contain_text("+3")
    expect(events).to_have_class("differs")
    status_row = page.locator(".compare-table tr", has_text="status")
    expect(status_row.locator(".pill").first).to_have_text("waiting")
    # They are live: one of them ends while all are watched.
    page.locator(f".run-row[data-run='{ids[1]}'] .run-open").click()
    page.keyboard.press("s")
    page.locator("#pane-send button[type=submit]").click()
    expect(page.locator(f".column[data-run='{ids[1]}'] .pill")).to_have_text("completed")
    expect(status_row).to_have_class("differs")
    desk.shoot("compare")
    page.locator(f".column[data-run='{ids[0]}']").get_by_role("button", name="remove").click()
    expect(page.locator(".column")).to_have_count(2)
    expect(page).to_have_url(re.compile(f"compare={ids[1]},{ids[2]}"))


def test_cancel_and_delete_ask_once_more(desk: Desk) -> None:
    run = desk.start("gate")
    page = desk.page
    button = page.locator(".run-tools .danger")
    button.click()
    expect(button).to_have_text("Cancel for good?")
    expect(status(page)).to_have_text("waiting")
    button.click()
    expect(status(page)).to_have_text("cancelled")
    expect(page.locator(".log-item", has_text="WorkflowCancelledEvent")).to_be_visible()
    button.click()
    expect(button).to_have_text("Delete for good?")
    button.click()
    expect(page.locator(f".run-row[data-run='{run}']")).to_have_count(0)
    expect(page.locator(".nothing")).to_be_visible()


def test_a_link_shows_a_colleague_the_same(desk: Desk, browser: Any, served: Served) -> None:
    first, second = desk.start("greet"), desk.start("greet")
    page = desk.page
    for run in (first, second):
        page.click(f".run-row[data-run='{run}'] .mark")
    page.keyboard.press("r")
    page.keyboard.press("c")
    page.click("#share")
    expect(page.locator(".toast", has_text="copied")).to_be_visible()
    link = page.evaluate("navigator.clipboard.readText()")
    other = Desk(browser, served.url)
    other.page.goto(link)
    expect(other.page.locator(".column")).to_have_count(2)
    expect(other.page.locator(".run-name")).to_have_text(second)
    expect(other.page.locator("#tab-result")).to_have_attribute("aria-selected", "true")
    expect(other.page.locator("#workflow")).to_have_value("greet")
    # A link to a run alone finds its workflow, and the back button goes back.
    other.page.goto(f"{served.url}/workflows/ui?run={first}")
    expect(other.page.locator("#workflow")).to_have_value("greet")
    other.page.click(f".run-row[data-run='{second}'] .run-open")
    expect(other.page.locator(".run-name")).to_have_text(second)
    other.page.go_back()
    expect(other.page.locator(".run-name")).to_have_text(first)
    other.close()


def test_the_list_filters_and_goes_on(desk: Desk, served: Served) -> None:
    page = desk.open("?workflow=tally")
    for _ in range(35):
        page.evaluate("fetch('/workflows/tally/run', {method: 'POST', body: '{}'})")
    page.click("[aria-label='look again']")
    expect(page.locator(".run-row")).to_have_count(30)
    page.click("text=Older runs")
    expect(page.locator(".run-row")).to_have_count(35)
    page.click(".chip[data-status=failed]")
    expect(page.locator(".side .empty")).to_have_text("No such runs.")
    page.click(".chip[data-status=completed]")
    expect(page.locator(".run-row")).to_have_count(30)


def test_everything_by_keyboard(desk: Desk) -> None:
    page = desk.open("?workflow=approve")
    press = page.keyboard.press
    press("?")
    expect(page.locator("#shortcuts")).to_be_visible()
    press("Escape")
    expect(page.locator("#shortcuts")).to_be_hidden()
    press("n")
    expect(page.locator("#start .key")).to_be_focused()
    page.keyboard.type("name")
    press("Tab")
    page.keyboard.type("she")
    press("Control+Enter")
    expect(page.locator(".prompt")).to_contain_text("May she go on?")
    page.locator(".prompt input").focus()
    expect(page.locator(".prompt input")).to_be_focused()
    page.keyboard.type("yes")
    press("Enter")
    expect(status(page)).to_have_text("completed")
    page.locator("#tab-events").focus()
    press("ArrowRight")
    expect(page.locator("#tab-send")).to_be_focused()
    press("ArrowRight")
    expect(page.locator("#tab-result")).to_have_attribute("aria-selected", "true")
    press("/")
    expect(page.locator("#event-filter")).to_be_focused()
    press("Escape")
    node(page, "ask").focus()
    expect(node(page, "ask")).to_be_focused()
    press("Enter")
    expect(page.locator(".node-card h3")).to_have_text("ask")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_on_a_phone(browser: Any, served: Served, theme: str) -> None:
    phone = Desk(
        browser, served.url, viewport=PHONE, color_scheme=theme, has_touch=True, is_mobile=True
    )
    page = phone.open("?workflow=approve")
    expect(page.locator("#side")).to_be_visible()
    expect(page.locator("#stage")).to_be_hidden()
    phone.shoot(f"phone-start-{theme}")
    phone.start("approve")
    expect(page.locator(".prompt")).to_be_visible()
    page.wait_for_function(f"document.documentElement.scrollWidth === {PHONE['width']}")
    phone.shoot(f"phone-run-{theme}")
    page.locator("#panes [data-pane=graph]").tap()
    expect(node(page, "ask")).to_be_visible()
    phone.shoot(f"phone-graph-{theme}")
    page.locator("#panes [data-pane=run]").tap()
    page.locator(".prompt").get_by_label("Response").fill("yes")
    page.locator(".prompt button[type=submit]").tap()
    expect(status(page)).to_have_text("completed")
    small = page.evaluate(
        "[...document.querySelectorAll('button')]"
        ".filter((b) => b.offsetHeight && b.offsetHeight < 30).map((b) => b.outerHTML)"
    )
    assert small == []
    phone.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_light_and_dark(browser: Any, served: Served, theme: str) -> None:
    opened = Desk(browser, served.url, color_scheme=theme)
    page = opened.open("?workflow=checkout", path="/")  # the page is what `/` shows, too
    root = page.locator("html")
    expect(root).to_have_attribute("data-theme", theme)
    opened.shoot(f"desk-{theme}")
    faint = page.evaluate((Path(__file__).parent / "contrasts.js").read_text())
    assert faint == []
    page.keyboard.press("t")
    other = "light" if theme == "dark" else "dark"
    expect(root).to_have_attribute("data-theme", other)
    page.reload()
    expect(root).to_have_attribute("data-theme", other)
    opened.close()


def test_an_unknown_workflow_and_run_are_said(desk: Desk) -> None:
    page = desk.open("?workflow=nothing&run=nowhere&tab=none&compare=a,b,c,d,e,a&view=compare")
    expect(page.locator(".column .pill.unknown")).to_have_count(4)
    expect(page.locator("#tab-compare")).to_have_text("Compare (4)")
    expect(page.locator("#tab-events")).to_have_attribute("aria-selected", "true")
    expect(page.locator(".toast", has_text="nothing")).to_be_visible()
    expect(page.locator(".run-head .failure")).to_contain_text("Handler not found")
