"""A day of who labels, in a real browser on the real Label Studio, from the first label on."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from backend.data_manager import LISTS
from backend.label_config import parse_label_config
from backend.update import is_news
from tests.annotator import soon
from tests.browser.conftest import PATIENCE, Desk
from tests.parts import CONFIG

pytestmark = [pytest.mark.browser, pytest.mark.servers, pytest.mark.timeout(1200)]

LABELS = 20
TASK = ".lsf-current-task__task-id"
HOTKEYS = {name: str(number) for number, name in enumerate(parse_label_config(CONFIG).classes, start=1)}
ANOTHER = {"angry": "happy", "happy": "sad", "sad": "happy", "surprise": "sad"}


def wait_for(what: Callable[[], object]) -> None:
    soon(lambda: what() or None, PATIENCE / 1000)


def settled(desk: Desk) -> bool:
    """Tell whether Label Studio shows all that can be learned of the labels there are, also by a study."""
    project = desk.project
    newest, study = desk.services.versions.newest(project.id), desk.services.studies.newest(project.id)
    if newest is None or study is None or study.position != project.position:
        return False
    return desk.learned() and desk.shown() and not is_news(desk.services, newest, study)


def tasks(desk: Desk) -> dict[int, dict[str, Any]]:
    """Return every task as Label Studio has it, with annotations and predictions."""
    params: dict[str, str | int] = {"project": desk.number, "page_size": 100, "fields": "all"}
    answer = httpx.get(f"{desk.server.url}/api/tasks", params=params, headers=desk.client.authorization(), timeout=60)
    return {task["id"]: task for task in answer.raise_for_status().json()["tasks"]}


def shown(desk: Desk) -> dict[int, dict[str, Any]]:
    """Return the prediction that each task without a label shows."""
    name = desk.client.project(desk.number).model_version
    return {
        task_id: prediction
        for task_id, task in tasks(desk).items()
        if not task["annotations"]
        for prediction in task["predictions"]
        if prediction["model_version"] == name
    }


def least_certain(scores: dict[int, float]) -> int:
    return min(scores, key=lambda task: scores[task])


def annotations(desk: Desk, task_id: int) -> list[dict[str, Any]]:
    theirs: list[dict[str, Any]] = tasks(desk)[task_id]["annotations"]
    return theirs


def open_stream(desk: Desk, page: Page) -> int:
    """Log in and press *Label All Tasks*, as its address does; return the task that is asked."""
    desk.log_in(page)
    page.goto(f"{desk.server.url}/projects/{desk.number}/data?labeling=1")
    return asked(page)


def asked(page: Page) -> int:
    """Return the task on the screen."""
    page.get_by_role("button", name="Submit").first.wait_for()
    return int(page.locator(TASK).inner_text().split()[0])


def next_asked(page: Page, last: int) -> int:
    """Return the task that comes after `last`."""
    other = re.compile(rf"^(?!{last}\b)")
    expect(page.locator(TASK)).to_have_text(other, use_inner_text=True, timeout=PATIENCE)
    return asked(page)


def chosen(page: Page) -> list[str | None]:
    return [box.get_attribute("name") for box in page.locator(".lsf-choice__checkbox input:checked").all()]


def choose(page: Page, label: str) -> None:
    page.keyboard.press(HOTKEYS[label])
    expect(page.locator(f".lsf-choice__checkbox input[name={label}]")).to_be_checked(timeout=PATIENCE)


def open_tab(desk: Desk, page: Page, title: str) -> None:
    (view,) = (view for view in desk.client.views(desk.number) if view.title == title)
    page.goto(f"{desk.server.url}/projects/{desk.number}/data?tab={view.id}")


def rows(page: Page) -> list[int]:
    """Return the tasks that are listed on the screen, from the top."""
    page.locator(".lsf-table-row").first.wait_for()
    return [int(text.split()[0]) for text in page.locator(".lsf-table-row").all_inner_texts()]


def listed(desk: Desk, title: str) -> list[int]:
    """Return what the filters of a tab name: tasks, or annotations."""
    (view,) = (view for view in desk.client.views(desk.number) if view.title == title)
    text = " ".join(str(item["value"]) for item in view.data["filters"]["items"])
    return [number for number in map(int, re.findall(r"\d+", text)) if number]


def test_1_before_the_first_label_nothing_is_chosen_and_hotkeys_choose_and_submit(desk: Desk, page: Page) -> None:
    scores = {task: prediction["score"] for task, prediction in shown(desk).items()}
    first = open_stream(desk, page)
    assert first == least_certain(scores)
    assert chosen(page) == []
    assert page.locator(".tandem").inner_text().strip() == ""
    choose(page, desk.truth[first])
    page.keyboard.press("ControlOrMeta+Enter")
    next_asked(page, first)
    (annotation,) = annotations(desk, first)
    assert [region["value"] for region in annotation["result"]] == [{"choices": [desk.truth[first]]}]


def test_2_after_twenty_labels_the_tab_lists_the_least_certain_first(desk: Desk, page: Page) -> None:
    wait_for(lambda: len(desk.unlabelled()) == len(desk.truth) - 1)
    for task in desk.unlabelled()[: LABELS - 1]:
        desk.annotate(task)
    wait_for(lambda: settled(desk))
    scores = {task: prediction["score"] for task, prediction in shown(desk).items()}
    assert len(scores) == len(desk.truth) - LABELS
    desk.log_in(page)
    open_tab(desk, page, "Ask next")
    found = rows(page)
    assert len(found) > 5
    assert [scores[task] for task in found] == sorted(scores.values())[: len(found)]


@pytest.mark.parametrize("sure", [True, False])
def test_3_a_task_opens_with_the_choice_made_if_it_is_sure_and_with_the_reason(
    desk: Desk, page: Page, sure: bool
) -> None:
    config = parse_label_config(CONFIG)
    predictions = {task: each["result"] for task, each in shown(desk).items()}
    task, result = next((task, result) for task, result in predictions.items() if bool(config.labels(result)) == sure)
    (words,) = (region["value"]["text"] for region in result if region["from_name"] == "tandem")
    desk.log_in(page)
    page.goto(f"{desk.server.url}/projects/{desk.number}/data?task={task}")
    expect(page.locator(".tandem")).to_contain_text(words[0], timeout=PATIENCE)
    assert asked(page) == task
    assert chosen(page) == list(config.labels(result))


def test_4_what_is_submitted_by_hotkey_is_the_choice_alone_and_the_least_certain_comes_next(
    desk: Desk, page: Page
) -> None:
    wait_for(lambda: settled(desk))
    first = open_stream(desk, page)
    before = {task: each["score"] for task, each in shown(desk).items()}
    assert first == least_certain(before)
    page.locator(".tandem").get_by_text("%").wait_for()
    if not chosen(page):
        choose(page, desk.truth[first])
    (label,) = chosen(page)
    page.keyboard.press("ControlOrMeta+Enter")
    second = next_asked(page, first)
    (annotation,) = annotations(desk, first)
    assert [(each["from_name"], each["value"]) for each in annotation["result"]] == [
        ("expression", {"choices": [label]})
    ]
    wait_for(lambda: settled(desk))
    # Whichever of the two versions Label Studio showed when it was asked.
    after = {task: each["score"] for task, each in shown(desk).items()}
    assert second in {least_certain({task: before[task] for task in before if task != first}), least_certain(after)}


def test_5_what_is_skipped_keeps_nothing_of_the_reason(desk: Desk, page: Page) -> None:
    first = open_stream(desk, page)
    page.locator(".tandem").get_by_text("%").wait_for()
    page.get_by_role("button", name="Skip").first.click()
    next_asked(page, first)
    (annotation,) = annotations(desk, first)
    assert annotation["was_cancelled"]
    assert "tandem" not in [region["from_name"] for region in annotation["result"]]


def test_6_a_task_kept_open_while_others_are_learned_can_still_be_submitted(desk: Desk, page: Page) -> None:
    wait_for(lambda: settled(desk))
    first = open_stream(desk, page)
    page.locator(".tandem").get_by_text("%").wait_for()
    seen = desk.client.project(desk.number).model_version
    for task in [each for each in desk.unlabelled() if each != first][:3]:
        desk.annotate(task)
        wait_for(desk.learned)
    wait_for(lambda: settled(desk))
    assert desk.client.project(desk.number).model_version != seen
    if not chosen(page):
        choose(page, desk.truth[first])
    page.keyboard.press("ControlOrMeta+Enter")
    next_asked(page, first)
    assert [each["was_cancelled"] for each in annotations(desk, first)] == [False]


def test_7_the_order_changes_by_itself_in_the_data_manager_and_in_the_stream(desk: Desk, page: Page) -> None:
    wait_for(lambda: settled(desk))
    desk.log_in(page)
    open_tab(desk, page, "Ask next")
    before = rows(page)
    for task in before[:3]:
        desk.annotate(task)
    wait_for(lambda: settled(desk))
    page.reload()
    scores = {task: each["score"] for task, each in shown(desk).items()}
    after = rows(page)
    assert not set(before[:3]) & set(after)
    assert [scores[task] for task in after] == sorted(scores.values())[: len(after)]
    page.goto(f"{desk.server.url}/projects/{desk.number}/data?labeling=1")
    assert scores[asked(page)] == min(scores.values())


def test_8_a_label_in_doubt_is_listed_and_the_task_says_why(desk: Desk, page: Page) -> None:
    wrong = [each for each in desk.unlabelled() if desk.truth[each] in ANOTHER][:4]
    for task in wrong:
        desk.annotate(task, ANOTHER[desk.truth[task]])
    wait_for(lambda: settled(desk) and listed(desk, "Look again"))
    desk.log_in(page)
    open_tab(desk, page, "Look again")
    row = page.locator(".lsf-table-row").filter(has_text="Look again:").first
    row.wait_for()
    doubted = int(row.inner_text().split()[0])
    page.goto(f"{page.url}&task={doubted}")
    page.get_by_text(re.compile(r"^Look ag.*\?$")).first.click()
    (words,) = {
        region["value"]["text"][0]
        for prediction in tasks(desk)[doubted]["predictions"]
        if prediction["model_version"].startswith("Look again: ")
        for region in prediction["result"]
        if region["from_name"] == "tandem"
    }
    expect(page.locator(".tandem")).to_contain_text(words, timeout=PATIENCE)
    (annotation,) = annotations(desk, doubted)
    assert "tandem" not in [region["from_name"] for region in annotation["result"]]


def test_9_labels_that_differ_are_listed_and_a_tab_that_was_deleted_stays_away(desk: Desk, page: Page) -> None:
    task = next(each for each, told in tasks(desk).items() if len(told["annotations"]) == 1)
    (view,) = (view for view in desk.client.views(desk.number) if view.title == "Novel")
    httpx.delete(f"{desk.server.url}/api/dm/views/{view.id}/", headers=desk.client.authorization()).raise_for_status()
    for label in ("sad", "happy"):
        desk.annotate(task, label)
    wait_for(lambda: settled(desk) and listed(desk, "Disagreements"))
    desk.log_in(page)
    open_tab(desk, page, "Disagreements")
    assert rows(page) == [task]
    assert {view.title for view in desk.client.views(desk.number)} & set(LISTS) == set(LISTS) - {"Novel"}
