"""What the documentation says is so: links lead somewhere, commands, settings, findings and addresses exist."""

from __future__ import annotations

import json
import re
import runpy
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from backend.app import create_app
from backend.cli import app
from backend.cli.exporting import Exported
from backend.cli.telling import Exit
from backend.doctor import NAMES, Finding
from backend.doctor.project import REASONS
from backend.insight.doubts import Doubts
from backend.insight.export import Labelled
from backend.insight.history import Comparison, Detail, History
from backend.insight.queue import Queue
from backend.projects import Pin
from backend.reconcile import Difference
from backend.settings import Settings
from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", REPOSITORY / "docker" / "README.md", *sorted(DOCS.glob("*.md"))]
COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
TARGETS = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def code_of(page: Path) -> list[str]:
    """Return what stands as code in a page: blocks line by line, and pieces of sentences."""
    text = read(page)
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()] + re.findall(r"`([^`]+)`", text)


def anchors(page: Path) -> set[str]:
    """Return what a link can name of a page, as GitHub makes it of headings."""
    headings = re.findall(r"^#+ (.+)$", read(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target} is not there"
        if anchor:
            assert anchor in anchors(file), f"{target} names no heading"


@each_page
def test_commands_exist_with_their_options(page: Path) -> None:
    for code in code_of(page):
        for call in re.findall(r"(?:^|[\s/(])tandem ((?:[a-z-]+|--[a-z-]+)(?: [^#&|]*)?)", code.split("#")[0]):
            name, *words = call.split()
            if name.startswith("--"):
                continue
            assert name in COMMANDS, f"tandem {name}"
            known = {option for parameter in COMMANDS[name].params for option in parameter.opts} | {"--help"}
            assert {word for word in words if re.fullmatch(r"--[a-z-]+", word)} <= known, call


@each_page
def test_targets_of_make_exist(page: Path) -> None:
    for code in code_of(page):
        for target in re.findall(r"(?:^|\s)make ([a-z-]+)", code):
            assert target in TARGETS, f"make {target}"


@each_page
def test_settings_exist(page: Path) -> None:
    known = {name for names in setting_names().values() for name in names}
    known |= set(re.findall(r"\$\{(TANDEM_\w+)", (REPOSITORY / "docker" / "compose.yml").read_text(encoding="utf-8")))
    assert set(re.findall(r"\bTANDEM_[A-Z0-9_]+", read(page))) - known == set()


def setting_names() -> dict[str, list[str]]:
    variables = runpy.run_path(str(DOCS / "settings.py"))["variables"]
    return {name: variables(name, field) for name, field in Settings.model_fields.items()}


def test_the_page_of_settings_is_whole_and_up_to_date() -> None:
    assert read(DOCS / "settings.md") == runpy.run_path(str(DOCS / "settings.py"))["page"](), (
        "make it anew: python docs/settings.py"
    )
    for name, variables in setting_names().items():
        for variable in variables:
            assert f"`{variable}`" in read(DOCS / "settings.md"), name


def test_every_group_of_settings_begins_with_one_that_is_there() -> None:
    groups = runpy.run_path(str(DOCS / "settings.py"))["GROUPS"]
    assert set(groups) <= set(Settings.model_fields)
    assert next(iter(Settings.model_fields)) in groups


def test_every_finding_of_the_doctor_has_its_section_and_every_reason_its_mend() -> None:
    page = read(DOCS / "troubleshooting.md")
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == list(NAMES)
    for reason, mend in REASONS.items():
        assert f"| `{reason}` | {mend} |" in page


def test_every_command_is_told_and_the_readme_tells_no_others() -> None:
    page = read(DOCS / "command-line.md")
    for name in COMMANDS:
        assert f"| `tandem {name}" in page, name
    told = set(re.findall(r"^\| `tandem ([a-z]+)", read(REPOSITORY / "README.md"), re.MULTILINE))
    assert told
    assert told <= set(COMMANDS)


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("queue", Queue),
        ("doubts", Doubts),
        ("versions", History),
        ("versions 12", Detail),
        ("versions 12 15", Comparison),
        ("rollback 12", Pin),
        ("doctor", Finding),
        ("sync", Difference),
        ("export exported/", Exported),
    ],
)
def test_the_keys_for_machines_are_those_that_are_told(command: str, kind: type) -> None:
    row = rf"^\| `tandem {re.escape(command)} --json` \| (.+) \|$"
    (told,) = re.findall(row, read(DOCS / "command-line.md"), re.MULTILINE)
    assert ", ".join(f"`{field.name}`" for field in fields(kind)) in told


def test_the_columns_of_an_export_are_those_that_are_told() -> None:
    section = read(DOCS / "command-line.md").split("## export")[1]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [field.name for field in fields(Labelled)]


def test_exit_codes_are_those_that_are_told() -> None:
    section = read(DOCS / "command-line.md").split("## Exit codes")[1].split("## ")[0]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)] == sorted(Exit)


def test_every_call_of_the_api_that_is_told_exists() -> None:
    described = create_app(Settings(_env_file=None)).openapi()
    paths = described["paths"]
    called = set()
    for line in read(DOCS / "api.md").splitlines():
        if not line.startswith("curl "):
            continue
        (address,) = re.findall(r"http://127\.0\.0\.1:9090(/[^\s'?]*)", line)
        given = re.findall(r"-X (\w+)", line)
        method = (given[0] if given else "POST" if " -F " in line or " -d " in line else "GET").lower()
        matching = [path for path in paths if re.fullmatch(re.sub(r"\{\w+\}", r"\\d+", path), address)]
        assert len(matching) == 1, address
        told = paths[matching[0]].get(method)
        assert told is not None, f"{method} {address}"
        called.add((method, matching[0]))
        for name in re.findall(r"[?&](\w+)=", line):
            assert name in [parameter["name"] for parameter in told["parameters"]], line
        fields_sent = re.findall(r"-F (\w+)=", line)
        if fields_sent:
            schema = told["requestBody"]["content"]["multipart/form-data"]["schema"]
            assert set(fields_sent) == set(schema["properties"]), line
        for body in re.findall(r"-d '(.+?)'", line):
            name = told["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            schema = described["components"]["schemas"][name]
            assert set(json.loads(body)) == set(schema["properties"]), line
    acting = {(method, path) for path, told in paths.items() for method in told if path.startswith("/api/")}
    assert {each for each in acting if each[0] != "get"} <= called, "every call that changes something is told"


def test_pictures_are_small() -> None:
    assert [path.name for path in (DOCS / "images").glob("*.*") if path.stat().st_size > 200_000] == []


def test_every_picture_is_shown_somewhere() -> None:
    shown = {target.rpartition("/")[2] for page in PAGES for target in re.findall(r"\]\(([^)\s]+)\)", read(page))}
    assert {path.name for path in (DOCS / "images").glob("*.*")} <= shown
