"""From any image to the pixels a backbone was trained on, with Pillow and numpy alone."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.ExifTags import Base

REVISION = 1
"""Counts the changes of this file that give another vector for the same image; part of every encoder's id."""

_WHITE = (255, 255, 255, 255)
_DEEP_GRAY = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")

# From six times the size on, averaging whole blocks first is several times faster and can't be told from the full way.
_REDUCING_GAP = 3.0


@dataclass(frozen=True)
class Transform:
    """How a backbone wants its images, as timm's pretrained configurations tell it.

    Attributes
    ----------
    height, width : int
        Size of what the backbone sees, in pixels.
    crop_pct : float
        Share of the resized image's edge that is kept.
    crop_mode : {"center", "squash", "border"}
        Whether the shorter edge is fitted and the rest cut off, both edges are fitted whatever the aspect ratio, or the
        longer edge is fitted and the rest filled with the mean colour.
    interpolation : str
        Name of a Pillow resampling filter, in small letters.
    mean, std : tuple of float
        Of the channels red, green, blue, on the scale 0 to 1.
    """

    height: int
    width: int
    crop_pct: float
    crop_mode: Literal["center", "squash", "border"]
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1 or not self.crop_pct > 0:
            raise ValueError(f"A transform needs a positive size and crop_pct, not {self}.")
        if self.crop_mode not in ("center", "squash", "border"):
            raise ValueError(f"The crop mode {self.crop_mode!r} is none of center, squash and border.")
        if self.interpolation.upper() not in Image.Resampling.__members__:
            raise ValueError(f"The interpolation {self.interpolation!r} is no resampling filter of Pillow.")
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ValueError("A transform needs a mean and a std for each of the three channels of an RGB image.")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Transform:
        """Build a transform from timm's data configuration, or from what `to_dict` gave.

        Raises
        ------
        ValueError
            When a value is missing or makes no sense.
        """
        try:
            if "input_size" in values:
                channels, height, width = values["input_size"]
                if channels != 3:
                    raise ValueError(f"The backbone wants images of {channels} channels; only RGB is supported.")
                values = {**values, "height": height, "width": width}
            return cls(
                height=int(values["height"]),
                width=int(values["width"]),
                crop_pct=float(values["crop_pct"]),
                crop_mode=values["crop_mode"],
                interpolation=str(values["interpolation"]),
                mean=cast("tuple[float, float, float]", tuple(float(value) for value in values["mean"])),
                std=cast("tuple[float, float, float]", tuple(float(value) for value in values["std"])),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"The transform {values!r} is not complete: {error}.") from error

    def to_dict(self) -> dict[str, Any]:
        """Return the transform as JSON can hold it."""
        return asdict(self)

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits that change with anything that changes the pixels."""
        values = [f"{field.name}={getattr(self, field.name)!r}" for field in fields(self)]
        return hashlib.sha256(";".join([f"revision={REVISION}", *values]).encode()).hexdigest()[:8]


def prepare(image: Image.Image, transform: Transform) -> NDArray[np.uint8]:
    """Turn an image of any mode upright, onto white, to RGB, resized and cropped.

    Of an animation, the frame the image stands at is taken. Colour profiles are not applied, as in the training of the
    backbones. Upright RGB images come out as from timm's own evaluation transform, but for the rounding of a pixel here
    and there.

    Parameters
    ----------
    image : PIL.Image.Image
        Left as it is, but for being loaded.
    transform : Transform
        What the backbone wants.

    Returns
    -------
    numpy.ndarray of uint8, shape (height, width, 3)
        Red, green, blue; not yet normalised, which is the network's first layer.

    Raises
    ------
    ValueError
        When the image is empty.
    OSError
        When the image's file is truncated or broken.
    """
    return _fit(to_rgb(image), transform)


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn an image of any mode upright, onto white, to RGB.

    Raises
    ------
    ValueError
        When the image is empty.
    OSError
        When the image's file is truncated or broken.
    """
    if 0 in image.size:
        raise ValueError(f"The image has no pixels: its size is {image.size[0]} x {image.size[1]}.")
    image = _upright(image)
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode in _DEEP_GRAY:
        return Image.fromarray(_to_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        turned = image.getexif().get(Base.Orientation, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:
        # The pixels are loaded, so it is the EXIF data that is broken: the image is taken as it lies.
        return image


def _to_eight_bits(gray: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale deep gray to eight bits, by the range its type or its values tell: 0 to 1, eight bits, sixteen, or more."""
    values = np.nan_to_num(gray.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    highest = float(values.max())
    if gray.dtype == np.uint16:
        full = 65535.0
    elif np.issubdtype(gray.dtype, np.floating) and highest <= 1.0:
        full = 1.0
    else:
        full = next((limit for limit in (255.0, 65535.0) if highest <= limit), highest)
    return np.clip(np.rint(values * (255.0 / full)), 0, 255).astype(np.uint8)


def _fit(image: Image.Image, transform: Transform) -> NDArray[np.uint8]:
    """Resize and crop in one step, so that a very long image never exists at its resized length."""
    resized_width, resized_height = _resized_size(image.size, transform)
    left, seen_width, at_x = _window(resized_width, transform.width)
    top, seen_height, at_y = _window(resized_height, transform.height)
    scale_x, scale_y = image.width / resized_width, image.height / resized_height
    seen = image.resize(
        (seen_width, seen_height),
        Image.Resampling[transform.interpolation.upper()],
        box=(left * scale_x, top * scale_y, (left + seen_width) * scale_x, (top + seen_height) * scale_y),
        reducing_gap=_REDUCING_GAP,
    )
    if seen.size == (transform.width, transform.height):
        return np.asarray(seen)
    canvas = np.empty((transform.height, transform.width, 3), np.uint8)
    canvas[:] = [round(255 * value) for value in transform.mean]
    canvas[at_y : at_y + seen_height, at_x : at_x + seen_width] = np.asarray(seen)
    return canvas


def _resized_size(size: tuple[int, int], transform: Transform) -> tuple[int, int]:
    """Size in pixels to which timm's evaluation transform resizes the whole image, with its ways of rounding."""
    width, height = size
    target_width = int(transform.width / transform.crop_pct)
    target_height = int(transform.height / transform.crop_pct)
    if transform.crop_mode == "squash":
        return target_width, target_height
    if transform.crop_mode == "center" and target_width == target_height:
        if width <= height:
            return target_width, int(target_width * height / width)
        return int(target_width * width / height), target_width
    ratios = width / target_width, height / target_height
    ratio = max(ratios) if transform.crop_mode == "border" else min(ratios)
    return max(1, round(width / ratio)), max(1, round(height / ratio))


def _window(length: int, target: int) -> tuple[int, int, int]:
    """Where the centred window of `target` pixels begins in an edge, how much it sees of it, and where that is put."""
    if length >= target:
        return round((length - target) / 2.0), target, 0
    return 0, length, (target - length) // 2
