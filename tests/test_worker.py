"""The worker on a real Redis-compatible server: nothing but our work, nothing lost, nobody waits for who failed."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import rq

from backend import worker as worker_module
from backend.learner import Learners
from backend.pool import Pools
from backend.predict import Champions
from backend.services import Services
from backend.up.run import tandem_programs
from backend.up.servers import Running
from backend.worker import OurJob, OurWorker, Workshop, perform, sweep
from tests.parts import Classroom

pytestmark = pytest.mark.servers


@pytest.fixture
def shop(services: Services, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    shop = Workshop(services, Learners(), Learners(), Pools(), Champions())
    monkeypatch.setattr(worker_module, "workshop", lambda: shop)
    return shop


def work_off(services: Services, queue: str) -> None:
    """Work until the queue is empty, in this process."""
    connection = redis.Redis.from_url(services.settings.redis)
    ours = rq.Queue(queue, connection=connection, serializer="json", job_class=OurJob)
    OurWorker([ours], connection=connection, serializer="json").work(burst=True, logging_level="CRITICAL")


def test_a_job_that_is_asked_for_is_done(shop: Workshop) -> None:
    classroom = Classroom(shop.services)
    classroom.annotate(1)
    shop.services.jobs.ask("update", 1)
    work_off(shop.services, "learn")
    newest = shop.services.versions.newest(1)
    assert newest is not None
    assert newest.position == 1


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("os.system", ("touch {mark}",)),
        ("subprocess.check_call", (["touch", "{mark}"],)),
        ("backend.worker.perform", ("update", 1, "more")),
        ("backend.worker.perform", ("demolish", 1)),
    ],
)
def test_a_job_that_is_none_of_ours_is_refused(
    shop: Workshop, tmp_path: Path, function: str, arguments: tuple[object, ...]
) -> None:
    mark = tmp_path / "mark"
    connection = redis.Redis.from_url(shop.services.settings.redis)
    queue = rq.Queue("learn", connection=connection, serializer="json")
    filled = [each.format(mark=mark) if isinstance(each, str) else each for each in arguments]
    job = queue.enqueue_call(function, args=tuple(filled))
    job_with_callback = queue.enqueue_call(
        "backend.worker.perform",
        args=("update", 1),
        on_failure=rq.Callback("os.abort"),
        on_success=rq.Callback("os.abort"),
    )
    work_off(shop.services, "learn")
    assert not mark.exists()
    assert job.is_failed
    assert job_with_callback.id


def test_work_that_fails_rests_and_others_are_done(shop: Workshop) -> None:
    Classroom(shop.services).annotate(1)
    shop.services.jobs.ask("update", 99)
    shop.services.jobs.ask("update", 1)
    work_off(shop.services, "learn")
    assert shop.services.versions.newest(1) is not None
    assert shop.services.jobs.redis.get("tandem:failures:update:99") == b"1"


def test_work_done_twice_changes_nothing(shop: Workshop) -> None:
    Classroom(shop.services).annotate(1)
    for _ in range(3):
        perform("update", 1)
    assert [version.number for version in shop.services.versions.all(1)] == [1]


def test_the_sweep_finds_what_was_lost_on_the_way(shop: Workshop) -> None:
    services = shop.services
    classroom = Classroom(services)
    services.projects.note_synced(1, time.time())
    assert sweep(services) == [("show", 1)]
    classroom.annotate(1)
    redis.Redis.from_url(services.settings.redis).flushall()
    assert set(sweep(services)) == {("update", 1), ("show", 1)}
    perform("update", 1)
    redis.Redis.from_url(services.settings.redis).flushall()
    assert set(sweep(services)) == {("study", 1), ("log", 1), ("show", 1)}
    services.projects.note_synced(1, 0.0)
    assert ("sync", 1) in sweep(services)


def test_a_worker_that_died_with_a_job_in_hand_does_not_keep_it(shop: Workshop) -> None:
    services = shop.services
    Classroom(services).annotate(1)
    services.jobs.ask("update", 1)
    connection = redis.Redis.from_url(services.settings.redis)
    assert connection.blmove("rq:queue:learn", "rq:queue:learn:intermediate", 1)
    connection.delete("tandem:asked:update:1")
    assert ("update", 1) in sweep(services)
    work_off(services, "learn")
    assert services.versions.newest(1) is not None


@pytest.fixture
def learner(services: Services, tmp_path: Path) -> Iterator[Running]:
    server = next(server for server in tandem_programs(services.settings) if server.name == "learn")
    running = Running(server, tmp_path / "learn.log")
    running.start()
    yield running
    running.stop()


def soon(what: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_a_killed_workers_job_is_taken_up_within_half_a_minute(services: Services, learner: Running) -> None:
    classroom = Classroom(services)
    for task_id in classroom.tasks:
        classroom.annotate(task_id)
    services.jobs.ask("update", 1)
    soon(lambda: services.jobs.redis.exists("tandem:lock:update:1"), 20)
    learner.kill()
    assert services.versions.newest(1) is None
    learner.start()
    soon(lambda: services.versions.newest(1), 30)
    newest = services.versions.newest(1)
    assert newest is not None
    assert newest.position == services.ledger.position(1)


def test_three_workers_apply_every_label_once(services: Services, tmp_path: Path) -> None:
    server = next(server for server in tandem_programs(services.settings) if server.name == "learn")
    workers = [Running(server, tmp_path / f"learn-{place}.log") for place in range(3)]
    workers[0].start()
    for running in workers[1:]:
        with running.log.open("wb") as log:
            running.process = subprocess.Popen(
                server.leashed(), env=server.environment, stdout=log, stderr=log, start_new_session=True
            )
    try:
        classroom = Classroom(services, per_class=6)
        tellers = [
            threading.Thread(target=lambda part: [classroom.annotate(each) for each in part], args=(part,))
            for part in (list(classroom.tasks)[::2], list(classroom.tasks)[1::2])
        ]
        for teller in tellers:
            teller.start()
        for _ in range(20):
            services.jobs.ask("update", 1)
            time.sleep(0.05)
        for teller in tellers:
            teller.join()

        def caught_up() -> bool:
            newest = services.versions.newest(1)
            return newest is not None and newest.position == services.ledger.position(1)

        soon(caught_up, 30)
        newest = services.versions.newest(1)
        assert newest is not None
        assert sum(newest.metrics["labels"].values()) == len(classroom.tasks)
        numbers = [version.number for version in services.versions.all(1)]
        assert numbers == list(range(len(numbers), 0, -1))
    finally:
        for running in workers:
            running.stop()


def test_a_worker_asked_to_stop_ends_the_job_at_hand_first(services: Services, learner: Running) -> None:
    classroom = Classroom(services)
    for task_id in classroom.tasks:
        classroom.annotate(task_id)
    services.jobs.ask("update", 1)
    soon(lambda: services.jobs.redis.exists("tandem:lock:update:1"), 20)
    assert learner.process is not None
    learner.process.send_signal(signal.SIGTERM)
    learner.process.wait(20)
    assert services.versions.newest(1) is not None
