"""The client against a scripted server, for what a real one seldom does, and against a real Label Studio."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from PIL import Image

from backend import labelstudio
from backend.events import AnnotationsTold, parse_task_with_annotations, parse_webhook
from backend.label_config import parse_label_config
from backend.labelstudio import LabelStudio, LabelStudioError, LabelStudioUnreachable
from tests.recording import recording_backend

if TYPE_CHECKING:
    from tests import conftest

CONFIG_XML = (
    '<View><Image name="image" value="$image"/><Choices name="label" toName="image">'
    '<Choice value="cat"/><Choice value="dog"/></Choices></View>'
)
CONFIG = parse_label_config(CONFIG_XML)
PROJECT = {"id": 3, "created_at": "2026-11-21T07:40:25.641736Z", "title": "faces", "label_config": CONFIG_XML}


@dataclass
class Script:
    """What the scripted server answers, and what it was asked."""

    url: str = ""
    answers: list[tuple[int, Any]] = field(default_factory=list)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    answer: Callable[[str, str], tuple[int, Any]] | None = None

    def paths(self) -> list[str]:
        return [f"{method} {urlsplit(path).path}" for method, path, _ in self.asked]


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            script.bodies.append(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
            script.asked.append((self.command, self.path, self.headers.get("Authorization")))
            status, told = script.answer(self.command, self.path) if script.answer else script.answers.pop(0)
            content = told if isinstance(told, bytes) else json.dumps(told).encode()
            self.send_response(status)
            if status in {301, 302}:
                self.send_header("Location", "https://elsewhere.example.org/")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_DELETE = handle_any

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        script.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield script
        server.shutdown()
        thread.join()


@pytest.fixture
def client(script: Script, monkeypatch: pytest.MonkeyPatch) -> Iterator[LabelStudio]:
    monkeypatch.setattr(labelstudio, "RETRY_PAUSES", (0.0, 0.0))
    with LabelStudio(script.url + "/", "legacy", timeout=5) as client:
        yield client


def jwt(lifetime: int, kind: str) -> str:
    """Return a token of this shape and lifetime, signed by no one."""
    claims = {"token_type": kind, "iat": 1_000, "exp": 1_000 + lifetime}
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJIUzI1NiJ9.{body}.{kind}"


def test_a_legacy_token_is_sent_as_it_is(script: Script, client: LabelStudio) -> None:
    script.answers = [(200, {"release": "1.23.2"})]
    assert client.version() == "1.23.2"
    assert script.asked == [("GET", "/api/version", "Token legacy")]


def test_a_personal_access_token_is_exchanged_once_while_its_access_lasts(script: Script) -> None:
    access = jwt(300, "access")
    script.answers = [(200, {"access": access}), (200, {"release": "1"}), (200, {"release": "1"})]
    with LabelStudio(script.url, jwt(10**9, "refresh")) as client:
        client.version()
        client.version()
        assert client.authorization() == {"Authorization": f"Bearer {access}"}
    assert [path for _, path, _ in script.asked] == ["/api/token/refresh/", "/api/version", "/api/version"]
    assert json.loads(script.bodies[0]) == {"refresh": jwt(10**9, "refresh")}
    assert script.asked[0][2] is None


def test_an_access_token_about_to_end_is_replaced(script: Script) -> None:
    script.answers = [(200, {"access": jwt(59, "access")}), (200, {"access": jwt(300, "access")})]
    with LabelStudio(script.url, jwt(10**9, "refresh")) as client:
        client.authorization()
        assert client.authorization() == {"Authorization": f"Bearer {jwt(300, 'access')}"}


def test_threads_share_one_exchange(script: Script) -> None:
    script.answers = [(200, {"access": jwt(300, "access")})]
    with LabelStudio(script.url, jwt(10**9, "refresh")) as client:
        threads = [threading.Thread(target=client.authorization) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(script.asked) == 1


def test_a_read_is_tried_again_when_label_studio_is_busy(script: Script, client: LabelStudio) -> None:
    script.answers = [(503, {}), (502, b"<html>"), (200, {"release": "1"})]
    assert client.version() == "1"


def test_a_read_is_given_up_after_three_tries(script: Script, client: LabelStudio) -> None:
    script.answers = [(503, {"detail": "down"})] * 3
    with pytest.raises(LabelStudioError, match="status 503: down") as error:
        client.version()
    assert error.value.status == 503


def test_a_write_is_never_tried_again(script: Script, client: LabelStudio) -> None:
    script.answers = [(503, {})]
    with pytest.raises(LabelStudioError):
        client.update_project(3, title="x")
    assert script.paths() == ["PATCH /api/projects/3/"]


def test_a_label_studio_that_is_not_there_says_so() -> None:
    with LabelStudio("http://127.0.0.1:1", "key") as client, pytest.raises(LabelStudioUnreachable, match="start it"):
        client.delete_annotation(1)


def test_a_label_studio_that_does_not_answer_in_time_says_so(script: Script) -> None:
    def sleepy(method: str, path: str) -> tuple[int, Any]:
        time.sleep(0.3)
        return 200, {}

    script.answer = sleepy
    with (
        LabelStudio(script.url, "key", timeout=0.05) as client,
        pytest.raises(LabelStudioUnreachable, match="LABEL_STUDIO_TIMEOUT"),
    ):
        client.delete_annotation(1)


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "", "ftp://127.0.0.1", "http://127.0.0.1:port"])
def test_what_is_no_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(LabelStudioUnreachable, match="LABEL_STUDIO_URL"):
        LabelStudio(url, "key")


@pytest.mark.parametrize("key", ["", "  ", "schlüssel"])
def test_what_is_no_key_is_refused_before_it_is_sent(key: str) -> None:
    with LabelStudio("http://127.0.0.1", key) as client, pytest.raises(LabelStudioError, match="LABEL_STUDIO_API_KEY"):
        client.authorization()


@pytest.mark.parametrize(
    ("status", "told", "sentence"),
    [
        (401, {"detail": "Invalid token."}, r"refuses the API key \(Invalid token.\)"),
        (
            401,
            {"detail": "legacy token authentication has been disabled for this organization"},
            "legacy tokens switched off: make a personal access token",
        ),
        (400, {"detail": "Validation error", "validation_errors": {"title": ["Too short."]}}, "title: .'Too short.'."),
        (302, b"", "on to https://elsewhere.example.org/: set LABEL_STUDIO_URL"),
        (200, b"<html>a wiki</html>", "is LABEL_STUDIO_URL right"),
        (200, ["not a mapping"], "not what release 1.23 does"),
        (200, {**PROJECT, "created_at": None}, "created_at is not a time"),
        (500, b"<html>", "Internal Server Error"),
    ],
)
def test_every_refusal_is_a_sentence(
    script: Script, client: LabelStudio, status: int, told: object, sentence: str
) -> None:
    script.answers = [(status, told)]
    with pytest.raises(LabelStudioError, match=sentence):
        client.project(3)


def test_a_personal_access_token_that_is_refused_says_so(script: Script) -> None:
    script.answers = [(401, {"detail": "Token is invalid"})]
    with (
        LabelStudio(script.url, jwt(10**9, "refresh")) as client,
        pytest.raises(LabelStudioError, match="refuses the personal access token"),
    ):
        client.version()


def test_an_address_below_a_folder_keeps_it(script: Script) -> None:
    script.answers = [(200, {"release": "1"})]
    with LabelStudio(script.url + "/label-studio/", "key") as client:
        client.version()
    assert script.paths() == ["GET /label-studio/api/version"]


def test_all_pages_of_projects_are_read(script: Script, client: LabelStudio) -> None:
    script.answers = [(200, {"next": "x", "results": [PROJECT]}), (200, {"next": None, "results": [PROJECT]})]
    assert [project.facts.id for project in client.projects()] == [3, 3]


def test_each_page_of_tasks_starts_after_the_last_task_of_the_one_before(
    script: Script, client: LabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelstudio, "PAGE", 2)
    everything = [{"id": number} for number in (3, 5, 9)]

    def page(method: str, path: str) -> tuple[int, Any]:
        (query,) = parse_qs(urlsplit(path).query)["query"]
        (after,) = json.loads(query)["filters"]["items"]
        if after["value"] == 5:
            everything.insert(0, {"id": 4})  # a task that appears behind the reader shifts nothing
        return 200, {"tasks": [task for task in everything if task["id"] > after["value"]][:2]}

    script.answer = page
    assert [task["id"] for task in client.tasks(3)] == [3, 5, 9]


def test_files_are_uploaded_in_batches_each_under_a_name_of_its_own(
    script: Script, client: LabelStudio, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(labelstudio, "UPLOAD_FILES", 2)
    monkeypatch.setattr(labelstudio, "UPLOAD_BYTES", 10)
    (tmp_path / "c.png").write_bytes(b"c" * 9)
    script.answers = [(201, {"task_count": 2}), (201, {"task_count": 1}), (201, {"task_count": 1})]
    assert client.upload(3, [("a.png", b"a"), ("b.png", b"b"), tmp_path / "c.png", ("d.png", b"dd")]) == 4
    assert [body.count(b'name="file') for body in script.bodies] == [2, 1, 1]
    assert b'name="file0"; filename="a.png"' in script.bodies[0]
    assert b'name="file1"; filename="b.png"' in script.bodies[0]
    assert b'filename="c.png"' in script.bodies[1]
    assert b"c" * 9 in script.bodies[1]


def test_nothing_to_upload_asks_nothing(script: Script, client: LabelStudio) -> None:
    assert client.upload(3, []) == 0
    assert script.asked == []


def test_deleting_a_version_sets_the_shown_one_again_when_label_studio_unset_it(
    script: Script, client: LabelStudio
) -> None:
    script.answers = [
        (200, {**PROJECT, "model_version": "Tandem"}),
        (200, {"deleted_predictions": 7}),
        (200, {**PROJECT, "model_version": None}),
        (200, {**PROJECT, "model_version": "Tandem"}),
    ]
    assert client.delete_model_version(3, "v6") == 7
    assert script.paths()[-1] == "PATCH /api/projects/3/"
    assert json.loads(script.bodies[-1]) == {"model_version": "Tandem"}


def test_deleting_the_shown_version_leaves_it_unset(script: Script, client: LabelStudio) -> None:
    script.answers = [(200, {**PROJECT, "model_version": "v6"}), (200, {"deleted_predictions": 7})]
    client.delete_model_version(3, "v6")
    assert script.paths() == ["GET /api/projects/3/", "DELETE /api/projects/3/model-versions/"]


def test_a_version_without_predictions_is_not_listed(script: Script, client: LabelStudio) -> None:
    script.answers = [(200, {"v1": 3, "Tandem": 0})]
    assert client.model_versions(3) == {"v1": 3}


# ---------------------------------------------------------------------------- a real Label Studio


@pytest.fixture
def real(label_studio: conftest.LabelStudio) -> Iterator[LabelStudio]:
    with LabelStudio(label_studio.url, label_studio.api_key, timeout=60) as client:
        yield client


@pytest.fixture
def project(real: LabelStudio) -> int:
    """Return a new project's id."""
    return real.create_project(f"client {time.time_ns()}", CONFIG_XML).facts.id


