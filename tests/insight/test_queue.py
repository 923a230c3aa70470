"""The queue: what waits for a label, in the order it is asked, as the process that shows it wrote it down."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import redis

from backend.events import Task, TasksDeleted, TasksTold
from backend.insight.queue import Queue, queue
from backend.learner import Learners
from backend.pool import Pool, candidates_of, keep, look_for_novelty, rank
from backend.predict import Champions
from backend.study import study
from backend.update import update
from model.uncertainty import AMBIGUOUS, NOVEL
from tests.parts import FACTS, Classroom, make_services

pytestmark = pytest.mark.servers


def score(classroom: Classroom) -> Pool:
    """Do what `show` does, but for Label Studio."""
    services, project = classroom.services, classroom.project
    config = project.config
    assert config is not None
    version, weights, novelty = Champions().of(services, project.id)
    pool = Pool(encoder_id=services.encoder.id)
    candidates, _ = candidates_of(services, project.id, pool, hurry=False)
    look_for_novelty(version, novelty, pool, candidates)
    rank(services, project.id, config, pool, version, weights, candidates)
    keep(services, project.id, pool, candidates)
    return pool


def learn(classroom: Classroom, *task_ids: int) -> None:
    for task_id in task_ids:
        classroom.annotate(task_id)
    update(classroom.services, Learners(), classroom.project.id)


def tasks(now: Queue) -> list[int]:
    return [each.task for each in now.tasks]


def test_before_the_pool_was_looked_at_only_its_size_is_known(classroom: Classroom) -> None:
    now = queue(classroom.services, classroom.project)
    assert (now.version, now.unlabelled, now.ordered, now.tasks) == (None, len(classroom.tasks), 0, ())


def test_before_the_first_label_there_is_an_order_and_nothing_is_predicted(classroom: Classroom) -> None:
    pool = score(classroom)
    now = queue(classroom.services, classroom.project)
    assert now.version == "tandem-v0"
    assert tasks(now) == sorted(pool.scores, key=lambda task: pool.scores[task])
    assert all(not each.predicted and each.probability is None for each in now.tasks)


def test_tasks_come_in_the_order_asked_with_what_the_annotator_is_told(classroom: Classroom) -> None:
    learn(classroom, *range(1, 9))
    pool = score(classroom)
    now = queue(classroom.services, classroom.project)
    left = len(classroom.tasks) - 8
    assert (now.version, now.unlabelled, now.ordered, now.listed) == ("tandem-v1", left, left, left)
    assert tasks(now) == sorted(pool.scores, key=lambda task: pool.scores[task])
    assert [each.place for each in now.tasks] == list(range(1, left + 1))
    _, weights, _ = Champions().of(classroom.services, 1)
    assert weights is not None
    for each in now.tasks:
        address = str(classroom.tasks[each.task].image)
        row = weights.predict_proba(classroom.services.features.cached(1, [address]).vectors[address][np.newaxis])[0]
        assert each.predicted == (str(weights.classes[row.argmax()]),)
        assert each.probability == pytest.approx(row.max(), abs=1e-6)
        assert each.predicted[0] in each.reason
        assert set(each.predicted) <= set(each.likely)


def test_a_task_leaves_the_queue_with_its_label_and_when_it_is_deleted(classroom: Classroom) -> None:
    learn(classroom, *range(1, 9))
    score(classroom)
    first, second, *others = tasks(queue(classroom.services, classroom.project))
    classroom.annotate(first)
    classroom.services.ledger.tell(TasksDeleted(FACTS, (second,)))
    now = queue(classroom.services, classroom.project)
    assert tasks(now) == others
    assert now.unlabelled == len(others)


def test_pages_hold_every_task_once(classroom: Classroom) -> None:
    score(classroom)
    whole = tasks(queue(classroom.services, classroom.project))
    pages = [queue(classroom.services, classroom.project, page=page, size=7) for page in (1, 2, 3, 4)]
    assert [task for page in pages for task in tasks(page)] == whole
    assert {page.pages for page in pages} == {4}
    assert tasks(queue(classroom.services, classroom.project, page=99, size=7)) == tasks(pages[-1])


def test_what_is_listed_can_be_narrowed_down(classroom: Classroom) -> None:
    learn(classroom, *range(1, 9))
    study(classroom.services, Learners(), classroom.project.id)
    learn(classroom, 9)
    score(classroom)
    everything = queue(classroom.services, classroom.project)
    assert all(each.novelty is not None and each.ambiguity is not None for each in everything.tasks)
    for name in everything.classes:
        only = queue(classroom.services, classroom.project, predicted=name)
        assert tasks(only) == [each.task for each in everything.tasks if each.predicted == (name,)]
    novel = queue(classroom.services, classroom.project, kind="novel")
    told = [each for each in everything.tasks if (each.novelty or 0) >= NOVEL]
    assert tasks(novel) == [each.task for each in sorted(told, key=lambda each: -(each.novelty or 0))]
    unclear = queue(classroom.services, classroom.project, kind="ambiguous")
    assert tasks(unclear) == [
        each.task for each in everything.tasks if not each.is_novel and (each.ambiguity or 0) >= AMBIGUOUS
    ]
    assert queue(classroom.services, classroom.project, predicted="no such class").tasks == ()


def test_a_task_whose_image_cannot_be_read_comes_last_and_says_so(classroom: Classroom) -> None:
    broken = Task(99, "/data/local-files/?d=nowhere.png", {})
    classroom.services.ledger.tell(TasksTold(FACTS, (broken,), with_annotations=False))
    score(classroom)
    last = queue(classroom.services, classroom.project).tasks[-1]
    assert (last.task, last.unreadable is None, last.predicted) == (99, False, ())


def test_what_is_drawn_at_random_says_so(tmp_path: Path, valkey: str) -> None:
    redis.Redis.from_url(valkey).flushall()
    classroom = Classroom(make_services(tmp_path, valkey, random_share=1.0))
    score(classroom)
    assert all(each.drawn for each in queue(classroom.services, classroom.project).tasks)
