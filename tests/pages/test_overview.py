"""The page Overview shows what the read model tells, in words that fit what there is."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from backend.events import TasksDeleted
from tests.insight.measured import find, measure
from tests.parts import FACTS, Classroom

PATH = "/ui/projects/7/overview"


def test_without_tasks_it_says_to_import_some(client: TestClient, classroom: Classroom) -> None:
    classroom.services.ledger.tell(TasksDeleted(FACTS, tuple(classroom.tasks)))
    assert "Import images in Label Studio" in client.get(PATH).text


def test_without_labels_it_leads_to_label_studio(client: TestClient, classroom: Classroom) -> None:
    page = client.get(PATH).text
    assert 'href="http://127.0.0.1:1/projects/7/data"' in page
    assert "Nothing is labelled yet" in page
    assert "<figure" not in page


def test_after_the_first_label_it_says_when_there_will_be_numbers(client: TestClient, classroom: Classroom) -> None:
    classroom.annotate(1)
    assert "from the next label on" in client.get(PATH).text


def test_what_was_measured_is_shown_with_its_interval(client: TestClient, classroom: Classroom) -> None:
    classroom.annotate(1)
    measure(classroom.services, [("sad", "sad")] * 15 + [("sad", "happy")] * 5)
    page = client.get(PATH).text
    assert "of the last 20 (53 % – 89 %)" in page
    assert "<i>sad</i> taken for <i>happy</i> (5)" in page
    assert page.count('<figure class="plot"') == page.count('data-as="x"') == 3


def test_alarms_and_forecast_are_shown(client: TestClient, classroom: Classroom) -> None:
    classroom.annotate(1)
    find(
        classroom.services,
        shift=[{"kind": "features", "since": 0, "raised": 9, "evidence": {}, "sentence": "They are <new>."}],
        forecast={"labels": 60, "ahead": 100, "accuracy": 0.7, "gain": 0.05, "interval": [-0.01, 0.1]},
    )
    page = client.get(PATH).text
    assert "New images are unlike the labelled ones" in page
    assert "They are &lt;new&gt;." in page
    assert "+5.0 points" in page
    assert "-1.0 to +10.0" in page


def test_what_people_wrote_is_never_markup(client: TestClient, classroom: Classroom) -> None:
    classroom.annotate(1, "<script>alert(1)</script>")
    measure(classroom.services, [("<script>alert(1)</script>", "sad")])
    page = client.get(PATH).text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_the_json_says_the_same(client: TestClient, classroom: Classroom) -> None:
    classroom.annotate(1)
    measure(classroom.services, [("sad", "sad")] * 15 + [("sad", "happy")] * 5)
    told = client.get("/api/projects/7/overview").json()
    assert (told["labels"], told["measured"]["recent"]["hits"], told["measured"]["recent"]["count"]) == (1, 15, 20)
    assert told["measured"]["recent"]["low"] == pytest.approx(0.531, abs=0.001)
    assert told["measured"]["confusion"]["mistakes"] == [{"label": "sad", "predicted": "happy", "count": 5}]