def image(color: str) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (4, 4), color).save(content, "PNG")
    return content.getvalue()


def addresses(count: int) -> list[dict[str, Any]]:
    return [{"data": {"image": f"https://images.example.org/{number}.png"}} for number in range(count)]


def predictions(scores: dict[int, float], version: str) -> list[dict[str, object]]:
    return [
        {"task": task, "result": CONFIG.result("cat", score), "score": score, "model_version": version}
        for task, score in scores.items()
    ]


@pytest.mark.servers
def test_a_real_label_studio_knows_its_version_and_its_user(
    real: LabelStudio, label_studio: conftest.LabelStudio
) -> None:
    assert real.version() == "1.23.2"
    assert real.whoami().email == label_studio.username


@pytest.fixture(scope="module")
def personal_access_token(label_studio: conftest.LabelStudio) -> str:
    """Return the user's one personal access token."""
    address = f"{label_studio.url}/api/token/"
    made = httpx.post(address, headers={"Authorization": f"Token {label_studio.api_key}"}).raise_for_status()
    return str(made.json()["token"])


@pytest.mark.servers
def test_a_personal_access_token_opens_a_real_label_studio(
    real: LabelStudio, label_studio: conftest.LabelStudio, personal_access_token: str
) -> None:
    with LabelStudio(label_studio.url, personal_access_token) as client:
        assert client.whoami() == real.whoami()
        assert client.authorization()["Authorization"].startswith("Bearer ")
        assert client._access_ends > time.time() + 200


