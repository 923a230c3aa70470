"""The page Queue and its JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from backend.app import create_app
from backend.events import TasksTold
from backend.scores import scored
from tests.parts import FACTS, Classroom, make_services


@pytest.fixture
def classroom(tmp_path: Path) -> Classroom:
    return Classroom(make_services(tmp_path, label_studio_url="http://127.0.0.1:8099"))


@pytest.fixture
def client(classroom: Classroom) -> Iterator[TestClient]:
    with TestClient(create_app(classroom.services.settings, classroom.services)) as client:
        yield client


def score(classroom: Classroom) -> None:
    """Let the tasks be asked backwards; the first is an angry one, the next can't be told apart."""
    order = sorted(classroom.tasks, reverse=True)
    classes = ["angry", "<b>happy</b>"]
    told = scored(1, 3, {task: place / 100 for place, task in enumerate(order)}, order[:2], classes, np.eye(2))
    classroom.services.scores.keep(told)


def test_the_json_gives_tasks_in_order_with_their_scores(classroom: Classroom, client: TestClient) -> None:
    score(classroom)
    told = client.get(f"/api/projects/{FACTS.id}/queue", params={"size": 3}).json()
    assert (told["version"], told["unlabelled"], told["pages"]) == ("tandem-v3", 28, 10)
    assert [each["task"] for each in told["tasks"]] == [28, 27, 26]
    assert told["tasks"][1]["score"] == pytest.approx(0.01)


def test_the_page_links_each_image_to_its_task_in_label_studio(classroom: Classroom, client: TestClient) -> None:
    score(classroom)
    page = client.get(f"/ui/projects/{FACTS.id}/queue").text
    assert page.count('class="tiles"') == 1
    assert f"http://127.0.0.1:8099/projects/{FACTS.id}/data?task=28" in page
    assert f"/ui/projects/{FACTS.id}/thumbnails/28" in page
    assert page.index("task=28") < page.index("task=27") < page.index('task=1"')


def test_nothing_of_label_studio_is_taken_for_html(classroom: Classroom, client: TestClient) -> None:
    score(classroom)
    page = client.get(f"/ui/projects/{FACTS.id}/queue").text
    assert "<b>happy</b>" not in page
    assert "&lt;b&gt;happy&lt;/b&gt;" in page


def test_filters_narrow_the_page_and_are_kept_when_it_is_turned(classroom: Classroom, client: TestClient) -> None:
    score(classroom)
    page = client.get(f"/ui/projects/{FACTS.id}/queue", params={"predicted": "angry"}).text
    assert "task=28" in page
    assert "task=27" not in page
    told = client.get(f"/api/projects/{FACTS.id}/queue", params={"kind": "ambiguous"}).json()
    assert (told["kind"], told["tasks"]) == ("ambiguous", [])
    assert (
        "No task without a label is like that now."
        in client.get(f"/ui/projects/{FACTS.id}/queue", params={"kind": "novel"}).text
    )


def test_pages_lead_to_the_next(classroom: Classroom, client: TestClient) -> None:
    many = tuple(replace(classroom.tasks[1], id=task) for task in range(100, 140))
    classroom.services.ledger.tell(TasksTold(FACTS, many, with_annotations=False))
    classroom.services.scores.keep(scored(1, 0, {task.id: task.id / 1000 for task in many}))
    page = client.get(f"/ui/projects/{FACTS.id}/queue").text
    assert "page=2" in page
    assert "Tasks 1 to 30 of 40" in page
    assert "Tasks 31 to 40 of 40" in client.get(f"/ui/projects/{FACTS.id}/queue", params={"page": 2}).text


@pytest.mark.parametrize("query", [{"page": 0}, {"page": "x"}, {"size": 10**9}, {"kind": "nonsense"}])
def test_nonsense_is_refused(client: TestClient, query: dict[str, str | int]) -> None:
    assert client.get(f"/api/projects/{FACTS.id}/queue", params=query).status_code == 422


def test_an_empty_queue_says_what_to_expect(classroom: Classroom, client: TestClient) -> None:
    assert "Their images are being read" in client.get(f"/ui/projects/{FACTS.id}/queue").text
    for task in classroom.tasks:
        classroom.annotate(task)
    assert "Every task of this project has a label" in client.get(f"/ui/projects/{FACTS.id}/queue").text
