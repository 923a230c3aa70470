"""The page Doubts, its JSON, and what it answers to decisions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from backend.app import create_app
from tests.insight.test_doubts import doubted
from tests.parts import FACTS, Classroom, make_services
from tests.test_review import LabelStudioOf

ADDRESS = f"/api/projects/{FACTS.id}"
PAGE = f"/ui/projects/{FACTS.id}/doubts"
SECRET = "s3cret"
WHO = ("ada", SECRET)


@pytest.fixture
def classroom(tmp_path: Path) -> Classroom:
    return Classroom(make_services(tmp_path, secret=SECRET))


@pytest.fixture
def client(classroom: Classroom) -> Iterator[TestClient]:
    with TestClient(create_app(classroom.services.settings, classroom.services)) as client:
        client.auth = WHO
        yield client


@pytest.fixture
def annotation(classroom: Classroom) -> int:
    made = classroom.annotate(1, "sad")
    doubted(classroom, 1)
    return made


def listed(client: TestClient) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = client.get(f"{ADDRESS}/doubts").json()["doubts"]
    return told


def test_the_json_lists_what_to_look_at_with_the_reason(client: TestClient, annotation: int) -> None:
    (doubt,) = listed(client)
    assert (doubt["task"], doubt["said"]["annotation"], doubt["reason"]) == (1, annotation, "looks like happy")


def test_the_page_shows_a_key_beside_each_class_and_the_way_to_the_task(
    classroom: Classroom, client: TestClient, annotation: int
) -> None:
    page = client.get(PAGE).text
    for key, name in enumerate(classroom.project.classes, start=1):
        assert f"<kbd>{key}</kbd> {name}" in page
    assert f'id="doubt-{annotation}"' in page
    assert 'data-seen="[&#34;sad&#34;]"' in page
    assert f"/projects/{FACTS.id}/data?task=1" in page


def test_a_confirmed_doubt_is_gone_until_it_is_taken_back(client: TestClient, annotation: int) -> None:
    answer = client.post(f"{ADDRESS}/doubts/{annotation}/confirm", json={"seen": ["sad"]})
    assert (answer.status_code, answer.json()["who"]) == (200, "ada")
    assert listed(client) == []
    assert "sad is right" in client.get(PAGE).text
    taken_back = client.post(f"{ADDRESS}/reviews/{answer.json()['id']}/undo", json={})
    assert taken_back.status_code == 200
    assert len(listed(client)) == 1


def test_a_correction_is_in_label_studio_when_it_is_answered(
    classroom: Classroom, client: TestClient, annotation: int
) -> None:
    server = LabelStudioOf(classroom, "sad")
    body = {"seen": ["sad"], "label": ["happy"]}
    answer = client.post(f"{ADDRESS}/doubts/{annotation}/correct", json=body)
    assert (answer.status_code, answer.json()["after"]) == (200, ["happy"])
    assert server.choices == ["happy"]
    assert listed(client) == []


def test_what_cannot_be_done_is_said_in_a_sentence(classroom: Classroom, client: TestClient, annotation: int) -> None:
    address = f"{ADDRESS}/doubts/{annotation}/correct"
    unreachable = client.post(address, json={"seen": ["sad"], "label": ["happy"]})
    assert (unreachable.status_code, "can't be reached" in unreachable.json()["detail"]) == (503, True)
    server = LabelStudioOf(classroom, "angry")
    overtaken = client.post(address, json={"seen": ["sad"], "label": ["happy"]})
    assert (overtaken.status_code, "it says angry now" in overtaken.json()["detail"]) == (409, True)
    unknown = client.post(address, json={"seen": ["sad"], "label": ["zebra"]})
    assert (unknown.status_code, "Choose one of" in unknown.json()["detail"]) == (422, True)
    server.gone = True
    gone = client.post(address, json={"seen": ["sad"], "label": ["happy"]})
    assert (gone.status_code, "no longer in Label Studio" in gone.json()["detail"]) == (404, True)
    assert client.post(f"{ADDRESS}/reviews/5/undo").status_code == 404
    assert server.changes == 0
    assert len(listed(client)) == 1


@pytest.mark.parametrize("act", ["confirm", "correct"])
def test_another_sites_page_changes_nothing(client: TestClient, annotation: int, act: str) -> None:
    body = {"seen": ["sad"], "label": ["happy"]}
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": "https://elsewhere.example"}
    answer = client.post(f"{ADDRESS}/doubts/{annotation}/{act}", json=body, headers=headers)
    assert answer.status_code == 403
    assert len(listed(client)) == 1


def test_who_does_not_know_the_secret_decides_nothing(client: TestClient, annotation: int) -> None:
    client.auth = ("ada", "wrong")
    assert client.post(f"{ADDRESS}/doubts/{annotation}/confirm", json={"seen": ["sad"]}).status_code == 401
    assert client.get(PAGE).status_code == 401


def test_people_who_disagree_have_a_place(classroom: Classroom, client: TestClient) -> None:
    classroom.annotate(3, "sad", person=1)
    classroom.annotate(3, "<i>happy</i>", person=2)
    page = client.get(PAGE).text
    assert "People disagree" in page
    assert "person 2" in page
    assert "<i>happy</i>" not in page