@pytest.mark.servers
def test_a_legacy_token_is_refused_with_what_to_do_when_they_are_off(
    real: LabelStudio, label_studio: conftest.LabelStudio, personal_access_token: str
) -> None:
    with LabelStudio(label_studio.url, personal_access_token) as client:
        switch = f"{label_studio.url}/api/jwt/settings"
        off = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": False}
        httpx.post(switch, json=off, headers=client.authorization()).raise_for_status()
        try:
            with pytest.raises(LabelStudioError, match="legacy tokens switched off"):
                real.whoami()
        finally:
            on = {**off, "legacy_api_tokens_enabled": True}
            httpx.post(switch, json=on, headers=client.authorization()).raise_for_status()


@pytest.mark.servers
def test_uploaded_files_of_one_name_become_tasks_of_their_own_that_can_be_fetched(
    real: LabelStudio, project: int
) -> None:
    files = [("a b.png", image("red")), ("grün & ä.png", image("green")), ("a b.png", image("blue"))]
    assert real.upload(project, files) == 3
    fetched = []
    for listed in real.tasks(project):
        task, _ = parse_task_with_annotations(listed, CONFIG)
        assert task.image is not None
        fetched.append(httpx.get(real.url + urlsplit(task.image).path, headers=real.authorization()).content)
    assert fetched == [content for _, content in files]


