"""The servers: how they are found, kept apart, and what they survive."""

from __future__ import annotations

import json
import os
import stat
import urllib.request
from pathlib import Path

import pytest
import redis

from backend.up import install, servers
from backend.up.servers import Running
from tests.conftest import S3, LabelStudio


def test_a_socket_lies_in_its_folder_when_the_path_is_short(tmp_path: Path) -> None:
    assert servers.socket_path(tmp_path, "s") == tmp_path.resolve() / "s"


def test_a_socket_of_a_deep_folder_gets_a_short_private_path_that_stays_the_same(tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 30)
    path = servers.socket_path(deep, "redis.sock")
    assert len(os.fsencode(path)) <= servers.LONGEST_SOCKET_PATH
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert servers.socket_path(deep, "redis.sock") == path
    assert servers.socket_path(tmp_path / ("peed" * 30), "redis.sock") != path
    path.parent.rmdir()


def test_a_secret_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    secret = servers.secret_file(tmp_path / "new" / "secret")
    assert len(secret) == 40
    assert stat.S_IMODE((tmp_path / "new" / "secret").stat().st_mode) == 0o600
    assert servers.secret_file(tmp_path / "new" / "secret") == secret
    assert servers.secret_file(tmp_path / "other") != secret


def test_free_ports_are_different() -> None:
    assert len(set(servers.free_ports(20))) == 20


def test_servers_do_not_see_settings_meant_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_NAME", "elsewhere")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example")
    monkeypatch.setenv("NO_PROXY", "inner.example")
    seen = install.environment({"OWN": "1"})
    assert "DATABASE_NAME" not in seen
    assert seen["HTTP_PROXY"] == "http://proxy.example"
    assert seen["NO_PROXY"] == "inner.example,127.0.0.1,localhost"
    assert seen["OWN"] == "1"


def test_a_full_disk_is_told_before_label_studio_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "LABEL_STUDIO_BYTES", 1 << 60)
    with pytest.raises(install.ServerError, match=r"TANDEM_STATE=folder"):
        install.install_label_studio(tmp_path, tmp_path / "log")
    assert not (tmp_path / "label-studio-venv").exists()


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("Error: Command '[.., '-m', 'ensurepip', ..]' returned non-zero exit status 1.", "python3-venv"),
        ("Failed to establish a new connection: [Errno -3] Temporary failure in name resolution", "check the network"),
        ("error: command 'gcc' failed: No such file or directory", "build-essential"),
        ("ERROR: No matching distribution found for label-studio==1.23.2", "no version that fits"),
        ("something new", "pip failed"),
    ],
)
def test_what_pip_says_becomes_a_sentence(said: str, sentence: str) -> None:
    assert sentence in install.pip_failure(said)


def test_a_server_that_ends_at_once_is_reported_with_its_log(tmp_path: Path) -> None:
    server = servers.Server(
        "broken", ["sh", "-c", "echo no such thing; exit 3"], install.environment(), "", lambda: "no"
    )
    with pytest.raises(install.ServerError, match=r"broken did not start: it ended with code 3(.|\n)*no such thing"):
        Running(server, tmp_path / "log").start()


@pytest.mark.servers
def test_valkey_keeps_what_it_was_told_through_a_kill_and_has_one_owner(tmp_path: Path) -> None:
    running = Running(servers.valkey(tmp_path), tmp_path / "log")
    running.start()
    try:
        with redis.Redis.from_url(running.server.address) as client:
            client.set("told", "yes")
            client.rpush("queue", *range(100))
            client.execute_command("WAITAOF", 1, 0, 10_000)  # while a sync is under way, writes wait in memory
        with pytest.raises(install.ServerError, match="already"):
            Running(servers.valkey(tmp_path), tmp_path / "log").start()
        running.kill()
        running.start()
        with redis.Redis.from_url(running.server.address) as client:
            assert client.get("told") == b"yes"
            assert client.llen("queue") == 100
    finally:
        running.stop()


@pytest.mark.servers
def test_label_studio_answers_its_user(label_studio: LabelStudio) -> None:
    request = urllib.request.Request(
        f"{label_studio.url}/api/current-user/whoami", headers={"Authorization": f"Token {label_studio.api_key}"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert json.load(answer)["email"] == label_studio.username


@pytest.mark.servers
def test_mlflow_answers_its_client(mlflow_server: Running) -> None:
    request = urllib.request.Request(
        f"{mlflow_server.server.address}/api/2.0/mlflow/experiments/get?experiment_id=0",
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert json.load(answer)["experiment"]["name"] == "Default"


@pytest.mark.servers
def test_s3_works_with_its_key_only(s3_server: S3) -> None:
    url, key, secret = s3_server.url, s3_server.access_key, s3_server.secret_key
    assert servers.s3_unready(url, "images", key, secret) == ""
    assert servers.s3_unready(url, "images", key, "another") != ""
