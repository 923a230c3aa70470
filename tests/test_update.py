"""Learn: whatever the ledger went through, the head is the one that learns the labels in force at once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis

from backend.events import AnnotationsDeleted, AnnotationsTold, ProjectFacts, ProjectTold, Task
from backend.learner import Learners
from backend.outcomes import Outcome
from backend.update import update, weights_of
from backend.versions import Version, VersionTaken
from model.comparison import make_head
from model.evaluation import Prequential
from model.weights import LinearWeights
from tests.parts import CONFIG, FACTS, Classroom, make_services

pytestmark = pytest.mark.servers


def probabilities_at_once(classroom: Classroom) -> np.ndarray:
    """Return what a head says of every task that learned the labels in force in one go."""
    services = classroom.services
    labels = services.ledger.in_force(classroom.project.id).values()
    found = services.features.find(1, [(task.image or "", task.id) for task in classroom.tasks.values()])
    head = make_head("streaming_lda", services.projects.get(1).classes)
    people = Counter(each.task_id for each in labels)
    head.partial_fit(
        np.stack([found.vectors[each.image or ""] for each in labels]),
        [each.label for each in labels],
        sample_weight=[1 / people[each.task_id] for each in labels],
    )
    return head.weights().predict_proba(
        np.stack([found.vectors[task.image or ""] for task in classroom.tasks.values()])
    )


def served_probabilities(classroom: Classroom) -> np.ndarray:
    services = classroom.services
    champion = services.versions.champion(1)
    assert champion is not None
    weights = weights_of(services, champion)
    assert weights is not None
    found = services.features.find(1, [(task.image or "", task.id) for task in classroom.tasks.values()])
    return weights.predict_proba(np.stack([found.vectors[task.image or ""] for task in classroom.tasks.values()]))


def test_before_anything_is_told_there_is_nothing_to_learn(classroom: Classroom) -> None:
    assert update(classroom.services, Learners(), 1) is None


def test_one_label_becomes_one_version_and_a_second_run_none(classroom: Classroom) -> None:
    learners = Learners()
    classroom.annotate(1)
    version = update(classroom.services, learners, 1)
    assert version is not None
    assert (version.number, version.position, version.metrics["labels"]) == (1, 1, {classroom.truth[1]: 1})
    assert update(classroom.services, learners, 1) is None
    assert update(classroom.services, Learners(), 1) is None


def test_a_burst_of_labels_becomes_one_version(classroom: Classroom) -> None:
    for task_id in range(1, 11):
        classroom.annotate(task_id)
    version = update(classroom.services, Learners(), 1)
    assert version is not None
    assert (version.number, version.position) == (1, 10)
    assert classroom.services.jobs.depth() == {"learn": 0, "chores": 2}


@pytest.mark.parametrize("seed", range(3))
def test_corrections_and_deletions_in_any_order_end_at_the_head_fitted_at_once(classroom: Classroom, seed: int) -> None:
    rng = random.Random(seed)
    learners = Learners()
    made: dict[int, int] = {}
    for step in range(60):
        choice = rng.random()
        if choice < 0.6 or not made:
            task_id = rng.choice(list(classroom.tasks))
            made[classroom.annotate(task_id)] = task_id
        elif choice < 0.8:
            annotation_id = rng.choice(list(made))
            classroom.annotate(made[annotation_id], rng.choice(["sad", "happy", "fear"]), annotation_id)
        else:
            annotation_id = rng.choice(list(made))
            del made[annotation_id]
            classroom.services.ledger.tell(AnnotationsDeleted(FACTS, (annotation_id,)))
        if rng.random() < 0.4:
            update(classroom.services, learners, 1)
        if step % 25 == 20:
            learners = Learners()
    update(classroom.services, learners, 1)
    np.testing.assert_allclose(served_probabilities(classroom), probabilities_at_once(classroom), atol=1e-9)


def test_the_old_head_is_measured_on_each_new_label_and_on_no_correction(classroom: Classroom) -> None:
    learners = Learners()
    for task_id in range(1, 4):
        classroom.annotate(task_id)
    update(classroom.services, learners, 1)
    annotation_id = classroom.annotate(4)
    update(classroom.services, learners, 1)
    classroom.annotate(4, "sad", annotation_id)
    classroom.annotate(4, "sad")
    version = update(classroom.services, learners, 1)
    assert version is not None
    assert Prequential.from_dict(version.metrics["prequential"]).count == 1
    ((outcome, fields),) = classroom.services.outcomes.all(1)
    assert (outcome.annotation_id, outcome.version, outcome.label) == (annotation_id, 1, classroom.truth[4])
    assert 0 < outcome.probability <= outcome.confidence < 1
    assert fields == {}


def test_several_choices_for_one_image_are_learned_and_taken_back(classroom: Classroom) -> None:
    services, learners = classroom.services, Learners()
    several = CONFIG.replace('choice="single"', 'choice="multiple"')
    facts = ProjectFacts(FACTS.id, FACTS.created, FACTS.title, several)
    services.ledger.tell(ProjectTold(facts))

    def tell(annotation_id: int, *labels: str) -> None:
        classroom.annotate(annotation_id, annotation_id=annotation_id)
        told = classroom.annotations[annotation_id]
        changed = replace(told, labels=labels, updated_at=told.updated_at + 0.5)
        services.ledger.tell(AnnotationsTold(facts, (changed,), ()))

    tell(1, "happy", "surprise")
    tell(2, "sad")
    version = update(services, learners, 1)
    assert version is not None
    assert (version.head, version.metrics["labels"]) == ("multilabel_lda", {"happy": 1, "surprise": 1, "sad": 1})
    served = weights_of(services, version)
    assert isinstance(served, LinearWeights)
    assert served.link == "sigmoid"
    tell(3, "fear", "sad")
    assert update(services, learners, 1) is not None
    ((outcome, _),) = services.outcomes.all(1)
    assert outcome.label == '["fear", "sad"]'
    services.ledger.tell(AnnotationsDeleted(facts, (1, 2)))
    version = update(services, learners, 1)
    assert version is not None
    assert version.metrics["labels"] == {"fear": 1, "sad": 1}


def test_people_who_disagree_share_a_picture(classroom: Classroom) -> None:
    learners = Learners()
    for label in ("sad", "sad", "angry"):
        classroom.annotate(1, label)
    update(classroom.services, learners, 1)
    head = learners.get(classroom.services, classroom.services.projects.get(1)).head
    counts = dict(zip(head.classes_.tolist(), head.counts_.tolist(), strict=True))
    assert counts["sad"] == pytest.approx(2 / 3)
    assert counts["angry"] == pytest.approx(1 / 3)
    assert sum(counts.values()) == pytest.approx(1)


def test_a_learner_that_starts_anew_measures_what_came_since_and_only_that(classroom: Classroom) -> None:
    for task_id in range(1, 4):
        classroom.annotate(task_id)
    update(classroom.services, Learners(), 1)
    for task_id in range(4, 9):
        classroom.annotate(task_id)
    version = update(classroom.services, Learners(), 1)
    assert version is not None
    assert Prequential.from_dict(version.metrics["prequential"]).count == 5


def test_another_learner_committing_first_costs_nothing_but_a_second_try(
    classroom: Classroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    services, first, second = classroom.services, Learners(), Learners()
    classroom.annotate(1)
    update(services, first, 1)
    classroom.annotate(2)
    commit = services.versions.commit
    tries: list[int] = []

    def interrupted(version: Version, weights: bytes, outcomes: Sequence[Outcome]) -> None:
        tries.append(version.number)
        if len(tries) == 1:
            monkeypatch.setattr(services.versions, "commit", commit)
            update(services, second, 1)
        commit(version, weights, outcomes)

    class Unlocked:
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(services.jobs, "lock", lambda *_: Unlocked())
    monkeypatch.setattr(services.versions, "commit", interrupted)
    assert update(services, first, 1) is None
    assert tries == [2]
    assert [version.number for version in services.versions.all(1)] == [2, 1]
    np.testing.assert_allclose(served_probabilities(classroom), probabilities_at_once(classroom), atol=1e-9)


def test_a_version_number_is_committed_once(classroom: Classroom) -> None:
    classroom.annotate(1)
    version = update(classroom.services, Learners(), 1)
    assert version is not None
    with pytest.raises(VersionTaken):
        classroom.services.versions.commit(version, b"")


def test_a_class_that_is_removed_takes_its_labels_out_and_back_in_when_it_returns(classroom: Classroom) -> None:
    services, learners = classroom.services, Learners()
    for task_id in classroom.tasks:
        classroom.annotate(task_id)
    update(services, learners, 1)
    before = served_probabilities(classroom)
    narrower = CONFIG.replace('<Choice value="sad" hotkey="6"/>', "")
    services.ledger.tell(ProjectTold(ProjectFacts(FACTS.id, FACTS.created, FACTS.title, narrower)))
    version = update(services, learners, 1)
    assert version is not None
    assert "sad" not in version.classes
    assert "sad" not in version.metrics["labels"]
    services.ledger.tell(ProjectTold(FACTS))
    update(services, learners, 1)
    np.testing.assert_allclose(served_probabilities(classroom), before, atol=1e-9)


def test_pruned_weights_are_learned_again_from_the_ledger(tmp_path: Path, valkey: str) -> None:
    redis.Redis.from_url(valkey).flushall()
    classroom = Classroom(make_services(tmp_path, valkey, keep_weights=2))
    services, learners, told = classroom.services, Learners(), {}
    for task_id in range(1, 8):
        classroom.annotate(task_id)
        version = update(services, learners, 1)
        assert version is not None
        weights = weights_of(services, version)
        assert weights is not None
        told[version.number] = weights
    classroom.annotate(1, "sad", 1)
    update(services, learners, 1)
    assert services.versions.stored_weights(1, 3) is None
    third = services.versions.get(1, 3)
    assert third is not None
    again = weights_of(services, third)
    assert again is not None
    vectors = np.stack(
        list(services.features.cached(1, [t.image or "" for t in classroom.tasks.values()]).vectors.values())
    )
    np.testing.assert_allclose(again.predict_proba(vectors), told[3].predict_proba(vectors), atol=1e-9)


@pytest.mark.parametrize("kind", ["mlp", "sgd"])
def test_heads_that_cannot_forget_are_rebuilt_from_the_ledger(tmp_path: Path, valkey: str, kind: str) -> None:
    redis.Redis.from_url(valkey).flushall()
    classroom = Classroom(make_services(tmp_path, valkey, head=kind))
    learners = Learners()
    ids = [classroom.annotate(task_id) for task_id in list(classroom.tasks)[:12]]
    update(classroom.services, learners, 1)
    classroom.services.ledger.tell(AnnotationsDeleted(FACTS, (ids[0],)))
    version = update(classroom.services, learners, 1)
    assert version is not None
    assert version.head == kind
    assert sum(version.metrics["labels"].values()) == 11
    assert served_probabilities(classroom).shape == (len(classroom.tasks), 7)


def test_when_every_label_is_taken_back_nothing_is_known_again(classroom: Classroom) -> None:
    learners = Learners()
    annotation_id = classroom.annotate(1)
    update(classroom.services, learners, 1)
    classroom.services.ledger.tell(AnnotationsDeleted(FACTS, (annotation_id,)))
    version = update(classroom.services, learners, 1)
    assert version is not None
    assert weights_of(classroom.services, version) is None


def test_a_label_whose_image_appears_later_is_learned_then(classroom: Classroom) -> None:
    services, learners = classroom.services, Learners()
    classroom.annotate(1)
    missing = Task(900, "/data/local-files/?d=sad/nowhere.png", {})
    classroom.tasks[900], classroom.truth[900] = missing, "sad"
    classroom.annotate(900)
    version = update(services, learners, 1)
    assert version is not None
    assert (version.metrics["waiting"], version.metrics["labels"]) == (1, {classroom.truth[1]: 1})
    assert update(services, learners, 1) is None
    there = Task(900, next(iter(classroom.tasks.values())).image, {})
    services.ledger.tell(AnnotationsTold(FACTS, (), (there,)))
    version = update(services, learners, 1)
    assert version is not None
    assert version.metrics["waiting"] == 0
    assert sum(version.metrics["labels"].values()) == 2
