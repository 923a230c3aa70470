"""The learner inside the official label-studio-ml server: its release 1.0.9 for real, its 2.x by a stand-in."""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import logging
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from backend.labelstudio import LabelStudio
from backend.up import servers
from backend.up.install import environment, locked
from backend.up.servers import Running, Server
from model.head import StreamingLDA
from tests import label_studio_ml_2x
from tests.conftest import REPOSITORY, STATE
from tests.conftest import LabelStudio as LabelStudioServer
from tests.test_images import Site, answer

ADAPTER = REPOSITORY / "label_studio_ml_adapter.py"
PAYLOADS = REPOSITORY / "tests" / "payloads"
Json = dict[str, Any]
COLORS = {"cat": (220, 40, 40), "dog": (40, 200, 60), "bird": (50, 60, 220)}
# Not an import at the top of the file: the real label_studio_ml is not in this environment.
RNG = np.random.default_rng(0)


def payload(name: str) -> Json:
    body: Json = json.loads((PAYLOADS / f"{name}.json").read_text())["json"]
    return copy.deepcopy(body)


CREATED = "webhook_annotation_created__0_POST_webhook_ANNOTATION_CREATED"
UPDATED = "webhook_annotation_updated__0_POST_webhook_ANNOTATION_UPDATED"
SKIPPED = "webhook_annotation_skipped__0_POST_webhook_ANNOTATION_CREATED"
DELETED = "webhook_annotations_deleted__0_POST_webhook_ANNOTATIONS_DELETED"
TASKS_DELETED = "webhook_tasks_deleted__0_POST_webhook_TASKS_DELETED"
FROM_PREDICTIONS = "webhook_predictions_to_annotations__0_POST_webhook_ANNOTATIONS_CREATED"


def jpeg(label: str) -> bytes:
    """Draw an image of a class: its colour, with noise."""
    pixels = np.clip(np.array(COLORS[label]) + RNG.normal(0, 30, (48, 48, 3)), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


class MeanColors:
    """An encoder that needs no network."""

    id = "mean-colors"

    def __init__(self) -> None:
        self.encoded = 0

    def encode(self, images: Sequence[Image.Image]) -> np.ndarray[Any, np.dtype[np.float32]]:
        self.encoded += len(images)
        small = [np.asarray(image.convert("RGB").resize((2, 2)), np.float32).ravel() / 255 for image in images]
        return np.stack(small)


class Server2x:
    """The 2.x server's three endpoints around the adapter, as one process has them."""

    def __init__(self, adapter: Any) -> None:
        self.adapter = adapter

    def setup(self) -> str:
        version = label_studio_ml_2x.setup(self.adapter.Tandem, payload("connect__1_POST_setup"))["model_version"]
        assert isinstance(version, str)
        return version

    def predict(self, tasks: list[Json]) -> list[Json]:
        body = payload("open_task_uploaded__2_POST_predict") | {"tasks": tasks}
        results: list[Json] = label_studio_ml_2x.predict(self.adapter.Tandem, body)["results"]
        assert len(results) == len(tasks)
        return results

    def hear(self, event: Json) -> None:
        label_studio_ml_2x.webhook(self.adapter.Tandem, event)

    def fit(self, event: Json) -> None:
        """Hand an event to the class as 1.0.9 does, whose server asks the class which events it fits."""
        data = copy.deepcopy(event)
        action = data.pop("action")
        if action in self.adapter.Tandem.TRAIN_EVENTS:
            config = data["project"]["label_config"]
            self.adapter.Tandem("2", label_config=config).fit((), event=action, data=data, job_id="1", workdir=".")


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A Label Studio that has only images to give."""
    with closing(Site()) as site:
        monkeypatch.setenv("LABEL_STUDIO_URL", site.url)
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", "0123")
        yield site


Start = Callable[[], Server2x]


@pytest.fixture
def start(tmp_path: Path, uploads: Site, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts the server, or another process of it, on one folder."""
    monkeypatch.setenv("MODEL_DIR", str(tmp_path / "state"))
    for name, module in label_studio_ml_2x.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(label_studio_ml_2x, "cache", {})

    def start() -> Server2x:
        spec = importlib.util.spec_from_file_location("adapter_under_test", ADAPTER)
        assert spec is not None
        assert spec.loader is not None
        adapter = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, adapter)
        spec.loader.exec_module(adapter)
        encoder = MeanColors()
        adapter._encoder = lambda: encoder  # type: ignore[attr-defined]
        return Server2x(adapter)

    return start


