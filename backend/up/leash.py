"""Run a command that ends when its parent ends, whatever ended the parent.

A supervisor that is killed by ``kill -9`` or for want of memory can not stop its children; they would be left holding
ports and files. So each child is started through this leash::

    python -I -S leash.py [--lock FILE] [--environment FILE] [--nice N] [--grace SECONDS] [--parent PID] -- COMMAND...

The command runs in a process group of its own. SIGTERM, SIGINT, SIGHUP and SIGQUIT are passed on to the command, and
only to it: RQ and others count what they receive, and children are theirs to stop. The rest of its group is killed once
the command has ended, or when it has not within the grace. This file is run by its path and imports nothing of Tandem,
because one such process stands beside every server.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import select
import signal
import sys
import time
from typing import NoReturn

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
PARENT_DIED = signal.SIGUSR1
PR_SET_PDEATHSIG = 1
POLL_SECONDS = 0.5


def main(arguments: list[str] | None = None) -> int:
    """Run the command on the leash and return its exit code, 128 plus the signal when a signal ended it."""
    parser = argparse.ArgumentParser(prog="leash", description="Run a command that ends when its parent ends.")
    parser.add_argument("--lock", help="file to hold locked for as long as the command lives; taken: exit code 75")
    parser.add_argument("--environment", help="JSON file of the command's environment; else it is this process's")
    parser.add_argument("--nice", type=int, default=0, help="how far others go before it, 0 to 19")
    parser.add_argument("--grace", type=float, default=5.0, help="seconds from the first signal to SIGKILL")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="process to outlive by no more than that")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)

    waking, woken = os.pipe()
    os.set_blocking(waking, False)
    os.set_blocking(woken, False)
    received: list[int] = []
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    for number in PASSED_ON:
        signal.signal(number, lambda got, _: received.append(got))
    for number in (PARENT_DIED, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    ask_for_signal_at_parents_death(PARENT_DIED)

    if options.lock and not hold(options.lock):
        print(f"{options.lock} is held by another process, which is still running", file=sys.stderr)
        return os.EX_TEMPFAIL

    variables = dict(os.environ)
    if options.environment:
        with open(options.environment, encoding="utf-8") as file:  # noqa: PTH123 - pathlib would be the largest import
            variables = json.load(file)

    leash = os.getpid()
    child = os.fork()
    if child == 0:
        run(options.command, variables, options.nice, leash)

    kill_at: float | None = None
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            signal_group(child, signal.SIGKILL)
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
        if kill_at is None and os.getppid() != options.parent:
            received.append(signal.SIGTERM)
        while received:
            os.kill(child, received.pop(0))
            kill_at = kill_at or time.monotonic() + options.grace
        if kill_at is not None and time.monotonic() >= kill_at:
            signal_group(child, signal.SIGKILL)
        select.select([waking], [], [], POLL_SECONDS)
        drain(waking)


def run(command: list[str], variables: dict[str, str], nice: int, leash: int) -> NoReturn:
    """Become the command, in a group of its own, killed when the leash dies; in the forked child only."""
    os.setpgid(0, 0)
    for number in (*PASSED_ON, PARENT_DIED, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    ask_for_signal_at_parents_death(signal.SIGKILL)
    if os.getppid() != leash:
        os._exit(1)
    os.nice(nice)
    try:
        os.execvpe(command[0], command, variables)  # noqa: S606 - a shell would stand between the leash and the command
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        os._exit(127)


def ask_for_signal_at_parents_death(number: int) -> None:
    """Have the kernel send ``number`` when the parent dies; where it can't (not Linux), polling has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def hold(path: str) -> bool:
    """Lock the file for this process and for what it starts; return whether it was free.

    The command inherits the open file: the lock falls when the last of leash and command is gone, not before.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.set_inheritable(file, True)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def signal_group(group: int, number: int) -> None:
    """Send the signal to every process of the group, if any is left."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return


def drain(file: int) -> None:
    """Empty the wake-up pipe."""
    try:
        while os.read(file, 64):
            pass
    except BlockingIOError:
        return


if __name__ == "__main__":
    sys.exit(main())
