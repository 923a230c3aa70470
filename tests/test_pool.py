"""In which order the pool is asked, and what is remembered of it, with the real encoder on demo images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import redis

from backend.learner import Learners
from backend.pool import Candidate, Pool, candidates_of, keep, look_for_novelty, rank
from backend.predict import Champions
from backend.settings import Settings
from backend.study import study
from backend.update import update
from model.selection import COLD_START, RANDOM_SHARE, in_random_sample
from tests.parts import Classroom, make_services

pytestmark = pytest.mark.servers


@pytest.fixture
def classroom(tmp_path: Path, valkey: str) -> Classroom:
    redis.Redis.from_url(valkey).flushall()
    return Classroom(make_services(tmp_path, valkey, random_share=0.0), per_class=8)


def pool_of(classroom: Classroom) -> tuple[Pool, list[Candidate]]:
    pool = Pool(encoder_id=classroom.services.encoder.id)
    candidates, more = candidates_of(classroom.services, 1, pool, hurry=False)
    assert not more
    return pool, candidates


def ranked(classroom: Classroom, pool: Pool, candidates: list[Candidate]) -> list[int]:
    """The tasks in the order they are asked."""
    version, weights, _ = Champions().of(classroom.services, 1)
    config = classroom.services.projects.get(1).config
    assert config is not None
    scores = rank(classroom.services, 1, config, pool, version, weights, candidates)
    assert set(scores) == {candidate.task_id for candidate in candidates}
    assert all(0 <= score <= 1 for score in scores.values())
    return sorted(scores, key=lambda task: scores[task])


def test_what_stands_for_the_pool_is_asked_first_until_twenty_labels_are_there(classroom: Classroom) -> None:
    pool, candidates = pool_of(classroom)
    first = ranked(classroom, pool, candidates)[:COLD_START]
    classroom.annotate(first[0])
    update(classroom.services, Learners(), 1)
    _, candidates = pool_of(classroom)
    assert ranked(classroom, pool, candidates)[: COLD_START - 1] == first[1:]
    for task in first[1:]:
        classroom.annotate(task)
    update(classroom.services, Learners(), 1)
    _, candidates = pool_of(classroom)
    unclear = ranked(classroom, pool, candidates)
    assert not set(unclear) & set(first)
    assert pool.scored is not None
    np.testing.assert_array_equal(pool.scored.tasks, unclear)


def test_by_default_as_many_are_drawn_at_random_as_in_a_replay() -> None:
    assert Settings.model_fields["random_share"].default == RANDOM_SHARE


def test_questions_drawn_at_random_come_at_their_turn_after_the_cold_start(tmp_path: Path, valkey: str) -> None:
    classroom = Classroom(make_services(tmp_path, valkey, random_share=0.25), per_class=8)
    pool, candidates = pool_of(classroom)
    order = ranked(classroom, pool, candidates)
    drawn = in_random_sample([str(task) for task in order], 0.25)
    turns = np.flatnonzero(drawn)
    assert 4 < len(turns) < len(order)
    assert turns[0] == COLD_START + 3
    np.testing.assert_array_equal(np.diff(turns[:4]), 4)


def test_what_is_like_an_image_labelled_since_the_version_waits(classroom: Classroom) -> None:
    for task in range(1, 31):
        classroom.annotate(task)
    update(classroom.services, Learners(), 1)
    pool, candidates = pool_of(classroom)
    first = ranked(classroom, pool, candidates)[0]
    address = classroom.tasks[first].image
    assert address is not None
    # A copy of the task asked first, and nobody has learned the label of that one yet.
    twin = Candidate(10_000, address, None)
    classroom.annotate(first)
    others = [candidate for candidate in candidates if candidate.task_id != first]
    pool.scored_for = -1
    assert ranked(classroom, pool, [*others, twin])[0] != twin.task_id


def test_novelty_is_looked_for_once_a_study_and_written_down(classroom: Classroom) -> None:
    services = classroom.services
    # Nobody labels surprise, though a quarter of the images show it.
    for task in [task for task, truth in classroom.truth.items() if truth != "surprise"][:30]:
        classroom.annotate(task)
    update(services, Learners(), 1)
    study(services, Learners(), 1)
    update(services, Learners(), 1)
    version, _, novelty = Champions().of(services, 1)
    pool, candidates = pool_of(classroom)
    look_for_novelty(version, novelty, pool, candidates)
    assert not np.isnan(pool.novelty_at(pool.places(pool.row_of))).any()
    order = ranked(classroom, pool, candidates)
    keep(services, 1, pool, candidates)
    kept = services.scores.get(1)
    assert kept is not None
    assert kept.tasks.tolist() == order
    assert not np.isnan(kept.novelty).any()
    before = pool.novelty
    look_for_novelty(version, novelty, pool, candidates)
    assert pool.novelty is before
