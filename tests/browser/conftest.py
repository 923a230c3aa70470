"""A real browser for the tests that look at screens: Debian's Chromium, any other Chromium or Chrome, or Playwright's.

Where there is none the tests are skipped and say what to do; where `CI` is set they fail, so that none is left out
unnoticed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
"""Flags with which it runs as root and asks nothing of the outside."""
MISSING = (
    "There is no browser: install Chromium or Chrome (Debian and Ubuntu: apt install chromium), or run "
    "`.venv/bin/playwright install chromium`."
)


def executable(playwrights_own: str) -> str | None:
    """Return a browser that is installed here, or None."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return found or next((str(path) for path in (MAC, Path(playwrights_own)) if path.exists()), None)


# Of the package, not of the session: while it lives, its event loop runs in the thread of the tests.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Start a browser."""
    with sync_playwright() as playwright:
        path = executable(playwright.chromium.executable_path)
        if path is None:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(MISSING)
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Open an empty page that shares nothing with those of other tests."""
    context = browser.new_context(viewport={"width": 1400, "height": 950}, locale="en-US")
    page = context.new_page()
    yield page
    context.close()
