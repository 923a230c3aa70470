from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay.features import AT_A_TIME, encode
from tests.replay.pictures import MeanColour, make_folder


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return sorted(make_folder(tmp_path / "pictures").rglob("*.png"))


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "features.sqlite"


def run(images: list[Path], encoder: Any, database: Path) -> Any:
    return encode(images, encoder, database)


def test_what_was_encoded_once_is_read_back_the_same(images: list[Path], database: Path) -> None:
    first = run(images, MeanColour(), database)
    again = run(images, MeanColour(stop_after=0), database)
    assert first.fresh == len(images)
    assert again.fresh == 0
    np.testing.assert_array_equal(first.features, again.features)


def test_an_interrupted_run_goes_on_where_it_stopped(images: list[Path], database: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(images, MeanColour(stop_after=AT_A_TIME + 3), database)
    assert run(images, MeanColour(), database).fresh == len(images) - AT_A_TIME


def test_another_encoder_encodes_anew(images: list[Path], database: Path) -> None:
    run(images, MeanColour(), database)
    other = MeanColour()
    other.id = "another"
    assert run(images, other, database).fresh == len(images)


def test_a_changed_image_is_encoded_anew(images: list[Path], database: Path) -> None:
    run(images, MeanColour(), database)
    images[0].write_bytes(images[-1].read_bytes() + b"\0")
    changed = run(images, MeanColour(), database)
    assert changed.fresh == 1
    np.testing.assert_array_equal(changed.features[0], changed.features[-1])


def test_copies_are_encoded_once(images: list[Path], database: Path) -> None:
    images[1].write_bytes(images[0].read_bytes())
    found = run(images, MeanColour(), database)
    assert found.fresh == len(images) - 1
    assert len(found.features) == len(images)


def test_unreadable_images_are_told_with_their_place_and_the_others_keep_theirs(
    images: list[Path], database: Path
) -> None:
    whole = run(images, MeanColour(), database)
    images[2].write_bytes(b"no picture")
    images[5].write_bytes(images[5].read_bytes()[:90])
    images.append(images[0].with_name("gone.png"))
    found = run(images, MeanColour(), database)
    assert set(found.unreadable) == {2, 5, len(images) - 1}
    assert found.unreadable[2] == "not an image"
    assert found.unreadable[len(images) - 1] == "No such file or directory"
    assert found.places == tuple(place for place in range(len(images)) if place not in found.unreadable)
    np.testing.assert_array_equal(found.features, whole.features[list(found.places)])


def test_an_image_that_the_encoder_refuses_spoils_no_other(images: list[Path], database: Path) -> None:
    class Picky(MeanColour):
        def encode(self, images: Any) -> Any:
            features = super().encode(images)
            if (features[:, 0] > features[:, 2]).any():
                raise ValueError("too red")
            return features

    found = run(images, Picky(), database)
    assert {images[place].parent.name for place in found.unreadable} == {"brick"}
    assert set(found.unreadable.values()) == {"too red"}
    assert {images[place].parent.name for place in found.places} == {"grass", "sky"}


def test_progress_counts_all_images(images: list[Path], database: Path) -> None:
    done: list[int] = []
    encoder: Any = MeanColour()
    encode(images, encoder, database, done.append)
    assert sum(done) == len(images)
