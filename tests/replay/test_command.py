from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import replay.command
from backend.cli import app
from backend.settings import get_settings
from tests.conftest import STATE
from tests.parts import DEMO
from tests.replay.pictures import make_folder


@pytest.fixture
def tandem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run `tandem replay` in an empty folder; exported encoders are shared with the other tests."""
    monkeypatch.setenv("TANDEM_STATE", str(STATE.resolve()))
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    yield lambda *arguments: CliRunner().invoke(app, ["replay", *arguments], catch_exceptions=False)
    get_settings.cache_clear()


@pytest.fixture
def expressions(tmp_path: Path) -> Path:
    """Return a few emoji faces of two expressions."""
    for name in ("happy", "angry"):
        (tmp_path / "faces" / name).mkdir(parents=True)
        for path in sorted((DEMO / name).iterdir())[:14]:
            shutil.copy(path, tmp_path / "faces" / name)
    return tmp_path / "faces"


def test_a_folder_becomes_a_report_and_a_second_run_reads_the_first(tandem: Any, expressions: Path) -> None:
    arguments = ["faces", "--labels", "10", "--seeds", "1", "--orders", "random", "--heads", "ours,sgd"]
    arguments += ["--cache", "kept"]
    first = tandem(*arguments)
    assert first.exit_code == 0, first.stderr
    assert first.stdout.strip() == "The report: replay-faces/index.html"
    assert "Labelling" in first.stderr
    kept = {path: path.stat().st_mtime_ns for path in Path("kept").rglob("*.json")}
    assert len(kept) == 2
    second = tandem(*arguments, "--json", "--out", "again")
    summary = json.loads(second.stdout)
    assert {path: path.stat().st_mtime_ns for path in Path("kept").rglob("*.json")} == kept
    assert summary == json.loads((expressions.parent / "replay-faces" / "summary.json").read_text())
    assert summary["classes"] == ["angry", "happy"]
    assert summary["labels"] == 10
    assert summary["table"][0]["accuracy"] > 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "There is no folder"),
        (["pictures", "--heads", "ours,forest"], "There is no head 'forest'"),
        (["pictures", "--orders", ""], "There is no order"),
        (["pictures", "--encoder-weights", "missing.pth"], "no file of weights at missing.pth"),
    ],
)
def test_what_can_not_be_done_is_said_and_the_status_tells(
    tandem: Any, tmp_path: Path, arguments: list[str], message: str
) -> None:
    make_folder(tmp_path / "pictures", 8)
    done = tandem(*arguments)
    assert done.exit_code == 1
    assert message in done.stderr
    assert done.stdout == ""


def test_numbers_out_of_range_are_an_error_of_usage(tandem: Any) -> None:
    assert tandem("pictures", "--labels", "0").exit_code == 2


def test_an_interruption_says_how_to_go_on(tandem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(replay.command, "replay_folder", interrupted)
    done = tandem("anything")
    assert done.exit_code == 130
    assert "goes on from here" in done.stderr
