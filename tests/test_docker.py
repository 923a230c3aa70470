"""The containers' files agree with what they pack and with each other; `tests/docker/run.sh` builds and runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import tomllib
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml  # type: ignore[import-untyped]

from backend.cli import app
from backend.settings import Settings
from backend.up import install
from backend.up.servers import free_port
from backend.worker import QueueName
from tests.conftest import REPOSITORY

DOCKER = REPOSITORY / "docker"
COMPOSE = (DOCKER / "compose.yml").read_text()
DOCKERFILE = (DOCKER / "Dockerfile").read_text().replace("\\\n", " ")
README = (DOCKER / "README.md").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE)["services"]
TANDEM = ("migrate", "web", "worker-learn", "worker-chores")
VARIABLE = re.compile(r"\$\{(\w+)([^}]*)\}")
EXAMPLE = dict(re.findall(r"^#?([A-Z0-9_]+)=(.*)$", (DOCKER / ".env.example").read_text(), re.MULTILINE))


def secret(name: str) -> bool:
    return bool(re.search("SECRET|PASSWORD|TOKEN|KEY|USERNAME", name))


def filled_in(value: str) -> str:
    """Return a value as compose would give it, from a .env in which only what is required is set."""
    return VARIABLE.sub(lambda found: "given" if found[2].startswith(":?") else found[2].lstrip(":-"), value)


def instructions(name: str) -> list[str]:
    return [line.partition(" ")[2].strip() for line in DOCKERFILE.splitlines() if line.startswith(f"{name} ")]


def image_environment() -> dict[str, str]:
    return dict(found.split("=", 1) for line in instructions("ENV") for found in line.split())


def known_variables() -> set[str]:
    known = set()
    for name, field in Settings.model_fields.items():
        known.add(f"TANDEM_{name.upper()}")
        known.update(getattr(field.validation_alias, "choices", []))
    return known


@pytest.mark.parametrize("service", TANDEM)
def test_every_variable_of_a_process_is_a_setting(service: str) -> None:
    theirs = SERVICES[service]["environment"] | image_environment()
    of_others = {"PATH", "PIP_DISABLE_PIP_VERSION_CHECK", "PYTHONUNBUFFERED", "OMP_WAIT_POLICY"}
    of_boto3 = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"}
    assert set(theirs) - known_variables() == of_others | of_boto3


def test_the_settings_are_read_as_they_are_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in known_variables():
        monkeypatch.delenv(name, raising=False)
    for name, value in (image_environment() | SERVICES["web"]["environment"]).items():
        monkeypatch.setenv(name, filled_in(value))

    settings = Settings(_env_file=None)

    assert settings.database == "sqlite:////data/tandem.db"
    assert settings.secret.get_secret_value() == settings.label_studio_api_key.get_secret_value() == "given"
    assert settings.image_hosts == []
    assert settings.web_host == "0.0.0.0"
    addresses = [settings.label_studio_url, settings.redis, settings.mlflow, settings.s3_endpoint_url]
    assert [re.split("[/:]+", address)[1] for address in addresses] == ["label-studio", "redis", "mlflow", "seaweedfs"]


def test_label_studio_reaches_tandem_by_a_name_with_a_dot_and_redis_by_none() -> None:
    host = re.split("[/:]+", SERVICES["web"]["environment"]["TANDEM_PUBLIC_URL"])[1]
    networks = {name: set(service.get("networks", [])) for name, service in SERVICES.items()}

    assert "." in host
    assert host in SERVICES["web"]["networks"]["doors"]["aliases"]
    assert networks["label-studio"] == {"doors"}
    assert {name for name, theirs in networks.items() if theirs & networks["redis"]} == {*SERVICES} - {"label-studio"}
    assert "ports" not in SERVICES["redis"]


def test_no_secret_has_a_default() -> None:
    used = dict(VARIABLE.findall(COMPOSE))

    assert {name for name in used if secret(name)} == {name for name, value in EXAMPLE.items() if not value}
    assert all(rest.startswith((":?", "?")) for name, rest in VARIABLE.findall(COMPOSE) if secret(name))
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if secret(name) and "LEGACY" not in name:
                assert VARIABLE.fullmatch(value), name


def test_every_variable_of_compose_is_explained() -> None:
    assert {name for name, _ in VARIABLE.findall(COMPOSE) if name not in EXAMPLE and f"`{name}" not in README} == set()
    assert set(EXAMPLE) <= {name for name, _ in VARIABLE.findall(COMPOSE)}


def test_ports_are_open_on_this_machine_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]

    assert len(ports) == 4
    assert all(filled_in(port).startswith("127.0.0.1:") for port in ports)


def test_images_are_pinned() -> None:
    upstream = [service["image"] for service in SERVICES.values() if "${" not in service["image"]]
    base = re.search(r"^ARG PYTHON_IMAGE=(.+)$", DOCKERFILE, re.MULTILINE)

    assert base is not None
    assert all(re.search(r":\d+\.\d+", image) for image in [*upstream, base[1]])
    assert f"heartexlabs/label-studio:{install.LABEL_STUDIO_VERSION}" in upstream


def test_the_stand_ins_stand_in_for_the_images_that_are_used() -> None:
    stand_ins = (REPOSITORY / "tests" / "docker" / "look-alikes" / "Dockerfile").read_text()
    upstream = {
        service["image"].split("/")[1].split(":")[0] for service in SERVICES.values() if "/" in service["image"]
    }

    assert upstream == set(re.findall(r"^FROM \S+ AS (\S+)$", stand_ins, re.MULTILINE))
    assert f"label-studio=={install.LABEL_STUDIO_VERSION}" in stand_ins


def test_label_studio_runs_with_what_tandem_up_runs_it_with(tmp_path: Path) -> None:
    alone = set(install.environment()) | {"LABEL_STUDIO_BASE_DATA_DIR"}
    wanted = {name: value for name, value in install.label_studio_environment(tmp_path).items() if name not in alone}

    assert wanted.items() <= SERVICES["label-studio"]["environment"].items()


def test_redis_keeps_an_append_only_file_on_a_volume() -> None:
    command = SERVICES["redis"]["command"]

    assert command[command.index("--appendonly") + 1] == "yes"
    assert SERVICES["redis"]["volumes"] == ["redis:/data"]


def test_each_queue_has_a_worker_of_its_own_and_each_command_is_there() -> None:
    commands = [SERVICES[name]["command"] for name in TANDEM]

    assert sorted(command[2] for command in commands if command[1] == "worker") == sorted(get_args(QueueName))
    there = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert {command[1] for command in commands} <= there
    assert all(SERVICES[name]["depends_on"].keys() == {"migrate"} for name in TANDEM if name != "migrate")


def test_every_service_tells_its_health_without_spaces_and_the_readme_what_it_does() -> None:
    for name, service in SERVICES.items():
        assert f"| `{name}` |" in README
        if name not in {"migrate", "web"}:
            assert all(" " not in word for word in service["healthcheck"]["test"]), name
    assert re.search(r"^HEALTHCHECK .*/health", DOCKERFILE, re.MULTILINE)


def test_the_image_has_all_that_the_package_is_made_of() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    packed = project["tool"]["setuptools"]
    copied = {source for line in instructions("COPY") if "--from" not in line for source in line.split()[:-1]}
    allowed = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    packages = {
        folder.name
        for folder in REPOSITORY.iterdir()
        if (folder / "__init__.py").exists()
        and any(fnmatch(folder.name, pattern) for pattern in packed["packages"]["find"]["include"])
    }

    assert packages == {"backend", "model", "replay"}
    modules = {f"{module}.py" for module in packed["py-modules"]}
    assert packages | modules | {"pyproject.toml", project["project"]["readme"]} <= copied
    assert copied == allowed
    assert all((REPOSITORY / source).exists() for source in copied)


def test_the_image_is_built_from_the_constraints_and_not_run_by_root() -> None:
    installs = [line for line in instructions("RUN") if "--requirement" in line]

    assert len(installs) == 1
    assert "--constraint constraints.txt" in installs[0]
    assert int(instructions("USER")[-1]) > 0
    assert "tandem" in instructions("CMD")[-1]


def healthy(what: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DOCKER / "healthy.py"), what]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_what_answers_is_healthy_and_what_refuses_or_is_gone_is_not() -> None:
    with HTTPServer(("127.0.0.1", 0), Health) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert healthy(f"{address}/health").returncode == 0
        assert healthy(f"{address}/other").returncode == 1
        server.shutdown()
    assert healthy(f"{address}/health").returncode == 1


def test_a_worker_without_redis_is_not_healthy() -> None:
    told = healthy("worker", TANDEM_REDIS_URL=f"redis://127.0.0.1:{free_port()}")

    assert told.returncode == 1
    assert "Redis does not answer" in told.stderr
