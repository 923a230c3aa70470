"""Draws the plots of docs/how-it-learns.md anew: ``python -m docs.plots``; minutes, since it labels the demo's images.

They are those of ``tandem replay demo/expressions``, made small: that folder is in the repository, so anyone can check.
"""

from __future__ import annotations

import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from rich.console import Console

from backend.settings import get_settings
from model.encoder import load_encoder
from replay.command import replay_folder

DOCS = Path(__file__).parent
PLOTS = ("orders", "accuracy-ours")


def main() -> None:
    """Label the demo's images as a person would, and keep the plots that the page shows."""
    settings = get_settings()
    with tempfile.TemporaryDirectory() as folder:
        replay_folder(
            DOCS.parent / "demo" / "expressions",
            Path(folder),
            load_encoder(settings.encoder, cache=settings.cache),
            settings.cache,
            labels=200,
            seeds=2,
            orders=["random", "ours", "sorted"],
            heads=["ours", "logistic"],
            console=Console(stderr=True),
        )
        for name in PLOTS:
            save(Image.open(Path(folder) / f"{name}.png"), DOCS / "images" / f"{name}.png")


def save(image: Image.Image, path: Path) -> None:
    """Write a picture of few colours as a small PNG."""
    path.parent.mkdir(exist_ok=True)
    data = BytesIO()
    image.convert("RGB").quantize(64).save(data, "PNG", optimize=True)
    path.write_bytes(data.getvalue())


if __name__ == "__main__":
    main()
