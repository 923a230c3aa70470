"""The door for HTTP: the protocol as Label Studio speaks it, by its recorded requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from backend.app import create_app
from backend.services import Services
from tests.parts import CONFIG, FACTS, Classroom, make_services, recorded


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    with TestClient(create_app(services.settings, services)) as client:
        yield client


def predict(client: TestClient, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = client.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


def test_health_needs_no_secret_and_nothing_else(tmp_path: Path) -> None:
    services = make_services(tmp_path, secret="s3cret", database_url="sqlite:////nowhere/at/all.db")
    client = TestClient(create_app(services.settings, services))
    assert client.get("/health").json()["status"] == "UP"


def test_readiness_says_what_is_missing(client: TestClient) -> None:
    answer = client.get("/ready")
    assert answer.status_code == 503
    assert list(answer.json()["missing"]) == ["redis"]


def test_setup_tells_the_version_and_makes_the_project_known(client: TestClient, services: Services) -> None:
    answer = client.post("/setup", json=recorded("connect__1_POST_setup"))
    assert answer.json() == {"model_version": "tandem-v0"}
    assert services.projects.named(2, 1795246825).classes == ("cat", "dog", "bird")


def test_a_prediction_before_any_label_preselects_nothing(client: TestClient) -> None:
    body = recorded("open_task_uploaded__2_POST_predict")
    body["tasks"][0]["data"]["image"] = "/data/local-files/?d=sad/" + next(iter_demo("sad"))
    assert predict(client, body) == [{"result": [], "score": 0.0, "model_version": "tandem-v0"}]


def iter_demo(label: str) -> Iterator[str]:
    from tests.parts import DEMO

    return (path.name for path in sorted((DEMO / label).glob("*.png")))


def test_as_many_results_as_tasks_whatever_is_wrong_with_some(client: TestClient, services: Services) -> None:
    classroom = Classroom(services)
    body = classroom.predict_body(1, 2)
    body["tasks"] += [
        {"id": 900, "data": {"image": "/data/local-files/?d=sad/nowhere.png"}},
        {"id": 901, "data": {"image": "file:///etc/passwd"}},
        {"id": 902, "data": {"image": 5}},
        {"id": 903, "data": {}},
        {"id": 904},
        {"id": 905, "data": {"image": "http://127.0.0.1:1/unreachable.png"}},
        body["tasks"][0],
    ]
    results = predict(client, body)
    assert len(results) == 9
    assert results[0] == results[8]
    assert all(result == {} or result["result"] == [] for result in results)


def test_an_image_that_may_be_read_later_is_asked_for_again(client: TestClient) -> None:
    body = recorded("open_task_uploaded__2_POST_predict")
    assert predict(client, body) == [{}]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"tasks": 5}', b'{"tasks": [], "project": "x"}', b"\xff\xfe", b"[" * 100_000]
)
@pytest.mark.parametrize("path", ["/predict", "/setup", "/webhook"])
def test_nonsense_is_refused_in_a_sentence(client: TestClient, path: str, body: bytes) -> None:
    answer = client.post(path, content=body)
    assert answer.status_code == 400
    assert len(answer.json()["detail"]) > 10


def test_a_body_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    services = make_services(tmp_path, webhook_max_bytes=1000)
    client = TestClient(create_app(services.settings, services))
    assert client.post("/webhook", content=b" " * 2000).status_code == 413


def test_a_webhook_is_in_the_ledger_when_it_is_answered_also_without_redis(
    client: TestClient, services: Services
) -> None:
    answer = client.post("/webhook", json=recorded("webhook_annotation_created__0_POST_webhook_ANNOTATION_CREATED"))
    assert answer.status_code == 200
    assert [label.label for label in services.ledger.in_force(1).values()] == ["dog"]


@pytest.mark.parametrize("path", ["/webhook", "/setup"])
def test_when_other_choices_can_be_made_all_annotations_are_read_anew(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    event = recorded("webhook_project_updated__0_POST_webhook_PROJECT_UPDATED")
    client.post("/webhook", json=event)
    asked: list[str] = []
    monkeypatch.setattr(services.jobs, "ask", lambda kind, project_id: asked.append(kind))
    xml = event["project"]["label_config"].replace("<Choices", '<Choices choice="multiple"')
    event["project"]["label_config"] = xml
    (project,) = services.projects.all()
    setup = {"project": f"{project.label_studio_id}.{project.created}", "schema": xml}
    client.post(path, json=event if path == "/webhook" else setup)
    assert services.projects.get(project.id).label_config == xml
    assert "sync" in asked
    assert len(services.projects.all()) == 1


def test_an_unknown_action_is_ignored(client: TestClient) -> None:
    assert client.post("/webhook", json={"action": "COMMENT_CREATED"}).json() == {"status": "ignored"}


@pytest.mark.parametrize("path", ["/predict", "/setup", "/webhook"])
def test_who_does_not_know_the_secret_is_refused(tmp_path: Path, path: str) -> None:
    services = make_services(tmp_path, secret="s3cret")
    client = TestClient(create_app(services.settings, services))
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic !!"}, {"Authorization": "s3cret"}):
        assert client.post(path, json={"action": "OTHER"}, headers=headers).status_code == 401
    assert client.post(path, json={"action": "OTHER"}, auth=("label-studio", "wrong")).status_code == 401
    assert client.post(path, json={"action": "OTHER"}, auth=("label-studio", "s3cret")).status_code != 401
    assert client.post(path, json={"action": "OTHER"}, headers={"Authorization": "Bearer s3cret"}).status_code != 401


def test_versions_are_listed_newest_first(client: TestClient, services: Services) -> None:
    from backend.versions import Version

    client.post("/setup", json={"project": f"{FACTS.id}.{FACTS.created}", "schema": CONFIG, "extra_params": None})
    for number in (1, 2):
        services.versions.commit(Version(1, number, number, 1.0, "encoder", "streaming_lda", [], {}), b"")
    assert client.get("/versions").json() == {"versions": ["tandem-v2", "tandem-v1"]}
    assert client.post(
        "/setup", json={"project": f"{FACTS.id}.{FACTS.created}", "schema": CONFIG, "extra_params": None}
    ).json() == {"model_version": "tandem-v2"}
