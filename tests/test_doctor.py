"""The doctor finds each trap by asking: one thing is broken at a time, and exactly that is found, with its mend."""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import pytest
import sqlalchemy as sa
from mlflow.store.artifact.s3_artifact_repo import _cached_get_s3_client
from pydantic import SecretStr
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from backend import labelstudio
from backend.connect import connect
from backend.database import events, writing
from backend.doctor import NAMES, Finding, examine, machine, worst
from backend.doctor.project import REASONS
from backend.events import ProjectTold, Task, TasksTold
from backend.features import Features
from backend.images import ImageUnreadable
from backend.jobs import Seen
from backend.services import Services
from backend.tracking import Tracking
from tests.parts import CONFIG, FACTS, Classroom, make_services
from tests.recording import recording_backend

if TYPE_CHECKING:
    from backend.up.servers import Running
    from tests import conftest

if TYPE_CHECKING:
    pass

SECRET = "s3cret"
CREATED = "2026-11-21T07:40:25.000000Z"
Answer = tuple[int, Any]


@dataclass
class Stand:
    """A web server that answers what it is told to, by method and path."""

    url: str = ""
    answers: dict[str, Callable[[bytes], Answer] | Answer] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    date: float | None = None
    authorizations: set[str | None] = field(default_factory=set)


@pytest.fixture
def stand() -> Iterator[Callable[[], Stand]]:
    made: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def make() -> Stand:
        stand = Stand()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def date_time_string(self, timestamp: float | None = None) -> str:
                return formatdate(stand.date or time.time(), usegmt=True)

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                key = f"{self.command} {urlsplit(self.path).path}"
                stand.asked.append(key)
                stand.authorizations.add(self.headers.get("Authorization"))
                answer = stand.answers.get(key, (404, {"detail": "Not found."}))
                status, told = answer(body) if callable(answer) else answer
                content = told if isinstance(told, bytes) else json.dumps(told).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PATCH = do_DELETE = handle_any

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        stand.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        made.append((server, thread))
        return stand

    yield make
    for server, thread in made:
        server.shutdown()
        thread.join()
        server.server_close()


class Redis:
    """What the doctor asks Redis."""

    def __init__(self) -> None:
        self.config: dict[str, str] | Exception = {"appendonly": "yes", "save": "", "maxmemory": "0"}
        self.gone = False

    def ping(self) -> bool:
        if self.gone:
            raise RedisConnectionError("Error 111 connecting to 127.0.0.1:1. Connection refused.")
        return True

    def config_get(self, *_: str) -> dict[str, str]:
        if isinstance(self.config, Exception):
            raise self.config
        return self.config


@dataclass
class Surroundings:
    """A classroom where all is well, and what of it can be broken."""

    services: Services
    classroom: Classroom
    label_studio: Stand
    web: Stand
    redis: Redis
    workers: list[Seen]
    failing: dict[str, int]
    webhooks: list[dict[str, Any]]
    backends: list[dict[str, Any]]
    state: dict[str, Any]
    predictions: dict[str, int]

    def findings(self, **options: Any) -> list[Finding]:
        return examine(self.services, **options)

    def finding(self, name: str, **options: Any) -> Finding:
        (found,) = [finding for finding in self.findings(**options) if finding.name == name]
        return found


def alive(queue: str) -> Seen:
    return Seen(queue, socket.gethostname(), os.getpid(), time.time(), busy=False)


