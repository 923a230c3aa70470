from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from replay.command import replay_folder
from tests.replay.pictures import MeanColour, make_folder


class Page(HTMLParser):
    """What is on a page, as far as the tests ask."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.headings: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.addresses += [values[name] or "" for name in ("src", "href", "srcset") if name in values]
        if tag == "img":
            self.images.append(values)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(tag)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A report of a folder with an image that can't be read, a class that HTML would take for a tag, a wrong label."""
    folder = tmp_path_factory.mktemp("pictures & <b>")
    make_folder(folder, 16)
    (folder / "brick").rename(folder / "<i>brick")
    (folder / "sky" / "broken.png").write_bytes(b"no picture")
    for number in range(2):
        (folder / "grass" / f"0{number}.png").rename(folder / "sky" / f"wrong-{number}.png")
    out = folder.parent / "report"
    encoder: Any = MeanColour()
    summary = replay_folder(
        folder, out, encoder, folder.parent / "cache", labels=36, seeds=2, heads=["ours", "logistic"]
    )
    return out, summary


def test_the_page_needs_nothing_beside_it(report: tuple[Path, dict[str, Any]]) -> None:
    page = Page((report[0] / "index.html").read_text())
    assert page.addresses
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert not {"script", "link", "iframe"} & set(page.tags)


def test_the_page_can_be_read_aloud(report: tuple[Path, dict[str, Any]]) -> None:
    text = (report[0] / "index.html").read_text()
    page = Page(text)
    assert page.headings[0] == "h1"
    assert set(page.headings[1:]) == {"h2"}
    assert page.images
    assert all(image.get("alt") for image in page.images)
    assert '<html lang="en">' in text
    assert "prefers-color-scheme: dark" in text


def test_names_are_text_and_never_tags(report: tuple[Path, dict[str, Any]]) -> None:
    text = (report[0] / "index.html").read_text()
    assert "&lt;i&gt;brick" in text
    assert not {"b", "i"} & set(Page(text).tags)


def test_wrong_labels_are_shown_with_their_reason(report: tuple[Path, dict[str, Any]]) -> None:
    out, summary = report
    doubts = rows(out / "doubts.csv")
    assert len(doubts) == summary["doubts"]
    assert {doubt["image"] for doubt in doubts[:2]} == {"sky/wrong-0.png", "sky/wrong-1.png"}
    assert {doubt["suggested"] for doubt in doubts[:2]} == {"grass"}
    assert "sky/wrong-0.png" in (out / "index.html").read_text()


def test_unreadable_images_are_listed_and_left_out(report: tuple[Path, dict[str, Any]]) -> None:
    out, summary = report
    assert rows(out / "unreadable.csv") == [{"image": "sky/broken.png", "reason": "not an image"}]
    assert summary["unreadable"] == 1
    assert summary["images"] == 48
    assert "sky/broken.png: not an image" in (out / "index.html").read_text()


def test_the_summary_is_what_the_curves_say(report: tuple[Path, dict[str, Any]]) -> None:
    out, summary = report
    assert json.loads((out / "summary.json").read_text()) == summary
    curves = rows(out / "curves.csv")
    for row in summary["table"]:
        same = [
            float(each["accuracy"])
            for each in curves
            if (each["order"], each["head"], each["labels"]) == (row["order"], row["head"], str(row["labels"]))
        ]
        assert len(same) == summary["seeds"] == 2
        assert row["accuracy"] == pytest.approx(sum(same) / 2, abs=1e-5)
    assert {row["labels"] for row in summary["table"]} == {10, 20, 36}


def test_each_asked_label_is_written_down_once(report: tuple[Path, dict[str, Any]]) -> None:
    asked = rows(report[0] / "asked.csv")
    assert len(asked) == 3 * 2 * 36
    first = [row["image"] for row in asked if row["order"] == "ours" and row["seed"] == "0"]
    assert len(set(first)) == 36


def test_pictures_stand_beside_the_page(report: tuple[Path, dict[str, Any]]) -> None:
    names = {path.stem for path in report[0].glob("*.png")}
    assert {"accuracy-ours", "accuracy-random", "accuracy-sorted", "orders", "reliability", "calibration-ours"} <= names
    assert {"confusion", "forgetting", "sets", "prequential-random"} <= names
    for path in report[0].glob("*.png"):
        with Image.open(path) as image:
            assert image.width > 500
            assert len(image.convert("RGB").getcolors(1 << 20) or []) > 10


def test_one_order_and_head_make_a_report_too(tmp_path: Path) -> None:
    encoder: Any = MeanColour()
    options: dict[str, Any] = {"labels": 12, "seeds": 1, "orders": ["sorted"], "heads": ["sgd"]}
    summary = replay_folder(make_folder(tmp_path / "pictures"), tmp_path / "out", encoder, tmp_path, **options)
    assert [row["labels"] for row in summary["table"]] == [10, 12]
    assert summary["target"] == {"accuracy": None, "labels": 400, "labels_needed": None}
    assert (tmp_path / "out" / "index.html").is_file()
