"""Real servers for the tests that ask: free ports, temporary folders, gone when the tests are, also when killed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backend.up import install, servers
from backend.up.servers import Running

if TYPE_CHECKING:
    from backend.services import Services
    from tests.parts import Classroom

REPOSITORY = Path(__file__).resolve().parents[1]
STATE = Path(os.environ.get("TANDEM_STATE") or REPOSITORY / ".tandem")


@dataclass
class LabelStudio(Running):
    """A Label Studio of the tests' own.

    Attributes
    ----------
    url
        Its address, without a slash at the end.
    api_key
        The user's legacy token.
    username, password
        The user's login.
    files
        Images below this folder can be served as local files: ``/data/local-files/?d=SUBFOLDER/NAME``.
    """

    url: str = ""
    api_key: str = ""
    username: str = ""
    password: str = ""
    files: Path = Path()


@dataclass
class S3(Running):
    """An S3 server of the tests' own, with the buckets ``mlflow`` and ``images``."""

    url: str = ""
    access_key: str = ""
    secret_key: str = ""


@pytest.fixture
def services(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Services]:
    """Make Tandem's parts in a folder of their own; a test that is marked for servers has an empty queue as well."""
    from tests.parts import make_services  # here, since it loads torch

    if request.node.get_closest_marker("servers"):
        made = make_services(tmp_path, request.getfixturevalue("valkey"))
        made.jobs.redis.flushall()
    else:
        made = make_services(tmp_path)
    yield made
    made.close()


@pytest.fixture
def classroom(services: Services) -> Classroom:
    """Fill a project with the demo's first images."""
    from tests.parts import Classroom

    return Classroom(services)


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Start a Redis-compatible server that tests can stop, kill and start again."""
    folder = tmp_path_factory.mktemp("valkey")
    running = Running(servers.valkey(folder), folder / "valkey.log")
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def valkey(valkey_server: Running) -> str:
    """Return the address of a Redis-compatible server."""
    return valkey_server.server.address


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    """Start a Label Studio without projects; installs it into the state folder if it is not there yet."""
    folder = tmp_path_factory.mktemp("label-studio")
    install.install_label_studio(STATE, folder / "install.log")
    install.migrate_label_studio(STATE, folder / "data")
    files = folder / "files"
    files.mkdir()
    password, token = secrets.token_hex(8), secrets.token_hex(20)
    server = servers.label_studio(STATE, folder / "data", servers.free_port(), password, token, files=files)
    running = LabelStudio(
        server,
        folder / "label-studio.log",
        url=server.address,
        api_key=token,
        username=servers.LABEL_STUDIO_USER,
        password=password,
        files=files,
    )
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Start an MLflow server; its address is ``mlflow_server.server.address``."""
    folder = tmp_path_factory.mktemp("mlflow")
    running = Running(servers.mlflow(folder, servers.free_port()), folder / "mlflow.log")
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """Start an S3 server."""
    folder = tmp_path_factory.mktemp("s3")
    key, secret = secrets.token_hex(8), secrets.token_hex(16)
    server = servers.seaweedfs(folder, servers.free_port(), key, secret)
    running = S3(server, folder / "seaweedfs.log", url=server.address, access_key=key, secret_key=secret)
    running.start()
    yield running
    running.stop()