@pytest.fixture
def well(tmp_path: Path, stand: Callable[[], Stand], monkeypatch: pytest.MonkeyPatch) -> Iterator[Surroundings]:
    monkeypatch.setattr(labelstudio, "RETRY_PAUSES", (0.0, 0.0))
    label_studio, web = stand(), stand()
    services = make_services(
        tmp_path,
        label_studio_url=label_studio.url,
        public_url=web.url,
        web_port=int(web.url.rpartition(":")[2]),
        secret=SecretStr(SECRET),
    )
    classroom = Classroom(services, per_class=1)
    services.projects.note_shown(classroom.project.id, "tandem-v0", 0)
    redis, workers, failing = Redis(), [alive("learn"), alive("chores")], dict[str, int]()
    vars(services)["jobs"] = SimpleNamespace(
        redis=redis,
        workers=lambda: workers,
        depth=lambda: {"learn": 0, "chores": 2},
        failing=lambda _project: failing,
        close=lambda: None,
    )
    vars(services)["tracking"] = SimpleNamespace(
        uri="http://127.0.0.1:5000", artifacts=lambda: "s3://mlflow/1", try_artifacts=lambda _location: None
    )
    webhooks: list[dict[str, Any]] = [webhook(1, f"{web.url}/webhook", SECRET)]
    backends: list[dict[str, Any]] = [backend(1, web.url)]
    state = {
        "id": FACTS.id,
        "created_at": time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(FACTS.created)),
        "title": FACTS.title,
        "label_config": CONFIG,
        "model_version": "tandem-v0",
        "sampling": "Uncertainty sampling",
        "show_collab_predictions": True,
    }
    predictions = {"tandem-v0": 7}
    number = FACTS.id
    label_studio.answers = {
        "GET /api/version": (200, {"release": "1.23.2"}),
        "GET /api/current-user/whoami": (200, {"id": 1, "email": "ann@example.org"}),
        f"GET /api/projects/{number}/": lambda _: (200, state),
        "GET /api/webhooks/": lambda _: (200, webhooks),
        "GET /api/ml": lambda _: (200, backends),
        f"GET /api/projects/{number}/model-versions/": lambda _: (200, predictions),
        "PATCH /api/webhooks/1/": lambda body: (200, webhooks[0] | json.loads(body)),
    }
    web.answers = {
        "GET /health": (200, {"status": "UP", "model_class": "Tandem"}),
        "GET /versions": (200, {"versions": []}),
        "GET /ready": (200, {"ready": True, "missing": {}}),
    }
    yield Surroundings(
        services, classroom, label_studio, web, redis, workers, failing, webhooks, backends, state, predictions
    )
    services.close()


def webhook(number: int, url: str, secret: str | None, **changes: Any) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    return {
        "id": number,
        "url": url,
        "headers": headers,
        "is_active": True,
        "send_payload": True,
        "send_for_all_actions": True,
    } | changes


def backend(number: int, url: str, **changes: Any) -> dict[str, Any]:
    made = {
        "id": number,
        "project": FACTS.id,
        "url": url,
        "title": "Tandem",
        "state": "CO",
        "auth_method": "BASIC_AUTH",
    }
    return made | changes


def test_where_all_is_well_everything_is_looked_at_and_fine(well: Surroundings) -> None:
    found = well.findings()
    assert [finding for finding in found if finding.state != "fine"] == []
    assert [finding.name for finding in found] == list(NAMES)
    assert [finding.mend for finding in found if finding.mend] == []
    assert {finding.name for finding in found if finding.project == FACTS.id} == set(list(NAMES)[13:])
    assert worst(found) == "fine"


def test_looking_changes_nothing(well: Surroundings) -> None:
    well.findings()
    changing = [each for each in well.label_studio.asked if not each.startswith("GET")]
    assert changing == ["PATCH /api/webhooks/1/"]  # the same again, so that Label Studio looks at the address


def test_a_label_studio_that_is_gone_breaks_one_finding_and_leaves_the_rest_of_the_machine_looked_at(
    well: Surroundings,
) -> None:
    vars(well.services)["settings"] = well.services.settings.model_copy(
        update={"label_studio_url": "http://127.0.0.1:1"}
    )
    found = {finding.name: finding for finding in well.findings()}
    assert found["label-studio"].state == "broken"
    assert "[Errno 111] Connection refused" in found["label-studio"].told
    assert "LABEL_STUDIO_URL" in found["label-studio"].mend
    assert {found["api-key"].state, found["clock"].state} == {"unknown"}
    assert {found[name].state for name in ("database", "disk", "redis", "workers", "mlflow", "web")} == {"fine"}


