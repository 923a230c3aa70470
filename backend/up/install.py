"""What must be installed on this machine: Tandem in an environment, and Label Studio in one of its own.

Their pins clash, so they can't share one. Both take minutes, so they are installed side by side. The Makefile runs this
file with any Python that fits, before anything is installed: it needs nothing else. ``python -m backend.up.install
tandem label-studio`` does both, and nothing where that was done before.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

HOST = "127.0.0.1"
LABEL_STUDIO_VERSION = "1.23.2"
# What installing takes on disk: the environment, and what pip needs beside it while it works.
LABEL_STUDIO_BYTES = 2 << 30
TANDEM_BYTES = 4 << 30
REPOSITORY = Path(__file__).resolve().parents[2]
TANDEM_VENV = REPOSITORY / ".venv"
LEASH = Path(__file__).with_name("leash.py")
SAY_SECONDS = 30.0
# Where pip may find a torch without CUDA; PyPI's for Linux has it.
TORCH_SOURCES = {"PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL", "PIP_FIND_LINKS"}
SMALLER_TORCH = "PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu"
FREE_SOME = "free some space, or put Label Studio and all state elsewhere with TANDEM_STATE=folder"
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
            # Without it, each import of predictions counts all tasks of the project anew.
            "fflag_fix_back_4620_memory_efficient_predictions_import_08012025_short": "true",
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
    """Install Label Studio into an environment in the state folder; does nothing if it is there.

    Raises
    ------
    ServerError
        When the disk is too full, or pip fails; what pip said is in ``log``.
    """
    state.mkdir(parents=True, exist_ok=True)
    with locked(state / "label-studio-venv.lock"):
        if not label_studio_installed(state):
            refuse_full_disk("Label Studio", LABEL_STUDIO_BYTES, state)
            venv = label_studio_program(state).parents[1]
            pins = Path(__file__).with_name("label-studio-constraints.txt")
            shutil.rmtree(venv, ignore_errors=True)
            pip_install("Label Studio", venv, ["-c", str(pins), f"label-studio=={LABEL_STUDIO_VERSION}"], log)


def tandem_installed() -> bool:
    """Return whether Tandem's environment is that of `pyproject.toml` and `constraints.txt` as they are now."""
    stamp = TANDEM_VENV / "installed"
    return stamp.exists() and stamp.read_text() == wanted_by_tandem() and not tandem_moved()


def tandem_moved() -> bool:
    """Return whether the environment was made in another folder: its scripts name that one, and don't run here."""
    script = TANDEM_VENV / "bin" / "pip"
    return script.exists() and os.fsencode(TANDEM_VENV) not in script.read_bytes()[:512]


def wanted_by_tandem() -> str:
    """Return a digest of what Tandem's environment is made from."""
    wanted = [(REPOSITORY / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
    return hashlib.sha256(b"".join(wanted)).hexdigest()


def install_tandem(log: Path) -> None:
    """Install Tandem with all its extras for service and development; does nothing if that was done.

    Raises
    ------
    ServerError
        When the disk is too full, or pip fails; what pip said is in ``log``.
    """
    with locked(log.with_suffix(".lock")):
        if not tandem_installed():
            if tandem_moved():
                shutil.rmtree(TANDEM_VENV)
            if not TANDEM_VENV.exists():
                refuse_full_disk("Tandem", TANDEM_BYTES, REPOSITORY)
            pins = str(REPOSITORY / "constraints.txt")
            pip_install("Tandem", TANDEM_VENV, ["-c", pins, "-e", f"{REPOSITORY}[service,dev]"], log)
            (TANDEM_VENV / "installed").write_text(wanted_by_tandem())


def refuse_full_disk(what: str, needed: int, folder: Path) -> None:
    """Return if the folder's disk has room.

    Raises
    ------
    ServerError
        When it has not.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ServerError(
            f"{what} needs {needed >> 20} MB of free disk to install, and {folder.resolve()} has {free >> 20} MB:"
            f" {FREE_SOME}"
        )


def pip_install(what: str, venv: Path, arguments: list[str], log: Path) -> None:
    """Make the virtual environment if it is not there, and install into it.

    Raises
    ------
    ServerError
        When that fails, with the reason as far as it can be told.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    make = [sys.executable, "-m", "venv", str(venv)]
    fill = [str(venv / "bin" / "python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *arguments]
    with log.open("wb") as output:
        for command in (make, fill):
            leashed = [sys.executable, "-I", "-S", str(LEASH), "--", *command]
            done = subprocess.run(leashed, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False)
            if done.returncode:
                raise ServerError(f"{what} could not be installed: {pip_failure(tail(log, 400))}. See {log}")


def pip_failure(output: str) -> str:
    """Return in one sentence why pip failed, from the end of what it printed.

    Examples
    --------
    >>> pip_failure("ERROR: No matching distribution found for label-studio==1.23.2")
    'the package index has no version that fits this Python and machine'
    """
    said = output.lower()
    if "no space left" in said or f"errno {errno.ENOSPC}]" in said:
        return f"the disk is full: {FREE_SOME}"
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

    No proxy stands between servers on this machine, and none of them does algebra.
    """
    known = {name: value for name, value in os.environ.items() if name in PASSED_ON}
    direct = ",".join(filter(None, (os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), HOST, "localhost")))
    return {
        **known,
        "NO_PROXY": direct,
        "no_proxy": direct,
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        **(extra or {}),
    }


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


def main(targets: list[str]) -> int:
    """Install what is asked for, ``tandem`` and ``label-studio``, side by side; return the exit code."""
    state = Path(os.environ.get("TANDEM_STATE") or REPOSITORY / ".tandem")
    logs = state / "logs"
    work: list[Callable[[], None]] = []
    if "tandem" in targets and not tandem_installed():
        print("Installing Tandem into .venv: 2 GB, two or three minutes", flush=True)
        if sys.platform == "linux" and not shutil.which("nvidia-smi") and not TORCH_SOURCES & os.environ.keys():
            print(f"  (without a GPU, {SMALLER_TORCH} before the command saves 3 GB of CUDA libraries)", flush=True)
        work.append(lambda: install_tandem(logs / "install-tandem.log"))
    if "label-studio" in targets and not (label_studio_installed(state) and label_studio_template(state).exists()):
        print(f"Installing Label Studio {LABEL_STUDIO_VERSION} into {state}: 1 GB, two minutes", flush=True)
        work.append(lambda: prepare_label_studio(state, logs / "install-label-studio.log"))
    began = time.monotonic()
    with ThreadPoolExecutor(2) as threads:
        installs = [threads.submit(one) for one in work]
        pending = set(installs)
        while pending:
            pending = wait(pending, timeout=SAY_SECONDS).not_done
            if pending:
                print(f"  still at it after {time.monotonic() - began:.0f} s", flush=True)
    failed = False
    for one in installs:
        try:
            one.result()
        except ServerError as error:
            failed = True
            print(error, file=sys.stderr)
    if work and not failed:
        print(f"Installed in {time.monotonic() - began:.0f} s", flush=True)
    return 1 if failed else 0


def prepare_label_studio(state: Path, log: Path) -> None:
    """Install Label Studio and make the database that each new one starts from."""
    install_label_studio(state, log)
    make_label_studio_template(state)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