@pytest.mark.servers
def test_a_task_list_is_whole_and_in_order_also_over_pages(
    real: LabelStudio, project: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelstudio, "PAGE", 4)
    ids = real.import_tasks(project, addresses(11))
    assert [task["id"] for task in real.tasks(project)] == ids == sorted(ids)


@pytest.mark.servers
def test_an_annotation_is_made_changed_listed_and_deleted(real: LabelStudio, project: int) -> None:
    (task_id,) = real.import_tasks(project, addresses(1))
    annotation_id = real.annotate(task_id, CONFIG.result("cat"), lead_time=2.5)
    real.update_annotation(annotation_id, result=CONFIG.result("dog"))
    (listed,) = real.tasks(project)
    _, (annotation,) = parse_task_with_annotations(listed, CONFIG)
    assert (annotation.id, annotation.task_id, annotation.labels) == (annotation_id, task_id, ("dog",))
    assert annotation.lead_time == 2.5
    assert not annotation.machine_made
    assert real.next_task(project) is None
    real.delete_annotation(annotation_id)
    (listed,) = real.tasks(project)
    assert listed["annotations"] == []
    assert (real.next_task(project) or {})["id"] == task_id


@pytest.mark.servers
def test_a_listed_annotation_is_the_one_that_the_webhook_told(real: LabelStudio, project: int) -> None:
    with recording_backend() as backend:
        webhook = real.create_webhook(project, f"{backend.url}/webhook", {})
        (task_id,) = real.import_tasks(project, addresses(1))
        real.annotate(task_id, CONFIG.result("cat"), lead_time=2.5)
        event = parse_webhook(backend.asked("/webhook")[-1].body)
        real.delete_webhook(webhook)
    (listed,) = real.tasks(project)
    assert isinstance(event, AnnotationsTold)
    assert event.annotations == parse_task_with_annotations(listed, CONFIG)[1]


