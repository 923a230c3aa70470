"""Overview and Health in a real browser: drawn, live, readable in the dark, on a phone and without eyes or a mouse."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect
from pydantic import SecretStr

from backend.services import Services
from backend.up.run import tandem_programs
from backend.up.servers import Running, free_port
from tests.browser.axe import serious_faults
from tests.browser.conftest import SECRET
from tests.insight.measured import find, measure
from tests.parts import Classroom, make_services

pytestmark = [pytest.mark.browser, pytest.mark.servers]

SHOTS = os.environ.get("TANDEM_SHOTS")
SCREENS = {
    "light": {"viewport": {"width": 1200, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1200, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 740}, "color_scheme": "light"},
}


@dataclass
class Office:
    """A project with numbers to show, served by a web process of its own."""

    services: Services
    classroom: Classroom
    url: str


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory, valkey: str) -> Iterator[Office]:
    folder = tmp_path_factory.mktemp("office")
    services = make_services(folder, valkey, web_port=free_port(), secret=SecretStr(SECRET), domain_field="camera")
    classroom = Classroom(services)
    for task in range(1, 13):
        classroom.annotate(task)
    classes = sorted(classroom.project.classes)
    measure(
        services,
        [(classes[number % 7], classes[number % 7 if number % 5 else number % 3]) for number in range(120)],
        confidence=0.72,
        start=1_795_000_000.0,
    )
    find(
        services,
        sample={"count": 30, "accuracy": 0.8, "interval": [0.6, 0.9]},
        domains={"hall": {"count": 60, "accuracy": 0.8, "interval": [0.7, 0.9], "log_loss": 0.5}},
        forgetting={"domains": ["hall", "yard"], "accuracy": [[0.8, 0.3], [0.7, 0.9]], "average_forgetting": 0.1},
        forecast={"labels": 60, "ahead": 100, "accuracy": 0.7, "gain": 0.05, "interval": [-0.01, 0.1]},
        shift=[{"kind": "errors", "since": 3, "raised": 9, "evidence": {}, "sentence": "It errs more than it says."}],
    )
    (web,) = [Running(each, folder / "web.log") for each in tandem_programs(services.settings) if each.name == "web"]
    try:
        web.start()
        yield Office(services, classroom, services.settings.web_url)
    finally:
        web.stop()
        services.close()


@pytest.fixture
def screen(browser: Browser, office: Office, request: pytest.FixtureRequest) -> Iterator[Page]:
    """Open Tandem's pages as Ada on the screen that the test names; nothing may be missing or go wrong on them."""
    context: BrowserContext = browser.new_context(
        base_url=office.url,
        http_credentials={"username": "Ada", "password": SECRET},
        **SCREENS[getattr(request, "param", "light")],
    )
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith(office.url) else wrong.append(asked.url))
    yield page
    context.close()
    assert wrong == []


def shoot(page: Page, name: str) -> None:
    """Keep a picture of the page where somebody asked for it."""
    if SHOTS:
        page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True)


@pytest.mark.parametrize("screen", SCREENS, indirect=True)
def test_overview_is_drawn_fits_and_is_readable(screen: Page, request: pytest.FixtureRequest) -> None:
    screen.goto("/ui/")
    expect(screen).to_have_title("expressions: overview – Tandem")
    expect(screen.locator("figure.plot canvas")).to_have_count(3)
    expect(screen.locator(".numbers")).to_contain_text("of the last 100")
    assert screen.evaluate("document.documentElement.scrollWidth - innerWidth") == 0
    assert serious_faults(screen) == []
    shoot(screen, f"overview-{request.node.callspec.params['screen']}")


@pytest.mark.parametrize("screen", SCREENS, indirect=True)
def test_health_tells_at_once_and_then_what_the_doctor_finds(screen: Page, request: pytest.FixtureRequest) -> None:
    screen.goto("/ui/health")
    expect(screen.locator("#doing")).to_contain_text("12 heard by webhook")
    expect(screen.locator("#doing")).to_contain_text("none")
    expect(screen.locator("#findings")).to_contain_text("need a look", timeout=40_000)
    expect(screen.locator("#findings")).to_contain_text("Label Studio")
    assert screen.evaluate("document.documentElement.scrollWidth - innerWidth") == 0
    assert serious_faults(screen) == []
    shoot(screen, f"health-{request.node.callspec.params['screen']}")


def test_a_label_shows_without_loading_the_page_again_and_leaves_reader_and_focus_where_they_are(
    screen: Page, office: Office
) -> None:
    screen.goto("/ui/projects/7/overview")
    screen.click("#calibration summary")
    screen.locator("#by-labels summary").focus()
    screen.evaluate("window.stayed = true")
    before = screen.evaluate("scrollY")
    expect(screen.locator(".numbers")).to_contain_text("12 labels")
    office.classroom.annotate(13)
    expect(screen.locator(".numbers")).to_contain_text("13 labels", timeout=10_000)
    expect(screen.locator("#said")).to_contain_text("13 labels")
    expect(screen.locator("figure.plot canvas")).to_have_count(3)
    assert screen.locator("#calibration").get_attribute("open") is not None
    assert screen.evaluate("document.activeElement.closest('details')?.id") == "by-labels"
    assert (screen.evaluate("scrollY"), screen.evaluate("window.stayed")) == (before, True)


def test_by_keyboard_the_first_stop_leads_past_the_navigation(screen: Page) -> None:
    screen.goto("/ui/projects/7/overview")
    screen.keyboard.press("Tab")
    expect(screen.locator(".skip")).to_be_focused()
    screen.keyboard.press("Enter")
    expect(screen.locator("#main")).to_be_focused()


def test_the_documentation_of_the_json_comes_up_by_itself(screen: Page) -> None:
    screen.goto("/docs")
    expect(screen.locator("#docs")).to_contain_text("What the model knows now")
