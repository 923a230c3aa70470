"""The demo images are whole, small, licensed, and what their README says they are."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from demo import make

DEMO = Path(make.__file__).parent
IMAGES = sorted((DEMO / "expressions").rglob("*.*"))
NAMES = [path.relative_to(DEMO / "expressions").as_posix() for path in IMAGES]


def family_of(name: str) -> str:
    return max((family for family in make.FAMILIES if Path(name).name.startswith(f"{family}-")), key=len)


def pixels(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.tobytes()


def test_every_expression_is_shown_by_every_family() -> None:
    shown = {(family_of(name), Path(name).parent.name) for name in NAMES}

    assert shown == {(family, expression) for family in make.FAMILIES for expression in make.EXPRESSIONS}


def test_the_folders_are_the_seven_expressions() -> None:
    assert {Path(name).parent.as_posix() for name in NAMES} == {
        "angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"
    }  # fmt: skip


@pytest.mark.parametrize("path", IMAGES, ids=NAMES)
def test_an_image_is_a_square_rgb_png_that_is_not_blank(path: Path) -> None:
    with Image.open(path) as image:
        image.load()
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (make.SIZE, make.SIZE))
        assert len(image.getcolors(make.SIZE**2) or []) > 10


def test_no_two_images_have_the_same_pixels() -> None:
    alike = Counter(map(pixels, IMAGES))

    assert max(alike.values()) == 1


def test_no_emoji_is_under_two_expressions() -> None:
    emoji = [name for listed in make.EXPRESSIONS.values() for each in listed.split() for name in each.split("|")]

    assert len(emoji) == len(set(emoji))


def test_every_drawing_called_unclear_is_a_listed_emoji_that_was_left_out() -> None:
    listed = {each.split("|")[0] for emoji in make.EXPRESSIONS.values() for each in emoji.split()}
    files = {Path(name).stem for name in NAMES}

    for family, emoji in make.UNCLEAR.items():
        assert set(emoji.split()) <= listed
        assert not {f"{family}-{each}" for each in emoji.split()} & files


def test_every_image_belongs_to_a_family_whose_licence_and_version_are_given() -> None:
    attribution = (DEMO / "LICENSES/attribution.md").read_text("utf-8")
    given = {
        family: (version, licence, text)
        for family, version, licence, text in re.findall(
            r"^\| ([\w-]+) \| ([\d.]+) \| ([\w.-]+) \| \[.*\]\((.+)\) \|$", attribution, re.MULTILINE
        )
    }
    told = {family for heading in re.findall(r"^## (.+)$", attribution, re.MULTILINE) for family in heading.split(", ")}

    assert {family_of(name) for name in NAMES} == set(given) == told
    assert {family: version for family, (version, _, _) in given.items()} == make.FAMILIES
    for _, licence, text in given.values():
        assert text == f"{licence}.txt"
        assert (DEMO / "LICENSES" / text).stat().st_size > 1000


def test_the_readme_counts_what_is_there() -> None:
    assert make.table(NAMES) in (DEMO / "README.md").read_text("utf-8")


def test_all_images_together_are_small() -> None:
    assert sum(path.stat().st_size for path in IMAGES) < 4_000_000


def test_an_svg_keeps_the_view_of_its_icon() -> None:
    icons = {"width": 36, "height": 36, "icons": {"a": {"body": "<g/>"}, "b": {"body": "<g/>", "left": 2, "width": 8}}}

    assert 'viewBox="0 0 36 36"><g/></svg>' in make.svg(icons, "a")
    assert 'viewBox="2 0 8 36"><g/></svg>' in make.svg(icons, "b")