@pytest.mark.servers
def test_a_copied_prediction_stays_machine_made_when_its_version_is_deleted(real: LabelStudio, project: int) -> None:
    (task_id,) = real.import_tasks(project, addresses(1))
    assert real.import_predictions(project, predictions({task_id: 0.5}, "v1")) == 1
    copy = {"selectedItems": {"all": False, "included": [task_id]}, "model_version": "v1"}
    address = f"{real.url}/api/dm/actions?id=predictions_to_annotations&project={project}"
    httpx.post(address, json=copy, headers=real.authorization()).raise_for_status()

    def annotation() -> Any:
        (listed,) = real.tasks(project)
        return parse_task_with_annotations(listed, CONFIG)[1][0]

    before = annotation()
    assert before.machine_made
    assert real.delete_model_version(project, "v1") == 1
    assert annotation() == before
    real.update_annotation(before.id, result=CONFIG.result("cat"))
    assert not annotation().machine_made


@pytest.mark.servers
def test_a_published_version_orders_what_is_asked_next(real: LabelStudio, project: int) -> None:
    ids = real.import_tasks(project, addresses(6))
    real.update_project(project, sampling="Uncertainty sampling")
    for version, scores in {"v1": [0.6, 0.1, 0.5, 0.2, 0.4, 0.3], "v2": [0.1, 0.6, 0.2, 0.5, 0.3, 0.4]}.items():
        by_task = dict(zip(ids, scores, strict=True))
        assert real.import_predictions(project, predictions(by_task, version)) == 6
        assert real.update_project(project, model_version=version).model_version == version
    assert real.delete_model_version(project, "v1") == 6
    assert real.project(project).model_version == "v2"
    assert real.model_versions(project) == {"v2": 6}
    asked = []
    while (task := real.next_task(project)) is not None:
        asked.append(task["id"])
        real.annotate(task["id"], CONFIG.result("dog"))
    assert asked == sorted(ids, key=by_task.__getitem__)


@pytest.mark.servers
def test_only_tasks_of_the_shown_version_are_asked_while_one_is_left(real: LabelStudio, project: int) -> None:
    ids = real.import_tasks(project, addresses(6))
    real.update_project(project, sampling="Uncertainty sampling")
    real.import_predictions(project, predictions(dict.fromkeys(ids, 0.01), "old"))
    real.import_predictions(project, predictions({ids[4]: 0.9, ids[2]: 0.8}, "new"))
    real.update_project(project, model_version="new")
    asked = []
    for _ in range(2):
        asked.append((real.next_task(project) or {})["id"])
        real.annotate(asked[-1], CONFIG.result("dog"))
    assert asked == [ids[2], ids[4]]


@pytest.mark.servers
def test_a_version_that_no_prediction_has_can_not_be_shown(real: LabelStudio, project: int) -> None:
    with pytest.raises(LabelStudioError, match="doesn't exist"):
        real.update_project(project, model_version="v99")


@pytest.mark.servers
def test_a_prediction_for_a_task_that_is_gone_refuses_all_of_them(real: LabelStudio, project: int) -> None:
    ids = real.import_tasks(project, addresses(1))
    with pytest.raises(LabelStudioError) as error:
        real.import_predictions(project, predictions({ids[0]: 0.5, 10**9: 0.5}, "v1"))
    assert error.value.status == 400
    assert real.model_versions(project) == {}


@pytest.mark.servers
def test_imported_tasks_keep_their_annotations(real: LabelStudio, project: int) -> None:
    by_person = {"result": CONFIG.result("dog"), "lead_time": 3.0}
    task = {"data": {"image": "https://images.example.org/a.png"}, "annotations": [by_person]}
    (task_id,) = real.import_tasks(project, [task])
    (listed,) = real.tasks(project)
    _, (annotation,) = parse_task_with_annotations(listed, CONFIG)
    assert (annotation.task_id, annotation.labels, annotation.machine_made) == (task_id, ("dog",), False)
