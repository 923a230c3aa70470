"""A folder of class subfolders: which images there are, of which class, and which are held out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""What counts as an image by its name; whether it is one is seen when it is read."""

LEAST_IMAGES = 20
"""Fewer tell nothing: ten to learn from are the first row of the tables."""

LEAST_PER_CLASS = 2
"""One to learn from, one to hold out."""

TRAIN, TEST = "train", "test"


class UnusableFolder(ValueError):  # noqa: N818 - reads as what it says
    """The folder can't be replayed; the message says what it needs."""


@dataclass(frozen=True, slots=True)
class Folder:
    """The images of a folder, sorted by path.

    Attributes
    ----------
    path : pathlib.Path
    images : tuple of pathlib.Path, length n
    classes : tuple of str, length n
        The class of each image.
    held_out : tuple of bool, length n, or None
        Whether each image is a test image; None where the folder does not say.
    """

    path: Path
    images: tuple[Path, ...]
    classes: tuple[str, ...]
    held_out: tuple[bool, ...] | None


def read_folder(path: Path) -> Folder:
    """Look through ``path/class/*`` or ``path/{train,test}/class/*``; no image is opened.

    Images deeper below a class belong to it too. Hidden files and folders are passed over, and so is what is not named
    as an image.

    Raises
    ------
    UnusableFolder
        When there is no such folder, or it does not hold enough images of two classes or more.
    """
    if not path.is_dir():
        raise UnusableFolder(f"There is no folder {path}.")
    subfolders = {each.name for each in path.iterdir() if each.is_dir() and not each.name.startswith(".")}
    split = {TRAIN, TEST} <= subfolders
    roots = [path / TRAIN, path / TEST] if split else [path]
    found = sorted((image, root) for root in roots for image in _images(root))
    images = tuple(image for image, _ in found)
    classes = tuple(image.relative_to(root).parts[0] for image, root in found)
    held_out = tuple(root.name == TEST for _, root in found) if split else None
    check_enough(path, classes, held_out)
    return Folder(path, images, classes, held_out)


def check_enough(path: Path, classes: tuple[str, ...], held_out: tuple[bool, ...] | None) -> None:
    """Raise `UnusableFolder` when these images are too few to learn from and to test on."""
    if not classes:
        raise UnusableFolder(
            f"{path} holds no images in subfolders. Make a subfolder per class, named after it: {path}/cat/1.jpg; "
            f"or {path}/{TRAIN}/cat/1.jpg and {path}/{TEST}/cat/2.jpg."
        )
    counts = Counter(classes)
    if len(counts) < 2:
        raise UnusableFolder(f"{path} holds images of one class only, {next(iter(counts))}; two are needed.")
    if len(classes) < LEAST_IMAGES:
        raise UnusableFolder(f"{path} holds {len(classes)} images that can be read; {LEAST_IMAGES} are needed.")
    few = sorted(name for name, count in counts.items() if count < LEAST_PER_CLASS)
    if held_out is None and few:
        raise UnusableFolder(
            f"{path} holds a single image of {', '.join(few)}; each class needs one to learn from and one to hold out."
        )
    if held_out is not None:
        learned = {name for name, test in zip(classes, held_out, strict=True) if not test}
        tested = {name for name, test in zip(classes, held_out, strict=True) if test}
        if not tested:
            raise UnusableFolder(f"{path}/{TEST} holds no image that can be read in a subfolder named after a class.")
        if len(learned) < 2:
            raise UnusableFolder(f"{path}/{TRAIN} holds images of {len(learned)} classes; two are needed.")
        if tested - learned:
            missing = ", ".join(sorted(tested - learned))
            raise UnusableFolder(f"{path}/{TRAIN} holds no image of {missing}, which {path}/{TEST} does.")


def _images(root: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if Path(parent) != root:
            for name in files:
                if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                    yield Path(parent, name)
