"""The whole story on real parts: Label Studio, a Redis-compatible server, MLflow, Tandem's own processes.

A person connects a project, labels, corrects, deletes; processes are killed on the way; and in the end the head is the
one that would have been fitted at once on what Label Studio exports.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.utils.request_utils import _cached_get_request_session
from pydantic import SecretStr

from backend.connect import connect
from backend.events import parse_task_with_annotations
from backend.label_config import parse_label_config
from backend.labelstudio import LabelStudio
from backend.log import model_name
from backend.up.run import tandem_programs
from backend.up.servers import Running, free_port
from backend.update import calibration_of, weights_of
from backend.versions import Version
from model.head import StreamingLDA
from model.neighbours import PoolLessons
from tests import conftest
from tests.annotator import Annotator, soon, truth
from tests.parts import CONFIG, DEMO, make_services

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]

CLASSES = ("angry", "happy", "sad", "surprise")
PER_CLASS = 25


@dataclass
class Loop(Annotator):
    """Everything running, and a person at Label Studio."""

    web: Running
    learn: Running
    chores: Running
    redis: Running

    def labels(self) -> dict[int, str]:
        return {key: label.label for key, label in self.services.ledger.in_force(self.project.id).items()}

    def exported(self) -> dict[int, tuple[str, str]]:
        """Return what Label Studio says of every annotation: its image and its label."""
        config = self.project.config
        listed = (parse_task_with_annotations(each, config) for each in self.client.tasks(self.number))
        return {
            each.id: (task.image or "", each.labels[0])
            for task, annotations in listed
            for each in annotations
            if each.labels and not each.cancelled and not each.machine_made
        }

    def learned(self) -> Version | None:
        """Return the newest version once it holds all that Label Studio has, and nothing is left to do."""
        newest = self.services.versions.newest(self.project.id)
        if newest is None or newest.position != self.services.ledger.position(self.project.id):
            return None
        if self.labels() != {key: label for key, (_, label) in self.exported().items()}:
            return None
        return newest

    def shown(self) -> Version | None:
        """Return the newest version once Label Studio shows it for the whole pool."""
        newest = self.learned()
        project = self.project
        if newest is None or project.shown_version != newest.number:
            return None
        return None if self.services.ledger.has_unshown_tasks(project.id) else newest

    def accuracy_on_the_rest(self) -> float:
        """Return how often Label Studio's pre-annotation of a task nobody labelled is right."""
        config = parse_label_config(CONFIG)
        version = self.client.project(self.number).model_version
        right = []
        for task in self.client.tasks(self.number):
            if not task["annotations"]:
                task_id = int(task["id"])
                result = [each["result"] for each in predictions_of(self, task_id) if each["model_version"] == version]
                right.append(bool(result) and config.labels(result[0]) == (self.truth[task_id],))
        return float(np.mean(right))

    def difference_from_a_head_fitted_at_once(self) -> float:
        """Return the largest difference of a served probability from a head fitted on Label Studio's export.

        Both are calibrated by the study that the served version names, with what the pool taught then.
        """
        services, project = self.services, self.project
        addresses = [image for _, image in images_of(self)]
        vectors = services.features.cached(project.id, addresses).vectors
        exported = list(self.exported().values())
        champion = services.versions.champion(project.id)
        assert champion is not None
        studied = services.studies.get(project.id, champion.study) if champion.study is not None else None
        head = calibration_of(studied).apply_to(StreamingLDA().declare(project.classes))
        head.partial_fit(np.stack([vectors[image] for image, _ in exported]), [label for _, label in exported])
        expected = head.weights()
        if studied is not None and studied.trust:
            from_pool = services.studies.pool(project.id, studied.number)
            assert from_pool is not None
            expected = PoolLessons.from_bytes(from_pool).add_to(expected, len(exported))
        pool = np.stack(list(vectors.values()))
        weights = weights_of(services, champion)
        assert weights is not None
        return float(np.abs(weights.predict_proba(pool) - expected.predict_proba(pool)).max())


