"""The process runner, with programs that cost nothing: started, watched, started again, and gone when it is."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from backend.up import install, servers
from backend.up.install import ServerError
from backend.up.runner import Runner, escaped
from tests.up.test_leash import alive, until


def program(folder: Path, name: str, script: str, **fields: object) -> servers.Server:
    """Return a shell script that counts its starts in ``NAME.pids`` and is ready when ``NAME.ready`` is there."""
    ready = folder / f"{name}.ready"
    ready.unlink(missing_ok=True)
    return servers.Server(
        name=name,
        command=["sh", "-c", f"echo $$ >> '{folder}/{name}.pids'; {script}"],
        environment=install.environment({"READY": str(ready)}),
        address="",
        unready=lambda: "" if ready.exists() else "not yet",
        **fields,  # type: ignore[arg-type]
    )


def starts(folder: Path, name: str) -> list[int]:
    path = folder / f"{name}.pids"
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


SLEEP = 'touch "$READY"; exec sleep 600'


def test_programs_start_when_told_and_are_gone_afterwards(tmp_path: Path) -> None:
    programs = [program(tmp_path, name, SLEEP) for name in ("one", "two")]
    with Runner(tmp_path / "run", tmp_path / "logs", programs) as runner:
        assert {state.state for state in runner.states().values()} == {"STOPPED"}
        runner.start("one")
        runner.wait_ready("one")
        assert starts(tmp_path, "two") == []
        runner.start("two")
        runner.wait_ready("two")
        pids = starts(tmp_path, "one") + starts(tmp_path, "two")
        assert all(alive(pid) for pid in pids)
    assert not any(alive(pid) for pid in pids)


def test_a_program_that_crashes_is_started_again(tmp_path: Path) -> None:
    with Runner(tmp_path / "run", tmp_path / "logs", [program(tmp_path, "one", SLEEP)]) as runner:
        runner.start("one")
        until(lambda: runner.states()["one"].state == "RUNNING")
        os.kill(starts(tmp_path, "one")[0], signal.SIGKILL)
        until(lambda: len(starts(tmp_path, "one")) == 2)
        assert alive(starts(tmp_path, "one")[1])


def test_a_program_that_was_stopped_stays_so(tmp_path: Path) -> None:
    with Runner(tmp_path / "run", tmp_path / "logs", [program(tmp_path, "one", SLEEP)]) as runner:
        runner.start("one")
        runner.wait_ready("one")
        runner.stop("one")
        assert runner.states()["one"].state == "STOPPED"
        assert not alive(starts(tmp_path, "one")[0])


def test_a_program_that_ends_at_once_is_tried_again_and_then_reported_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.up.runner.FAILING_SECONDS", 2.0)
    broken = program(tmp_path, "broken", "echo 'no such encoder'; exit 3")
    with Runner(tmp_path / "run", tmp_path / "logs", [broken]) as runner:
        runner.start("broken")
        with pytest.raises(ServerError, match=r"broken ended by itself(.|\n)*no such encoder"):
            runner.wait_ready("broken")
    assert len(starts(tmp_path, "broken")) > 1


def test_a_program_that_was_given_up_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.up.runner.TRIES", 0)
    with Runner(tmp_path / "run", tmp_path / "logs", [program(tmp_path, "broken", "exit 4")]) as runner:
        runner.start("broken")
        with pytest.raises(ServerError, match="broken ended by itself"):
            runner.wait_ready("broken")
        assert runner.states()["broken"].state == "FATAL"


def test_a_program_that_is_not_ready_in_time_is_reported(tmp_path: Path) -> None:
    slow = program(tmp_path, "slow", "exec sleep 600", patience=0.5)
    with Runner(tmp_path / "run", tmp_path / "logs", [slow]) as runner:
        runner.start("slow")
        with pytest.raises(ServerError, match="slow is not ready after 0 s: not yet"):
            runner.wait_ready("slow")


def test_environments_hold_secrets_and_are_private(tmp_path: Path) -> None:
    script = 'echo "$SECRET"; touch "$READY"; exec sleep 600'
    secretive = program(tmp_path, "one", script)
    secretive.environment["SECRET"] = "a 'quoted\" %(odd)s, secret; value"
    with Runner(tmp_path / "run", tmp_path / "logs", [secretive]) as runner:
        runner.start("one")
        runner.wait_ready("one")
        until(lambda: secretive.environment["SECRET"] in runner.log("one").read_text())
    assert "quoted" not in (tmp_path / "run" / "supervisord.conf").read_text()
    modes = {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "run").glob("*.*") if file.suffix != ".pid"}
    assert modes == {0o600}
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700


def test_odd_folder_names_work(tmp_path: Path) -> None:
    odd = tmp_path / "100% of 'it' \"deep\"" / ("long" * 30)
    odd.mkdir(parents=True)
    with Runner(odd / "run", odd / "logs", [program(tmp_path, "one", SLEEP)]) as runner:
        runner.start("one")
        runner.wait_ready("one")
        assert runner.log("one").exists()


def test_a_value_that_supervisor_can_not_take_is_refused() -> None:
    with pytest.raises(ServerError, match="use another folder"):
        escaped("a ;b")


def test_nothing_is_orphaned_when_the_runners_process_is_killed(tmp_path: Path) -> None:
    script = f"""
import pathlib, time
from backend.up.runner import Runner
from tests.up.test_runner import SLEEP, program
folder = pathlib.Path({str(tmp_path)!r})
with Runner(folder / "run", folder / "logs", [program(folder, "one", SLEEP)]) as runner:
    runner.start("one")
    runner.wait_ready("one")
    (folder / "up").touch()
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[2])
    until(lambda: (tmp_path / "up").exists())
    (pid,) = starts(tmp_path, "one")
    supervisor = int((tmp_path / "run" / "supervisord.pid").read_text())
    assert alive(pid)
    process.kill()
    process.wait()
    until(lambda: not alive(pid) and not alive(supervisor))
