import io

import numpy as np
import pytest
from PIL import Image

from model._torchvision import declare_missing_operators
from model.transform import Transform, prepare

SMALL = Transform(
    height=8, width=8, crop_pct=1.0, crop_mode="center", interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3
)


def reopened(image, kind, **options):
    """The image as it comes from a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return Image.open(file)


def only_colour(pixels):
    """The one colour that all pixels have."""
    colours = np.unique(pixels.reshape(-1, 3), axis=0)
    assert len(colours) == 1
    return tuple(colours[0].tolist())


def half_black_half_white():
    """Eight by eight: the upper half black, the lower white."""
    return Image.fromarray(np.repeat([[0], [255]], [4, 4], axis=0).astype(np.uint8).repeat(8, axis=1)).convert("RGB")


@pytest.mark.parametrize(
    ("orientation", "black"),
    [(1, "top"), (2, "top"), (3, "bottom"), (4, "bottom"), (5, "left"), (6, "right"), (7, "right"), (8, "left")],
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_followed(orientation, black, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = prepare(reopened(half_black_half_white(), kind, exif=exif.tobytes(), **options), SMALL)
    sides = {"top": pixels[:4], "bottom": pixels[4:], "left": pixels[:, :4], "right": pixels[:, 4:]}
    assert only_colour(sides[black]) == (0, 0, 0)


def test_broken_exif_leaves_the_image_as_it_lies():
    straight = prepare(half_black_half_white(), SMALL)
    exif = Image.Exif()
    exif[0x0112] = 3
    whole = exif.tobytes()
    for cut in range(len(whole)):
        broken = reopened(half_black_half_white(), "PNG", exif=whole[:cut] + b"\xff" * (len(whole) - cut))
        upright = prepare(broken, SMALL)
        assert (upright == straight).all() or (upright == straight[::-1]).all()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparent_pixels_are_white(kind):
    image = Image.new("RGBA", (20, 30), (200, 0, 0, 0))
    assert only_colour(prepare(reopened(image, kind), SMALL)) == (255, 255, 255)


def test_half_transparent_pixels_are_mixed_with_white():
    image = Image.new("RGBA", (20, 30), (0, 0, 0, 128))
    assert only_colour(prepare(reopened(image, "PNG"), SMALL)) == (127, 127, 127)


def test_gray_with_alpha_is_laid_on_white():
    image = Image.new("LA", (20, 30), (0, 128))
    assert only_colour(prepare(reopened(image, "PNG"), SMALL)) == (127, 127, 127)


def test_palette_gives_its_colours():
    image = Image.new("P", (16, 16), 1)
    image.putpalette([9, 9, 9, 10, 20, 30])
    assert only_colour(prepare(reopened(image, "PNG"), SMALL)) == (10, 20, 30)


def test_transparent_colour_of_a_palette_is_white():
    image = Image.new("P", (16, 16), 1)
    image.putpalette([9, 9, 9, 10, 20, 30])
    assert only_colour(prepare(reopened(image, "PNG", transparency=1), SMALL)) == (255, 255, 255)


def test_transparent_colour_of_an_rgb_image_is_white():
    image = Image.new("RGB", (16, 16), (1, 2, 3))
    assert only_colour(prepare(reopened(image, "PNG", transparency=(1, 2, 3)), SMALL)) == (255, 255, 255)


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert only_colour(prepare(Image.open(file), SMALL)) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize(("value", "gray"), [(0, 0), (257, 1), (32896, 128), (65535, 255)])
def test_sixteen_bit_gray_keeps_its_brightness(kind, value, gray):
    image = Image.fromarray(np.full((16, 16), value, np.uint16))
    assert only_colour(prepare(reopened(image, kind), SMALL)) == (gray, gray, gray)


@pytest.mark.parametrize(
    ("values", "gray"),
    [
        (np.full((16, 16), 200, np.int32), 200),
        (np.full((16, 16), 65535, np.int32), 255),
        (np.full((16, 16), 1 << 20, np.int32), 255),
        (np.full((16, 16), 0.5, np.float32), 128),
        (np.full((16, 16), 200.0, np.float32), 200),
        (np.full((16, 16), -1.0, np.float32), 0),
        (np.full((16, 16), np.nan, np.float32), 0),
    ],
)
def test_deep_gray_is_scaled_by_the_range_it_uses(values, gray):
    assert only_colour(prepare(reopened(Image.fromarray(values), "TIFF"), SMALL)) == (gray, gray, gray)


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr", "HSV"])
def test_white_is_white_in_every_mode(mode):
    image = Image.new("RGB", (16, 16), "white").convert(mode)
    assert only_colour(prepare(image, SMALL)) == (255, 255, 255)


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ValueError, match="0 x 5"):
        prepare(Image.new("RGB", (0, 5)), SMALL)


def test_a_truncated_file_is_an_error():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99, 3), np.uint8))
    file = io.BytesIO()
    noise.save(file, "JPEG")
    with pytest.raises(OSError, match=r"(?i)truncated"):
        prepare(Image.open(io.BytesIO(file.getvalue()[:500])), SMALL)


def test_the_given_image_is_not_changed():
    image = Image.new("RGBA", (20, 30), (200, 0, 0, 0))
    before = image.tobytes()
    prepare(image, SMALL)
    assert (image.mode, image.size, image.tobytes()) == ("RGBA", (20, 30), before)


@pytest.mark.parametrize("size", [(1, 1), (1, 50_000), (50_000, 1), (7, 3)])
def test_extreme_shapes_come_out_in_the_right_size(size):
    assert prepare(Image.new("RGB", size, "red"), SMALL).shape == (8, 8, 3)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (100, 100), (224, 224), (48, 48), (640, 97), (1023, 769)])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("input_size", [(3, 224, 224), (3, 192, 160)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_equal_those_of_timm(size, crop_mode, input_size, interpolation):
    declare_missing_operators()
    from timm.data import create_transform

    config = {
        "input_size": input_size,
        "interpolation": interpolation,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "crop_pct": 0.875,
        "crop_mode": crop_mode,
    }
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8))
    theirs = np.asarray(create_transform(**config, normalize=False)(image)).transpose(1, 2, 0)
    difference = np.abs(prepare(image, Transform.from_dict(config)).astype(int) - theirs)
    assert (difference > 1).mean() < 5e-3
    assert difference.max() < 10


def test_shrinking_a_large_image_in_two_steps_is_near_to_timm():
    ramp = np.linspace(0, 255, 3000)[:, np.newaxis] * np.ones(2000)
    image = Image.fromarray(ramp.astype(np.uint8)).convert("RGB")
    from_large = prepare(image, SMALL).astype(int)
    from_middle = prepare(image.resize((40, 60), Image.Resampling.BOX), SMALL)
    assert np.abs(from_large - from_middle).max() <= 3


def test_whatever_changes_the_pixels_changes_the_digest():
    values = SMALL.to_dict()
    others = [
        {"height": 9},
        {"width": 9},
        {"crop_pct": 0.9},
        {"crop_mode": "squash"},
        {"interpolation": "bicubic"},
        {"mean": (0.5, 0.5, 0.4)},
        {"std": (0.5, 0.5, 0.4)},
    ]
    digests = {Transform.from_dict({**values, **other}).digest for other in [{}, *others]}
    assert len(digests) == len(others) + 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"height": 0},
        {"crop_pct": 0},
        {"crop_mode": "random"},
        {"interpolation": "magic"},
        {"mean": (1, 2)},
        {"std": None},
    ],
)
def test_a_senseless_transform_is_refused(wrong):
    with pytest.raises(ValueError, match=r"transform|mode|interpolation"):
        Transform.from_dict({**SMALL.to_dict(), **wrong})


def test_a_transform_survives_being_written_down():
    assert Transform.from_dict(SMALL.to_dict()) == SMALL
