"""Show and reconcile, act by act in this process, on a real Label Studio and a real Redis-compatible server."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from pydantic import SecretStr

from backend.events import AnnotationsDeleted, ProjectTold
from backend.labelstudio import LabelStudio, LabelStudioError
from backend.learner import Learners
from backend.pool import Pools
from backend.predict import Champions
from backend.projects import Project
from backend.reconcile import Difference, reconcile
from backend.services import Services
from backend.show import Shown, show
from backend.update import update
from tests import conftest
from tests.parts import CONFIG, DEMO, make_services

pytestmark = pytest.mark.servers

CLASSES = ("angry", "happy", "sad", "surprise")


@dataclass
class Desk:
    """One worker's hands: every act is called here, one after the other."""

    services: Services
    label_studio: LabelStudio
    number: int
    project_id: int
    truth: dict[int, str]
    learners: Learners = field(default_factory=Learners)
    pools: Pools = field(default_factory=Pools)
    champions: Champions = field(default_factory=Champions)

    @property
    def project(self) -> Project:
        return self.services.projects.get(self.project_id)

    def show(self) -> Shown | None:
        return show(self.services, self.pools, self.champions, self.project_id)

    def show_all(self) -> int:
        """Show until nothing is left to do, as the sweep lets the worker do in a calm moment; return how much."""
        pushed = 0
        while shown := self.show():
            pushed += shown.pushed
        return pushed

    def annotate(self, count: int) -> list[int]:
        config = self.project.config
        assert config is not None
        made = []
        for _ in range(count):
            task = self.label_studio.next_task(self.number)
            assert task is not None
            made.append(self.label_studio.annotate(int(task["id"]), config.result(self.truth[int(task["id"])])))
        return made

    def sync(self) -> Difference:
        return reconcile(self.services, self.project_id)

    def learn(self) -> None:
        self.sync()
        update(self.services, self.learners, self.project_id)

    def versions(self) -> dict[str, int]:
        return self.label_studio.model_versions(self.number)

    def tasks(self) -> dict[int, dict[str, Any]]:
        return {int(task["id"]): task for task in self.label_studio.tasks(self.number)}


@pytest.fixture
def desk(tmp_path: Path, valkey: str, label_studio: conftest.LabelStudio) -> Iterator[Desk]:
    redis.Redis.from_url(valkey).flushall()
    services = make_services(
        tmp_path,
        valkey,
        label_studio_files=None,
        label_studio_url=label_studio.url,
        label_studio_api_key=SecretStr(label_studio.api_key),
        show_first=6,
        show_slice=8,
        show_interval=0.0,
        show_calm=0.0,
        show_keep=0.0,
    )
    with LabelStudio(label_studio.url, label_studio.api_key) as client:
        facts = client.create_project("Show", CONFIG).facts
        client.update_project(facts.id, sampling="Uncertainty sampling")
        paths = [path for name in CLASSES for path in sorted((DEMO / name).glob("*.png"))[:6]]
        random.Random(0).shuffle(paths)
        client.upload(facts.id, paths)
        classes = {path.name: path.parent.name for path in paths}
        truth = {
            int(task["id"]): classes[str(task["data"]["image"]).rsplit("/", 1)[1].split("-", 1)[1]]
            for task in client.tasks(facts.id)
        }
        project_id = services.ledger.tell(ProjectTold(facts)).project.id
        desk = Desk(services, client, facts.id, project_id, truth)
        desk.sync()
        yield desk
    services.close()


def test_a_comparison_brings_tasks_and_labels_that_were_never_told(desk: Desk) -> None:
    assert len(desk.services.ledger.pool(desk.project_id)) == 24
    desk.annotate(3)
    assert desk.sync() == Difference(events=3, annotations=3, tasks=24)
    assert desk.sync() == Difference(events=0, annotations=3, tasks=24)


def test_a_comparison_finds_what_was_changed_and_deleted_unheard(desk: Desk) -> None:
    first, second, third = desk.annotate(3)
    desk.sync()
    config = desk.project.config
    assert config is not None
    desk.label_studio.update_annotation(first, result=config.result("disgust"))
    desk.label_studio.delete_annotation(second)
    assert desk.sync().events == 2
    labels = desk.services.ledger.in_force(desk.project_id)
    assert labels[first].label == "disgust"
    assert set(labels) == {first, third}


def test_a_wrong_deletion_is_mended_by_a_comparison(desk: Desk) -> None:
    (made,) = desk.annotate(1)
    desk.sync()
    facts = desk.label_studio.project(desk.number).facts
    desk.services.ledger.tell(AnnotationsDeleted(facts, (made,)))
    assert made not in desk.services.ledger.in_force(desk.project_id)
    time.sleep(0.01)
    desk.sync()
    assert made in desk.services.ledger.in_force(desk.project_id)


def test_the_cold_start_preselects_nothing_and_orders_the_whole_pool(desk: Desk) -> None:
    assert desk.show_all() >= 24
    shown = desk.project.shown
    assert desk.label_studio.project(desk.number).model_version == shown
    assert desk.versions() == {shown: 24}
    asked = []
    for _ in range(4):
        task = desk.label_studio.next_task(desk.number)
        assert task is not None
        assert [prediction["result"] for prediction in task["predictions"]] == [[]]
        asked.append(task["predictions"][0]["score"])
        desk.annotate(1)
    assert asked == pytest.approx([place / 24 for place in range(4)], abs=1e-6)