def predictions_of(loop: Loop, task_id: int) -> list[dict[str, Any]]:
    """Return the predictions that an annotator who opens the task would see."""
    answer = httpx.get(
        f"{loop.services.settings.label_studio_url}/api/predictions/",
        params={"task": task_id},
        headers=loop.client.authorization(),
    )
    listed: list[dict[str, Any]] = answer.raise_for_status().json()
    return listed


def images_of(loop: Loop) -> list[tuple[int, str]]:
    config = loop.project.config
    listed = (parse_task_with_annotations(each, config)[0] for each in loop.client.tasks(loop.number))
    return [(task.id, task.image or "") for task in listed]


@pytest.fixture(scope="module")
def loop(
    tmp_path_factory: pytest.TempPathFactory,
    label_studio: conftest.LabelStudio,
    valkey_server: Running,
    mlflow_server: Running,
) -> Iterator[Loop]:
    folder = tmp_path_factory.mktemp("loop")
    services = make_services(
        folder,
        valkey_server.server.address,
        label_studio_files=None,
        label_studio_url=label_studio.url,
        label_studio_api_key=SecretStr(label_studio.api_key),
        mlflow_tracking_uri=mlflow_server.server.address,
        web_port=free_port(),
        secret=SecretStr("a secret of the tests"),
        sync_interval=5.0,
        show_calm=2.0,
        preselect_from=0.0,  # how often the likeliest class is right is counted from what is preselected
    )
    programs = [Running(server, folder / f"{server.name}.log") for server in tandem_programs(services.settings)]
    web, learn, chores = programs
    client = LabelStudio(label_studio.url, label_studio.api_key)
    try:
        for program in programs:
            program.start()
        project = client.create_project("The story", CONFIG)
        connect(services.settings, client, project=project.facts.id)
        paths = [path for name in CLASSES for path in sorted((DEMO / name).glob("*.png"))[:PER_CLASS]]
        random.Random(0).shuffle(paths)
        client.upload(project.facts.id, paths)
        yield Loop(
            services,
            client,
            project.facts.id,
            truth(client, project.facts.id, paths),
            web,
            learn,
            chores,
            valkey_server,
        )
    finally:
        for program in programs:
            program.stop()
        client.close()
        services.close()
        # MLflow keeps its connections for the life of a process.
        _cached_get_request_session.cache_clear()
        gc.collect()


def test_1_before_the_first_label_tasks_are_asked_in_cold_start_order(loop: Loop) -> None:
    soon(lambda: loop.project.shown and not loop.services.ledger.has_unshown_tasks(loop.project.id))
    state = loop.client.project(loop.number)
    assert state.model_version == loop.project.shown
    shown = {task_id: predictions_of(loop, task_id) for task_id in loop.truth}
    scores = {
        key: next(each for each in theirs if each["model_version"] == state.model_version)
        for key, theirs in shown.items()
    }
    assert all(each["result"] == [] for each in scores.values())
    asked = loop.client.next_task(loop.number)
    assert asked is not None
    assert scores[int(asked["id"])]["score"] == min(each["score"] for each in scores.values())


def test_2_labels_are_learned_logged_and_shown_and_the_rest_is_predicted_better(loop: Loop) -> None:
    accuracies = {}
    for count in (8, 30):
        for _ in range(count - len(loop.labels())):
            task = loop.client.next_task(loop.number)
            assert task is not None
            loop.annotate(int(task["id"]))
            soon(lambda: loop.learned(), 30)
        version = soon(lambda: loop.shown())
        assert sum(version.metrics["labels"].values()) == count
        accuracies[count] = loop.accuracy_on_the_rest()
    assert accuracies[30] > accuracies[8]
    assert accuracies[30] > 0.5


def test_3_the_next_task_is_the_least_certain_and_the_score_column_is_alive(loop: Loop) -> None:
    newest = soon(lambda: loop.shown())
    state = loop.client.project(loop.number)
    assert state.model_version.startswith(newest.name)
    scores = {}
    for task_id in loop.unlabelled():
        current = [each for each in predictions_of(loop, task_id) if each["model_version"] == state.model_version]
        assert len(current) == 1
        scores[task_id] = current[0]["score"]
    least = min(scores, key=lambda task_id: scores[task_id])
    asked = loop.client.next_task(loop.number)
    assert asked is not None
    assert int(asked["id"]) == least


