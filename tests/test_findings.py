"""What a study tells people: forgetting between domains, accuracy on a random sample, what more labels would bring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from backend import findings
from backend.learner import Learners
from backend.update import update
from model.head import StreamingLDA
from model.selection import in_random_sample
from tests.parts import Classroom, make_services


@pytest.mark.servers
def test_forgetting_is_told_once_two_domains_have_enough_labels(tmp_path: Path, valkey: str) -> None:
    redis.Redis.from_url(valkey).flushall()
    classroom = Classroom(make_services(tmp_path, valkey, domain_field="camera"), per_class=20)
    services, learners = classroom.services, Learners()
    half = len(classroom.tasks) // 2
    for task_id in classroom.tasks:
        fields = {"camera": "crib" if task_id <= half else "garden"}
        classroom.tasks[task_id] = replace(classroom.tasks[task_id], data=fields)
    told: list[Any] = []
    for task_id in classroom.tasks:
        classroom.annotate(task_id)
        if task_id in (1, half // 2, half, len(classroom.tasks)):
            update(services, learners, 1)
            learner = learners.get(services, services.projects.get(1))
            told.append(findings.forgotten(services, learner, services.outcomes.all(1)))
    assert told[:3] == [None, None, None]
    last = told[3]
    assert last["domains"] == ["crib", "garden"]
    matrix = np.array(last["accuracy"])
    assert matrix.shape == (2, 2)
    # Four expressions: one in four is chance.
    assert matrix[0, 0] > 0.4
    assert matrix[1, 1] > 0.4
    assert last["average_accuracy"] == pytest.approx(matrix[1].mean(), abs=1e-3)


def test_accuracy_on_the_random_sample_counts_no_other_task(tmp_path: Path) -> None:
    for folder in ("some", "none"):
        (tmp_path / folder).mkdir()
    services = make_services(tmp_path / "some", random_share=0.2)
    tasks = list(range(1, 201))
    drawn = in_random_sample([str(task) for task in tasks], 0.2)
    told = findings.sample(services, tasks, drawn)
    assert told is not None
    assert told["count"] == drawn.sum()
    assert told["accuracy"] == 1.0
    assert told["interval"][0] > 0.8
    assert findings.sample(services, tasks, ~drawn) == told | {
        "accuracy": 0.0,
        "interval": [0.0, pytest.approx(1 - told["interval"][0])],
    }
    assert findings.sample(make_services(tmp_path / "none", random_share=0.0), tasks, drawn) is None


def outlook(services: Any, labels: Sequence[str], last: dict[str, Any] | None = None) -> dict[str, Any] | None:
    random = np.random.default_rng(0)
    features = random.normal(size=(len(labels), 8)).astype(np.float32)
    features[np.arange(len(labels)), [int(label) for label in labels]] += 2
    return findings.outlook(services, range(len(labels)), features, labels, StreamingLDA(), last)


def test_a_forecast_is_made_anew_only_when_a_tenth_more_labels_came(tmp_path: Path) -> None:
    services = make_services(tmp_path)
    labels = [str(place % 3) for place in range(60)]
    assert outlook(services, labels[:10]) is None
    first = outlook(services, labels)
    assert first is not None
    assert (first["labels"], first["ahead"]) == (60, findings.AHEAD)
    low, high = first["interval"]
    assert low <= first["gain"] <= high
    assert outlook(services, [*labels, "0"], first) == first
    later = outlook(services, labels + labels[:10], first)
    assert later is not None
    assert later["labels"] == 70
