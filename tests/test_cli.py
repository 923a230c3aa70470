"""The command line: tables for people, JSON with stable keys for machines, and exit codes that mean something."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

import backend.doctor
from backend.cli import app, telling
from backend.doctor import Finding
from backend.events import ProjectTold
from backend.insight.doubts import Doubts
from backend.insight.export import Card, Labelled
from backend.insight.history import Comparison, Detail, History
from backend.insight.overview import Overview
from backend.insight.queue import Queue
from backend.insight.trial import Trial
from backend.jobs import Jobs
from backend.learner import Learners
from backend.ledger import Ledger
from backend.settings import get_settings
from backend.update import update
from model.encoder import load_encoder
from model.weights import Weights
from tests.parts import DEMO, FACTS, NO_REDIS, Classroom, make_services

Run = Callable[..., Result]
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let commands find an empty state folder, and no server."""
    folder = tmp_path / "state"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "TANDEM_STATE": str(folder),
        "TANDEM_REDIS_URL": NO_REDIS,
        "TANDEM_LABEL_STUDIO_URL": "http://127.0.0.1:1",
        "TANDEM_LABEL_STUDIO_API_KEY": "a key of the tests",
        "TANDEM_LABEL_STUDIO_FILES": str(DEMO),
    }.items():
        monkeypatch.setenv(name, value)
    # One process needs no lock, and nobody is there to be asked.
    monkeypatch.setattr(Jobs, "lock", lambda *_: nullcontext())
    monkeypatch.setattr(Jobs, "ask", lambda *_: False)
    get_settings.cache_clear()
    yield folder
    get_settings.cache_clear()


@pytest.fixture
def run() -> Run:
    return lambda *arguments: CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)


@pytest.fixture
def classroom(state: Path) -> Classroom:
    return Classroom(make_services(state))


@pytest.fixture
def learned(classroom: Classroom) -> Classroom:
    """Return a classroom of three versions: of 6, of 9, and of 12 labels."""
    learners = Learners()
    for start in (1, 7, 10):
        for task in range(start, {1: 7, 7: 10, 10: 13}[start]):
            classroom.annotate(task)
        update(classroom.services, learners, classroom.project.id)
    return classroom


def told(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def names(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


def test_help_comes_without_the_heavy_libraries() -> None:
    code = "import sys, backend.cli; print(sorted({'torch', 'sqlalchemy', 'mlflow', 'sklearn'} & sys.modules.keys()))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_a_help_with_an_example_where_it_takes_something(run: Run, name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    command = COMMANDS[name]
    assert command.help
    if any(parameter.name != "help" for parameter in command.params):
        assert f"tandem {name}" in result.stdout.split("For example")[1]


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"up", "web", "worker", "migrate"}))
def test_every_command_that_tells_something_tells_it_to_machines_too(name: str) -> None:
    assert "--json" in [option for parameter in COMMANDS[name].params for option in parameter.opts]


def test_the_release_is_told(run: Run) -> None:
    assert run("--version").stdout.startswith("tandem ")


def test_a_call_that_makes_no_sense_ends_with_2(run: Run, state: Path) -> None:
    assert run("nonsense").exit_code == 2
    assert run("rollback").exit_code == 2
    assert run("rollback", "3", "--newest").exit_code == 2
    assert run("versions", "the last one").exit_code == 2
    assert run("versions", "1", "2", "3").exit_code == 2
    assert run("queue", "--kind", "lovely").exit_code == 2


def test_a_database_without_tables_is_told_with_the_command_that_makes_them(run: Run, state: Path) -> None:
    result = run("status")
    assert result.exit_code == 1
    assert "`tandem migrate`" in result.stderr
    assert "Traceback" not in result.output


def test_migrate_makes_them(run: Run, state: Path) -> None:
    assert run("migrate").exit_code == 0
    assert "no project yet" in run("status").stdout


def test_without_a_project_the_way_to_one_is_told(run: Run, state: Path) -> None:
    make_services(state)
    result = run("queue")
    assert (result.exit_code, "`tandem connect --project NUMBER`" in result.stderr) == (1, True)