def task(uploads: Site, number: int, label: str) -> Json:
    """Make a task of the recorded project whose image shows a class."""
    address = f"/data/upload/2/{number}.jpg"
    uploads.answers[address] = answer(jpeg(label))
    recorded: Json = payload("open_task_uploaded__2_POST_predict")["tasks"][0]
    return recorded | {"id": number, "data": {"image": address}}


def annotate(of: Json, label: str, id: int, at: str = "2026-11-21T07:42:14.172889Z", name: str = CREATED) -> Json:
    """Return the event of a person choosing a label for a task."""
    event = payload(name)
    event["task"] |= {"id": of["id"], "data": of["data"]}
    event["annotation"] |= {"id": id, "task": of["id"], "updated_at": at}
    if event["annotation"]["result"]:
        event["annotation"]["result"][0]["value"]["choices"] = [label]
    return event


def best(result: Json) -> str:
    chosen: str = result["result"][0]["value"]["choices"][0]
    return chosen


def teach(server: Server2x, uploads: Site, per_class: int = 4) -> list[Json]:
    labels = list(COLORS) * per_class
    tasks = [task(uploads, number, label) for number, label in enumerate(labels, 1)]
    for one, label in zip(tasks, labels, strict=True):
        server.hear(annotate(one, label, id=one["id"]))
    return tasks


def test_it_predicts_what_it_was_taught(start: Start, uploads: Site) -> None:
    server = start()
    asked = [task(uploads, 100 + place, label) for place, label in enumerate(COLORS)]
    assert server.predict(asked) == [{}, {}, {}]
    teach(server, uploads)
    results = server.predict(asked)
    assert [best(result) for result in results] == list(COLORS)
    for result in results:
        [region] = result["result"]
        assert (region["from_name"], region["to_name"], region["type"]) == ("label", "image", "choices")
        assert 1 / 3 < result["score"] <= 1


def test_the_version_changes_with_each_change_and_no_repeat(start: Start, uploads: Site) -> None:
    server = start()
    one = task(uploads, 1, "cat")
    seen = [server.setup()]
    for event in (
        annotate(one, "cat", 1, "2026-01-01T00:00:01Z"),
        annotate(one, "cat", 1, "2026-01-01T00:00:01Z"),
        annotate(one, "dog", 1, "2026-01-01T00:00:03Z", UPDATED),
        annotate(one, "cat", 1, "2026-01-01T00:00:02Z", UPDATED),
        annotate(one, "cat", 2, "2026-01-01T00:00:04Z", SKIPPED),
    ):
        server.hear(event)
        seen.append(server.setup())
    assert seen == ["tandem-0", "tandem-1", "tandem-1", "tandem-2", "tandem-2", "tandem-2"]


def test_corrected_and_deleted_labels_leave_no_trace(start: Start, uploads: Site) -> None:
    server = start()
    tasks = teach(server, uploads)
    server.predict(tasks)
    wrong = tasks[0]
    server.hear(annotate(wrong, "bird", wrong["id"], "2026-12-01T00:00:00Z", UPDATED))
    server.predict(tasks)
    server.hear(annotate(wrong, "cat", wrong["id"], "2026-12-02T00:00:00Z", UPDATED))
    server.hear(annotate(wrong, "dog", 900, "2026-12-02T00:00:00Z"))
    server.predict(tasks)
    server.fit(payload(DELETED) | {"annotations": [{"id": 900}, {"id": tasks[1]["id"]}]})
    server.fit(payload(TASKS_DELETED) | {"tasks": [{"id": tasks[2]["id"]}]})
    told = np.array([result["score"] for result in server.predict(tasks)])

    memory = server.adapter.Memory.here()
    left = [(one, label) for one, label in zip(tasks, list(COLORS) * 4, strict=True) if one not in tasks[1:3]]
    vectors = memory.vectors("mean-colors", [one["data"]["image"] for one in tasks])
    once = StreamingLDA().partial_fit(
        np.stack([vectors[one["data"]["image"]] for one, _ in left]), [label for _, label in left]
    )
    expected = once.weights(["cat", "dog", "bird"]).predict_proba(
        np.stack([vectors[one["data"]["image"]] for one in tasks])
    )
    np.testing.assert_allclose(told, expected.max(axis=1), atol=1e-9)


