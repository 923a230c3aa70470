"""Thumbnails: small, encoded anew, kept by content, and a plain picture where there is none to show."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from backend.app import create_app
from backend.events import Task, TasksTold
from backend.pages.thumbnails import SIDE, prune, shrink
from tests.parts import DEMO, FACTS, Classroom, make_services

ADDRESS = f"/ui/projects/{FACTS.id}/thumbnails"


@pytest.fixture
def classroom(tmp_path: Path) -> Classroom:
    return Classroom(make_services(tmp_path))


@pytest.fixture
def client(classroom: Classroom) -> Iterator[TestClient]:
    with TestClient(create_app(classroom.services.settings, classroom.services)) as client:
        yield client


def test_a_thumbnail_shows_the_tasks_image_and_is_never_its_file(classroom: Classroom, client: TestClient) -> None:
    answer = client.get(f"{ADDRESS}/1")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
    assert answer.headers["x-content-type-options"] == "nosniff"
    picture = Image.open(BytesIO(answer.content))
    original = DEMO / str(classroom.tasks[1].image).partition("=")[2]
    assert max(picture.size) <= SIDE
    assert answer.content != original.read_bytes()


def test_a_thumbnail_is_kept_by_content_once_that_is_known(classroom: Classroom, client: TestClient) -> None:
    services = classroom.services
    unknown = client.get(f"{ADDRESS}/1").headers["etag"]
    services.features.find(classroom.project.id, [(str(classroom.tasks[1].image), 1)])
    first = client.get(f"{ADDRESS}/1")
    assert first.headers["etag"] != unknown
    (kept,) = (services.settings.cache / "thumbnails").glob(f"??/{first.headers['etag'].strip(chr(34))}.webp")
    kept.write_bytes(b"what is kept")
    assert client.get(f"{ADDRESS}/1").content == b"what is kept"
    again = client.get(f"{ADDRESS}/1", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    kept.unlink()


def test_an_image_that_cannot_be_read_has_a_placeholder_that_is_not_kept(
    classroom: Classroom, client: TestClient
) -> None:
    tasks = (
        Task(50, "/data/local-files/?d=nowhere.png", {}),
        Task(51, None, {}),
        Task(52, "file:///etc/passwd", {}),
        Task(53, "http://127.0.0.1:1/private.png", {}),
    )
    classroom.services.ledger.tell(TasksTold(FACTS, tasks, with_annotations=False))
    for task in tasks:
        answer = client.get(f"{ADDRESS}/{task.id}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/svg+xml")
        assert answer.headers["cache-control"] == "no-store"


def test_a_task_or_project_nobody_told_of_has_none(client: TestClient) -> None:
    assert client.get(f"{ADDRESS}/9999").status_code == 404
    assert client.get("/ui/projects/99/thumbnails/1").status_code == 404
    assert client.get(f"{ADDRESS}/{10**30}").status_code == 422
    assert client.get(f"/ui/projects/{10**30}/thumbnails/1").status_code == 422


def test_who_does_not_know_the_secret_sees_no_image(tmp_path: Path) -> None:
    classroom = Classroom(make_services(tmp_path, secret="s3cret"))
    with TestClient(create_app(classroom.services.settings, classroom.services)) as client:
        assert client.get(f"{ADDRESS}/1").status_code == 401
        assert client.get(f"{ADDRESS}/1", auth=("ada", "s3cret")).status_code == 200


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_pictures_of_every_mode_are_made_small_and_upright(mode: str) -> None:
    picture = Image.new(mode, (1000, 500))
    if mode == "RGB":
        file = BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        exif[0x010E] = "the secret of the camera"
        picture.save(file, "JPEG", exif=exif)
        picture = Image.open(file)
    made = shrink(picture)
    assert Image.open(BytesIO(made)).size == ((SIDE // 2, SIDE) if mode == "RGB" else (SIDE, SIDE // 2))
    assert b"secret" not in made


def test_a_full_cache_drops_what_was_not_looked_at_for_longest(tmp_path: Path) -> None:
    (tmp_path / "ab").mkdir()
    for age, name in enumerate("edcba"):
        path = tmp_path / "ab" / f"{name}.webp"
        path.write_bytes(bytes(10))
        os.utime(path, (1000 + age, 1000 + age))
    prune(tmp_path, 25)
    assert sorted(path.stem for path in tmp_path.rglob("*.webp")) == ["a", "b"]
