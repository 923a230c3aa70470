"""Label Studio on this machine: an environment of its own, and a database that is ready to use.

Label Studio's pins clash with ours, so it can't share our environment; both together take some minutes to install, so
the Makefile runs this file beside the installation of ours: it needs nothing but Python. ``python -m
backend.up.install FOLDER`` does all of it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

HOST = "127.0.0.1"
LABEL_STUDIO_VERSION = "1.23.2"
LABEL_STUDIO_BYTES = 2 << 30  # the environment is 1 GB on disk, and pip needs as much again while it works
# What a server may know of its caller's environment. Not more: Label Studio reads HOST, DEBUG, DATABASE_NAME and
# others without any prefix, and MLflow reads every MLFLOW_ variable.
PASSED_ON = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"}
    | {"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"}
    | {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"}
)


class ServerError(RuntimeError):
    """A server can not be installed or started; the message says why and what to do."""


def label_studio_environment(folder: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return Label Studio's environment: data in ``folder``, nothing sent anywhere, backends on this machine allowed.

    Its protection against requests to inner addresses stays on, without the private ranges, where Tandem is, and with
    the link-local one, where clouds keep credentials.
    """
    return environment(
        {
            "LABEL_STUDIO_BASE_DATA_DIR": str(folder.resolve()),
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            "USE_DEFAULT_BANNED_SUBNETS": "false",
            "USER_ADDITIONAL_BANNED_SUBNETS": "169.254.0.0/16",
            "COLLECT_ANALYTICS": "false",
            "SENTRY_DSN": "",
            "FRONTEND_SENTRY_DSN": "",
            "LATEST_VERSION_CHECK": "false",
            **(extra or {}),
        }
    )


def label_studio_program(state: Path) -> Path:
    """Return where Label Studio's start script is, or will be."""
    return state.resolve() / "label-studio-venv" / "bin" / "label-studio"


def label_studio_installed(state: Path) -> bool:
    """Return whether the environment is whole. pip installs a package after all that it needs."""
    venv = label_studio_program(state).parents[1]
    record = f"lib/python*/site-packages/label_studio-{LABEL_STUDIO_VERSION}.dist-info/RECORD"
    return label_studio_program(state).exists() and any(venv.glob(record))


def install_label_studio(state: Path, log: Path) -> None:
    """Install Label Studio into an environment of its own, since its pins clash with ours; does nothing if it is there.

    Takes a minute or two and 1 GB.

    Raises
    ------
    ServerError
        When the disk is too full, or pip fails; what pip said is in ``log``.
    """
    state.mkdir(parents=True, exist_ok=True)
    with locked(state / "label-studio-venv.lock"):
        if label_studio_installed(state):
            return
        venv = label_studio_program(state).parents[1]
        free = shutil.disk_usage(state).free
        if free < LABEL_STUDIO_BYTES:
            raise ServerError(
                f"Label Studio needs {LABEL_STUDIO_BYTES >> 20} MB of free disk to install and {state.resolve()} has"
                f" {free >> 20} MB: free some, or put the state elsewhere with TANDEM_STATE=folder"
            )
        pins = Path(__file__).with_name("label-studio-constraints.txt")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            make = [sys.executable, "-m", "venv", "--clear", str(venv)]
            fill = [str(venv / "bin" / "python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
            fill += ["-c", str(pins), f"label-studio=={LABEL_STUDIO_VERSION}"]
            for command in (make, fill):
                done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False)
                if done.returncode:
                    raise ServerError(f"Label Studio could not be installed: {pip_failure(tail(log, 400))}. See {log}")


def pip_failure(output: str) -> str:
    """Return in one sentence why pip failed, from the end of what it printed.

    Examples
    --------
    >>> pip_failure("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device")
    'the disk is full: free some space, or put the state elsewhere with TANDEM_STATE=folder'
    """
    said = output.lower()
    if "no space left" in said or f"errno {errno.ENOSPC}]" in said:
        return "the disk is full: free some space, or put the state elsewhere with TANDEM_STATE=folder"
    if "ensurepip" in said:
        return "this Python can not make virtual environments: on Debian and Ubuntu, apt install python3-venv"
    if any(sign in said for sign in ("newconnectionerror", "name resolution", "connection error", "timed out")):
        return "the package index can not be reached: check the network and pip's proxy and index settings"
    if any(sign in said for sign in ("gcc' failed", "no such file or directory: 'cc'", "failed building wheel")):
        return "a package has no wheel for this machine and there is no compiler: apt install build-essential"
    if "no matching distribution" in said:
        return "the package index has no version that fits this Python and machine"
    return "pip failed"


def label_studio_template(state: Path) -> Path:
    """Return where a migrated database without users is, or will be, kept: the first migrations take half a minute."""
    return state.resolve() / "cache" / f"label-studio-{LABEL_STUDIO_VERSION}"


def make_label_studio_template(state: Path) -> None:
    """Make the database that `migrate_label_studio` copies; does nothing if it is there.

    Raises
    ------
    ServerError
        When Label Studio fails to make it; the message ends with what it said.
    """
    template = label_studio_template(state)
    with locked(template.with_name(template.name + ".lock")):
        if template.exists():
            return
        making = Path(tempfile.mkdtemp(prefix="label-studio-", dir=template.parent))
        command = [str(label_studio_program(state)), "version"]
        known = label_studio_environment(making)
        done = subprocess.run(command, env=known, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode:
            shutil.rmtree(making)
            raise ServerError(f"Label Studio could not make its database:\n{done.stderr.decode()[-2000:]}")
        (making / ".env").unlink(missing_ok=True)  # the key that signs sessions: every copy makes its own
        making.rename(template)


def migrate_label_studio(state: Path, folder: Path) -> None:
    """Make the data of a Label Studio without users in ``folder``, if it has none yet."""
    if (folder / "label_studio.sqlite3").exists():
        return
    make_label_studio_template(state)
    copying = folder.with_name(folder.name + ".copying")
    shutil.rmtree(copying, ignore_errors=True)
    shutil.copytree(label_studio_template(state), copying)
    if folder.exists():
        folder.rmdir()
    copying.rename(folder)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what a server may know of this process's environment, and ``extra``.

    No proxy stands between servers on this machine.
    """
    known = {name: value for name, value in os.environ.items() if name in PASSED_ON}
    direct = ",".join(filter(None, (os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), HOST, "localhost")))
    return {**known, "NO_PROXY": direct, "no_proxy": direct, "PYTHONUNBUFFERED": "1", **(extra or {})}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the file's lock; waits while another process does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def tail(path: Path, lines: int = 15) -> str:
    """Return the last lines of a log, or an empty string if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 65536))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def main(state: Path) -> int:
    """Install Label Studio and make its database, with a line before each; return the exit code."""
    log = state / "logs" / "install-label-studio.log"
    try:
        if not label_studio_installed(state):
            print(f"Installing Label Studio {LABEL_STUDIO_VERSION} into {state}: 1 GB, a minute or two", flush=True)
            install_label_studio(state, log)
        if not label_studio_template(state).exists():
            print("Making Label Studio's database: half a minute", flush=True)
            make_label_studio_template(state)
    except ServerError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
