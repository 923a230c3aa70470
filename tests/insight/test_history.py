"""Versions: listed page by page, told one by one, compared two by two."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from backend.events import AnnotationsDeleted
from backend.insight.gallery import Galleries
from backend.insight.history import Comparison, UnknownVersion, compare, history, version
from backend.learner import Learners
from backend.rollback import roll_back
from backend.study import study
from backend.update import update
from tests.parts import FACTS, Classroom, make_services

pytestmark = pytest.mark.servers


def learn(classroom: Classroom, *task_ids: int) -> None:
    for task_id in task_ids:
        classroom.annotate(task_id)
    update(classroom.services, Learners(), 1)


def compared(classroom: Classroom, left: int, right: int, offset: int = 0) -> Comparison:
    return compare(classroom.services, Galleries(), classroom.project, left, right, offset)


def test_without_versions_there_is_nothing_to_list(classroom: Classroom) -> None:
    told = history(classroom.services, classroom.project)
    assert (told.versions, told.older, told.serves, told.newest, told.pinned, told.pins) == (
        [],
        None,
        None,
        None,
        None,
        [],
    )


def test_a_version_tells_what_it_has_and_what_it_learned_since_its_parent(classroom: Classroom) -> None:
    learn(classroom, 1, 2, 3)
    classroom.annotate(1, "fear", annotation_id=1)
    classroom.annotate(4)
    classroom.annotate(5)
    classroom.services.ledger.tell(AnnotationsDeleted(FACTS, (2,)))
    update(classroom.services, Learners(), 1)
    told = history(classroom.services, classroom.project)
    second, first = told.versions
    assert (first.number, first.labels, first.more, first.changes, first.measured, first.accuracy) == (
        1,
        3,
        3,
        3,
        0,
        None,
    )
    assert (second.number, second.labels, second.more, second.changes, second.measured) == (2, 4, 1, 4, 2)
    assert second.accuracy is not None
    assert (second.serves, second.newest, first.serves, told.serves, told.newest) == (True, True, False, 2, 2)


def test_a_version_that_a_study_made_learned_no_label(classroom: Classroom) -> None:
    learn(classroom, *range(1, 25))
    study(classroom.services, Learners(), 1)
    update(classroom.services, Learners(), 1)
    second, first = history(classroom.services, classroom.project).versions
    assert (second.study, second.changes, second.more) == (1, 0, 0)
    assert (first.study, first.threshold) == (None, None)
    assert second.threshold is not None
    assert 0 < second.threshold < 1


def test_pages_follow_each_other_without_gap_or_repeat(classroom: Classroom) -> None:
    for task in range(1, 8):
        learn(classroom, task)
    numbers, before = [], None
    while True:
        page = history(classroom.services, classroom.project, before, limit=3)
        assert all(line.more == 1 for line in page.versions)
        numbers += [line.number for line in page.versions]
        before = page.older
        if before is None:
            break
    assert numbers == [7, 6, 5, 4, 3, 2, 1]


def test_who_pinned_is_told(classroom: Classroom) -> None:
    learn(classroom, 1)
    learn(classroom, 2)
    roll_back(classroom.services, classroom.project, 1, "Ada", "why not")
    told = history(classroom.services, classroom.project)
    assert told.pinned is not None
    assert (told.pinned.who, told.pinned.why, told.serves, told.newest) == ("Ada", "why not", 1, 2)


@pytest.mark.parametrize(
    ("mlflow", "run"),
    [("http://127.0.0.1:5000", "http://127.0.0.1:5000/#/runs/abc"), ("sqlite:///mlflow.db", None)],
)
def test_a_run_has_an_address_where_mlflow_has_one(tmp_path: Path, valkey: str, mlflow: str, run: str | None) -> None:
    redis.Redis.from_url(valkey).flushall()
    classroom = Classroom(make_services(tmp_path, valkey, mlflow_tracking_uri=mlflow))
    learn(classroom, 1)
    made = classroom.services.versions.newest(1)
    assert made is not None
    assert history(classroom.services, classroom.project).versions[0].run is None
    classroom.services.versions.note_logged(made, "abc")
    assert history(classroom.services, classroom.project).versions[0].run == run


def test_one_version_lists_the_labels_it_learned(classroom: Classroom) -> None:
    learn(classroom, 1, 2, 3)
    classroom.annotate(1, "fear", annotation_id=1)
    classroom.annotate(4)
    classroom.services.ledger.tell(AnnotationsDeleted(FACTS, (2,)))
    classroom.annotate(5)
    classroom.services.ledger.tell(AnnotationsDeleted(FACTS, (5,)))
    update(classroom.services, Learners(), 1)
    learned = version(classroom.services, classroom.project, 2).learned
    assert (learned.given, learned.corrected, learned.withdrawn, learned.following) == (1, 1, 1, None)
    assert {(each.task, each.before, each.after) for each in learned.listed} == {
        (1, (classroom.truth[1],), ("fear",)),
        (2, (classroom.truth[2],), None),
        (4, None, (classroom.truth[4],)),
    }
    first = version(classroom.services, classroom.project, 1)
    assert first.learned.given == 3
    assert sum(first.classes.values()) == 3


def test_what_there_is_not_is_not_told(classroom: Classroom) -> None:
    learn(classroom, 1)
    with pytest.raises(UnknownVersion, match="the versions 1 to 1"):
        version(classroom.services, classroom.project, 2)
    with pytest.raises(UnknownVersion):
        compared(classroom, 1, 7)


def test_two_versions_are_held_against_labels_that_neither_had(classroom: Classroom) -> None:
    learn(classroom, *range(1, 5))
    learn(classroom, *range(5, 15))
    before = compared(classroom, 1, 2)
    assert before.fair is None
    assert (before.learned.given, before.images) == (10, 14)
    learn(classroom, *range(15, 25))
    told = compared(classroom, 1, 2)
    assert told.fair is not None
    assert told.fair.labels == 10
    assert told.fair.left_interval[0] <= told.fair.left <= told.fair.left_interval[1]
    gain = told.fair.right - told.fair.left
    assert gain * told.fair.labels == pytest.approx(told.fair.only_right - told.fair.only_left)
    assert compared(classroom, 1, 3).fair is None


def test_a_label_given_again_after_one_version_had_it_is_no_fair_test(classroom: Classroom) -> None:
    learn(classroom, *range(1, 5))
    classroom.services.ledger.tell(AnnotationsDeleted(FACTS, (1,)))
    update(classroom.services, Learners(), 1)
    learn(classroom, 1)
    assert compared(classroom, 1, 2).fair is None


def test_images_that_two_versions_see_otherwise_are_listed_and_counted(classroom: Classroom) -> None:
    learn(classroom, *range(1, 4))
    learn(classroom, *range(4, 25))
    told = compared(classroom, 1, 2)
    assert told.images == 24
    assert 0 < told.differing == len(told.differences) <= 24
    for each in told.differences:
        assert each.left.names != each.right.names
        assert each.left.right == (each.left.names == (classroom.truth[each.task],))
        assert each.labels == (classroom.truth[each.task],)
    assert compared(classroom, 2, 2).differing == 0
    turned = compared(classroom, 2, 1)
    assert [(each.task, each.left) for each in turned.differences] == [
        (each.task, each.right) for each in told.differences
    ]
    assert turned.learned == told.learned
    assert compared(classroom, 1, 2, offset=told.differing).differences == []


def test_versions_whose_weights_were_dropped_are_compared_as_ever(tmp_path: Path, valkey: str) -> None:
    redis.Redis.from_url(valkey).flushall()
    classroom = Classroom(make_services(tmp_path, valkey, keep_weights=1))
    learn(classroom, *range(1, 4))
    learn(classroom, *range(4, 25))
    learn(classroom, 25)
    stored = [classroom.services.versions.stored_weights(1, number) is None for number in (1, 2, 3)]
    assert stored == [True, True, False]
    assert compared(classroom, 1, 2).differing > 0


def test_a_version_that_had_learned_nothing_can_not_be_compared_by_what_it_says(classroom: Classroom) -> None:
    learn(classroom, 1)
    classroom.services.ledger.tell(AnnotationsDeleted(FACTS, (1,)))
    update(classroom.services, Learners(), 1)
    assert compared(classroom, 1, 2).hindrance == "One of them had learned nothing yet."