def test_another_program_at_label_studios_address_is_told(well: Surroundings) -> None:
    well.label_studio.answers["GET /api/version"] = (200, b"<html>a router's login</html>")
    assert "Another program answers" in well.finding("label-studio").told
    well.label_studio.answers["GET /api/version"] = (200, {"release": "1.20.0"})
    old = well.finding("label-studio")
    assert (old.state, old.mend) == ("warning", "Bring Label Studio up to date.")


@pytest.mark.parametrize(
    ("detail", "told"),
    [
        (
            "legacy token authentication has been disabled for this organization",
            "legacy tokens switched",
        ),
        ("Invalid token.", "refuses the API key"),
    ],
)
def test_a_key_that_is_refused_is_told_with_why(well: Surroundings, detail: str, told: str) -> None:
    well.label_studio.answers["GET /api/current-user/whoami"] = (401, {"detail": detail})
    found = well.finding("api-key")
    assert found.state == "broken"
    assert told in found.told
    assert "LABEL_STUDIO_API_KEY" in found.mend


def test_a_personal_access_token_that_is_refused_is_told_as_such(well: Surroundings) -> None:
    token = "e30.eyJ0b2tlbl90eXBlIjoicmVmcmVzaCJ9.x"
    vars(well.services)["label_studio"] = labelstudio.LabelStudio(well.label_studio.url, token, timeout=5)
    well.label_studio.answers["POST /api/token/refresh/"] = (401, {"detail": "Token is invalid"})
    found = well.finding("api-key")
    assert (found.state, found.told) == ("broken", "Label Studio refuses the personal access token.")
    assert found.mend.startswith("Copy a key")


def test_no_key_at_all_is_told(well: Surroundings) -> None:
    well.services.settings.label_studio_api_key = SecretStr("")
    assert well.finding("api-key").told == "There is no API key for Label Studio."


@pytest.mark.parametrize(("ahead", "side"), [(90.0, "ahead of"), (-90.0, "behind")])
def test_clocks_that_differ_are_told(well: Surroundings, ahead: float, side: str) -> None:
    well.label_studio.date = time.time() + ahead
    found = well.finding("clock")
    assert found.state == "warning"
    assert re.search(rf"(89|90|91) seconds {side} ours", found.told)


def test_a_redis_that_is_gone_leaves_what_rests_on_it_unknown(well: Surroundings) -> None:
    well.redis.gone = True
    found = {finding.name: finding for finding in well.findings()}
    assert found["redis"].state == "broken"
    assert "TANDEM_REDIS_URL" in found["redis"].mend
    assert {found["redis-persistence"].state, found["workers"].state} == {"unknown"}
    assert "redis" in found["workers"].mend


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"appendonly": "no", "save": ""}, "forgets everything"),
        ({"appendonly": "yes", "maxmemory": "1000", "maxmemory-policy": "allkeys-lru"}, "may drop jobs"),
        (ResponseError("NOPERM"), "does not say"),
    ],
)
def test_a_redis_that_may_forget_is_told(well: Surroundings, config: Any, told: str) -> None:
    well.redis.config = config
    found = well.finding("redis-persistence")
    assert found.state == "warning"
    assert told in found.told
    assert found.mend


def test_snapshots_count_as_kept(well: Surroundings) -> None:
    well.redis.config = {"appendonly": "no", "save": "3600 1"}
    assert well.finding("redis-persistence").state == "fine"


@pytest.mark.parametrize(
    "gone",
    [
        None,
        Seen("learn", socket.gethostname(), 2**22 - 1, time.time(), busy=False),  # no such process
        Seen("learn", "another machine", 1, time.time() - 120, busy=False),
        Seen("learn", "another machine", 1, time.time() - 7200, busy=True),  # longer than any job may take
    ],
)
def test_a_queue_without_a_living_worker_is_told_with_the_command(well: Surroundings, gone: Seen | None) -> None:
    well.workers[:] = [each for each in (gone, alive("chores")) if each]
    found = well.finding("workers")
    assert found.state == "broken"
    assert "`tandem worker learn`" in found.mend
    assert "chores`" not in found.mend
    assert "2 on chores" in found.told


