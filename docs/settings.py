"""Writes docs/settings.md from backend/settings.py: ``python docs/settings.py``; a test sees that it was run."""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo

from backend.settings import Settings

PAGE = Path(__file__).with_suffix(".md")

GROUPS = {
    "state": "This machine",
    "label_studio_url": "Label Studio",
    "web_host": "The web process",
    "database_url": "What Tandem stands on",
    "encoder": "Learning",
    "image_timeout": "Images",
    "show_interval": "What Label Studio shows",
    "sweep_interval": "Work in the background",
}
"""Headings, by the first setting below them."""

HEAD = """# Settings

Every setting is read from the environment, or from a file `.env` in the folder where Tandem is started; the environment
counts more. `make run` and `tandem up` write what they chose themselves into `.tandem/up.env`, so that other commands
on this machine reach what runs. Lists are JSON: `TANDEM_IMAGE_HOSTS='["images.example.org"]'`. The web process and the
workers must have the same settings, and read them when they start.

Made from `backend/settings.py` by `python docs/settings.py`.
"""


def page() -> str:
    """Return the page."""
    parts = [HEAD]
    for name, field in Settings.model_fields.items():
        if name in GROUPS:
            parts.append(f"\n## {GROUPS[name]}\n\n| setting | default | what it is |\n|---|---|---|\n")
        names = "<br>".join(f"`{each}`" for each in variables(name, field))
        parts.append(f"| {names} | {default(field)} | {told(field)} |\n")
    return "".join(parts)


def variables(name: str, field: FieldInfo) -> list[str]:
    """Return the environment variables that a setting is read from, the first counting most."""
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return [str(choice) for choice in alias.choices]
    return [f"TANDEM_{name.upper()}"]


def default(field: FieldInfo) -> str:
    """Return a setting's default as one would write it."""
    value = field.default
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None or value in ("", []):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def told(field: FieldInfo) -> str:
    """Return a setting's sentence for a cell of a table."""
    return (field.description or "").replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
