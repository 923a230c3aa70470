"""A small folder of pictures in classes that any encoder tells apart, and an encoder that takes no time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COLOURS = {"grass": (40, 160, 60), "sky": (80, 140, 230), "brick": (170, 70, 50)}


def make_folder(folder: Path, per_class: int = 16, parts: Sequence[str] = ("",)) -> Path:
    """Fill a folder with noisy pictures of one colour per class, in each of its parts."""
    random = np.random.default_rng(0)
    for part in parts:
        for name, colour in COLOURS.items():
            (folder / part / name).mkdir(parents=True)
            for number in range(per_class):
                pixels = np.clip(np.array(colour) + random.normal(0, 40, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number:02}.png")
    return folder


class MeanColour:
    """Stands in for `model.encoder.Encoder`: the features are the mean and the spread of each colour, and noise.

    Attributes
    ----------
    encoded
        How many pictures were encoded so far.
    stop_after
        Raise `KeyboardInterrupt` when so many were encoded.
    """

    id = "mean-colour"
    dim = 8

    def __init__(self, stop_after: int | None = None) -> None:
        self.encoded = 0
        self.stop_after = stop_after

    def encode(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        rows = np.zeros((len(images), self.dim), np.float32)
        for row, image in zip(rows, images, strict=True):
            if self.encoded == self.stop_after:
                raise KeyboardInterrupt
            pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
            row[:3], row[3:6], row[6:] = pixels.mean(axis=(0, 1)), pixels.std(axis=(0, 1)), pixels[0, 0, :2]
            self.encoded += 1
        return rows
