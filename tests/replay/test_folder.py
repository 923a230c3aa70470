from __future__ import annotations

from pathlib import Path

import pytest

from replay.folder import UnusableFolder, read_folder
from tests.replay.pictures import make_folder


def test_subfolders_are_classes(tmp_path: Path) -> None:
    folder = read_folder(make_folder(tmp_path, 8))
    assert len(folder.images) == len(folder.classes) == 24
    assert all(path.parent.name == name for path, name in zip(folder.images, folder.classes, strict=True))
    assert folder.held_out is None


def test_train_and_test_say_what_is_held_out(tmp_path: Path) -> None:
    folder = read_folder(make_folder(tmp_path, 8, parts=("train", "test")))
    assert set(folder.classes) == {"grass", "sky", "brick"}
    assert folder.held_out is not None
    assert [path.parts[-3] == "test" for path in folder.images] == list(folder.held_out)


def test_classes_called_train_alone_are_classes(tmp_path: Path) -> None:
    make_folder(tmp_path, 8)
    (tmp_path / "sky").rename(tmp_path / "train")
    assert set(read_folder(tmp_path).classes) == {"grass", "brick", "train"}


def test_images_deeper_below_a_class_belong_to_it(tmp_path: Path) -> None:
    make_folder(tmp_path, 8)
    (tmp_path / "sky" / "night").mkdir()
    (tmp_path / "sky" / "00.png").rename(tmp_path / "sky" / "night" / "00.PNG")
    assert read_folder(tmp_path).classes.count("sky") == 8


def test_hidden_files_and_other_files_are_passed_over(tmp_path: Path) -> None:
    make_folder(tmp_path, 8)
    (tmp_path / "sky" / ".thumbnail.png").write_bytes(b"")
    (tmp_path / "sky" / "notes.txt").write_text("blue")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "one.png").write_bytes(b"")
    (tmp_path / "beside.png").write_bytes(b"")
    assert len(read_folder(tmp_path).images) == 24


def remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def test_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableFolder, match="There is no folder"):
        read_folder(tmp_path / "missing")


def test_a_folder_without_subfolders_is_refused_with_an_example(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(b"")
    with pytest.raises(UnusableFolder, match="Make a subfolder per class"):
        read_folder(tmp_path)


def test_one_class_only_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, 30)
    remove(tmp_path / "sky")
    remove(tmp_path / "brick")
    with pytest.raises(UnusableFolder, match="one class only, grass"):
        read_folder(tmp_path)


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableFolder, match="holds 9 images"):
        read_folder(make_folder(tmp_path, 3))


def test_a_class_of_a_single_image_is_refused_where_nothing_is_held_out(tmp_path: Path) -> None:
    make_folder(tmp_path, 12)
    for path in sorted((tmp_path / "sky").iterdir())[1:]:
        path.unlink()
    with pytest.raises(UnusableFolder, match="a single image of sky"):
        read_folder(tmp_path)


def test_a_tested_class_without_training_images_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, 12, parts=("train", "test"))
    remove(tmp_path / "train" / "sky")
    with pytest.raises(UnusableFolder, match="no image of sky"):
        read_folder(tmp_path)


def test_an_empty_test_folder_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, 12, parts=("train",))
    (tmp_path / "test").mkdir()
    with pytest.raises(UnusableFolder, match="test holds no image"):
        read_folder(tmp_path)
