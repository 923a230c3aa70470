"""The page Try: a picture comes in, an answer comes out; what is too large is refused before it is read whole."""

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
from tests.parts import DEMO, FACTS, Classroom, make_services

pytestmark = pytest.mark.servers

PAGE, JSON = f"/ui/projects/{FACTS.id}", f"/api/projects/{FACTS.id}"
LIMIT = 300_000


@pytest.fixture
def services(tmp_path: Path, valkey: str) -> Services:
    redis.Redis.from_url(valkey).flushall()
    return make_services(tmp_path, valkey, secret="s3cret", image_max_bytes=LIMIT)


@pytest.fixture
def classroom(services: Services) -> Classroom:
    classroom = Classroom(services)
    for task in range(1, 15):
        classroom.annotate(task)
    update(services, Learners(), 1)
    return classroom


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    with TestClient(create_app(services.settings, services), headers={"Accept": "text/html"}) as client:
        client.auth = ("Ada", "s3cret")
        yield client


def picture_of(classroom: Classroom, task_id: int) -> dict[str, tuple[str, bytes]]:
    path = DEMO / str(classroom.tasks[task_id].image).partition("=")[2]
    return {"picture": ("../../face.png", path.read_bytes())}


def test_the_page_tells_the_limit_beforehand(client: TestClient, classroom: Classroom) -> None:
    text = client.get(f"{PAGE}/try").text
    assert f'data-limit="{LIMIT}"' in text
    assert "up to 0.3 MB" in text


def test_a_picture_is_answered_for_people_and_as_json(client: TestClient, classroom: Classroom) -> None:
    told = client.post(f"{JSON}/try", files=picture_of(classroom, 20)).json()
    assert told["version"] == "tandem-v1"
    assert told["chosen"] == [told["probabilities"][0]["name"]]
    assert told["searched"] == 14
    part = client.post(f"{PAGE}/try", files=picture_of(classroom, 20)).text
    assert told["chosen"][0] in part
    assert f"The most similar of {told['searched']} labelled images" in part
    for each in told["similar"]:
        assert f"data?task={each['task']}" in part
    assert 'name="label"' in part


def test_a_labelled_picture_is_told_to_be_one_and_can_not_be_taught(client: TestClient, classroom: Classroom) -> None:
    part = client.post(f"{PAGE}/try", files=picture_of(classroom, 3)).text
    assert "task 3</a> already, and labelled" in part
    assert 'name="label"' not in part
    answer = client.post(f"{JSON}/teach", files=picture_of(classroom, 3), data={"label": "sad"})
    assert (answer.status_code, "task 3 already" in answer.json()["detail"]) == (409, True)


def test_nothing_is_read_without_the_secret_or_from_another_site(client: TestClient, classroom: Classroom) -> None:
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    for path in (f"{PAGE}/try", f"{PAGE}/teach", f"{JSON}/try", f"{JSON}/teach"):
        assert client.post(path, files=picture_of(classroom, 20), headers=elsewhere).status_code == 403
    client.auth = None
    for path in (f"{PAGE}/try", f"{PAGE}/teach", f"{JSON}/try", f"{JSON}/teach"):
        assert client.post(path, files=picture_of(classroom, 20)).status_code == 401


def test_a_body_without_end_is_left_unread(client: TestClient, classroom: Classroom) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="picture"; filename="a.png"\r\n\r\n'
        while sent < 100 * LIMIT:
            sent += 1 << 16
            yield b"\0" * (1 << 16)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert client.post(f"{JSON}/try", content=endless(), headers=headers).status_code == 413


@pytest.mark.parametrize(
    ("content", "status", "told"),
    [(b"", 400, "No picture was sent"), (b"no image", 400, "not an image"), (b"\0" * (LIMIT + 1), 413, "larger than")],
    ids=["nothing", "no image", "too large"],
)
def test_what_is_no_picture_is_refused_with_a_sentence(
    client: TestClient, classroom: Classroom, content: bytes, status: int, told: str
) -> None:
    files = {"picture": ("a.png", content)}
    answer = client.post(f"{JSON}/try", files=files)
    assert answer.status_code == status
    assert told in answer.json()["detail"]
    part = client.post(f"{PAGE}/try", files=files)
    assert (part.status_code, told in part.text) == (200, True)


def test_what_is_no_form_is_refused(client: TestClient, classroom: Classroom) -> None:
    assert client.post(f"{JSON}/try", json={"picture": "?"}).status_code == 400
    assert client.post(f"{JSON}/try", data={"picture": "text"}).status_code == 400


@pytest.mark.parametrize(
    ("labels", "told"),
    [([], "Say which class"), (["sad", "happy"], "one class"), (["zebra"], "'zebra' is none of the project's classes")],
)
def test_a_label_that_does_not_fit_is_refused(
    client: TestClient, classroom: Classroom, labels: list[str], told: str
) -> None:
    answer = client.post(f"{JSON}/teach", files=picture_of(classroom, 20), data={"label": labels})
    assert answer.status_code == 409
    assert told in answer.json()["detail"]


def test_label_studio_that_is_gone_is_told(client: TestClient, classroom: Classroom) -> None:
    answer = client.post(f"{JSON}/teach", files=picture_of(classroom, 20), data={"label": "sad"})
    assert answer.status_code == 409
    assert "can't be reached" in answer.json()["detail"]


def test_the_documentation_tells_of_the_picture(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    body = paths["/api/projects/{label_studio_id}/teach"]["post"]["requestBody"]
    assert set(body["content"]["multipart/form-data"]["schema"]["properties"]) == {"picture", "label"}
