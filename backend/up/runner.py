"""The process runner: supervisor, with a configuration written from our servers, watched over its socket.

Supervisor starts again what ended, later each time it ends at once, and keeps and rotates logs. It starts nothing by
itself here: who uses the runner starts each program when what it needs is ready. Supervisor is on the leash of this
process, and each program on a leash of supervisor's, so nothing outlives this process whatever ends it.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from supervisor.xmlrpc import SupervisorTransport

from backend.up.install import LEASH, ServerError, environment, tail
from backend.up.servers import LEASH_GRACE, Server, socket_path

LOG_BYTES = 10 << 20
LOG_BACKUPS = 3
SETTLED_SECONDS = 2  # what ends earlier counts as not started: it is tried again with one second more each time
TRIES = 30  # of starting, in a row; with the growing pauses, eight minutes
FAILING_SECONDS = 10.0  # for a program that is waited for: what it lacks may be held by one that is just ending
ENDED_STATES = {"STOPPED", "EXITED", "FATAL"}


@dataclass(frozen=True)
class ProgramState:
    """How a program is doing, as supervisor says.

    Attributes
    ----------
    state
        STOPPED, STARTING, RUNNING, BACKOFF (ended at once, will be tried again), STOPPING, EXITED or FATAL (given up).
    pid
        Of its leash; 0 when it isn't running.
    """

    state: str
    pid: int


class Runner:
    """Programs under one supervisor, which ends when this process does.

    Use it as a context manager: leaving it ends every program and the supervisor.

    Parameters
    ----------
    folder
        Configuration and environments are written here, readable by this user only, since there are secrets in them.
    logs
        Each program's log, ``NAME.log``, is here.
    servers
        The programs, none of which is started yet.
    """

    def __init__(self, folder: Path, logs: Path, servers: Iterable[Server]) -> None:
        self.folder = folder.resolve()
        self.logs = logs.resolve()
        self.servers = {server.name: server for server in servers}
        self._socket = socket_path(self.folder, "runner.sock")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start supervisor.

        Raises
        ------
        ServerError
            When it does not start; the message ends with the last lines of its log.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self.logs.mkdir(parents=True, exist_ok=True)
        self._socket.unlink(missing_ok=True)
        for server in self.servers.values():
            write_private(self._variables(server), json.dumps(server.environment))
        configuration = self.folder / "supervisord.conf"
        write_private(configuration, self.configuration())
        command = [
            sys.executable,
            "-I",
            "-S",
            str(LEASH),
            "--grace",
            str(3 * LEASH_GRACE),
            "--parent",
            str(os.getpid()),
        ]
        command += ["--", sys.executable, "-m", "supervisor.supervisord", "--configuration", str(configuration)]
        with (self.logs / "supervisord.out").open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C on the terminal is for this process, which ends them in order
            )
        try:
            self._wait_for_supervisor()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every program, then supervisor."""
        self._end()

    def start(self, name: str) -> None:
        """Start a program; returns at once."""
        self._call("startProcess", name, False)

    def stop(self, *names: str) -> None:
        """End programs, all at the same time, and return when they have ended."""
        for name in names:
            if self.states()[name].state not in ENDED_STATES:
                self._call("stopProcess", name, False)
        while any(self.states()[name].state not in ENDED_STATES for name in names):
            time.sleep(0.05)

    def wait_ready(self, name: str) -> None:
        """Return when the program can work.

        Raises
        ------
        ServerError
            When it can't in time or was given up; the message ends with the last lines of its log.
        """
        server = self.servers[name]
        deadline = give_up = time.monotonic() + server.patience
        while missing := server.unready():
            found = self.states()[name]
            if found.state == "BACKOFF":
                give_up = min(give_up, time.monotonic() + FAILING_SECONDS)
            if found.state in ENDED_STATES or time.monotonic() > give_up < deadline:
                raise ServerError(f"{name} ended by itself. {self._told_by(name)}")
            if time.monotonic() > deadline:
                waited = f"{server.patience:.0f} s"
                raise ServerError(f"{name} is not ready after {waited}: {missing}. {self._told_by(name)}")
            time.sleep(0.1)

    def states(self) -> dict[str, ProgramState]:
        """Return how each program is doing."""
        found: list[dict[str, Any]] = self._call("getAllProcessInfo")
        return {one["name"]: ProgramState(one["statename"], one["pid"]) for one in found}

    def log(self, name: str) -> Path:
        """Return where the program's log is."""
        return self.logs / f"{name}.log"

    def configuration(self) -> str:
        """Return supervisor's configuration."""
        sections = [
            "[supervisord]",
            "nodaemon = true",
            "silent = true",
            f"logfile = {escaped(self.logs / 'supervisord.log')}",
            f"logfile_maxbytes = {LOG_BYTES}",
            f"logfile_backups = {LOG_BACKUPS}",
            f"pidfile = {escaped(self.folder / 'supervisord.pid')}",
            "[unix_http_server]",
            f"file = {escaped(self._socket)}",
            "chmod = 0700",
            "[rpcinterface:supervisor]",
            "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
            "[group:tandem]",
            f"programs = {','.join(self.servers)}",
        ]
        for server in self.servers.values():
            sections += [
                f"[program:{server.name}]",
                f"command = {escaped(shlex.join(server.leashed(variables=self._variables(server))))}",
                "autostart = false",
                "autorestart = true",
                f"startsecs = {SETTLED_SECONDS}",
                f"startretries = {TRIES}",
                f"stopwaitsecs = {LEASH_GRACE + 2:.0f}",
                "redirect_stderr = true",
                f"stdout_logfile = {escaped(escaped(self.log(server.name)))}",  # supervisor expands this one twice
                f"stdout_logfile_maxbytes = {LOG_BYTES}",
                f"stdout_logfile_backups = {LOG_BACKUPS}",
            ]
        return "\n".join(sections) + "\n"

    def _variables(self, server: Server) -> Path:
        return self.folder / f"{server.name}.json"

    def _told_by(self, name: str) -> str:
        return f"{self.log(name)} ends with:\n{tail(self.log(name))}"

    def _call(self, method: str, *arguments: object) -> Any:
        """Ask supervisor. A connection for each call: the threads of this process ask at the same time."""
        transport = SupervisorTransport(serverurl=f"unix://{self._socket}")
        if method.endswith("Process"):
            arguments = (f"tandem:{arguments[0]}", *arguments[1:])
        try:
            proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
            return getattr(proxy.supervisor, method)(*arguments)
        finally:
            transport.close()

    def _wait_for_supervisor(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                self._call("getState")
            except (OSError, xmlrpc.client.Error) as error:
                if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                    told = tail(self.logs / "supervisord.out")
                    raise ServerError(f"the process runner did not start: {told or error}") from error
                time.sleep(0.05)
            else:
                return

    def _end(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user may read."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def escaped(value: object) -> str:
    """Return the value as supervisor's configuration takes it literally.

    Raises
    ------
    ServerError
        When it can't be: it has a line break, or what starts a comment there.

    Examples
    --------
    >>> escaped("100%")
    '100%%'
    """
    text = str(value)
    if "\n" in text or " ;" in text:
        raise ServerError(f"{text!r} can not be in the process runner's configuration: use another folder")
    return text.replace("%", "%%")
