"""The debugger's page at a server that asks for keys, and its streams, which carry one."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from workflow_server.desk import PHONE, Desk, expect, node, status
from workflow_server.process import Served

LOCK, DIALOG, FIELD, BLAME = "#lock", "#key-dialog", "#key-field", "#key-error"


class Guarded:
    """A server with keys."""

    def __init__(self, served: Served) -> None:
        self.served, self.url = served, served.url
        self.admin = ""
        self.admin = self.make("ops", "admin")[1]

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self.admin}"} if self.admin else {}
        data = json.dumps(body).encode() if body is not None else None
        headers["Content-Type"] = "application/json"
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def make(self, name: str, role: str) -> tuple[str, str]:
        """A new key: its id and its secret."""
        made = self.ask("POST", "/api/v1/keys", {"name": name, "role": role})
        return made["key"]["id"], made["secret"]

    def revoke(self, key_id: str) -> None:
        self.ask("DELETE", f"/api/v1/keys/{key_id}")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    served = Served(tmp_path_factory.mktemp("guarded")).start()
    yield Guarded(served)
    assert served.stop() == 0


@pytest.fixture
def visitor(browser: Any, guarded: Guarded) -> Iterator[Desk]:
    """Somebody who opens the page without a key."""
    opened = Desk(browser, guarded.url)
    opened.page.goto(f"{guarded.url}/workflows/ui?workflow=greet")
    yield opened
    opened.close()


def give(page: Any, key: str, *, remember: bool = False) -> None:
    expect(page.locator(DIALOG)).to_be_visible()
    page.fill(FIELD, key)
    page.locator("#key-remember").set_checked(remember)
    page.click("#key-use")


def test_the_page_asks_for_a_key_and_goes_on_with_it(visitor: Desk, guarded: Guarded) -> None:
    page = visitor.page
    expect(page.locator(DIALOG)).to_be_visible()
    expect(page.locator("#key-title")).to_have_text("An API key is needed")
    expect(page.locator(FIELD)).to_be_focused()
    expect(page.locator(FIELD)).to_have_attribute("type", "password")
    expect(page.locator(".about")).to_have_text("Looking…")
    visitor.shoot("key")
    page.keyboard.press("Enter")
    expect(page.locator(BLAME)).to_contain_text("Type or paste a key")
    give(page, "not a key")
    expect(page.locator(BLAME)).to_contain_text("no spaces")
    give(page, "ifkey_00000000000000000000000000000000")
    expect(page.locator(BLAME)).to_contain_text("does not take this key: the key is unknown")
    expect(page.locator(FIELD)).to_be_focused()
    page.click("#key-show")
    expect(page.locator(FIELD)).to_have_attribute("type", "text")
    give(page, guarded.admin)
    expect(page.locator(DIALOG)).to_be_hidden()
    expect(page.locator(LOCK)).to_have_attribute("data-state", "held")
    page.click("#start button[type=submit]")
    expect(status(page)).to_have_text("completed")
    expect(page.locator(".log-item")).to_have_count(3)  # the stream carried the key, too
    assert guarded.admin not in page.url
    assert guarded.admin not in page.content()


def test_the_page_at_the_root_asks_for_a_key_too(visitor: Desk, guarded: Guarded) -> None:
    page = visitor.page
    page.goto(guarded.url)
    give(page, guarded.admin)
    expect(page.locator("#workflow option[value=greet]")).to_have_count(1)


def test_a_key_is_kept_for_the_tab_or_the_device_and_forgotten(
    visitor: Desk, guarded: Guarded
) -> None:
    page = visitor.page
    give(page, guarded.admin)
    expect(node(page, "hello")).to_be_visible()
    page.reload()
    expect(node(page, "hello")).to_be_visible()
    expect(page.locator(DIALOG)).to_be_hidden()
    assert page.evaluate("localStorage.getItem('ironflow.key')") is None
    other = visitor.context.new_page()
    other.goto(page.url)
    give(other, guarded.admin, remember=True)
    expect(node(other, "hello")).to_be_visible()
    third = visitor.context.new_page()
    third.goto(page.url)
    expect(node(third, "hello")).to_be_visible()
    third.click(LOCK)
    expect(third.locator("#key-about")).to_contain_text(f"…{guarded.admin[-4:]}")
    expect(third.locator("#key-about")).to_contain_text("kept on this device")
    third.click("#key-forget")
    expect(third.locator("#key-title")).to_have_text("An API key is needed")
    expect(third.locator(LOCK)).to_have_attribute("data-state", "wanted")
    third.reload()
    expect(third.locator(DIALOG)).to_be_visible()
    assert third.evaluate("localStorage.getItem('ironflow.key')") is None


def test_who_gives_none_is_not_asked_again_and_again(visitor: Desk, guarded: Guarded) -> None:
    page = visitor.page
    expect(page.locator(DIALOG)).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(DIALOG)).to_be_hidden()
    expect(page.locator(".about")).to_contain_text("asks for an API key")
    expect(page.locator(LOCK)).to_have_attribute("data-state", "wanted")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#health")).to_have_text("healthy")
    expect(page.locator(DIALOG)).to_be_hidden()
    page.keyboard.press("k")
    give(page, guarded.admin)
    expect(node(page, "hello")).to_be_visible()


def test_a_key_that_may_only_look(visitor: Desk, guarded: Guarded) -> None:
    page = visitor.page
    give(page, guarded.make("eyes", "viewer")[1])
    expect(node(page, "hello")).to_be_visible()
    page.click("#start button[type=submit]")
    expect(page.locator("#start .error")).to_contain_text("role")  # none that allows it
    expect(page.locator(DIALOG)).to_be_hidden()


def test_a_key_that_ends_while_the_page_is_open(visitor: Desk, guarded: Guarded) -> None:
    page = visitor.page
    key_id, secret = guarded.make("short", "developer")
    give(page, secret)
    expect(node(page, "hello")).to_be_visible()
    guarded.revoke(key_id)
    page.click("#start button[type=submit]")
    expect(page.locator(BLAME)).to_contain_text("The key in use is refused")
    expect(page.locator(LOCK)).to_have_attribute("data-state", "wanted")
    give(page, guarded.admin)
    expect(page).to_have_url(re.compile("[?&]run="))  # what was asked for is done
    expect(status(page)).to_have_text("completed")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_dialog_on_a_phone_and_at_night(browser: Any, guarded: Guarded, theme: str) -> None:
    phone = Desk(
        browser, guarded.url, viewport=PHONE, color_scheme=theme, has_touch=True, is_mobile=True
    )
    page = phone.page
    page.goto(f"{guarded.url}/workflows/ui?workflow=greet")
    expect(page.locator(DIALOG)).to_be_visible()
    page.fill(FIELD, "wrong")
    page.locator("#key-use").tap()
    expect(page.locator(BLAME)).to_contain_text("unknown")
    phone.shoot(f"phone-key-{theme}")
    box = page.locator(DIALOG).bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= PHONE["width"]
    faint = page.evaluate((Path(__file__).parent / "contrasts.js").read_text())
    assert [text for text in faint if "BUTTON" in text or "P " in text or "LABEL" in text] == []
    give(page, guarded.admin)
    expect(page.locator(DIALOG)).to_be_hidden()
    expect(page.locator(LOCK)).to_be_visible()
    phone.close()


def test_a_stream_goes_on_after_the_server_was_killed(visitor: Desk, guarded: Guarded) -> None:
    page = visitor.page
    give(page, guarded.admin)
    page.select_option("#workflow", "gate")
    page.fill("#start .key", "ticks")
    page.fill("#start .value", "4")
    page.click("#start button[type=submit]")
    expect(page.locator(".log-item")).to_have_count(4)
    guarded.served.kill()
    expect(page.locator(".run-title")).to_contain_text("reconnecting")
    guarded.served.start()
    page.click("#tab-send")
    page.select_option("#send-type", "Go")
    page.click("#pane-send button[type=submit]")
    page.click("#tab-events")
    expect(page.locator(".log-item", has_text="result: gone")).to_be_visible()
    expect(page.locator(".log-item")).to_have_count(5)  # none is lost, none comes twice