def test_of_several_projects_one_must_be_named(run: Run, classroom: Classroom, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(run("queue", "--json"))["unlabelled"] == len(classroom.tasks)

    classroom.services.ledger.tell(ProjectTold(replace(FACTS, id=8, title="\x1b[31mscenes")))
    several = run("queue")
    assert several.exit_code == 2
    assert f"{FACTS.id} (expressions)" in several.stderr
    assert "\x1b[31mscenes" not in several.stderr
    assert run("queue", "--project", FACTS.id).exit_code == 0
    unknown = run("queue", "--project", "99")
    assert (unknown.exit_code, "99" in unknown.stderr) == (1, True)
    assert sorted(telling.known_projects()) == [("7", "expressions"), ("8", "\x1b[31mscenes")]


def test_status_tells_each_project(run: Run, learned: Classroom) -> None:
    table = run("status").stdout
    assert "7 expressions" in table
    assert "tandem-v3" in table
    (project,) = told(run("status", "--json"))["projects"]
    assert set(project) == names(Overview)
    assert (project["project"], project["labels"], project["version"]) == (7, 12, "tandem-v3")


def test_the_queue_is_told(run: Run, learned: Classroom) -> None:
    assert set(told(run("queue", "--json"))) == names(Queue)
    assert f"of {len(learned.tasks) - 12} without a label" in run("queue", "--size", "5").stdout


def test_doubts_are_told(run: Run, learned: Classroom) -> None:
    assert set(told(run("doubts", "--json"))) == names(Doubts)
    assert "No label is in doubt." in run("doubts").stdout


def test_versions_are_listed_told_and_compared(run: Run, learned: Classroom) -> None:
    assert set(told(run("versions", "--json"))) == names(History)
    listed = run("versions", "--limit", "2").stdout
    assert "serves" in listed
    assert "tandem versions --before 2" in listed
    detail = told(run("versions", "tandem-v2", "--json"))
    assert set(detail) == names(Detail)
    assert (detail["line"]["labels"], detail["learned"]["given"]) == (9, 3)
    assert "Labels given: 3" in run("versions", "2").stdout
    assert set(told(run("versions", "1", "3", "--json"))) == names(Comparison)
    assert "of 12 labelled images" in run("versions", "1", "3").stdout
    assert run("versions", "9").exit_code == 1


def test_rolling_back_is_taken_back_and_tells_who_did_it(run: Run, learned: Classroom) -> None:
    result = run("rollback", "2", "--why", "a test", "--who", "ann")
    assert "Version 2 serves" in result.stdout
    assert told(run("versions", "--json"))["pinned"]["who"] == "ann"
    assert "ann let version 2 serve" in run("versions").stdout
    assert told(run("rollback", "--newest", "--json"))["version"] is None
    assert "The newest version serves already." in run("rollback", "--newest").stdout
    nowhere = run("rollback", "40")
    assert (nowhere.exit_code, "There is no version 40" in nowhere.stderr) == (1, True)


def test_pictures_are_predicted_and_what_is_none_is_told(run: Run, learned: Classroom, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for path in sorted((DEMO / "happy").glob("*.png"))[:2]:
        (folder / path.name).write_bytes(path.read_bytes())
    both = told(run("predict", folder, "--json"))["images"]
    assert [set(each) for each in both] == [{"image", "prediction", "problem"}] * 2
    assert set(both[0]["prediction"]) == names(Trial)
    (folder / "notes.txt").write_text("no picture")
    result = run("predict", folder)
    assert result.exit_code == 1
    assert "not an image" in result.stdout
    assert run("predict", tmp_path / "nothing").exit_code == 2


def test_labels_are_exported_with_what_was_predicted_of_them(run: Run, learned: Classroom, tmp_path: Path) -> None:
    learned.annotate(12, next(name for name in learned.project.classes if name != learned.truth[12]), annotation_id=12)
    result = told(run("export", tmp_path / "out", "--json"))
    assert (result["labels"], result["problem"]) == (12, None)
    with (tmp_path / "out" / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) == names(Labelled)
    assert {row["task"]: row["labels"] for row in rows if row["task"] != "12"} == {
        str(task): learned.truth[task] for task in range(1, 12)
    }
    listed = json.loads((tmp_path / "out" / "labels.json").read_text(encoding="utf-8"))
    assert [each["annotation"] for each in listed] == [int(row["annotation"]) for row in rows]
    of = {each["task"]: each for each in listed}
    assert of[1]["predicted_by"] is None
    assert of[8]["predicted_by"] == "tandem-v1"
    assert 0 < of[8]["probability"] <= of[8]["confidence"] <= 1
    assert (of[12]["predicted_by"], of[12]["probability"]) == ("tandem-v2", None)  # that was the label before
    assert of[8]["image"] == learned.tasks[8].image


def test_a_name_with_an_ending_gets_the_labels_alone(run: Run, learned: Classroom, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("what was there before")
    run("export", "labels.csv")
    run("export", "labels.json")
    assert len((tmp_path / "labels.csv").read_text().splitlines()) == 13
    assert len(json.loads((tmp_path / "labels.json").read_text())) == 12
    assert {path.name for path in tmp_path.iterdir()} == {"labels.csv", "labels.json", "state"}


def test_an_export_that_fails_leaves_what_was_there(
    run: Run, learned: Classroom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "labels.csv").write_text("what was there before")

    def fail(*_: object) -> Iterator[Labelled]:
        raise OSError("No space left on device")

    monkeypatch.setattr("backend.cli.exporting.labels_in_force", fail)
    result = run("export", "labels.csv")
    assert (result.exit_code, "No space left" in result.stderr) == (1, True)
    assert (tmp_path / "labels.csv").read_text() == "what was there before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.csv", "state"]


def test_before_anything_is_learned_labels_are_exported_and_the_missing_model_told(
    run: Run, classroom: Classroom, tmp_path: Path
) -> None:
    result = run("export", "out")
    assert result.exit_code == 0
    assert "Nothing was learned yet of project 7" in result.stdout
    assert json.loads((tmp_path / "out" / "labels.json").read_text()) == []


def test_an_exported_model_says_elsewhere_what_it_says_here_and_its_own_example_runs(
    run: Run, learned: Classroom, tmp_path: Path
) -> None:
    run("export", "out")
    folder, picture = tmp_path / "out" / "model", sorted((DEMO / "happy").glob("*.png"))[-1]
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert set(card) == names(Card)
    here = told(run("predict", picture, "--json"))["images"][0]["prediction"]["probabilities"]
    weights = Weights.from_bytes((folder / "weights.npz").read_bytes())
    encoder = load_encoder(card["backbone"], cache=get_settings().cache)
    with Image.open(picture) as image:
        (row,) = weights.predict_proba(encoder.encode([image]))
    elsewhere = dict(zip(card["classes"], row.tolist(), strict=True))
    expected = {each["name"]: each["probability"] for each in here}
    np.testing.assert_allclose([elsewhere[name] for name in expected], list(expected.values()), atol=1e-6)

    example = (folder / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    example = example.replace('load_encoder("', f'load_encoder(cache=Path({str(get_settings().cache)!r}), name="')
    picture_here = folder / "image.jpg"
    with Image.open(picture) as image:
        image.convert("RGB").save(picture_here)
    alone = f"import sys; sys.modules['backend'] = None\n{example}"
    said = subprocess.check_output([sys.executable, "-c", alone], text=True, cwd=folder)
    assert set(eval(said)) == set(card["classes"])


@pytest.mark.parametrize(("state_found", "code"), [("fine", 0), ("warning", 0), ("broken", 3), ("unknown", 3)])
def test_the_doctors_exit_code_tells_whether_something_is_broken(
    run: Run, state: Path, monkeypatch: pytest.MonkeyPatch, state_found: Any, code: int
) -> None:
    found = [
        Finding("disk", "fine", "40 GB are free."),
        Finding("webhook", state_found, "A [webhook] is \x1b[31mleft over.", "Run `tandem connect`.", project=3),
    ]
    asked: list[Any] = []

    def examine(_services: object, projects: object) -> list[Finding]:
        asked.append(projects)
        return found

    monkeypatch.setattr(backend.doctor, "examine", examine)
    people = run("doctor")
    assert people.exit_code == code
    assert "\nProject 3\n" in people.stdout
    assert "A [webhook] is [31mleft over." in people.stdout
    assert "→ Run `tandem connect`." in people.stdout
    machines = run("doctor", "--project", "3", "--json")
    assert machines.exit_code == code
    assert json.loads(machines.stdout)["state"] == state_found
    assert set(json.loads(machines.stdout)["findings"][1]) == names(Finding)
    assert asked == [None, [3]]


def test_the_doctor_itself_runs_where_nothing_does(run: Run, state: Path) -> None:
    make_services(state)
    result = run("doctor", "--json")
    assert result.exit_code == 3
    found = {each["name"]: each["state"] for each in json.loads(result.stdout)["findings"]}
    assert (found["database"], found["redis"], found["label-studio"]) == ("fine", "broken", "broken")


def test_a_label_studio_that_is_gone_is_told_in_a_sentence(run: Run, classroom: Classroom) -> None:
    for arguments in (["sync"], ["connect", "--project", "3"]):
        result = run(*arguments)
        assert (result.exit_code, "can't be reached" in result.stderr) == (1, True)


def test_an_interruption_ends_with_130(run: Run, classroom: Classroom, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Ledger, "tell", interrupt)
    monkeypatch.setattr("backend.reconcile.reconcile", interrupt)
    assert run("sync").exit_code == 130


def test_a_fault_of_the_program_is_not_hushed_up(run: Run, classroom: Classroom, monkeypatch: Any) -> None:
    def trip(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("backend.reconcile.reconcile", trip)
    with pytest.raises(ZeroDivisionError):
        run("sync")
