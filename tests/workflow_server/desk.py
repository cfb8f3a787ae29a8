"""A window of the system's Chromium at the server, for the tests of the debugger's page.
Screenshots are kept in `$IRONFLOW_TEST_SCREENSHOTS`, else in `build/screenshots`.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from playwright import sync_api as playwright

expect = playwright.expect

ROOT = Path(__file__).resolve().parents[2]
SHOTS = Path(os.environ.get("IRONFLOW_TEST_SCREENSHOTS") or ROOT / "build" / "screenshots")
DESK = {"width": 1280, "height": 720}
PHONE = {"width": 390, "height": 844}
PATIENCE = 20_000
"""Milliseconds; a wait ends the moment it can."""
expect.set_options(timeout=PATIENCE)


def find_chromium() -> str:
    """The system's Chromium; without one the tests are skipped, in CI they fail."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found is not None:
            return found
    if os.environ.get("CI"):
        pytest.fail("there is no Chromium; .ci/run installs one")
    pytest.skip("there is no Chromium on this machine")


class Desk:
    """A browser window at the server, and what went wrong in it."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        options = {"viewport": DESK, "reduced_motion": "reduce", **options}
        self.url, self.faults = url, list[str]()
        self.heard = list[str]()
        """Everything that the console said, also what is no fault of the page."""
        self.context = browser.new_context(**options)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("request", self._see)

    def _hear(self, message: Any) -> None:
        self.heard.append(message.text)
        # What a 4xx or 5xx answer says of itself is no fault of the page.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.faults.append(f"console: {message.text}")

    def _see(self, request: Any) -> None:
        if not request.url.startswith((self.url, "data:")):
            self.faults.append(f"left the machine: {request.url}")

    def open(self, query: str = "", path: str = "/workflows/ui") -> Any:
        """The page, once the graph is there."""
        self.page.goto(f"{self.url}{path}{query}")
        self.page.wait_for_selector(".node", state="attached")
        return self.page

    def shoot(self, name: str) -> None:
        """Keep a picture."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(SHOTS / f"workflows-{name}.png"))

    def start(self, workflow: str) -> str:
        """Run a workflow as it is; the run's id."""
        self.open(f"?workflow={workflow}")
        if self.page.viewport_size == PHONE:
            self.page.click("#panes [data-pane=start]")
        self.page.click("#start button[type=submit]")
        expect(self.page).to_have_url(re.compile("[?&]run="))
        expect(self.page.locator(".run-name")).to_be_visible()
        return str(self.page.locator(".run-name").inner_text())

    def close(self) -> None:
        self.context.close()
        assert self.faults == []


def status(page: Any) -> Any:
    """The status of the run that is shown."""
    return page.locator(".run-title .pill").first


def node(page: Any, name: str) -> Any:
    """A node of the graph."""
    return page.locator(f".canvas .node[data-id='{name}']")


def at_rest(element: Any) -> str:
    """Where something of the drawing is, once it has not moved for two frames."""
    element.wait_for(state="attached")
    return str(
        element.evaluate(
            """async (element) => {
              const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
              for (let last = null, still = 0; still < 2; ) {
                await frame();
                const now = element.getAttribute("transform");
                still = now !== null && now === last ? still + 1 : 0;
                last = now;
              }
              return element.getAttribute("transform");
            }"""
        )
    )
