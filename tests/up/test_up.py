"""`tandem up`, whole: a project with images on a real Label Studio, gone on with, and nothing left running."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backend.labelstudio import LabelStudio as Client
from backend.up import install, servers
from tests.conftest import STATE, LabelStudio
from tests.up.test_demo import paint
from tests.up.test_leash import alive, until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(400)]
TANDEM = [sys.executable, str(Path(sys.executable).with_name("tandem"))]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return a state folder with nothing in it but what takes minutes to make."""
    install.install_label_studio(STATE, tmp_path / "install.log")
    install.make_label_studio_template(STATE)
    state = tmp_path / "state"
    state.mkdir()
    for name in ("label-studio-venv", "cache"):
        (state / name).symlink_to(STATE.resolve() / name)
    return state


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    folder = tmp_path / "pets"
    for number in range(8):
        paint(folder / ("cat" if number % 2 else "dog") / f"{number}.png", 30 * number)
    return folder


@pytest.fixture
def environment(state: Path) -> dict[str, str]:
    ports = servers.free_ports(3)
    return {
        "PATH": os.environ["PATH"],
        "TANDEM_STATE": str(state),
        "TANDEM_WEB_PORT": str(ports[0]),
        "TANDEM_LABEL_STUDIO_URL": f"http://127.0.0.1:{ports[1]}",
        "MLFLOW_PORT": str(ports[2]),
    }


@contextmanager
def running(environment: dict[str, str], images: Path, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run ``tandem up`` until it says that it runs; give the process and what it said."""
    command = [*TANDEM, "up", "--images", str(images), "--mlflow-port", environment["MLFLOW_PORT"]]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, cwd=log.parent, stdout=output, stderr=output)
    try:
        until(lambda: process.poll() is not None or "Ctrl-C ends everything" in log.read_text(), 240)
        assert process.poll() is None, log.read_text()
        yield process, log.read_text()
    finally:
        process.kill()
        process.wait()


def programs(state: Path) -> list[int]:
    """Return every process that knows the state folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            known = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(state) in known and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_up_starts_all_goes_on_where_it_was_and_leaves_nothing_running(
    state: Path, pets: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    with running(environment, pets, tmp_path / "first.log") as (process, said):
        assert "Importing images: 8 new" in said
        url, password = environment["TANDEM_LABEL_STUDIO_URL"], re.search(r"password  (\w+)", said)
        assert password
        assert password[1] == (state / "secrets" / "label-studio-password").read_text().strip()
        for address in (f"http://127.0.0.1:{environment['TANDEM_WEB_PORT']}/ready", f"{url}/health"):
            with urllib.request.urlopen(address, timeout=30) as answer:
                assert answer.status == 200
        with Client(url, (state / "secrets" / "label-studio-token").read_text().strip()) as client:
            (project,) = client.projects()
            assert f"{url}/projects/{project.facts.id}/data" in said
            assert {"cat", "dog"} == set(re.findall(r'value="(\w+)"', project.facts.label_config)) - {"image"}
            assert len(list(client.tasks(project.facts.id))) == 8
            assert [backend.connected for backend in client.backends(project.facts.id)] == [True]

        second = subprocess.run(
            [*TANDEM, "up"], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert second.returncode == 1
        assert "already running" in second.stdout

        process.send_signal(signal.SIGINT)
        assert process.wait() == 0
        assert programs(state) == []

    paint(pets / "cat" / "new.png", 250)
    with running(environment, pets, tmp_path / "second.log") as (process, said):
        assert "Importing images: 1 new" in said
        assert f"{url}/projects/{project.facts.id}/data" in said
        started = programs(state)
        assert len(started) > 6
        process.kill()
        process.wait()
        until(lambda: not any(alive(pid) for pid in started), 40)


def test_up_uses_a_label_studio_that_is_there(
    state: Path, pets: Path, environment: dict[str, str], tmp_path: Path, label_studio: LabelStudio
) -> None:
    there = {"LABEL_STUDIO_URL": label_studio.url, "LABEL_STUDIO_API_KEY": label_studio.api_key}
    del environment["TANDEM_LABEL_STUDIO_URL"]
    with running({**environment, **there}, pets, tmp_path / "log") as (process, said):
        assert "Starting label-studio" not in said
        assert f"{label_studio.url}/projects/" in said
        process.terminate()
        assert process.wait() == 0
    assert not servers.http_unready(f"{label_studio.url}/health")
