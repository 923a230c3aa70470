"""What was served while it learned is held against a version of before, on pictures that neither had learned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import backend.update
from backend.database import versions, writing
from backend.insight import improvement as module
from backend.insight.improvement import improvement, probability_of_better
from backend.jobs import Jobs
from backend.learner import Learners
from backend.services import Services
from backend.update import update, weights_of
from tests.parts import Classroom, make_services


@contextmanager
def open_door(*_: object) -> Iterator[None]:
    yield


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Services:
    monkeypatch.setattr(Jobs, "lock", open_door)
    monkeypatch.setattr(backend.update, "BURST_SECONDS", 0.0)
    monkeypatch.setattr(module, "LEAST", 5)
    return make_services(tmp_path)


@pytest.fixture
def classroom(services: Services) -> Classroom:
    """Return a project in which twelve labels were learned, one by one."""
    classroom, learners = Classroom(services), Learners()
    for task in range(1, 13):
        classroom.annotate(task)
        update(services, learners, classroom.project.id)
    return classroom


def right(classroom: Classroom, number: int, tasks: range) -> list[bool]:
    """Return whether a version finds the label of each task."""
    version = classroom.services.versions.get(1, number)
    assert version is not None
    weights = weights_of(classroom.services, version)
    assert weights is not None
    addresses = [classroom.tasks[task].image or "" for task in tasks]
    found = classroom.services.features.cached(1, addresses)
    predicted = weights.predict(np.stack([found.vectors[address] for address in addresses]))
    return [classroom.truth[task] == name for task, name in zip(tasks, predicted, strict=True)]


def test_with_few_labels_nothing_is_compared(classroom: Classroom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST", 12)
    assert improvement(classroom.services, classroom.project) is None


def test_both_are_asked_about_the_same_pictures_before_learning_them(classroom: Classroom) -> None:
    told = improvement(classroom.services, classroom.project)
    assert told is not None
    tasks = range(2, 13)
    served = [right(classroom, task - 1, range(task, task + 1))[0] for task in tasks]
    before = right(classroom, 1, tasks)
    pairs = list(zip(served, before, strict=True))
    assert (told.older, told.newer, told.labels) == ("tandem-v1", "tandem-v12", 11)
    assert (told.newer_right, told.older_right) == (sum(served), sum(before))
    assert (told.only_newer, told.only_older) == (pairs.count((True, False)), pairs.count((False, True)))
    assert told.sure == probability_of_better(told.only_newer, told.only_older)


def test_a_pinned_version_is_the_one_compared_with(classroom: Classroom) -> None:
    told = improvement(classroom.services, replace(classroom.project, pinned=4))
    assert told is not None
    assert (told.older, told.labels) == ("tandem-v4", 8)
    assert told.older_right == sum(right(classroom, 4, range(5, 13)))


def test_of_versions_whose_weights_are_gone_the_next_one_stands_in(classroom: Classroom) -> None:
    with writing(classroom.services.engine) as connection:
        connection.execute(versions.update().where(versions.c.number <= 3).values(weights=None))
    told = improvement(classroom.services, classroom.project)
    assert told is not None
    assert (told.older, told.labels) == ("tandem-v4", 8)


def test_wins_and_losses_weigh_against_each_other() -> None:
    assert probability_of_better(7, 7) == 0.5
    assert probability_of_better(9, 2) == pytest.approx(1 - probability_of_better(2, 9))
    assert probability_of_better(5, 1) < probability_of_better(50, 10) < 1
