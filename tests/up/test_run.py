"""`tandem up`: what it decides before it starts anything, and what it says when something is in the way."""

from __future__ import annotations

import io
import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from backend.settings import Settings
from backend.up import demo, leash, run, servers
from backend.up.install import ServerError
from backend.up.run import Places

KEYS = ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY", "MLFLOW_TRACKING_URI", "TANDEM_SECRET", "TANDEM_REDIS_URL")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    for key in KEYS:
        monkeypatch.delenv(key, raising=False)
        monkeypatch.delenv(f"TANDEM_{key}", raising=False)
    return Places(tmp_path)


def settings(places: Places, **given: object) -> Settings:
    return Settings(state=places.state, **given)  # type: ignore[arg-type]


def names(setup: run.Setup) -> list[str]:
    return [program.name for program in setup.programs]


def test_all_that_is_not_set_is_started(places: Places) -> None:
    setup = run.plan(settings(places), places, 5000)
    assert names(setup) == ["valkey", "mlflow", "label-studio", "web", "learn", "chores"]
    assert setup.settings.mlflow == "http://127.0.0.1:5000"
    assert setup.settings.redis == setup.programs[0].address
    assert setup.password


def test_what_is_set_is_used_and_not_started(places: Places) -> None:
    given = settings(
        places,
        redis_url="redis://elsewhere:6379/0",
        mlflow_tracking_uri="http://elsewhere:5000",
        label_studio_url="http://elsewhere:8080",
        label_studio_api_key="a key",
        secret="ours",
    )
    setup = run.plan(given, places, 5000)
    assert names(setup) == ["web", "learn", "chores"]
    assert setup.password == ""
    assert setup.settings == given
    assert not (places.secrets / "secret").exists()


def test_a_label_studio_elsewhere_needs_its_key(places: Places) -> None:
    with pytest.raises(ServerError, match="set LABEL_STUDIO_API_KEY"):
        run.plan(settings(places, label_studio_url="https://labels.example.org"), places, 5000)


def test_secrets_differ_stay_and_are_private(places: Places) -> None:
    first, second = (run.plan(settings(places), places, 5000) for _ in range(2))
    secrets = [first.settings.secret, first.settings.label_studio_api_key]
    assert secrets == [second.settings.secret, second.settings.label_studio_api_key]
    assert secrets[0] != secrets[1]
    assert {stat.S_IMODE(file.stat().st_mode) for file in places.secrets.iterdir()} == {0o600}


def test_our_own_key_in_the_environment_is_not_taken_for_another_label_studio(places: Places) -> None:
    own = run.plan(settings(places), places, 5000).settings.label_studio_api_key
    again = run.plan(settings(places, label_studio_api_key=own), places, 5000)
    assert "label-studio" in names(again)


def test_tandems_processes_get_addresses_and_secrets_by_environment(places: Places) -> None:
    setup = run.plan(settings(places), places, 5001)
    for program in setup.programs[-3:]:
        known = program.environment
        assert known["TANDEM_REDIS_URL"] == setup.settings.redis
        assert known["TANDEM_MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5001"
        assert known["TANDEM_SECRET"] == setup.settings.secret.get_secret_value()
        assert known["TANDEM_SECRET"] not in " ".join(program.command)


def test_other_commands_read_the_same_settings_through_a_shell(places: Places) -> None:
    variables = run.overrides(run.plan(settings(places), places, 5000).settings)
    places.variables.write_text(run.shell_assignments(variables))
    read = f"set -a; . '{places.variables}'; exec env"
    told = subprocess.run(
        ["sh", "-c", read], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True
    )
    assert variables.items() <= dict(line.split("=", 1) for line in told.stdout.splitlines()).items()


def test_every_taken_port_is_named_with_the_setting_that_changes_it(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "PORT_SECONDS", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        web, mlflow, free = one.getsockname()[1], two.getsockname()[1], servers.free_port()
        given = settings(places, web_port=web, label_studio_url=f"http://127.0.0.1:{free}")
        needed = run.ports_needed(given, run.plan(given, places, mlflow), mlflow)
        with pytest.raises(ServerError) as refused:
            run.refuse_taken_ports(needed)
    sentences = str(refused.value).splitlines()
    assert sentences == [
        f"Port {web}, for Tandem, is taken by another program: end that, or choose another,"
        f" for example TANDEM_WEB_PORT={web + 1}",
        f"Port {mlflow}, for MLflow, is taken by another program: end that, or choose another,"
        f" for example MLFLOW_PORT={mlflow + 1}",
    ]
    run.refuse_taken_ports(needed)


def said_by_up(given: Settings, images: Path | None = None) -> tuple[int, str]:
    output = io.StringIO()
    code = run.up(given, images, console=Console(file=output))
    return code, output.getvalue()


def test_a_second_up_is_told_that_one_runs(places: Places) -> None:
    holder = subprocess.Popen(
        [
            "python3",
            "-I",
            "-S",
            leash.__file__,
            "--lock",
            str(places.state / "up.lock"),
            "--",
            "sh",
            "-c",
            "echo; sleep 60",
        ],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    code, said = said_by_up(settings(places))
    holder.terminate()
    holder.communicate()
    assert code == 1
    assert "already running" in said


def test_a_folder_of_images_that_is_not_there_is_named_before_anything_starts(places: Places) -> None:
    code, said = said_by_up(settings(places), places.state / "nowhere")
    assert code == 1
    assert "nowhere: give one with images" in said
    assert not places.logs.exists()


def test_a_state_folder_that_can_not_be_made_is_named(places: Places) -> None:
    (places.state / "file").touch()
    code, said = said_by_up(Settings(state=places.state / "file" / "state"))
    assert code == 1
    assert "TANDEM_STATE=folder" in said


def test_the_last_folder_is_gone_on_with(places: Places) -> None:
    folder = places.state / "pets"
    folder.mkdir()
    assert run.image_folder(None, str(folder)) == folder
    folder.rmdir()
    assert run.image_folder(None, str(folder)) == demo.DEMO_FOLDER


def test_memory_survives_what_can_not_be_read(places: Places) -> None:
    run.remember(places, {"folder": "pets"})
    assert run.recall(places) == {"folder": "pets"}
    for broken in ("", "[]", '{"folder'):
        places.memory.write_text(broken)
        assert run.recall(places) == {}


def test_titles_fit_label_studios_limits() -> None:
    assert len(run.title(Path("/")).strip()) >= 3
    assert len(run.title(Path("x" * 200))) == run.LONGEST_TITLE