def test_a_worker_at_a_long_job_is_alive(well: Surroundings) -> None:
    well.workers[:] = [Seen("learn", "another machine", 1, time.time() - 120, busy=True), alive("chores")]
    assert well.finding("workers").state == "fine"


def test_mlflow_and_its_artifacts_are_told_apart(well: Surroundings) -> None:
    def refuse(*_: object) -> str:
        raise OSError("[Errno 111] Connection refused")

    well.services.tracking.try_artifacts = refuse  # type: ignore[method-assign, assignment]
    found = {finding.name: finding for finding in well.findings()}
    assert (found["mlflow"].state, found["artifacts"].state) == ("fine", "broken")
    assert "AWS_ACCESS_KEY_ID" in found["artifacts"].mend
    well.services.tracking.artifacts = refuse  # type: ignore[method-assign]
    found = {finding.name: finding for finding in well.findings()}
    assert (found["mlflow"].state, found["artifacts"].state) == ("broken", "unknown")
    assert "TANDEM_MLFLOW_TRACKING_URI" in found["mlflow"].mend


def test_a_local_tracking_folder_takes_files_for_real(well: Surroundings, tmp_path: Path) -> None:
    tracking = Tracking(f"sqlite:///{tmp_path}/mlflow.db")
    tracking.client.create_experiment("faces", artifact_location=str(tmp_path / "artifacts"))
    vars(well.services)["tracking"] = tracking
    found = well.finding("artifacts")
    assert (found.state, str(tmp_path) in found.told) == ("fine", True)
    assert [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()] == []


def test_a_web_process_that_is_not_running_is_told(well: Surroundings) -> None:
    well.services.settings.web_port, well.services.settings.public_url = 1, ""
    found = well.finding("web")
    assert found.state == "broken"
    assert "`tandem web`" in found.mend


def test_a_port_that_another_program_serves_is_told_with_another_port(well: Surroundings) -> None:
    well.web.answers["GET /health"] = (200, {"status": "UP", "model_class": "SomethingElse"})
    found = well.finding("web")
    assert "Another program answers" in found.told
    assert f"TANDEM_WEB_PORT={well.services.settings.web_port + 1}" in found.mend


def test_a_web_process_with_another_secret_or_without_its_encoder_is_told(well: Surroundings) -> None:
    well.web.answers["GET /versions"] = (401, {"detail": "no"})
    assert "another secret" in well.finding("web").told
    well.web.answers["GET /versions"] = (200, {"versions": []})
    well.web.answers["GET /ready"] = (
        503,
        {"ready": False, "missing": {"encoder": "no such backbone", "redis": "gone"}},
    )
    found = well.finding("web")
    assert "encoder: no such backbone" in found.told
    assert "redis" not in found.told  # it has a finding of its own


def test_no_secret_is_told_where_others_reach_the_port(well: Surroundings) -> None:
    well.services.settings.secret = SecretStr("")
    assert well.finding("secret").state == "fine"
    well.services.settings.web_host = "0.0.0.0"
    found = well.finding("secret")
    assert (found.state, "TANDEM_SECRET" in found.mend) == ("warning", True)


def test_a_database_without_tables_or_with_older_or_newer_ones_is_told(well: Surroundings, tmp_path: Path) -> None:
    file = sqlite3.connect(tmp_path / "tandem.db")
    file.execute("UPDATE alembic_version SET version_num = '0001'")
    file.commit()
    assert "older release" in well.finding("schema").told
    file.execute("UPDATE alembic_version SET version_num = '9999'")
    file.commit()
    assert "newer release" in well.finding("schema").told
    file.execute("DELETE FROM alembic_version")
    file.commit()
    file.close()
    found = well.finding("schema")
    assert (found.state, found.mend) == ("broken", "Make them: `tandem migrate`.")


