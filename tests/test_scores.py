"""Scores: what one process found out about the pool is what another reads, in the order tasks are asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backend.scores import Scores, scored
from tests.parts import Classroom, make_services


@pytest.fixture
def scores(tmp_path: Path) -> Scores:
    return Classroom(make_services(tmp_path)).services.scores


def test_tasks_come_back_in_the_order_they_are_asked(scores: Scores) -> None:
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6]])
    scores.keep(scored(1, 5, {30: 0.8, 10: 1.0, 20: 0.2}, [30, 20], ["cat", "dog"], probabilities))
    told = scores.get(1)
    assert told is not None
    assert (told.version, told.classes, told.study) == (5, ("cat", "dog"), None)
    assert told.tasks.tolist() == [20, 30, 10]
    assert [told.classes[label] if label >= 0 else None for label in told.labels] == ["dog", "cat", None]
    np.testing.assert_allclose(told.confidence, [0.6, 0.9, 0.0], atol=1e-6)
    np.testing.assert_allclose(told.ambiguity, [0.48, 0.18, 0.0], atol=1e-6)
    assert np.isnan(told.novelty).all()


def test_before_the_first_label_there_is_an_order_and_no_guess(scores: Scores) -> None:
    scores.keep(scored(1, 0, {1: 0.5, 2: 0.25}))
    told = scores.get(1)
    assert told is not None
    assert told.tasks.tolist() == [2, 1]
    assert told.labels.tolist() == [-1, -1]


def test_novelty_stays_with_its_task_when_the_order_changes(scores: Scores) -> None:
    scores.keep(scored(1, 1, {1: 0.1, 2: 0.2, 3: 0.3}))
    scores.keep_novelty(1, 4, [3, 1], np.array([0.97, 0.2]))
    scores.keep(scored(1, 2, {3: 0.1, 2: 0.2, 9: 0.3, 1: 0.4}))
    told = scores.get(1)
    assert told is not None
    assert (told.version, told.study) == (2, 4)
    np.testing.assert_allclose(told.novelty, [0.97, np.nan, np.nan, 0.2], atol=1e-6)


def test_a_project_that_was_never_scored_has_no_scores(scores: Scores) -> None:
    scores.keep_novelty(1, 4, [1], np.array([0.5]))
    assert scores.get(1) is None
    assert scores.get(2) is None