def test_the_deletion_that_2x_lets_through_is_heard(start: Start, uploads: Site) -> None:
    server = start()
    server.hear(annotate(task(uploads, 1, "cat"), "cat", 7))
    assert server.setup() == "tandem-1"
    event = payload(DELETED) | {"action": "ANNOTATION_DELETED"}
    del event["annotations"]
    server.hear(event | {"annotation": {"id": 7}})
    assert server.setup() == "tandem-2"
    assert server.predict([task(uploads, 2, "cat")]) == [{}]


def test_a_deletion_that_overtakes_its_annotation_holds(start: Start, uploads: Site) -> None:
    server = start()
    server.fit(payload(DELETED) | {"annotations": [{"id": 7}]})
    server.hear(annotate(task(uploads, 1, "cat"), "cat", 7))
    assert server.predict([task(uploads, 2, "cat")]) == [{}]


@pytest.mark.parametrize("name", [SKIPPED, FROM_PREDICTIONS])
def test_what_nobody_chose_teaches_nothing(name: str, start: Start, uploads: Site) -> None:
    server = start()
    server.hear(payload(name))
    server.fit(payload(name))
    assert server.setup() == "tandem-0"


def test_an_annotation_that_is_skipped_later_is_taken_back(start: Start, uploads: Site) -> None:
    server = start()
    one = task(uploads, 1, "cat")
    server.hear(annotate(one, "cat", 1, "2026-01-01T00:00:01Z"))
    skipped = annotate(one, "cat", 1, "2026-01-01T00:00:02Z", UPDATED)
    skipped["annotation"]["was_cancelled"] = True  # Label Studio leaves the result in place
    server.hear(skipped)
    assert server.predict([one]) == [{}]


def test_a_restart_forgets_nothing_and_encodes_nothing_again(start: Start, uploads: Site) -> None:
    server = start()
    tasks = teach(server, uploads)
    before = server.predict(tasks)
    version = server.setup()
    uploads.answers.clear()
    label_studio_ml_2x.cache.clear()
    again = start()
    assert again.setup() == version
    after = again.predict(tasks)
    assert again.adapter._encoder().encoded == 0
    assert [best(result) for result in after] == [best(result) for result in before]
    np.testing.assert_allclose([r["score"] for r in after], [r["score"] for r in before], atol=1e-9)


def test_two_processes_share_what_either_hears(start: Start, uploads: Site) -> None:
    one, other = start(), start()
    tasks = teach(one, uploads)
    assert [best(result) for result in other.predict(tasks[:3])] == list(COLORS)
    other.hear(annotate(task(uploads, 50, "cat"), "cat", 50))
    assert one.setup() == other.setup() == "tandem-13"


def test_a_class_that_left_the_configuration_is_not_predicted(start: Start, uploads: Site) -> None:
    server = start()
    body = payload("open_task_uploaded__2_POST_predict")
    body |= {"tasks": teach(server, uploads)}
    body["label_config"] = body["label_config"].replace('<Choice value="bird"/>', "")
    assert "bird" not in body["label_config"]
    chosen = {best(result) for result in label_studio_ml_2x.predict(server.adapter.Tandem, body)["results"]}
    assert chosen == {"cat", "dog"}


def test_unreadable_images_cost_only_their_own_prediction(
    start: Start, uploads: Site, caplog: pytest.LogCaptureFixture
) -> None:
    server = start()
    teach(server, uploads)
    good = task(uploads, 60, "dog")
    gone, web, file, none, html = (good | {"id": id} for id in range(61, 66))
    gone["data"] = {"image": "/data/upload/2/gone.jpg"}
    web["data"] = {"image": "http://169.254.169.254/latest/meta-data/"}
    file["data"] = {"image": "file:///etc/passwd"}
    none["data"] = {"text": "no image here"}
    html["data"] = {"image": "/data/upload/2/login.jpg"}
    uploads.answers["/data/upload/2/login.jpg"] = answer(b"<html>Please log in</html>")
    with caplog.at_level(logging.WARNING):
        results = server.predict([gone, web, good, file, none, html])
    assert [bool(result) for result in results] == [False, False, True, False, False, False]
    assert "TANDEM_IMAGE_HOSTS" in caplog.text