def test_a_database_that_can_not_be_opened_is_told_without_its_password(well: Surroundings, tmp_path: Path) -> None:
    well.services.settings.database_url = "postgresql+psycopg2://ann:hunter2@127.0.0.1:1/x"
    vars(well.services)["engine"] = sa.create_engine(f"sqlite:///{tmp_path}/no/folder/x.db")
    del vars(well.services)["projects"]  # it was made on the engine before
    found = {finding.name: finding for finding in well.findings()}
    assert found["database"].state == "broken"
    assert "hunter2" not in found["database"].told
    assert "TANDEM_DATABASE_URL" in found["database"].mend
    assert found["schema"].state == "unknown"
    assert "project" not in found  # nobody knows whether there are some


@pytest.mark.parametrize(("free", "state"), [(50 << 20, "broken"), (1 << 30, "warning"), (50 << 30, "fine")])
def test_a_disk_that_is_nearly_full_is_told(
    well: Surroundings, monkeypatch: pytest.MonkeyPatch, free: int, state: str
) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _folder: SimpleNamespace(free=free))
    assert well.finding("disk").state == state


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"headers": {}}, "without the secret"),
        ({"headers": {"Authorization": "Bearer another"}}, "without the secret"),
        ({"is_active": False}, "switched off"),
        ({"send_for_all_actions": False}, "not sent everything"),
    ],
)
def test_a_webhook_that_does_not_tell_all_is_told_with_the_command(
    well: Surroundings, changed: dict[str, Any], told: str
) -> None:
    well.webhooks[0] |= changed
    found = well.finding("webhook")
    assert found.state == "broken"
    assert told in found.told
    assert f"tandem connect --project {FACTS.id}" in found.mend


def test_webhooks_that_are_missing_twice_there_or_left_over_are_told(well: Surroundings) -> None:
    well.webhooks.append(webhook(2, "http://127.0.0.1:2/webhook", SECRET))
    left_over = well.finding("webhook")
    assert (left_over.state, "http://127.0.0.1:2/webhook" in left_over.told) == ("warning", True)
    well.webhooks[1] = webhook(2, well.webhooks[0]["url"], SECRET)
    assert "2 webhooks" in well.finding("webhook").told
    well.webhooks[:] = [webhook(3, "http://127.0.0.1:3/webhook", None)]
    well.label_studio.answers["POST /api/webhooks/"] = lambda body: (201, webhook(4, "", None) | json.loads(body))
    well.label_studio.answers["DELETE /api/webhooks/4/"] = (204, b"")
    missing = well.finding("webhook")
    assert (missing.state, "Nobody tells Tandem" in missing.told) == ("broken", True)
    assert "DELETE /api/webhooks/4/" in well.label_studio.asked  # what was made to see whether the address is taken


@pytest.mark.parametrize("is_there", [True, False])
def test_an_address_that_label_studio_refuses_is_told_with_the_settings(well: Surroundings, is_there: bool) -> None:
    refusal = {"validation_errors": {"url": ["URL resolves to a reserved network address (block: 127.0.0.0/8)"]}}
    if not is_there:
        well.webhooks.clear()
    well.label_studio.answers["PATCH /api/webhooks/1/"] = (400, refusal)
    well.label_studio.answers["POST /api/webhooks/"] = (400, refusal)
    found = well.finding("address")
    assert found.state == "broken"
    assert "refuses to call" in found.told
    assert "USE_DEFAULT_BANNED_SUBNETS=false" in found.mend


