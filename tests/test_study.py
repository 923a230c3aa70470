"""Study: what the labels in force tell beside the head follows, and what the head is served with comes from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from backend.events import AnnotationsDeleted
from backend.learner import Learners
from backend.study import is_due, study
from backend.update import is_news, update, weights_of
from model.calibration import Calibration, calibrate
from model.selection import COLD_START, in_random_sample
from tests.annotator import soon
from tests.parts import FACTS, Classroom, make_services

pytestmark = pytest.mark.servers


def test_before_a_version_there_is_nothing_to_study(classroom: Classroom) -> None:
    assert study(classroom.services, Learners(), 1) is None


def test_a_study_is_made_of_what_the_newest_version_learned_and_made_once(classroom: Classroom) -> None:
    services = classroom.services
    for task_id in range(1, 13):
        classroom.annotate(task_id)
    version = update(services, Learners(), 1)
    found = study(services, Learners(), 1)
    assert version is not None
    assert found is not None
    assert (found.number, found.position) == (1, version.position)
    assert services.studies.newest(1) == found
    assert not is_due(version, found)
    assert study(services, Learners(), 1) is None


def test_the_head_serves_with_the_calibration_found_and_can_be_made_again(tmp_path: Path, valkey: str) -> None:
    redis.Redis.from_url(valkey).flushall()
    classroom = Classroom(make_services(tmp_path, valkey, keep_weights=1))
    services, learners, students = classroom.services, Learners(), Learners()
    for task_id in range(1, 20):
        classroom.annotate(task_id)
    update(services, learners, 1)
    found = study(services, students, 1)
    assert found is not None
    assert found.calibration is not None
    assert Calibration.from_dict(found.calibration).count == 19
    classroom.annotate(20)
    version = update(services, learners, 1)
    assert version is not None
    assert version.study == found.number
    served = weights_of(services, version)
    classroom.annotate(21)
    update(services, learners, 1)
    assert services.versions.stored_weights(1, version.number) is None
    again = weights_of(services, version)
    assert served is not None
    assert again is not None
    vectors = np.stack(
        list(services.features.cached(1, [t.image or "" for t in classroom.tasks.values()]).vectors.values())
    )
    np.testing.assert_allclose(again.predict_proba(vectors), served.predict_proba(vectors), atol=1e-9)


def test_a_study_that_changes_what_is_served_makes_a_version_without_a_new_label(
    classroom: Classroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    services, learners = classroom.services, Learners()
    for task_id in range(1, 13):
        classroom.annotate(task_id)
    before = update(services, learners, 1)
    hotter = Calibration(heat=3.0)
    monkeypatch.setattr("backend.study.calibrate", lambda *_, **__: hotter)
    found = study(services, Learners(), 1)
    assert before is not None
    assert is_news(services, before, found)
    after = update(services, learners, 1)
    assert after is not None
    assert (after.number, after.position) == (before.number + 1, before.position)
    assert not is_news(services, after, found)
    assert update(services, learners, 1) is None


def test_only_labels_asked_first_or_at_random_stand_for_the_pool(
    tmp_path: Path, valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis.Redis.from_url(valkey).flushall()
    classroom = Classroom(make_services(tmp_path, valkey, random_share=0.3))
    services = classroom.services
    labelled = [*range(26, 13, -1), *range(1, 13)]
    for task_id in labelled:
        classroom.annotate(task_id)
    classroom.annotate(labelled[0], annotation_id=1)  # looked at again: still the first
    services.features.find(1, [(task.image or "", task.id) for task in classroom.tasks.values()])
    update(services, Learners(), 1)
    given: dict[str, Any] = {}

    def spy(*arguments: Any, **options: Any) -> Calibration:
        given.update(options, labels=arguments[2])
        return calibrate(*arguments, **options)

    monkeypatch.setattr("backend.study.calibrate", spy)
    assert study(services, Learners(), 1) is not None
    expected = [*labelled[:COLD_START], *(int(task) for task in labelled[COLD_START:] if drawn(task))]
    assert len(expected) < len(labelled)
    found = np.array(given["labels"])[given["representative"]]
    assert sorted(found.tolist()) == sorted(classroom.truth[task] for task in expected)
    assert len(given["pool"]) == len(classroom.tasks) - len(labelled)


def drawn(task: int) -> bool:
    return bool(in_random_sample([str(task)], 0.3)[0])


def test_a_label_is_taken_back_also_from_what_the_pool_was_taught_with_it(
    classroom: Classroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    services, learners, students = classroom.services, Learners(), Learners()

    def served() -> np.ndarray:
        """Return what is said of each image once there is nothing left to learn and to study."""
        update(services, learners, 1)
        soon(lambda: study(services, students, 1))
        update(services, learners, 1)
        version = services.versions.newest(1)
        assert version is not None
        weights = weights_of(services, version)
        assert weights is not None
        return weights.predict_proba(vectors)

    tasks = [(task.image or "", task.id) for task in classroom.tasks.values()]
    vectors = np.stack(list(services.features.find(1, tasks).vectors.values()))
    for task_id in range(1, 15):
        classroom.annotate(task_id)
    monkeypatch.setattr("backend.study.calibrate", lambda *_, **__: Calibration())
    before = served()
    monkeypatch.setattr("backend.update.LITTLE", 10.0)  # nothing else makes a version
    wrong = classroom.annotate(15, "disgust" if classroom.truth[15] != "disgust" else "happy")
    assert np.abs(served() - before).max() > 0.01
    found = services.studies.newest(1)
    assert found is not None
    assert found.trust > 0
    services.ledger.tell(AnnotationsDeleted(FACTS, (wrong,)))
    np.testing.assert_allclose(served(), before, atol=1e-9)


def test_people_who_labelled_the_same_tasks_are_compared(classroom: Classroom) -> None:
    services = classroom.services
    for task_id in range(1, 7):
        classroom.annotate(task_id, person=1)
        classroom.annotate(task_id, None if task_id < 6 else "sad", person=2)
    update(services, Learners(), 1)
    found = study(services, Learners(), 1)
    assert found is not None
    assert found.findings is not None
    people = {each["id"]: each for each in found.findings["people"]["annotators"]}
    assert {person: each["shared"] for person, each in people.items()} == {1: 6, 2: 6}
    assert people[1]["agreement"] == pytest.approx((5 + (classroom.truth[6] == "sad")) / 6)


def test_labels_of_reliable_people_count_more_when_asked_to(tmp_path: Path, valkey: str) -> None:
    redis.Redis.from_url(valkey).flushall()
    classroom = Classroom(make_services(tmp_path, valkey, weigh_people=True))
    services, learners = classroom.services, Learners()
    for task_id in range(1, 21):
        classroom.annotate(task_id, person=1)
        classroom.annotate(task_id, person=2)
        classroom.annotate(task_id, "sad", person=3)
    update(services, learners, 1)
    study(services, Learners(), 1)
    update(services, learners, 1)
    learner = learners.get(services, services.projects.get(1))
    task_id = next(task for task, truth in classroom.truth.items() if truth != "sad" and task in learner.lessons)
    assert dict(learner.lessons[task_id].shares)[classroom.truth[task_id]] > 0.8


def test_a_picture_labelled_in_two_ways_is_doubted(tmp_path: Path, valkey: str) -> None:
    redis.Redis.from_url(valkey).flushall()
    classroom = Classroom(make_services(tmp_path, valkey), per_class=6)
    services = classroom.services
    for task_id in list(classroom.tasks):
        classroom.annotate(task_id)
    copy, truth = len(classroom.tasks) + 1, classroom.truth[9]
    classroom.tasks[copy] = replace(classroom.tasks[9], id=copy)
    classroom.annotate(copy, "angry" if truth != "angry" else "happy")
    update(services, Learners(), 1)
    found = study(services, Learners(), 1)
    assert found is not None
    assert found.findings is not None
    contradicted = [doubt for doubt in found.findings["doubts"] if doubt["look_alike"] is not None]
    assert {frozenset((doubt["task"], doubt["look_alike"])) for doubt in contradicted} == {frozenset((9, copy))}


def test_how_each_domain_fares_is_told_apart(tmp_path: Path, valkey: str) -> None:
    redis.Redis.from_url(valkey).flushall()
    classroom = Classroom(make_services(tmp_path, valkey, domain_field="camera"), fields={"camera": "crib"})
    services, learners = classroom.services, Learners()
    for task_id in range(1, 5):
        classroom.annotate(task_id)
        update(services, learners, 1)
    found = study(services, Learners(), 1)
    assert found is not None
    assert found.findings is not None
    assert found.findings["domains"]["crib"]["count"] == 3