def test_an_image_that_turns_up_later_is_learned_then(start: Start, uploads: Site) -> None:
    server = start()
    one = task(uploads, 1, "cat")
    image = uploads.answers.pop(one["data"]["image"])
    server.hear(annotate(one, "cat", 1))
    other = task(uploads, 2, "cat")
    assert server.predict([other]) == [{}]
    uploads.answers[one["data"]["image"]] = image
    assert best(server.predict([other])[0]) == "cat"


def test_the_key_goes_to_label_studios_images_only(
    start: Start, uploads: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start()
    good = task(uploads, 1, "cat")
    with closing(Site()) as site:
        monkeypatch.setenv("TANDEM_IMAGE_HOSTS", '["127.0.0.1"]')
        site.answers["/a.jpg"] = answer(jpeg("cat"))
        site.answers["/b.jpg"] = answer(status=302, Location="/a.jpg")
        uploads.answers["/tasks/3/resolve/"] = answer(status=303, Location=f"{site.url}/a.jpg")
        uploads.answers["/api/users"] = answer(jpeg("cat"))
        addresses = [
            good["data"]["image"],
            f"{site.url}/a.jpg",
            "s3://bucket/a.jpg",
            f"{site.url}/b.jpg",
            f"{uploads.url}/data/upload/../../api/users",
        ]
        server.predict([good | {"id": id, "data": {"image": at}} for id, at in enumerate(addresses, 1)])
        assert [headers["Authorization"] for _, headers in site.asked] == [None] * 3
        assert sorted(site.paths()) == ["/a.jpg", "/a.jpg", "/b.jpg"]
    keys = {path.partition("?")[0]: headers["Authorization"] for path, headers in uploads.asked}
    assert keys[good["data"]["image"]] == keys["/tasks/3/resolve/"] == "Token 0123"
    assert not any(key for path, key in keys.items() if "api" in path)


def test_what_it_keeps_holds_no_key(start: Start, uploads: Site, tmp_path: Path) -> None:
    server = start()
    server.setup()
    server.predict(teach(server, uploads))
    [file] = (tmp_path / "state").iterdir()
    token = payload("connect__1_POST_setup")["access_token"].encode()
    assert token not in file.read_bytes()
    assert file.stat().st_size < 100_000


# The real one


def install(venv: Path) -> None:
    """Make the environment of label-studio-ml 1.0.9 and the learner, whose pins clash with the service's."""
    if any(venv.glob("lib/python*/site-packages/label_studio_ml-1.0.9.dist-info/RECORD")):
        return
    extra = f"{REPOSITORY}[label-studio-ml]"
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
    subprocess.run([str(venv / "bin" / "pip"), "install", "-qq", "-e", extra], check=True)


@pytest.fixture(scope="module")
def official(request: pytest.FixtureRequest) -> Path:
    """The programs of an environment with label-studio-ml 1.0.9."""
    venv = STATE.resolve() / "label-studio-ml-venv"
    terminal = request.config.pluginmanager.getplugin("terminalreporter")
    if not venv.exists() and terminal is not None:
        terminal.write_line(f"Installing label-studio-ml 1.0.9 into {venv}: a minute and 1.4 GB")
    STATE.mkdir(exist_ok=True)
    with locked(venv.with_suffix(".lock")):
        install(venv)
    return venv / "bin"


@pytest.fixture
def official_server(official: Path, label_studio: LabelStudioServer, tmp_path: Path) -> Iterator[Running]:
    """The official server with the adapter in it, made and started by its own commands."""
    port = servers.free_port()
    known = environment(
        {
            "PATH": f"{official}{os.pathsep}{os.environ['PATH']}",  # `label-studio-ml start` runs whatever `python` is
            "MODEL_DIR": str(tmp_path / "official"),
            "LABEL_STUDIO_URL": label_studio.url,
            "LABEL_STUDIO_API_KEY": label_studio.api_key,
        }
    )
    program = str(official / "label-studio-ml")
    subprocess.run([program, "init", str(tmp_path / "backend"), "--script", f"{ADAPTER}:Tandem"], check=True, env=known)
    address = f"http://127.0.0.1:{port}"
    server = Server(
        name="label-studio-ml",
        command=[program, "start", str(tmp_path / "backend"), "--host", "127.0.0.1", "--port", str(port)],
        environment=known,
        address=address,
        unready=lambda: servers.http_unready(f"{address}/health"),
    )
    running = Running(server, tmp_path / "label-studio-ml.log")
    running.start()
    yield running
    running.stop()


CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="label" toName="image" choice="single">'
    '<Choice value="cat"/><Choice value="dog"/><Choice value="bird"/></Choices></View>'
)


