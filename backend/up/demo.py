"""A folder of images becomes a project: what is in it, what can be chosen, and what is not in Label Studio yet.

Subfolders with images become the classes of the project, not the labels of the images: labelling is the point. So that
the annotator is not told either, an image of such a folder reaches Label Studio under its content's hash alone.
"""

from __future__ import annotations

import csv
import hashlib
import os
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from xml.etree import ElementTree

from PIL import Image, UnidentifiedImageError

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO_FOLDER = REPOSITORY / "demo" / "expressions"
SEVEN_EXPRESSIONS = REPOSITORY / "label_config.xml"
SEED = 20240601  # of the order of import: the same each time, so that an interrupted import goes on in it
BATCH = 50  # files in one request, and between two looks at the progress
HASH_DIGITS = 16
# Formats that browsers show, by Pillow's names, and the suffix by which Label Studio knows them.
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "WEBP": ".webp", "BMP": ".bmp"}
NAME_OF_UPLOAD = re.compile(rf"/[0-9a-f]{{8}}-([0-9a-f]{{{HASH_DIGITS}}})[-.]")


class ImportClient(Protocol):
    """What of Label Studio's client the import needs."""

    def upload(self, project_id: int, files: Iterable[Path | tuple[str, bytes]]) -> int:
        """Upload files as tasks and return how many were made."""

    def tasks(self, project_id: int) -> Iterable[dict[str, Any]]:
        """Yield the project's tasks."""


@dataclass(frozen=True)
class FolderImage:
    """An image file of the folder.

    Attributes
    ----------
    path
        Where it is.
    digest
        First digits of its content's SHA-256.
    name
        What Label Studio will know it by.
    """

    path: Path
    digest: str
    name: str


@dataclass(frozen=True)
class FolderPlan:
    """What a folder holds.

    Attributes
    ----------
    images
        In the order of import: shuffled, the same way each time.
    classes
        Names of the subfolders, if there are at least two with files; sorted.
    repeats
        Files left out because another has the same content.
    skipped
        Files that are no image a browser shows, or broken ones.
    """

    images: tuple[FolderImage, ...]
    classes: tuple[str, ...]
    repeats: int
    skipped: tuple[Path, ...]


def plan_import(folder: Path) -> FolderPlan:
    """Look through the folder; reads every file once, changes nothing.

    Raises
    ------
    NotADirectoryError
        When there is no such folder.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder: give one with images, IMAGES=folder")
    files = sorted(find_files(folder))
    classes = sorted({file.relative_to(folder).parts[0] for file in files if file.parent != folder})
    if len(classes) < 2:
        classes = []

    images: dict[str, FolderImage] = {}
    skipped: list[Path] = []
    repeats = 0
    for file in files:
        content = file.read_bytes()
        suffix = image_suffix(file)
        if not suffix:
            skipped.append(file)
            continue
        digest = hashlib.sha256(content).hexdigest()[:HASH_DIGITS]
        repeats += digest in images
        name = f"{digest}{suffix}" if classes else f"{digest}-{file.stem}{suffix}"
        images.setdefault(digest, FolderImage(file, digest, name))
    order = sorted(images.values(), key=lambda image: image.digest)
    random.Random(SEED).shuffle(order)  # noqa: S311 - an order, not a secret
    return FolderPlan(tuple(order), tuple(classes), repeats, tuple(skipped))


def find_files(folder: Path) -> Iterable[Path]:
    """Yield the files of the folder and its subfolders, without hidden ones."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def image_suffix(file: Path) -> str:
    """Return the suffix of the image's true format, or an empty string if it is none that a browser shows whole."""
    try:
        with Image.open(file, formats=list(SUFFIXES)) as image:
            image.load()
            return SUFFIXES[image.format or ""]
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError, KeyError):
        return ""


def label_config(classes: Sequence[str]) -> str:
    """Return the labelling interface for these classes; for none, or the seven expressions, that of `label_config.xml`.

    Examples
    --------
    >>> print(label_config(["cat", "dog"]))
    <View>
      <Image name="image" value="$image" zoom="true" />
      <Style>.tandem form, .tandem button { display: none; }</Style>
      <View className="tandem">
        <TextArea name="tandem" toName="image" editable="false" visibleWhen="choice-selected" whenTagName="tandem" />
      </View>
      <Choices name="class" toName="image" choice="single" showInLine="true" required="true">
        <Choice value="cat" hotkey="1" />
        <Choice value="dog" hotkey="2" />
      </Choices>
    </View>
    """
    expressions = SEVEN_EXPRESSIONS.read_text(encoding="utf-8")
    known = {choice.get("value") for choice in ElementTree.fromstring(expressions).iter("Choice")}  # noqa: S314 - ours
    if not classes or set(classes) == known:
        return expressions
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", {"name": "image", "value": "$image", "zoom": "true"})
    view.extend(remark for remark in ElementTree.fromstring(expressions) if remark.tag in ("Style", "View"))  # noqa: S314
    attributes = {"name": "class", "toName": "image", "choice": "single", "showInLine": "true", "required": "true"}
    choices = ElementTree.SubElement(view, "Choices", attributes)
    for number, name in enumerate(classes, start=1):
        hotkey = {"hotkey": str(number)} if number <= 9 else {}
        ElementTree.SubElement(choices, "Choice", {"value": name, **hotkey})
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode")


def import_images(
    client: ImportClient,
    project_id: int,
    plan: FolderPlan,
    record: Path,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> int:
    """Upload what the project has not had yet.

    May be interrupted and called again: what was uploaded is read from ``record`` and from Label Studio. An image that
    a person deleted in Label Studio is in the record, and does not come back.

    Parameters
    ----------
    client
        Label Studio's.
    project_id
        Where to.
    plan
        From `plan_import`.
    record
        A CSV file with a row for each image uploaded: its name in Label Studio and its path. Made if it isn't there.
    progress
        Called with the images that are in and all of them, at the start and after each batch.

    Returns
    -------
    int
        Images uploaded.
    """
    had = recorded(record) | {digest for task in client.tasks(project_id) if (digest := digest_of_task(task))}
    new = [image for image in plan.images if image.digest not in had]
    before = len(plan.images) - len(new)
    progress(before, len(plan.images))
    for start in range(0, len(new), BATCH):
        batch = new[start : start + BATCH]
        client.upload(project_id, [(image.name, image.path.read_bytes()) for image in batch])
        record.parent.mkdir(parents=True, exist_ok=True)
        with record.open("a", newline="", encoding="utf-8", errors="surrogateescape") as file:
            csv.writer(file).writerows((image.name, image.path) for image in batch)
        progress(before + start + len(batch), len(plan.images))
    return len(new)


def recorded(record: Path) -> set[str]:
    """Return the digests of the images in the record."""
    if not record.exists():
        return set()
    with record.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return {row[0][:HASH_DIGITS] for row in csv.reader(file) if row}


def digest_of_task(task: dict[str, Any]) -> str:
    """Return the digest in the name of the task's upload, or an empty string if it is not one of ours.

    Examples
    --------
    >>> digest_of_task({"data": {"image": "/data/upload/2/5f3c2a1b-0123456789abcdef.png"}})
    '0123456789abcdef'
    >>> digest_of_task({"data": {"image": "s3://bucket/cat.png"}})
    ''
    """
    data = task.get("data")
    values = data.values() if isinstance(data, dict) else ()
    found = (NAME_OF_UPLOAD.search(value) for value in values if isinstance(value, str))
    return next((match[1] for match in found if match), "")
