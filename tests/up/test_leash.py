"""The leash: nothing it started outlives the one that wanted it, however that one ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.up import install

LEASH = [sys.executable, "-I", "-S", str(install.LEASH)]
# Without the kernel's help, as on systems that are not Linux.
POLLING = "import runpy, sys; sys.platform = 'elsewhere'; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
WITHOUT_KERNEL = [sys.executable, "-I", "-S", "-c", POLLING, str(install.LEASH)]

# Writes its process id and that of a child of its own, then both sleep, the child deaf to SIGTERM.
FAMILY = "sh -c 'trap \"\" TERM; echo $$ >> pids; while :; do sleep 0.1; done' & echo $$ >> pids; wait"


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def pids(folder: Path, count: int) -> list[int]:
    written = folder / "pids"
    until(lambda: written.exists() and len(written.read_text().split()) == count)
    return [int(pid) for pid in written.read_text().split()]


@pytest.mark.parametrize("leash", [LEASH, WITHOUT_KERNEL], ids=["kernel", "polling"])
def test_a_command_and_its_children_end_when_the_parent_is_killed(leash: list[str], tmp_path: Path) -> None:
    command = [*leash, "--grace", "0.3", "--", "sh", "-c", FAMILY]
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run({command!r})"], cwd=tmp_path, start_new_session=True
    )
    family = pids(tmp_path, 2)
    assert all(alive(pid) for pid in family)
    parent.kill()
    parent.wait()
    until(lambda: not any(alive(pid) for pid in family))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the child of a process that was killed")
def test_the_command_ends_when_the_leash_itself_is_killed(tmp_path: Path) -> None:
    leash = subprocess.Popen([*LEASH, "--", "sh", "-c", "echo $$ > pids; exec sleep 60"], cwd=tmp_path)
    (pid,) = pids(tmp_path, 1)
    leash.kill()
    leash.wait()
    until(lambda: not alive(pid))


def test_a_signal_reaches_the_command_once_and_its_exit_code_comes_back(tmp_path: Path) -> None:
    script = "trap 'echo term >> got; exit 7' TERM; echo $$ > pids; while :; do sleep 0.05; done"
    leash = subprocess.Popen([*LEASH, "--", "sh", "-c", script], cwd=tmp_path)
    pids(tmp_path, 1)
    leash.terminate()
    assert leash.wait() == 7
    assert (tmp_path / "got").read_text() == "term\n"


def test_a_deaf_command_is_killed_after_the_grace(tmp_path: Path) -> None:
    script = "trap '' TERM; echo $$ > pids; while :; do sleep 0.05; done"
    leash = subprocess.Popen([*LEASH, "--grace", "0.2", "--", "sh", "-c", script], cwd=tmp_path)
    pids(tmp_path, 1)
    leash.terminate()
    assert leash.wait() == 128 + signal.SIGKILL


def test_children_left_behind_by_the_command_are_ended(tmp_path: Path) -> None:
    left = subprocess.run([*LEASH, "--", "sh", "-c", "sleep 60 & echo $! > pids"], cwd=tmp_path, check=True)
    assert left.returncode == 0
    (pid,) = pids(tmp_path, 1)
    until(lambda: not alive(pid))


def test_a_command_that_is_not_there_is_named() -> None:
    done = subprocess.run([*LEASH, "--", "no-such-command"], capture_output=True, text=True, check=False)
    assert done.returncode == 127
    assert "no-such-command: No such file" in done.stderr


def test_a_lock_has_one_holder_and_falls_with_the_command(tmp_path: Path) -> None:
    lock = ["--lock", str(tmp_path / "lock")]
    first = subprocess.Popen([*LEASH, *lock, "--", "sh", "-c", "echo $$ > pids; exec sleep 60"], cwd=tmp_path)
    pids(tmp_path, 1)
    second = subprocess.run([*LEASH, *lock, "--", "true"], capture_output=True, text=True, check=False)
    assert second.returncode == os.EX_TEMPFAIL
    assert "held by another process" in second.stderr
    first.terminate()
    first.wait()
    assert subprocess.run([*LEASH, *lock, "--", "true"], check=False).returncode == 0


def test_environment_and_niceness_are_given_to_the_command(tmp_path: Path) -> None:
    variables = tmp_path / "environment.json"
    variables.write_text('{"PATH": "/usr/bin:/bin", "ODD": "a\\"b%c\\nd"}')
    given = ["--environment", str(variables), "--nice", "5"]
    done = subprocess.run(
        [
            *LEASH,
            *given,
            "--",
            sys.executable,
            "-c",
            "import os; print(dict(os.environ)['ODD'], len(os.environ), os.nice(0))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith('a"b%c\nd ')
    assert done.stdout.split()[-1] == str(os.nice(0) + 5)
    assert "HOME" not in done.stdout
