"""Who runs it rolls back on the page, and the next prediction in Label Studio says so."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.annotator import soon
from tests.browser.axe import serious_faults
from tests.browser.conftest import PATIENCE, Desk

pytestmark = [pytest.mark.browser, pytest.mark.servers, pytest.mark.timeout(900)]


def label(desk: Desk, count: int) -> None:
    for task in desk.unlabelled()[:count]:
        desk.annotate(task)
    soon(desk.learned)


def test_1_an_older_version_is_let_serve_and_label_studio_shows_it(ours: Page, desk: Desk) -> None:
    for count in (4, 8, 8):
        label(desk, count)
    pages = f"/ui/projects/{desk.number}/versions"
    ours.goto(pages)
    expect(ours.locator("#serving")).to_contain_text("it is the newest")
    ours.click("#version-2")
    ours.fill("#why", "Trying what it knew before")
    assert serious_faults(ours) == []
    ours.click("#pin")
    expect(ours.locator("#serving")).to_have_text("tandem-v2 serves, not the newest")
    expect(ours.locator("#versions")).to_contain_text("Ada chose so")
    assert serious_faults(ours) == []
    soon(desk.shown, PATIENCE / 1000)
    state = desk.client.project(desk.number)
    assert state.model_version.startswith("tandem-v2")
    asked = desk.client.next_task(desk.number)
    assert asked is not None
    assert state.model_version in {each["model_version"] for each in asked["predictions"]}


def test_2_learning_goes_on_and_the_page_tells_it_without_being_loaded_again(ours: Page, desk: Desk) -> None:
    ours.goto(f"/ui/projects/{desk.number}/versions")
    newest = desk.services.versions.newest(desk.project.id)
    assert newest is not None
    label(desk, 2)
    expect(ours.locator(f"#version-{newest.number + 1}")).to_be_visible()
    expect(ours.locator("#serving")).to_have_text("tandem-v2 serves, not the newest")


def test_3_two_versions_are_compared(ours: Page, desk: Desk) -> None:
    ours.goto(f"/ui/projects/{desk.number}/versions")
    ours.click("#compare-1")
    expect(ours.locator("#compared")).to_contain_text("labels that came after both")
    expect(ours.locator("#compared")).to_contain_text("What tandem-v2 learned that tandem-v1 did not")
    ours.locator("#compared img").first.scroll_into_view_if_needed()
    expect(ours.locator("#compared img").first).not_to_have_js_property("naturalWidth", 0)
    assert serious_faults(ours) == []
    ours.set_viewport_size({"width": 360, "height": 740})
    assert ours.evaluate("document.documentElement.scrollWidth") <= 360


def test_4_by_keyboard_the_newest_serves_again(ours: Page, desk: Desk) -> None:
    ours.goto(f"/ui/projects/{desk.number}/versions")
    ours.focus("#release")
    ours.keyboard.press("Enter")
    expect(ours.locator("#serving")).to_contain_text("it is the newest")
    expect(ours.locator("#pins li").first).to_contain_text("Ada let the newest serve")
    newest = soon(lambda: desk.shown() and desk.services.versions.newest(desk.project.id), PATIENCE / 1000)
    assert newest
    assert desk.client.project(desk.number).model_version.startswith(newest.name)
    ours.set_viewport_size({"width": 360, "height": 740})
    assert ours.evaluate("document.documentElement.scrollWidth") <= 360
    ours.emulate_media(color_scheme="dark")
    assert serious_faults(ours) == []
