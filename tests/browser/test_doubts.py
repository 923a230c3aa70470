"""A reviewer goes through the doubts by keyboard and by touch, Label Studio has what they decided; and the queue."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from backend.label_config import parse_label_config
from tests.annotator import soon
from tests.browser.axe import serious_faults
from tests.browser.conftest import PATIENCE, Desk, context_of
from tests.parts import CONFIG

pytestmark = [pytest.mark.browser, pytest.mark.servers, pytest.mark.timeout(900)]

SHOTS = os.environ.get("TANDEM_SHOTS")
LABELLED, WRONG = 32, 4
CONFIGURATION = parse_label_config(CONFIG)


def shoot(page: Page, name: str) -> None:
    """Keep a picture of the page where somebody asked for it."""
    if SHOTS:
        page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True)


@pytest.fixture
def phone(browser: Browser, desk: Desk) -> Iterator[Page]:
    """Open Tandem's pages as Ada, on a small phone in the dark."""
    context = context_of(browser, desk, 360, 740, touch=True)
    yield context.new_page()
    context.close()


def label_of(desk: Desk, annotation: int) -> str:
    (label,) = CONFIGURATION.labels(desk.client.annotation(annotation)["result"])
    return label


def told(desk: Desk, annotation: int) -> str | None:
    """Return what Tandem has heard of an annotation."""
    label = desk.services.ledger.label(desk.project.id, annotation)
    return label.names[0] if label else None


def read(doubt: Locator) -> tuple[int, int, str]:
    """Return the annotation, the task and the label of a doubt on the page."""
    annotation, task, seen = (doubt.get_attribute(f"data-{name}") or "" for name in ("annotation", "task", "seen"))
    return int(annotation), int(task), str(json.loads(seen)[0])


def wrong_doubt(page: Page, desk: Desk) -> Locator:
    """Return the first doubt that is right to doubt."""
    for doubt in page.locator(".doubt").all():
        _, task, label = read(doubt)
        if desk.truth[task] != label:
            return doubt
    raise AssertionError("no wrong label is doubted")


def test_1_before_a_label_the_page_says_what_it_will_show(ours: Page, desk: Desk) -> None:
    ours.goto(f"/ui/projects/{desk.number}/doubts")
    expect(ours.locator("#doubts")).to_contain_text("fills by itself")
    assert serious_faults(ours) == []


def test_2_the_list_fills_by_itself_and_is_gone_through_by_keyboard(ours: Page, desk: Desk) -> None:
    ours.goto(f"/ui/projects/{desk.number}/doubts")
    for place, task in enumerate(desk.unlabelled()[:LABELLED]):
        others = [name for name in CONFIGURATION.classes if name != desk.truth[task]]
        desk.annotate(task, others[0] if place < WRONG else None)
    soon(desk.learned, PATIENCE / 1000)
    expect(ours.locator(".doubt").first).to_be_visible()
    soon(lambda: desk.services.studies.newest(desk.project.id).position == desk.project.position)  # type: ignore[union-attr]
    expect(ours.locator("#doubts")).not_to_contain_text("changed since")
    assert ours.locator(".doubt").count() >= 2
    ours.keyboard.press("j")
    expect(ours.locator(".doubt").nth(0)).to_be_focused()
    ours.keyboard.press("ArrowDown")
    expect(ours.locator(".doubt").nth(1)).to_be_focused()
    ours.keyboard.press("k")
    expect(ours.locator(".doubt").nth(0)).to_be_focused()
    shoot(ours, "doubts")
    assert serious_faults(ours) == []


def test_3_a_digit_corrects_the_label_in_label_studio_and_u_takes_it_back(ours: Page, desk: Desk) -> None:
    ours.goto(f"/ui/projects/{desk.number}/doubts")
    doubt = wrong_doubt(ours, desk)
    annotation, task, wrong = read(doubt)
    right = desk.truth[task]
    by = desk.client.annotation(annotation)["completed_by"]
    while not ours.evaluate(f"document.activeElement.id === 'doubt-{annotation}'"):
        ours.keyboard.press("j")
    ours.keyboard.press(str(CONFIGURATION.classes.index(right) + 1))
    expect(ours.locator("#answer")).to_have_text(f"Task {task} is labelled {right} now.")
    assert label_of(desk, annotation) == right
    assert desk.client.annotation(annotation)["completed_by"] == by
    expect(ours.locator(f"#doubt-{annotation}")).to_have_count(0)
    expect(ours.locator(".doubt:focus")).to_have_count(1)
    expect(ours.locator(".decided")).to_contain_text("Ada")
    soon(lambda: told(desk, annotation) == right)
    soon(desk.learned, PATIENCE / 1000)

    ours.keyboard.press("u")
    expect(ours.locator("#answer")).to_have_text(f"Taken back: task {task} says {wrong} again.")
    assert label_of(desk, annotation) == wrong
    soon(lambda: told(desk, annotation) == wrong)


