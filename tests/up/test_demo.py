"""A folder of images: what is planned from it, and that it is imported once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from backend.labelstudio import LabelStudio as Client
from backend.up import demo
from tests.conftest import LabelStudio


def paint(path: Path, colour: int, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (colour, 255 - colour, 7 * colour % 256)).save(path, **options)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    folder = tmp_path / "pets"
    for number in range(6):
        paint(folder / ("cat" if number % 2 else "dog") / f"cat or dog {number}.png", number)
    return folder


class Uploads:
    """Keeps uploads as Label Studio names them; fails after ``last`` of them."""

    def __init__(self, last: int = 1_000_000) -> None:
        self.names: list[str] = []
        self.last = last

    def upload(self, project_id: int, files: Iterable[Path | tuple[str, bytes]]) -> int:
        given = list(files)
        if len(self.names) >= self.last:
            raise ConnectionError("gone")
        self.names += [file[0] for file in given if isinstance(file, tuple)]
        return len(given)

    def tasks(self, project_id: int) -> Iterator[dict[str, Any]]:
        return ({"data": {"image": f"/data/upload/{project_id}/0a1b2c3d-{name}"}} for name in self.names)


def test_subfolders_become_classes_but_their_names_and_the_files_do_not_reach_label_studio(pets: Path) -> None:
    plan = demo.plan_import(pets)
    assert plan.classes == ("cat", "dog")
    assert len(plan.images) == 6
    assert not any("cat" in image.name or "dog" in image.name for image in plan.images)


def test_images_are_shuffled_and_the_same_way_each_time(pets: Path) -> None:
    order = [image.path for image in demo.plan_import(pets).images]
    assert order != sorted(order)
    assert order == [image.path for image in demo.plan_import(pets).images]


def test_a_flat_folder_has_no_classes_and_keeps_file_names(tmp_path: Path) -> None:
    paint(tmp_path / "a.png", 1)
    paint(tmp_path / "b.jpg", 2)
    plan = demo.plan_import(tmp_path)
    assert plan.classes == ()
    assert sorted(image.name.split("-", 1)[1] for image in plan.images) == ["a.png", "b.jpg"]


def test_one_subfolder_alone_is_no_choice(tmp_path: Path) -> None:
    paint(tmp_path / "images" / "a.png", 1)
    assert demo.plan_import(tmp_path).classes == ()


def test_what_is_no_whole_image_is_counted_not_imported(pets: Path) -> None:
    (pets / "cat" / "notes.txt").write_text("no image")
    (pets / "cat" / "named.png").write_text("no image either")
    whole = (pets / "dog" / "cat or dog 0.png").read_bytes()
    (pets / "dog" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (pets / "dog" / "empty.png").touch()
    (pets / ".DS_Store").write_text("hidden")
    paint(pets / "dog" / "print.tiff", 99)
    plan = demo.plan_import(pets)
    assert sorted(path.name for path in plan.skipped) == [
        "cut.png",
        "empty.png",
        "named.png",
        "notes.txt",
        "print.tiff",
    ]
    assert len(plan.images) == 6


def test_the_same_content_twice_is_imported_once(pets: Path) -> None:
    (pets / "dog" / "again.png").write_bytes((pets / "dog" / "cat or dog 0.png").read_bytes())
    plan = demo.plan_import(pets)
    assert (len(plan.images), plan.repeats) == (6, 1)


def test_the_suffix_is_that_of_the_content(tmp_path: Path) -> None:
    paint(tmp_path / "wrong.png", 1, format="JPEG")
    assert demo.plan_import(tmp_path).images[0].name.endswith("-wrong.jpg")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="nowhere is not a folder"):
        demo.plan_import(tmp_path / "nowhere")


def test_the_seven_expressions_keep_their_own_label_config() -> None:
    seven = ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
    assert demo.label_config(seven) == demo.label_config([]) == demo.SEVEN_EXPRESSIONS.read_text()


def test_class_names_of_any_kind_come_through_the_label_config() -> None:
    names = ["<b>", "a & b", "c\"d'", "ü", *map(str, range(10))]
    choices = list(ElementTree.fromstring(demo.label_config(names)).iter("Choice"))
    assert [choice.get("value") for choice in choices] == names
    assert [choice.get("hotkey") for choice in choices] == [*"123456789", *[None] * 5]


def test_an_import_that_broke_off_goes_on_and_nothing_comes_twice(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "BATCH", 2)
    plan, record, client = demo.plan_import(pets), tmp_path / "record.csv", Uploads(last=4)
    with pytest.raises(ConnectionError):
        demo.import_images(client, 1, plan, record)
    client.last = 1_000_000
    seen: list[tuple[int, int]] = []
    assert demo.import_images(client, 1, plan, record, lambda done, of: seen.append((done, of))) == 2
    assert seen == [(4, 6), (6, 6)]
    assert client.names == [image.name for image in plan.images]
    assert demo.import_images(client, 1, plan, record) == 0


def test_only_new_files_are_imported_later(pets: Path, tmp_path: Path) -> None:
    record, client = tmp_path / "record.csv", Uploads()
    demo.import_images(client, 1, demo.plan_import(pets), record)
    paint(pets / "cat" / "new.png", 200)
    assert demo.import_images(client, 1, demo.plan_import(pets), record) == 1


def test_an_image_deleted_in_label_studio_does_not_come_back(pets: Path, tmp_path: Path) -> None:
    record, client = tmp_path / "record.csv", Uploads()
    demo.import_images(client, 1, demo.plan_import(pets), record)
    client.names.clear()
    assert demo.import_images(client, 1, demo.plan_import(pets), record) == 0


def test_a_lost_record_is_made_up_for_by_label_studio(pets: Path, tmp_path: Path) -> None:
    record, client = tmp_path / "record.csv", Uploads()
    demo.import_images(client, 1, demo.plan_import(pets), record)
    record.unlink()
    assert demo.import_images(client, 1, demo.plan_import(pets), record) == 0


@pytest.mark.servers
def test_a_real_label_studio_takes_the_images_once(pets: Path, tmp_path: Path, label_studio: LabelStudio) -> None:
    paint(pets / "dog" / "photo.jpg", 123)
    plan = demo.plan_import(pets)
    with Client(label_studio.url, label_studio.api_key) as client:
        project = client.create_project("Pets", demo.label_config(plan.classes)).facts.id
        assert demo.import_images(client, project, plan, tmp_path / "record.csv") == 7
        assert {demo.digest_of_task(task) for task in client.tasks(project)} == {image.digest for image in plan.images}
        (tmp_path / "record.csv").unlink()
        assert demo.import_images(client, project, plan, tmp_path / "record.csv") == 0