def test_backends_that_are_missing_second_refused_or_unreachable_are_told(well: Surroundings) -> None:
    well.backends[:] = []
    assert "asks nobody" in well.finding("backend").told
    well.backends[:] = [backend(1, "http://127.0.0.1:2", title="theirs")]
    assert "'theirs' at http://127.0.0.1:2" in well.finding("backend").told
    well.backends.append(backend(2, well.web.url))
    second = well.finding("backend")
    assert (second.state, "Remove that one" in second.mend) == ("broken", True)
    well.backends[:] = [backend(1, well.web.url, auth_method="NONE")]
    assert "without the secret" in well.finding("backend").told
    well.backends[:] = [backend(1, well.web.url, state="ER")]
    assert "TANDEM_PUBLIC_URL" in well.finding("backend").mend


def test_a_version_that_does_not_match_is_told_as_a_dead_score_column(well: Surroundings) -> None:
    well.state["model_version"] = "Tandem"
    found = well.finding("score-column")
    assert found.state == "broken"
    assert "'Tandem'" in found.told
    assert "dead" in found.told
    assert "Choose tandem-v0" in found.mend
    well.state["model_version"] = "tandem-v0"
    well.predictions.clear()
    assert "no prediction of the version" in well.finding("score-column").told


def test_a_score_column_that_waits_for_the_first_push_is_no_fault(well: Surroundings) -> None:
    well.services.projects.note_shown(well.classroom.project.id, None, 0)  # type: ignore[arg-type]
    assert well.finding("score-column").state == "warning"


def test_another_order_and_hidden_predictions_are_told(well: Surroundings) -> None:
    well.state["sampling"] = "Sequential sampling"
    assert "'Sequential sampling'" in well.finding("sampling").told
    well.state |= {"sampling": "Uncertainty sampling", "show_collab_predictions": False}
    assert "no predictions" in well.finding("sampling").told


def test_labels_that_wait_for_long_are_told(well: Surroundings) -> None:
    well.classroom.annotate(1)
    assert well.finding("learning").state == "fine"  # it has just come
    with writing(well.services.engine) as connection:
        connection.execute(events.update().values(told_at=time.time() - 600))
    found = well.finding("learning")
    assert found.state == "broken"
    assert "1 events wait to be learned, the oldest for 10 minutes" in found.told


def test_work_that_fails_again_and_again_is_told_with_its_log(well: Surroundings) -> None:
    well.failing["show"] = 4
    found = well.finding("learning")
    assert (found.state, "show (4 times)" in found.told) == ("warning", True)
    assert "`tandem worker chores`" in found.mend


def test_images_that_can_not_be_read_are_told_with_one_tried_and_its_mend(
    well: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_address: str, _task: int) -> bytes:
        raise ImageUnreadable("host_not_allowed", "Images from example.org are not allowed.")

    monkeypatch.setattr(well.services.images, "read", refuse)
    found = well.finding("images")
    assert (found.state, found.mend) == ("broken", REASONS["host_not_allowed"])
    assert "Images from example.org" in found.told
    monkeypatch.setattr(Features, "unreadable", lambda _self, _project: {"not_found": 1, "timeout": 2})
    counted = well.finding("images")
    assert "(1 not_found, 2 timeout)" in counted.told
    assert counted.mend == REASONS["timeout"]


def test_every_reason_for_an_unreadable_image_has_a_mend() -> None:
    told = re.findall(r"``(\w+)``", ImageUnreadable.__doc__ or "")
    assert sorted(told) == sorted(REASONS)


def test_a_config_that_can_not_be_learned_leaves_the_rest_of_the_project(well: Surroundings) -> None:
    well.state["label_config"] = "<View><Text name='t' value='$t'/></View>"
    found = {finding.name: finding for finding in well.findings()}
    assert found["project"].state == "broken"
    assert found["webhook"].state == "unknown"
    assert found["redis"].state == "fine"


def test_a_project_that_is_gone_is_no_fault_unless_it_was_asked_for(well: Surroundings) -> None:
    del well.label_studio.answers[f"GET /api/projects/{FACTS.id}/"]
    assert [finding for finding in well.findings() if finding.project] == []
    (found, *rest) = [finding for finding in well.findings(projects=[FACTS.id]) if finding.project]
    assert (found.name, found.state) == ("project", "broken")
    assert {finding.state for finding in rest} == {"unknown"}


