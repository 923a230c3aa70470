"""The page Versions: whoever rolls back is named, and what comes from another site is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from fastapi.testclient import TestClient

from backend.app import create_app
from backend.learner import Learners
from backend.services import Services
from backend.update import update
from tests.parts import FACTS, Classroom, make_services

pytestmark = pytest.mark.servers

PAGE, JSON = f"/ui/projects/{FACTS.id}/versions", f"/api/projects/{FACTS.id}/versions"


@pytest.fixture
def services(tmp_path: Path, valkey: str) -> Services:
    redis.Redis.from_url(valkey).flushall()
    return make_services(tmp_path, valkey, secret="s3cret")


@pytest.fixture
def classroom(services: Services) -> Classroom:
    classroom = Classroom(services)
    for tasks in (range(1, 4), range(4, 20), range(20, 26)):
        for task in tasks:
            classroom.annotate(task)
        update(services, Learners(), 1)
    return classroom


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    with TestClient(create_app(services.settings, services), headers={"Accept": "text/html"}) as client:
        client.auth = ("Ada", "s3cret")
        yield client


def test_nothing_is_told_without_the_secret(client: TestClient, classroom: Classroom) -> None:
    client.auth = None
    for method, path in [("GET", PAGE), ("GET", JSON), ("POST", f"{JSON}/1/pin"), ("DELETE", f"{JSON}/pin")]:
        assert client.request(method, path).status_code == 401
    assert classroom.services.projects.pins(1, 10) == []


def test_a_project_without_versions_says_so(client: TestClient, services: Services) -> None:
    Classroom(services)
    assert "Nothing was learned so far" in client.get(PAGE).text


def test_the_page_lists_the_versions_and_the_one_that_serves(client: TestClient, classroom: Classroom) -> None:
    text = client.get(PAGE).text
    assert [f'id="version-{number}"' in text for number in (1, 2, 3, 4)] == [True, True, True, False]
    assert "<b>tandem-v3</b> serves" in text


def test_rolling_back_from_the_page_names_the_person_and_the_reason(client: TestClient, classroom: Classroom) -> None:
    answer = client.post(f"{PAGE}/1/pin", data={"why": "<b>worse</b> since\n"}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, PAGE)
    text = client.get(PAGE).text
    assert "tandem-v1 serves, not the newest" in text
    assert "Ada chose so" in text
    assert "&lt;b&gt;worse&lt;/b&gt; since" in text
    told = client.get(JSON).json()
    assert (told["serves"], told["newest"]) == (1, 3)
    assert (told["pinned"]["who"], told["pinned"]["why"]) == ("Ada", "<b>worse</b> since")
    client.auth = ("Grace", "s3cret")
    assert client.post(f"{PAGE}/release").status_code == 200
    assert client.get(JSON).json()["pinned"] is None
    assert "Grace let the newest serve" in client.get(PAGE).text


def test_rolling_back_by_json_and_back(client: TestClient, classroom: Classroom) -> None:
    pinned = client.post(f"{JSON}/2/pin", params={"why": "mislabelled batch"}).json()
    assert (pinned["version"], pinned["who"], pinned["why"]) == (2, "Ada", "mislabelled batch")
    assert client.get(f"{JSON}/2").json()["line"]["serves"]
    assert client.delete(f"{JSON}/pin").json()["serves"] == 3


def test_a_version_there_is_not_is_refused_with_a_sentence(client: TestClient, classroom: Classroom) -> None:
    assert "the versions 1 to 3" in client.post(f"{JSON}/9/pin").json()["detail"]
    assert client.post(f"{JSON}/9/pin").status_code == 409
    assert client.get(f"{JSON}/9").status_code == client.get(f"{PAGE}/9").status_code == 404
    assert client.get(f"{JSON}/compare", params={"left": 1, "right": 9}).status_code == 404
    assert client.get(f"{JSON}/compare", params={"left": 0, "right": 1}).status_code == 422


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://elsewhere.example"}])
def test_another_site_can_not_roll_back(client: TestClient, classroom: Classroom, headers: dict[str, str]) -> None:
    assert client.post(f"{PAGE}/1/pin", data={"why": ""}, headers=headers).status_code == 403
    assert client.post(f"{JSON}/1/pin", headers=headers).status_code == 403
    assert client.delete(f"{JSON}/pin", headers=headers).status_code == 403
    assert classroom.services.projects.pins(1, 10) == []


def test_a_form_that_is_far_too_large_is_refused(client: TestClient, classroom: Classroom) -> None:
    assert client.post(f"{PAGE}/1/pin", data={"why": "w" * 100_000}).status_code == 413
    assert classroom.services.projects.pins(1, 10) == []


def test_two_versions_are_told_side_by_side(client: TestClient, classroom: Classroom) -> None:
    page = client.get(f"{PAGE}/compare", params={"left": 1, "right": 2}).text
    assert f"{PAGE}/compared?left=1&amp;right=2" in page
    told = client.get(f"{JSON}/compare", params={"left": 1, "right": 2}).json()
    part = client.get(f"{PAGE}/compared", params={"left": 1, "right": 2}).text
    assert f"On {told['differing']} of {told['images']} labelled images" in part
    assert "On 6 labels that came after both" in part
    assert told["fair"]["labels"] == 6
    for each in told["differences"]:
        assert f"data?task={each['task']}" in part


def test_one_version_is_told_with_what_it_learned(client: TestClient, classroom: Classroom) -> None:
    text = client.get(f"{PAGE}/2").text
    assert "16 given, 0 corrected, 0 taken back" in text
    assert "Let tandem-v2 serve" in text
    assert "being the newest" in client.get(f"{PAGE}/3").text


def test_pages_of_versions_follow_each_other(client: TestClient, classroom: Classroom) -> None:
    first = client.get(JSON, params={"limit": 2}).json()
    assert [line["number"] for line in first["versions"]] == [3, 2]
    rest = client.get(JSON, params={"limit": 2, "before": first["older"]}).json()
    assert ([line["number"] for line in rest["versions"]], rest["older"]) == ([1], None)


def test_label_studios_own_list_of_versions_stays(client: TestClient, classroom: Classroom) -> None:
    assert client.get("/versions").json() == {"versions": ["tandem-v3", "tandem-v2", "tandem-v1"]}
