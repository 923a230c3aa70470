"""Draw the demo images again: seven facial expressions as the open emoji families show them.

Needs Node.js with npm, which fetches the drawings and the renderer into a temporary folder; users need neither.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image

HERE = Path(__file__).resolve().parent
SIZE = 160
RENDERER = "@resvg/resvg-js@2.6.2"

# Family -> version of its npm package `@iconify-json/<family>`.
FAMILIES = {
    "noto": "1.2.9",
    "noto-v1": "1.2.5",
    "twemoji": "1.2.5",
    "openmoji": "1.2.29",
    "fluent-emoji": "1.2.7",
    "fluent-emoji-flat": "1.2.6",
    "emojione": "1.2.3",
    "emojione-v1": "1.2.3",
}

# Expression -> emoji that clearly show it, chosen by eye. `a|b`: families name the same emoji differently; the first
# name becomes the file's. Left out on purpose, as two people could disagree: worried, anguished with open mouth,
# flushed, tired, unamused, confused, pleading, grimacing, winking, smirking, tongues, sweat with a smile, masks.
EXPRESSIONS = {
    "angry": """
        angry-face enraged-face|pouting-face face-with-steam-from-nose angry-face-with-horns face-with-symbols-on-mouth
        pouting-cat|pouting-cat-face person-pouting man-pouting woman-pouting
    """,
    "disgust": "nauseated-face face-vomiting confounded-face",
    "fear": """
        fearful-face anxious-face-with-sweat face-screaming-in-fear anguished-face weary-cat|weary-cat-face
        face-with-peeking-eye
    """,
    "happy": """
        beaming-face-with-smiling-eyes grinning-face grinning-face-with-big-eyes grinning-face-with-smiling-eyes
        grinning-squinting-face face-with-tears-of-joy rolling-on-the-floor-laughing slightly-smiling-face smiling-face
        smiling-face-with-smiling-eyes smiling-face-with-heart-eyes smiling-face-with-open-hands|hugging-face
        star-struck grinning-cat|grinning-cat-face grinning-cat-with-smiling-eyes|grinning-cat-face-with-smiling-eyes
        cat-with-tears-of-joy|cat-face-with-tears-of-joy
    """,
    "neutral": "neutral-face expressionless-face face-without-mouth dotted-line-face",
    "sad": """
        crying-face loudly-crying-face disappointed-face pensive-face slightly-frowning-face frowning-face
        sad-but-relieved-face crying-cat|crying-cat-face person-frowning man-frowning woman-frowning
    """,
    "surprise": """
        astonished-face face-with-open-mouth hushed-face face-with-open-eyes-and-hand-over-mouth exploding-head
    """,
}

# Emoji that a family draws with another expression than the rest do, or draws badly.
UNCLEAR = {
    "noto-v1": """
        anguished-face astonished-face confounded-face man-pouting person-pouting sad-but-relieved-face weary-cat
        woman-pouting
    """,
    "twemoji": "man-frowning man-pouting person-frowning person-pouting woman-frowning woman-pouting",
    "openmoji": "man-pouting person-pouting woman-pouting",
    "emojione": """
        angry-face-with-horns anxious-face-with-sweat person-frowning person-pouting rolling-on-the-floor-laughing
    """,
    "emojione-v1": "astonished-face beaming-face-with-smiling-eyes hushed-face person-pouting pouting-cat",
}

# Standard input: a list of [svg, path of the PNG].
RENDER = """
const {Resvg} = require('@resvg/resvg-js'), fs = require('fs');
for (const [svg, path] of JSON.parse(fs.readFileSync(0)))
  fs.writeFileSync(path, new Resvg(svg, {
    fitTo: {mode: 'width', value: %d}, background: 'white', font: {loadSystemFonts: false},
  }).render().asPng());
"""


def fetch(folder: Path) -> None:
    """Install the emoji families and the renderer, in fixed versions, into a folder."""
    packages = [f"@iconify-json/{family}@{version}" for family, version in FAMILIES.items()]
    command = ["npm", "install", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
    subprocess.run([*command, RENDERER, *packages], check=True)


def svg(icons: dict[str, Any], name: str) -> str:
    """Return one icon of an Iconify set as a standalone SVG document."""
    icon = icons["icons"][name]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = icon.get("width", icons["width"]), icon.get("height", icons["height"])
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )


def drawings(folder: Path) -> dict[str, str]:
    """Return ``<expression>/<family>-<emoji>.png`` -> SVG, from the packages in a folder."""
    found = {}
    for family in FAMILIES:
        icons = json.loads((folder / "node_modules/@iconify-json" / family / "icons.json").read_text("utf-8"))
        unclear = UNCLEAR.get(family, "").split()
        for expression, emoji in EXPRESSIONS.items():
            for names in emoji.split():
                name = names.split("|")[0]
                drawn = next((each for each in names.split("|") if each in icons["icons"]), None)
                if drawn and name not in unclear:
                    found[f"{expression}/{family}-{name}.png"] = svg(icons, drawn)
    return found


def render(drawn: dict[str, str], folder: Path) -> dict[str, Image.Image]:
    """Draw SVGs on white; of drawings with the very same pixels only the first is kept."""
    images: dict[str, Image.Image] = {}
    seen = set()
    paths = {name: folder / f"{number}.png" for number, name in enumerate(drawn)}
    jobs = json.dumps([[drawn[name], str(path)] for name, path in paths.items()])
    subprocess.run(["node", "-e", RENDER % SIZE], input=jobs, text=True, cwd=folder, check=True)  # noqa: S607
    for name, path in paths.items():
        image = Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
        if image.tobytes() not in seen:
            seen.add(image.tobytes())
            images[name] = image
    return images


def table(names: list[str]) -> str:
    """Return how many images there are, by family and expression, as a Markdown table."""
    families = sorted(FAMILIES, key=len, reverse=True)
    counts = Counter(
        (next(family for family in families if Path(name).name.startswith(f"{family}-")), name.split("/")[0])
        for name in names
    )
    rows = [["family", *EXPRESSIONS, "all"], ["---", *["--:"] * (len(EXPRESSIONS) + 1)]]
    for family in FAMILIES:
        each = [counts[family, expression] for expression in EXPRESSIONS]
        rows.append([family, *map(str, each), str(sum(each))])
    totals = [sum(counts[family, expression] for family in FAMILIES) for expression in EXPRESSIONS]
    rows.append(["all", *map(str, totals), str(sum(totals))])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Replace ``expressions/`` and the table in the README."""
    with tempfile.TemporaryDirectory() as temporary:
        fetch(Path(temporary))
        images = render(drawings(Path(temporary)), Path(temporary))
    target = HERE / "expressions"
    shutil.rmtree(target, ignore_errors=True)
    for name, image in images.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(target / name, optimize=True)
    readme = HERE / "README.md"
    text = re.sub(r"\|.*\|\n", "", readme.read_text("utf-8"))
    readme.write_text(text.replace("<!-- counts -->\n", f"<!-- counts -->\n{table(list(images))}\n"), "utf-8")
    size = sum(path.stat().st_size for path in target.rglob("*.png"))
    print(f"{len(images)} images, {size / 1e6:.1f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()