def test_4_enter_confirms_and_the_label_is_not_doubted_again(ours: Page, desk: Desk) -> None:
    ours.goto(f"/ui/projects/{desk.number}/doubts")
    annotation, task, label = read(ours.locator(".doubt").first)
    before = desk.client.annotation(annotation)
    ours.keyboard.press("j")
    ours.keyboard.press("Enter")
    expect(ours.locator("#answer")).to_have_text(f"Task {task}: {label} is right.")
    expect(ours.locator(f"#doubt-{annotation}")).to_have_count(0)
    assert desk.client.annotation(annotation)["updated_at"] == before["updated_at"]
    number = desk.services.studies.newest(desk.project.id)
    assert number is not None
    desk.annotate(desk.unlabelled()[0])
    soon(lambda: desk.services.studies.newest(desk.project.id).number > number.number)  # type: ignore[union-attr]
    study = desk.services.studies.newest(desk.project.id)
    assert study is not None
    assert study.findings is not None
    assert (task, label) not in {(doubt["task"], doubt["given"]) for doubt in study.findings["doubts"]}


def test_5_a_doubt_is_corrected_by_touch_on_a_phone(phone: Page, desk: Desk) -> None:
    phone.goto(f"/ui/projects/{desk.number}/doubts")
    doubt = wrong_doubt(phone, desk)
    annotation, task, _ = read(doubt)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 360
    shoot(phone, "doubts-phone")
    assert serious_faults(phone) == []
    doubt.locator(f'button[data-label="{desk.truth[task]}"]').tap()
    expect(phone.locator("#answer")).to_have_text(f"Task {task} is labelled {desk.truth[task]} now.")
    assert label_of(desk, annotation) == desk.truth[task]


def test_6_what_somebody_else_changed_is_left_alone(ours: Page, desk: Desk) -> None:
    ours.goto(f"/ui/projects/{desk.number}/doubts")
    annotation, task, label = read(ours.locator(".doubt").first)
    other = next(name for name in CONFIGURATION.classes if name not in (label, desk.truth[task]))
    # The page must not hear of it first.
    ours.route("**/ui/events", lambda route: route.abort())
    ours.reload()
    desk.client.update_annotation(annotation, result=CONFIGURATION.result(other))
    ours.locator(f"#doubt-{annotation} button[data-label]:enabled").first.click()
    expect(ours.locator("#answer")).to_contain_text(f"it says {other} now")
    assert label_of(desk, annotation) == other


def test_7_the_queue_shows_images_in_order_and_leads_to_the_task(ours: Page, page: Page, desk: Desk) -> None:
    soon(desk.learned, PATIENCE / 1000)
    soon(desk.shown, PATIENCE / 1000)
    ours.goto(f"/ui/projects/{desk.number}/queue")
    expect(ours.locator(".tiles li").first).to_be_visible()
    pictures = ours.locator(".tiles img")
    pictures.first.scroll_into_view_if_needed()
    soon(lambda: pictures.first.evaluate("image => image.complete && image.naturalWidth > 0"))
    links = [link.get_attribute("href") or "" for link in ours.locator(".tiles a").all()]
    shown = [int(re.sub(r".*task=", "", link)) for link in links]
    assert set(shown) <= set(desk.unlabelled())
    asked = desk.client.next_task(desk.number)
    assert asked is not None
    assert asked["id"] == shown[0]
    shoot(ours, "queue")
    assert serious_faults(ours) == []
    ours.locator("#predicted").select_option("happy")
    ours.locator("#filter").click()
    expect(ours.locator("#queue")).to_contain_text("task")
    desk.log_in(page)
    page.goto(links[0])
    expect(page.locator(".lsf-choice__checkbox input").first).to_be_attached(timeout=PATIENCE)
    assert f"task={shown[0]}" in page.url
