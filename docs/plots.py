"""Draws the plots of docs/how-it-learns.md anew: ``python docs/plots.py``; minutes, since it labels the demo's images.

They are those of ``tandem replay demo/expressions``, made small: that folder is in the repository, so anyone can check.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parent
PLOTS = ("orders", "accuracy-ours", "reliability-ours")
REPLAY = ["--labels", "200", "--seeds", "2", "--orders", "random,ours,sorted", "--heads", "ours,logistic"]


def main() -> None:
    """Label the demo's images as a person would, and keep the plots that the page shows."""
    with tempfile.TemporaryDirectory() as folder:
        tandem = Path(sys.executable).with_name("tandem")
        demo = DOCS.parent / "demo" / "expressions"
        subprocess.run([tandem, "replay", demo, "--out", folder, *REPLAY], check=True)
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
