"""A real browser for the tests that look at screens: Debian's Chromium, any other Chromium or Chrome, or Playwright's.

Where there is none the tests are skipped and say what to do; where `CI` is set they fail, so that none is left out
unnoticed.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from pydantic import SecretStr

from backend.connect import connect
from backend.labelstudio import LabelStudio
from backend.up.run import tandem_programs
from backend.up.servers import Running, free_port
from tests import conftest
from tests.annotator import Annotator, soon, truth
from tests.parts import CONFIG, DEMO, make_services

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
PATIENCE = 240_000
"""Milliseconds to wait for what is to come up on a screen."""
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
    # A machine with much else to do takes its time, and no test is about how long.
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    yield page
    context.close()


CLASSES = ("angry", "happy", "sad", "surprise")
PER_CLASS = 15
SECRET = "a secret of the tests"


@dataclass
class Desk(Annotator):
    """A person at Label Studio in a browser; `server` tells how to log in. All images are known and shown."""

    server: conftest.LabelStudio

    def learned(self) -> bool:
        """Tell whether the newest version holds all that the ledger does."""
        newest = self.services.versions.newest(self.project.id)
        return newest is not None and newest.position == self.services.ledger.position(self.project.id)

    def shown(self) -> bool:
        """Tell whether Label Studio shows what was learned, for the whole pool."""
        project = self.project
        champion = self.services.versions.champion(project.id)
        number = champion.number if champion else 0
        return project.shown_version == number and not self.services.ledger.has_unshown_tasks(project.id)

    def log_in(self, page: Page) -> None:
        """Log in to Label Studio."""
        request, address = page.context.request, f"{self.server.url}/user/login/"
        request.get(address)
        (token,) = (each["value"] for each in page.context.cookies(address) if each["name"] == "csrftoken")
        form = {"email": self.server.username, "password": self.server.password, "csrfmiddlewaretoken": token}
        assert request.post(address, form=form, headers={"Referer": address}, max_redirects=0).status == 302


@pytest.fixture(scope="module")
def desk(
    tmp_path_factory: pytest.TempPathFactory,
    label_studio: conftest.LabelStudio,
    valkey: str,
    mlflow_server: Running,
) -> Iterator[Desk]:
    """Start Tandem beside Label Studio, with a project of its own of 60 demo images, and wait until it is shown."""
    folder = tmp_path_factory.mktemp("desk")
    services = make_services(
        folder,
        valkey,
        label_studio_files=None,
        label_studio_url=label_studio.url,
        label_studio_api_key=SecretStr(label_studio.api_key),
        mlflow_tracking_uri=mlflow_server.server.address,
        web_port=free_port(),
        secret=SecretStr(SECRET),
        show_calm=2.0,
        label_studio_timeout=PATIENCE / 1000,
    )
    programs = [Running(server, folder / f"{server.name}.log") for server in tandem_programs(services.settings)]
    client = LabelStudio(label_studio.url, label_studio.api_key, services.settings.label_studio_timeout)
    try:
        for program in programs:
            program.start()
        project = client.create_project("At the desk", CONFIG)
        connect(services.settings, client, project=project.facts.id)
        paths = [path for name in CLASSES for path in sorted((DEMO / name).glob("*.png"))[:PER_CLASS]]
        random.Random(0).shuffle(paths)
        client.upload(project.facts.id, paths)
        made = Desk(services, client, project.facts.id, truth(client, project.facts.id, paths), label_studio)
        soon(lambda: made.project.shown and made.shown(), PATIENCE / 1000)
        yield made
    finally:
        for program in programs:
            program.stop()
        client.close()
        services.close()


def context_of(browser: Browser, desk: Desk, width: int, height: int, touch: bool = False) -> BrowserContext:
    """Open a browser of its own in which Ada is known to Tandem."""
    context = browser.new_context(
        base_url=desk.services.settings.web_url,
        http_credentials={"username": "Ada", "password": SECRET},
        viewport={"width": width, "height": height},
        has_touch=touch,
        is_mobile=touch,
        color_scheme="dark" if touch else "light",
    )
    context.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    return context


@pytest.fixture
def ours(browser: Browser, desk: Desk) -> Iterator[Page]:
    """Open Tandem's pages as Ada, on a desk."""
    context = context_of(browser, desk, 1200, 900)
    yield context.new_page()
    context.close()