@pytest.mark.servers
@pytest.mark.timeout(900)
def test_the_official_server_learns_from_a_real_label_studio(
    label_studio: LabelStudioServer, official_server: Running, tmp_path: Path
) -> None:
    def ask(method: str, path: str, body: object = None) -> Any:
        headers = {"Authorization": f"Token {label_studio.api_key}"}
        response = httpx.request(
            method, label_studio.url + path, json=body, headers=headers, timeout=120, trust_env=False
        )
        assert response.status_code < 300, response.text
        return response.json() if response.content else None

    def open_task(task: int) -> list[Json]:
        predictions: list[Json] = ask("GET", f"/api/tasks/{task}?project={project}")["predictions"]
        return predictions

    def wait_for(expected: dict[int, str]) -> None:
        deadline = time.monotonic() + 120
        while in_force(tmp_path / "official" / "tandem.sqlite3") != expected:
            assert time.monotonic() < deadline, in_force(tmp_path / "official" / "tandem.sqlite3")
            time.sleep(0.2)

    labels = list(COLORS) * 4
    with LabelStudio(label_studio.url, label_studio.api_key) as client:
        project = client.create_project("label-studio-ml", CONFIG).facts.id
        client.upload(project, [(f"{number}.jpg", jpeg(label)) for number, label in enumerate(labels)])
        tasks = [each["id"] for each in client.tasks(project)]
    ask("POST", "/api/ml", {"url": official_server.server.address, "project": project, "title": "official"})

    assert open_task(tasks[0]) == []
    taught: dict[int, str] = {}
    for task, label in list(zip(tasks, labels, strict=True))[:6]:
        result = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
        annotation = ask("POST", f"/api/tasks/{task}/annotations/", {"result": [result]})
        taught[annotation["id"]] = label
        wait_for(taught)
    predicted = [open_task(task) for task in tasks[6:9]]
    assert [best(prediction) for [prediction] in predicted] == labels[6:9]
    first_version = predicted[0][0]["model_version"]
    assert first_version.isdigit()

    wrong, unwanted = list(taught)[:2]
    result["value"] = {"choices": ["bird"]}
    ask("PATCH", f"/api/annotations/{wrong}/", {"result": [result]})
    ask("DELETE", f"/api/annotations/{unwanted}/")
    del taught[unwanted]
    wait_for(taught | {wrong: "bird"})
    result["value"] = {"choices": [taught[wrong]]}
    ask("PATCH", f"/api/annotations/{wrong}/", {"result": [result]})
    wait_for(taught)

    official_server.restart()
    retrieved = ask(
        "POST",
        f"/api/dm/actions?id=retrieve_tasks_predictions&project={project}",
        {"selectedItems": {"all": False, "included": tasks[9:]}},
    )
    assert retrieved["processed_items"] == 3
    predicted = [open_task(task) for task in tasks[9:]]
    assert [best(prediction) for [prediction] in predicted] == labels[9:]
    assert int(predicted[0][0]["model_version"]) > int(first_version)


def in_force(file: Path) -> dict[int, str]:
    if not file.exists():
        return {}
    with closing(sqlite3.connect(file)) as database:
        return dict(database.execute("SELECT id, label FROM annotation WHERE label IS NOT NULL"))
