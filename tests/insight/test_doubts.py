"""Doubts: what still stands of what a study doubted, and tasks about which people disagree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import redis

from backend.events import AnnotationsDeleted, AnnotationsTold
from backend.insight.doubts import Doubts, doubts
from backend.learner import Learners
from backend.studies import Study
from backend.study import study
from backend.update import update
from tests.parts import FACTS, Classroom, make_services


def doubted(classroom: Classroom, *tasks: int, look_alike: int | None = None) -> None:
    """Let a study doubt that these tasks are what they are labelled."""
    listed = [
        {
            "index": 0,
            "task": task,
            "given": "sad",
            "suggested": "happy",
            "evidence": 3.0,
            "reason": "looks like happy",
            "look_alike": look_alike,
        }
        for task in tasks
    ]
    position = classroom.services.ledger.position(1)
    findings = {"doubts": listed, "people": {"annotators": []}}
    newest = classroom.services.studies.newest(1)
    number = newest.number + 1 if newest else 1
    classroom.services.studies.add(Study(1, number, position, "encoder", 100.0, 1.0, None, {}, findings, trust=0.0))


def look(classroom: Classroom) -> Doubts:
    return doubts(classroom.services, classroom.services.projects.get(1))


def tasks(now: Doubts) -> list[int]:
    return [doubt.task for doubt in now.doubts]


def test_before_a_study_there_is_nothing_to_look_at(classroom: Classroom) -> None:
    classroom.annotate(1, "sad")
    now = look(classroom)
    assert (now.studied_at, now.behind, now.doubts) == (None, 1, ())
    assert now.classes == classroom.project.classes


def test_a_doubt_tells_the_label_who_gave_it_and_what_speaks_against_it(classroom: Classroom) -> None:
    annotation = classroom.annotate(1, "sad", person=7)
    classroom.annotate(2, "happy")
    doubted(classroom, 1, look_alike=2)
    (doubt,) = look(classroom).doubts
    assert (doubt.task, doubt.suggested, doubt.reason) == (1, "happy", "looks like happy")
    assert (doubt.said.annotation, doubt.said.label, doubt.said.person) == (annotation, ("sad",), 7)
    assert doubt.odds == pytest.approx(20.1, abs=0.1)
    assert doubt.look_alike is not None
    assert (doubt.look_alike.task, doubt.look_alike.labels) == (2, (("happy",),))


def test_what_was_changed_deleted_or_starred_since_is_not_doubted(classroom: Classroom) -> None:
    changed, deleted, starred, _ = (classroom.annotate(task, "sad") for task in (1, 2, 3, 4))
    doubted(classroom, 1, 2, 3, 4)
    assert tasks(look(classroom)) == [1, 2, 3, 4]
    classroom.annotate(1, "angry", annotation_id=changed)
    classroom.services.ledger.tell(AnnotationsDeleted(FACTS, (deleted,)))
    star = replace(classroom.annotations[starred], ground_truth=True, updated_at=99.0)
    classroom.services.ledger.tell(AnnotationsTold(FACTS, (star,), (classroom.tasks[3],)))
    now = look(classroom)
    assert tasks(now) == [4]
    assert now.behind == 2


def test_what_was_confirmed_stays_away_until_it_is_taken_back(classroom: Classroom) -> None:
    annotation = classroom.annotate(1, "sad")
    doubted(classroom, 1)
    review = classroom.services.reviews.add(1, 1, annotation, ("sad",), ("sad",), "ada")
    now = look(classroom)
    assert (tasks(now), now.reviews) == ([], (review,))
    classroom.services.reviews.undo(review.id, "ada")
    assert tasks(look(classroom)) == [1]


def test_a_correction_counts_before_label_studio_tells_of_it(classroom: Classroom) -> None:
    annotation = classroom.annotate(1, "sad")
    doubted(classroom, 1)
    classroom.services.reviews.add(1, 1, annotation, ("sad",), ("happy",), "ada", [])
    assert tasks(look(classroom)) == []


def test_of_several_labels_of_a_task_each_that_is_doubted_is_listed(classroom: Classroom) -> None:
    first = classroom.annotate(1, "sad", person=1)
    classroom.annotate(1, "happy", person=2)
    third = classroom.annotate(1, "sad", person=3)
    doubted(classroom, 1, look_alike=1)
    now = look(classroom)
    assert [doubt.said.annotation for doubt in now.doubts] == [first, third]
    assert all(doubt.look_alike is None for doubt in now.doubts)


def test_tasks_on_which_people_disagree_come_newest_first(classroom: Classroom) -> None:
    for task, label in ((1, "sad"), (2, "happy"), (3, "happy"), (2, "sad"), (1, "sad"), (3, "angry")):
        classroom.annotate(task, label, person=len(classroom.annotations) + 1)
    found = look(classroom).disagreements
    assert [each.task for each in found] == [3, 2]
    assert [said.label for said in found[0].labels] == [("happy",), ("angry",)]


@pytest.mark.servers
@pytest.mark.parametrize("confirmed", [False, True])
def test_a_study_leaves_out_what_was_confirmed(tmp_path: Path, valkey: str, confirmed: bool) -> None:
    redis.Redis.from_url(valkey).flushall()
    classroom = Classroom(make_services(tmp_path, valkey))
    copy = len(classroom.tasks) + 1
    classroom.tasks[copy] = replace(classroom.tasks[9], id=copy)
    classroom.truth[copy] = "angry" if classroom.truth[9] != "angry" else "happy"
    for task, label in classroom.truth.items():
        annotation = classroom.annotate(task)
        if confirmed and task in (9, copy):
            classroom.services.reviews.add(1, task, annotation, (label,), (label,), "ada")
    update(classroom.services, Learners(), 1)
    found = study(classroom.services, Learners(), 1)
    assert found is not None
    assert found.findings is not None
    contradicted = {doubt["task"] for doubt in found.findings["doubts"]} & {9, copy}
    assert len(contradicted) == (0 if confirmed else 1)
