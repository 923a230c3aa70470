"""Health tells how each change of a label was heard of, and what is left to do."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from backend.database import images, writing
from backend.events import AnnotationsTold
from backend.insight.health import health
from backend.services import Services
from tests.parts import FACTS, Classroom, make_services


def test_without_redis_the_queues_are_not_known(services: Services) -> None:
    assert (health(services).waiting, health(services).workers, health(services).projects) == (None, None, [])


@pytest.mark.servers
def test_jobs_that_wait_are_counted(tmp_path: Path, valkey: str) -> None:
    services = make_services(tmp_path, valkey)
    services.jobs.redis.flushall()
    services.jobs.ask("update", 1)
    services.jobs.ask("show", 1)
    services.jobs.ask("log", 1)
    told = health(services)
    assert (told.waiting, told.workers) == ({"learn": 1, "chores": 2}, [])


def test_before_anything_is_heard_it_says_so(classroom: Classroom) -> None:
    (told,) = health(classroom.services).projects
    assert (told.version, told.behind, told.heard_at, told.compared_at) == ("tandem-v0", 0, None, None)
    assert (told.missed, told.by_webhook, told.by_comparison, told.unreadable, told.standing) == (0, 0, 0, {}, {})


def test_what_a_comparison_found_is_told_apart_from_what_webhooks_told(classroom: Classroom) -> None:
    services = classroom.services
    before = time.time()
    classroom.annotate(1)
    classroom.annotate(2)
    started = time.time()
    services.projects.note_synced(1, started)
    found = replace(classroom.annotations[1], id=100, task_id=3, updated_at=started)
    services.ledger.tell(AnnotationsTold(FACTS, (found,), (classroom.tasks[3],)), as_of=started)
    (told,) = health(services).projects
    assert (told.by_webhook, told.by_comparison, told.missed, told.behind) == (2, 1, 1, 3)
    assert told.heard_at is not None
    assert told.missed_at is not None
    assert before <= told.heard_at <= started <= told.missed_at
    services.projects.note_synced(1, time.time())
    (later,) = health(services).projects
    assert (later.missed, later.missed_at) == (0, told.missed_at)


def test_images_that_can_not_be_read_and_annotations_that_do_not_count_are_told(classroom: Classroom) -> None:
    services = classroom.services
    classroom.annotate(1)
    skipped = replace(classroom.annotations[1], id=50, task_id=2, labels=(), cancelled=True)
    services.ledger.tell(AnnotationsTold(FACTS, (skipped,), (classroom.tasks[2],)))
    with writing(services.engine) as connection:
        for address, reason in (("a", "not_found"), ("b", "not_found"), ("c", "too_large"), ("d", None)):
            connection.execute(images.insert().values(project_id=1, address=address, reason=reason))
    (told,) = health(services).projects
    assert told.unreadable == {"not_found": 2, "too_large": 1}
    assert told.standing == {"in force": 1, "skipped": 1}
