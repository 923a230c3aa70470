"""Somebody drops a picture, sees what Tandem makes of it, teaches it, and Label Studio has it."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from backend.label_config import parse_label_config
from tests.annotator import soon
from tests.browser.axe import serious_faults
from tests.browser.conftest import CLASSES, PER_CLASS, Desk
from tests.parts import CONFIG, DEMO

pytestmark = [pytest.mark.browser, pytest.mark.servers, pytest.mark.timeout(900)]

GIVE = """([kind, name, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type: "image/png" }));
  const event = kind === "drop"
    ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
    : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true });
  document.getElementById("drop").dispatchEvent(event);
}"""


@pytest.fixture
def ours(ours: Page, desk: Desk) -> Page:
    """Open the page as Ada."""
    ours.goto(f"/ui/projects/{desk.number}/try")
    return ours


def fresh(name: str) -> Path:
    """Return an image that the desk's project does not have."""
    return sorted((DEMO / name).glob("*.png"))[PER_CLASS]


def give(page: Page, kind: str, path: Path) -> None:
    """Drop or paste an image as a browser does."""
    page.evaluate(GIVE, [kind, path.name, base64.b64encode(path.read_bytes()).decode()])


def test_1_before_any_label_a_picture_can_be_looked_at_and_nothing_is_known(ours: Page, desk: Desk) -> None:
    give(ours, "drop", fresh("happy"))
    expect(ours.locator("#answer")).to_have_text("It knows nothing yet")
    assert serious_faults(ours) == []


def test_2_a_dropped_picture_is_told_and_compared_with_what_was_labelled(ours: Page, desk: Desk) -> None:
    for task in desk.unlabelled()[:24]:
        desk.annotate(task)
    soon(desk.learned)
    give(ours, "drop", fresh("happy"))
    expect(ours.locator("#answer")).to_contain_text("%")
    champion = desk.services.versions.champion(desk.project.id)
    assert champion is not None
    expect(ours.locator("#seen")).to_contain_text(f"Says {champion.name}")
    expect(ours.locator("#seen")).to_contain_text("of 24 labelled images")
    expect(ours.locator("#preview")).to_be_visible()
    ours.locator("#seen .pictures img").last.scroll_into_view_if_needed()
    expect(ours.locator("#seen .pictures img").last).not_to_have_js_property("naturalWidth", 0)
    assert serious_faults(ours) == []
    ours.set_viewport_size({"width": 360, "height": 740})
    assert ours.evaluate("document.documentElement.scrollWidth") <= 360
    ours.emulate_media(color_scheme="dark")
    assert serious_faults(ours) == []


def test_3_a_picture_that_is_taught_is_a_labelled_task_in_label_studio_and_learned(ours: Page, desk: Desk) -> None:
    before = {int(task["id"]) for task in desk.client.tasks(desk.number)}
    give(ours, "paste", fresh("sad"))
    ours.get_by_role("radio", name="sad").check()
    ours.click("#give")
    expect(ours.locator("#learned")).to_contain_text("is labelled sad")
    assert serious_faults(ours) == []
    made = [task for task in desk.client.tasks(desk.number) if int(task["id"]) not in before]
    assert len(made) == 1
    (annotation,) = made[0]["annotations"]
    assert parse_label_config(CONFIG).labels(annotation["result"]) == ("sad",)
    soon(
        lambda: [
            each for each in desk.services.ledger.in_force(desk.project.id).values() if each.task_id == made[0]["id"]
        ]
    )
    soon(desk.learned)
    ours.click("#look")
    expect(ours.locator("#seen")).to_contain_text("already, and labelled")
    expect(ours.locator("#seen .pictures li").first).to_contain_text("sad")
    expect(ours.locator("#seen .pictures li").first).to_contain_text("100 % alike")


def test_4_a_picture_from_a_file_is_looked_at_at_once_and_no_picture_is_refused(
    ours: Page, desk: Desk, tmp_path: Path
) -> None:
    assert set(CLASSES) <= set(desk.project.classes)
    ours.set_input_files("#file", fresh("angry"))
    expect(ours.locator("#answer")).to_contain_text("%")
    (tmp_path / "letter.png").write_text("no picture")
    ours.set_input_files("#file", tmp_path / "letter.png")
    expect(ours.locator("#refused")).to_contain_text("not an image")
    assert serious_faults(ours) == []


def test_5_a_file_that_is_too_large_is_refused_before_it_is_sent(ours: Page, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate((50 << 20) + 1)
    sent: list[str] = []
    ours.on("request", lambda request: sent.append(request.method))
    ours.set_input_files("#file", large)
    expect(ours.locator("#refused")).to_contain_text("more than the 52,428,800")
    assert "POST" not in sent