def test_4_every_version_is_a_run_in_mlflow_once_and_in_order(loop: Loop) -> None:
    soon(lambda: not loop.services.versions.unlogged(loop.project.id, 1))
    client = MlflowClient(loop.services.settings.mlflow)
    name = model_name(loop.project)
    registered = sorted(
        client.search_model_versions(f"name = '{name}'", max_results=1000), key=lambda each: int(each.version)
    )
    versions = loop.services.versions.all(loop.project.id)[::-1]
    assert [each.tags["tandem.version"] for each in registered] == [version.name for version in versions]
    assert [each.run_id for each in registered] == [version.run_id for version in versions]
    champion = client.get_model_version_by_alias(name, "champion")
    assert champion.tags["tandem.version"] == versions[-1].name
    run = client.get_run(champion.run_id)
    assert run.data.metrics["labels"] == 30
    assert run.data.metrics["prequential/count"] > 0
    assert {file.path for file in client.list_artifacts(champion.run_id, "head")} == {
        "head/version.json",
        "head/weights.npz",
    }


def test_5_a_corrected_and_a_deleted_label_leave_no_trace(loop: Loop) -> None:
    first, second = list(loop.exported())[:2]
    config = parse_label_config(CONFIG)
    loop.client.update_annotation(first, result=config.result("disgust"))
    loop.client.delete_annotation(second)
    version = soon(lambda: loop.learned())
    assert sum(version.metrics["labels"].values()) == 29
    assert loop.labels()[first] == "disgust"
    assert loop.difference_from_a_head_fitted_at_once() < 1e-6


def test_6_a_worker_killed_in_the_middle_of_a_job_loses_nothing(loop: Loop) -> None:
    for task_id in loop.unlabelled()[:4]:
        loop.annotate(task_id)
        loop.learn.kill()
        loop.learn.start()
    soon(lambda: loop.learned(), 60)
    assert loop.difference_from_a_head_fitted_at_once() < 1e-6


def test_7_labels_made_while_the_web_process_is_gone_are_found_by_comparing(loop: Loop) -> None:
    loop.web.kill()
    for task_id in loop.unlabelled()[:3]:
        loop.annotate(task_id)
    loop.client.delete_annotation(next(iter(loop.labels())))
    loop.web.start()
    version = soon(lambda: loop.learned())
    assert sum(version.metrics["labels"].values()) == 29 + 4 + 3 - 1
    assert loop.difference_from_a_head_fitted_at_once() < 1e-6


def test_8_labels_made_while_redis_is_gone_are_learned_when_it_is_back(loop: Loop) -> None:
    before = loop.labels()
    loop.redis.kill()
    for task_id in loop.unlabelled()[:3]:
        loop.annotate(task_id)
    assert len(loop.labels()) == len(before) + 3
    loop.redis.start()
    soon(lambda: loop.learned())
    assert loop.difference_from_a_head_fitted_at_once() < 1e-6


def test_9_versions_made_while_mlflow_is_gone_are_logged_later_in_order(loop: Loop, mlflow_server: Running) -> None:
    mlflow_server.stop()
    for task_id in loop.unlabelled()[:2]:
        loop.annotate(task_id)
        soon(lambda: loop.learned())
    assert loop.services.versions.unlogged(loop.project.id, 10)
    mlflow_server.start()
    soon(lambda: not loop.services.versions.unlogged(loop.project.id, 1), 120)
    client = MlflowClient(loop.services.settings.mlflow)
    registered = client.search_model_versions(f"name = '{model_name(loop.project)}'", max_results=1000)
    names = [each.tags["tandem.version"] for each in sorted(registered, key=lambda each: int(each.version))]
    numbers = [int(name.removeprefix("tandem-v")) for name in names]
    assert numbers == list(range(1, len(numbers) + 1))
