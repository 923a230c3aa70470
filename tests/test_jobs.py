"""Requests for work on a real Redis-compatible server: a burst makes one job, failures rest, locks fall open."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import redis
import rq

from backend.jobs import PERFORM, Busy, Jobs

pytestmark = pytest.mark.servers


@pytest.fixture
def jobs(valkey: str) -> Iterator[Jobs]:
    connection = redis.Redis.from_url(valkey)
    connection.flushall()
    yield Jobs(valkey, lock_timeout=0.6)
    connection.flushall()


def test_a_burst_of_requests_makes_one_job(jobs: Jobs) -> None:
    assert [jobs.ask("update", 1) for _ in range(50)] == [True] + [False] * 49
    assert jobs.depth() == {"learn": 1, "chores": 0}


def test_what_is_told_while_a_job_begins_asks_anew(jobs: Jobs) -> None:
    jobs.ask("update", 1)
    jobs.begin("update", 1)
    assert jobs.ask("update", 1)


def test_projects_and_kinds_do_not_hide_each_other(jobs: Jobs) -> None:
    assert all(jobs.ask(kind, project) for kind in ("update", "log", "show", "sync") for project in (1, 2))
    assert jobs.depth() == {"learn": 2, "chores": 6}


def test_a_job_carries_only_its_kind_and_project(jobs: Jobs) -> None:
    jobs.ask("log", 5)
    job = rq.Queue("chores", connection=jobs.redis, serializer="json").jobs[0]
    assert (job.func_name, list(job.args), job.kwargs) == (PERFORM, ["log", 5], {})


def test_work_that_failed_rests_longer_each_time_and_holds_up_no_other_project(jobs: Jobs) -> None:
    assert [jobs.fail("log", 1) for _ in range(9)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert not jobs.ask("log", 1)
    assert jobs.ask("log", 2)
    jobs.succeed("log", 1)
    assert jobs.ask("log", 1)
    assert jobs.fail("log", 1) == 1


def test_an_unreachable_redis_loses_the_request_and_nothing_else(jobs: Jobs) -> None:
    lonely = Jobs("redis://127.0.0.1:1/0")
    assert not lonely.ask("update", 1)
    assert jobs.ask("update", 1)


def test_two_never_work_on_a_project_at_once(jobs: Jobs, valkey: str) -> None:
    inside, most = [], []

    def work() -> None:
        for _ in range(5):
            with Jobs(valkey, lock_timeout=5).lock("update", 1):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.01)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 15


def test_the_lock_of_a_dead_worker_falls_open(jobs: Jobs) -> None:
    jobs.redis.set("tandem:lock:update:1", "somebody who died", px=600)
    with jobs.lock("update", 1):
        pass


def test_a_lock_is_held_for_as_long_as_the_work_takes(jobs: Jobs, valkey: str) -> None:
    with jobs.lock("update", 1):
        time.sleep(1.0)
        with pytest.raises(Busy), Jobs(valkey, lock_timeout=0.2).lock("update", 1):
            pass
