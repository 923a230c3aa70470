"""The feature cache: an image is fetched and encoded once, and what can't be read rests."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from backend import features as features_module
from backend.database import reading
from backend.features import Found
from backend.images import ImageUnreadable
from backend.services import Services
from tests.parts import DEMO, Classroom, make_services


@pytest.fixture
def classroom(services: Services) -> Classroom:
    return Classroom(services, per_class=1)


def wanted(classroom: Classroom) -> list[tuple[str, int]]:
    return [(task.image or "", task.id) for task in classroom.tasks.values()]


def test_an_image_is_encoded_once(classroom: Classroom) -> None:
    features = classroom.services.features
    first = features.find(1, wanted(classroom))
    assert (len(first.vectors), first.encoded) == (7, 7)
    again = features.find(1, wanted(classroom))
    assert again.encoded == 0
    for address, vector in first.vectors.items():
        np.testing.assert_array_equal(again.vectors[address], vector)


def test_the_cached_vector_is_the_encoders_own(classroom: Classroom) -> None:
    from PIL import Image

    services = classroom.services
    task = classroom.tasks[1]
    found = services.features.find(1, [(task.image or "", 1)])
    with Image.open(DEMO / (task.image or "").partition("?d=")[2]) as picture:
        np.testing.assert_allclose(found.vectors[task.image or ""], services.encoder.encode([picture])[0], atol=1e-6)


def test_no_more_are_fetched_than_the_limit_says(classroom: Classroom) -> None:
    features = classroom.services.features
    assert features.find(1, wanted(classroom), limit=3).encoded == 3
    assert features.find(1, wanted(classroom), limit=0).encoded == 0
    assert features.find(1, wanted(classroom)).encoded == 4


def test_the_same_bytes_at_two_addresses_have_one_vector(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    source = next((DEMO / "sad").glob("*.png"))
    for name in ("a.png", "b.png"):
        shutil.copy(source, files / name)
    state = tmp_path / "state"
    state.mkdir()
    services = make_services(state, label_studio_files=files)
    Classroom(services)
    found = services.features.find(1, [("/data/local-files/?d=a.png", 1), ("/data/local-files/?d=b.png", 2)])
    assert len(set(found.hashes.values())) == 1
    with reading(services.engine) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM features").scalar() == 1


def test_what_cannot_be_read_rests_longer_each_time(classroom: Classroom, monkeypatch: pytest.MonkeyPatch) -> None:
    services, features = classroom.services, classroom.services.features
    address = "/data/local-files/?d=sad/nowhere.png"
    asked = []
    read = features.source.read

    def counted(address: str, task_id: int) -> bytes:
        asked.append(address)
        return read(address, task_id)

    monkeypatch.setattr(features.source, "read", counted)
    now = 1000.0
    monkeypatch.setattr(features_module.time, "time", lambda: now)
    tried_at = []
    for _ in range(100):
        before = len(asked)
        problem = features.find(1, [(address, 1)]).unreadable[address]
        assert isinstance(problem, ImageUnreadable)
        if len(asked) > before:
            tried_at.append(now)
        now += 1
    assert np.diff(tried_at).tolist() == [5, 10, 20, 40]
    assert sum(services.features.unreadable(1).values()) == 1


def test_a_broken_image_holds_up_no_other(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    shutil.copy(next((DEMO / "sad").glob("*.png")), files / "good.png")
    (files / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    state = tmp_path / "state"
    state.mkdir()
    services = make_services(state, label_studio_files=files)
    Classroom(services)
    found: Found = services.features.find(
        1, [("/data/local-files/?d=broken.png", 1), ("/data/local-files/?d=good.png", 2)]
    )
    assert list(found.vectors) == ["/data/local-files/?d=good.png"]
    assert list(found.unreadable) == ["/data/local-files/?d=broken.png"]


def test_many_images_come_out_in_their_places(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    classroom = Classroom(services, per_class=12)
    features = services.features
    monkeypatch.setattr(features_module, "READ_BATCH", 5)
    monkeypatch.setattr(features_module, "WRITE_BATCH", 13)
    together = features.find(1, wanted(classroom))
    alone = {address: services.features.by_hash([digest])[digest] for address, digest in together.hashes.items()}
    assert together.encoded == len(classroom.tasks) == 84
    for address, vector in together.vectors.items():
        np.testing.assert_array_equal(vector, alone[address])