def test_after_a_label_a_few_are_shown_first_and_the_rest_follows(desk: Desk) -> None:
    desk.show_all()
    desk.annotate(5)
    desk.learn()
    first = desk.show()
    assert first is not None
    assert (first.name, first.pushed) == ("tandem-v1", 6)
    assert desk.label_studio.project(desk.number).model_version == "tandem-v1"
    assert desk.show_all() == 24 - 5 - 6
    assert desk.versions() == {"tandem-v1": 24 - 5}
    assert desk.show() is None


def test_a_new_version_goes_before_the_rest_of_the_old_one(desk: Desk) -> None:
    desk.show_all()
    for number in (1, 2, 3):
        desk.annotate(4)
        desk.learn()
        shown = desk.show()
        assert shown is not None
        assert shown.name == f"tandem-v{number}"
        asked = desk.label_studio.next_task(desk.number)
        assert asked is not None
    desk.show_all()
    assert desk.versions() == {"tandem-v3": 24 - 12}


def test_the_rest_waits_while_people_label(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.show_all()
    desk.annotate(4)
    desk.learn()
    desk.show()
    monkeypatch.setattr(desk.services.settings, "show_calm", 3600.0)
    assert desk.show() is None
    monkeypatch.setattr(desk.services.settings, "show_calm", 0.0)
    assert desk.show_all() == 24 - 4 - 6


def test_who_has_a_task_open_can_submit_it_whatever_is_learned_meanwhile(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk.services.settings, "show_keep", 3600.0)
    desk.show_all()
    opened = desk.label_studio.next_task(desk.number)
    assert opened is not None
    config = desk.project.config
    assert config is not None
    others = [task_id for task_id in desk.truth if task_id != opened["id"]]
    for version in range(3):
        for task_id in others[4 * version : 4 * version + 4]:
            desk.label_studio.annotate(task_id, config.result(desk.truth[task_id]))
        desk.learn()
        desk.show_all()
    # As Label Studio's own screen submits: with the prediction that the annotator saw.
    seen = opened["predictions"][0]["id"]
    body = {"result": config.result(desk.truth[opened["id"]]), "parent_prediction": seen}
    desk.label_studio._send("POST", f"/api/tasks/{opened['id']}/annotations/", body)
    desk.learn()
    assert len(desk.services.ledger.in_force(desk.project_id)) == 13
    monkeypatch.setattr(desk.services.settings, "show_keep", 0.0)
    desk.show_all()
    assert desk.versions() == {"tandem-v4": 11}


def test_predictions_of_others_are_left_alone(desk: Desk) -> None:
    config = desk.project.config
    assert config is not None
    theirs = [
        {"task": task_id, "result": config.result("sad"), "score": 0.5, "model_version": "theirs"}
        for task_id in desk.truth
    ]
    desk.label_studio.import_predictions(desk.number, theirs)
    desk.show_all()
    desk.annotate(4)
    desk.learn()
    desk.show_all()
    assert desk.versions() == {"theirs": 24, "tandem-v1": 20}


def test_new_tasks_join_the_cold_start_as_a_whole(desk: Desk) -> None:
    desk.show_all()
    desk.label_studio.upload(desk.number, sorted((DEMO / "fear").glob("*.png"))[:3])
    desk.sync()
    desk.show_all()
    assert desk.project.shown == "tandem-v0.1"
    assert desk.versions()["tandem-v0.1"] == 27


def test_a_task_deleted_unheard_stops_nothing(desk: Desk) -> None:
    desk.show_all()
    desk.annotate(2)
    desk.learn()
    gone = desk.services.ledger.pool(desk.project_id)[0][0]
    desk.label_studio._send("DELETE", f"/api/tasks/{gone}/")
    with pytest.raises(LabelStudioError, match=str(gone)):
        desk.show_all()
    assert desk.services.jobs.redis.exists(f"tandem:asked:sync:{desk.project_id}")
    desk.sync()
    desk.show_all()
    assert desk.versions() == {desk.project.shown: 24 - 2 - 1}


def test_a_show_cut_off_after_its_push_leaves_no_doubles(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.show_all()
    desk.annotate(4)
    desk.learn()
    with monkeypatch.context() as broken:
        broken.setattr(LabelStudio, "update_project", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("cut off")))
        with pytest.raises(RuntimeError, match="cut off"):
            desk.show()
    desk.show_all()
    assert desk.project.shown == "tandem-v1.1"
    assert desk.versions() == {"tandem-v1": 6, "tandem-v1.1": 20}


def test_an_image_that_cannot_be_read_is_asked_last_and_empty(desk: Desk) -> None:
    desk.label_studio.import_tasks(desk.number, [{"data": {"image": "https://not-allowed.example.org/a.png"}}])
    desk.sync()
    desk.show_all()
    desk.annotate(3)
    desk.learn()
    desk.show_all()
    broken = max(desk.tasks())
    scores = {
        prediction["task"]: (prediction["score"], prediction["result"])
        for prediction in desk.label_studio._get("/api/predictions/", {"project": desk.number})  # type: ignore[union-attr]
    }
    assert scores[broken] == (1.0, [])
    assert all(score < 1.0 and result for task_id, (score, result) in scores.items() if task_id != broken)