def test_a_project_that_tandem_never_heard_of_is_looked_at_when_asked_for(well: Surroundings) -> None:
    other = well.state | {"id": 99}
    well.label_studio.answers["GET /api/projects/99/"] = (200, other)
    found = {finding.name: finding for finding in well.findings(projects=[99]) if finding.project}
    assert found["project"].mend == "Connect it: `tandem connect --project 99`."
    assert found["webhook"].state == "fine"
    assert "images" not in found


def test_without_a_project_the_first_command_is_told(well: Surroundings) -> None:
    assert "`tandem connect --project NUMBER`" in well.finding("project", projects=[]).mend


def test_a_check_that_fails_itself_breaks_no_other(well: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    def trip(*_: object) -> None:
        raise RuntimeError("tripped")

    monkeypatch.setattr(machine.shutil, "disk_usage", trip)
    found = {finding.name: finding for finding in well.findings()}
    assert (found["disk"].state, "RuntimeError: tripped" in found["disk"].told) == ("unknown", True)
    assert {finding.state for name, finding in found.items() if name != "disk"} == {"fine"}


def test_what_does_not_answer_in_time_is_unknown_and_the_rest_is_told(well: Surroundings) -> None:
    answered = threading.Event()

    def hang(_: bytes) -> Answer:
        answered.wait(10)
        return 200, {}

    well.label_studio.answers["GET /api/version"] = hang
    found = {finding.name: finding for finding in well.findings(patience=1.0)}
    answered.set()
    assert found["label-studio"].told == "No answer within 1 seconds."
    assert found["redis"].state == "fine"


def test_the_worst_of_several_findings_counts() -> None:
    fine = Finding("disk", "fine", "")
    assert worst([fine]) == "fine"
    assert worst([fine, replace(fine, state="warning")]) == "warning"
    assert worst([fine, replace(fine, state="warning"), replace(fine, state="unknown")]) == "unknown"


@dataclass
class Real:
    """A project connected on a real Label Studio, and what the doctor asks through."""

    client: labelstudio.LabelStudio
    services: Services
    number: int
    url: str

    def found(self, name: str) -> Finding:
        (found,) = [each for each in examine(self.services, [self.number]) if each.name == name]
        return found


@pytest.fixture
def real(
    label_studio: conftest.LabelStudio, valkey: str, s3_server: conftest.S3, tmp_path: Path, monkeypatch: Any
) -> Iterator[Real]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    with recording_backend(SECRET) as web:
        services = make_services(
            tmp_path,
            valkey,
            label_studio_url=label_studio.url,
            label_studio_api_key=SecretStr(label_studio.api_key),
            label_studio_files=None,
            public_url=web.url,
            secret=SecretStr(SECRET),
            s3_endpoint_url=s3_server.url,
        )
        services.tracking.client.create_experiment("faces", artifact_location="s3://mlflow/direct")
        connected = connect(
            services.settings, services.label_studio, title=f"doctor {time.time_ns()}", label_config=CONFIG
        )
        services.ledger.tell(ProjectTold(connected.project.facts))
        client = services.label_studio
        yield Real(client, services, connected.project.facts.id, web.url)
        services.close()
        client.close()
        _cached_get_s3_client.cache_clear()


@pytest.mark.servers
class TestOnRealServers:
    def test_what_connect_sets_is_found_fine_and_what_is_changed_is_found(self, real: Real) -> None:
        client, number = real.client, real.number
        found = {each.name: each.state for each in examine(real.services, [number])}
        fine = {"project", "sampling", "webhook", "address", "backend", "label-studio", "api-key", "clock", "redis"}
        assert {name: found[name] for name in fine} == dict.fromkeys(fine, "fine")
        assert {found["redis-persistence"], found["artifacts"]} == {"fine"}
        before = client.webhooks(number), client.backends(number)
        assert real.found("address").state == "fine"
        assert (client.webhooks(number), client.backends(number)) == before

        (hook,) = client.webhooks(number)
        client.update_webhook(hook, {})
        assert "without the secret" in real.found("webhook").told
        client.delete_webhook(hook)
        assert "Nobody tells Tandem" in real.found("webhook").told
        assert real.found("address").state == "fine"
        assert client.webhooks(number) == []
        client.create_webhook(number, "http://127.0.0.1:1/webhook", hook.headers)
        assert "http://127.0.0.1:1/webhook is told instead" in real.found("webhook").told

        (connected,) = client.backends(number)
        client.delete_backend(connected)
        assert "asks nobody" in real.found("backend").told
        client.update_project(number, sampling="Sequential sampling")
        assert "'Sequential sampling'" in real.found("sampling").told

        connect(real.services.settings, client, project=number)
        mended = {each.name: each.state for each in examine(real.services, [number])}
        assert {mended[name] for name in ("webhook", "backend", "sampling")} == {"fine"}

    def test_a_backend_that_no_longer_answers_is_found(self, real: Real) -> None:
        (connected,) = real.client.backends(real.number)
        with recording_backend() as moved:
            real.client.update_backend(connected, url=moved.url, auth_method="NONE")
        assert "not Tandem at" in real.found("backend").told

    def test_a_dead_score_column_is_found(self, real: Real) -> None:
        (task,) = real.client.import_tasks(real.number, [{"data": {"image": "a.png"}}])
        real.services.ledger.tell(TasksTold(real.client.project(real.number).facts, (Task(task, "a.png", {}),), False))
        pushed = [{"task": task, "result": [], "score": 0.5, "model_version": "tandem-v0"}]
        real.client.import_predictions(real.number, pushed)
        project = real.services.projects.named(real.number)
        real.services.projects.note_shown(project.id, "tandem-v0", 0)
        assert real.found("score-column").state == "broken"  # the project still shows the backend's title
        real.client.update_project(real.number, model_version="tandem-v0")
        assert real.found("score-column").told == "Label Studio shows tandem-v0, with 1 predictions."
        assert "bad_address" in real.found("images").told or real.found("images").state == "broken"

    def test_keys_that_label_studio_does_not_take_are_found(self, real: Real) -> None:
        url = real.services.settings.label_studio_url
        token = "eyJhbGciOiJIUzI1NiJ9.eyJ0b2tlbl90eXBlIjoicmVmcmVzaCJ9.c2lnbmVk"
        for key, told in {"0" * 40: "refuses the API key", token: "refuses the personal access token."}.items():
            with labelstudio.LabelStudio(url, key, timeout=30) as client:
                vars(real.services)["label_studio"] = client
                assert told in real.found("api-key").told

    def test_an_address_that_label_studio_refuses_is_found(self, real: Real) -> None:
        real.services.settings.public_url = "http://169.254.7.7:9090"
        found = real.found("address")
        assert found.state == "broken"
        assert "USER_ADDITIONAL_BANNED_SUBNETS=169.254.0.0/16" in found.mend
        assert [hook.url for hook in real.client.webhooks(real.number)] == [f"{real.url}/webhook"]

    def test_a_bucket_that_can_not_be_written_is_found(self, real: Real, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of somebody else")
        # As in a process that was started with it.
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
        _cached_get_s3_client.cache_clear()
        found = real.found("artifacts")
        assert (found.state, "AWS_SECRET_ACCESS_KEY" in found.mend) == ("broken", True)
        real.services.tracking.client.create_experiment("later", artifact_location="s3://no-such-bucket/x")
        assert real.found("artifacts").state == "broken"

    def test_a_redis_without_persistence_is_found(self, real: Real, valkey_server: Running) -> None:
        client = real.services.jobs.redis
        client.config_set("appendonly", "no")
        try:
            assert "forgets everything" in real.found("redis-persistence").told
        finally:
            client.config_set("appendonly", "yes")
        assert real.found("workers").state == "broken"
