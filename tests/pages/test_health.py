"""The page Health shows how Tandem is doing at once, and what the doctor finds as soon as it has looked."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from fastapi.testclient import TestClient

from backend.doctor import Finding
from backend.pages import health
from backend.services import Services
from tests.parts import Classroom

FOUND = [
    Finding("database", "fine", "It answers."),
    Finding("redis", "broken", "Redis does not <answer>.", "Start it."),
    Finding("webhook", "warning", "There are two.", "Remove one.", project=7),
]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Services]:
    """Let the doctor find the same each time; return a list that grows with each look."""
    looked: list[Services] = []

    def examine(services: Services) -> Sequence[Finding]:
        looked.append(services)
        return FOUND

    monkeypatch.setattr(health, "examine", examine)
    return looked


def test_the_page_does_not_wait_for_the_doctor(client: TestClient, classroom: Classroom, looks: list[Services]) -> None:
    page = client.get("/ui/health").text
    assert 'hx-get="/ui/health/findings"' in page
    assert "Redis can't be asked" in page.replace("&#39;", "'")
    assert "expressions" in page
    assert looks == []


def test_what_needs_a_look_comes_with_its_mend(client: TestClient, looks: list[Services]) -> None:
    page = client.get("/ui/health/findings").text
    assert "2 of 3 things need a look" in page
    assert "Redis does not &lt;answer&gt;." in page
    assert "Start it." in page
    assert page.index("Redis does not") < page.index("What is fine") < page.index("It answers.")


def test_the_doctor_looks_once_for_all_who_ask(
    client: TestClient, looks: list[Services], monkeypatch: pytest.MonkeyPatch
) -> None:
    client.get("/ui/health/findings")
    client.get("/ui/health/findings")
    assert len(looks) == 1
    monkeypatch.setattr(health, "FRESH", -1.0)
    client.get("/ui/health/findings")
    assert len(looks) == 2


def test_without_a_project_it_says_how_to_connect_one(client: TestClient, looks: list[Services]) -> None:
    assert "tandem connect" in client.get("/ui/health").text


def test_the_json_has_both(client: TestClient, classroom: Classroom, looks: list[Services]) -> None:
    classroom.annotate(1)
    told = client.get("/api/health").json()
    assert told["health"]["workers"] is None
    assert [each["standing"] for each in told["health"]["projects"]] == [{"in force": 1}]
    assert [(each["name"], each["state"]) for each in told["examined"]["findings"]] == [
        ("database", "fine"),
        ("redis", "broken"),
        ("webhook", "warning"),
    ]
