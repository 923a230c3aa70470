"""An RQ worker that keeps its encoder and heads between jobs, and looks for work that nobody asked for.

It runs jobs in its own process: a fork after torch has run would hang. One worker listens on one queue.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from types import FrameType
from typing import Literal

import redis
import rq
from redis.exceptions import RedisError
from rq.job import Job
from sqlalchemy.exc import SQLAlchemyError
from threadpoolctl import threadpool_limits

from backend import tabs
from backend.database import checkpoint
from backend.jobs import Kind, is_allowed
from backend.learner import Learners
from backend.log import log as log_versions
from backend.pool import Pools
from backend.predict import Champions
from backend.reconcile import reconcile
from backend.services import Services
from backend.settings import Settings, get_settings
from backend.show import is_calm, show
from backend.study import is_due, study
from backend.update import is_news, update

logger = logging.getLogger(__name__)

QueueName = Literal["learn", "chores"]
WORKER_SECONDS = 30
"""Seconds without a sign of life after which RQ counts a worker as dead."""
ALGEBRA_THREADS = 1
"""Threads of one matrix operation: those of two processes wait for each other's cores, which takes longer than one."""
CHORES_NICENESS = 10
"""How far chores step back: learning and answering come first."""


class OurJob(Job):  # type: ignore[misc]
    """A job that runs nothing but `perform`, whatever Redis says, and calls nobody back."""

    success_callback = failure_callback = stopped_callback = property(lambda self: None)

    def send_webhooks(self, *_: object, **__: object) -> None:
        """Tell nobody: an address in Redis is not ours to trust."""

    def _execute(self) -> None:
        if not is_allowed(self.func_name or "", self.args) or self.kwargs:
            raise PermissionError(f"job {self.id} asks for {self.func_name}{self.args}: refused")
        perform(*self.args)


class OurWorker(rq.SimpleWorker):  # type: ignore[misc]
    """A worker that tells whether it was asked to stop, so that it is started again only when it was not."""

    job_class = OurJob
    max_connection_wait_time = 2.0
    stopping = False

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Finish the job at hand and stop."""
        self.stopping = True
        super().request_stop(signum, frame)


@dataclass(frozen=True)
class Workshop:
    """What a worker process keeps between jobs; `students` are the learners of its studies."""

    services: Services
    learners: Learners
    students: Learners
    pools: Pools
    champions: Champions


@lru_cache(maxsize=1)
def workshop() -> Workshop:
    """Return this process's workshop, made once."""
    return Workshop(Services(get_settings()), Learners(), Learners(), Pools(), Champions())


def perform(kind: Kind, project_id: int) -> None:
    """Do one kind of work on one project; when it fails, let it rest a while: the sweep asks for it again."""
    shop = workshop()
    shop.services.jobs.begin(kind, project_id)
    try:
        match kind:
            case "update":
                update(shop.services, shop.learners, project_id)
            case "study":
                study(shop.services, shop.students, project_id)
            case "log":
                log_versions(shop.services, project_id)
            case "show":
                show(shop.services, shop.pools, shop.champions, project_id)
            case "tabs":
                tabs.renew(shop.services, project_id)
            case "sync":
                reconcile(shop.services, project_id)
    except Exception as error:
        rest = shop.services.jobs.fail(kind, project_id)
        logger.warning("The %s of project %d failed and rests for %.0f s: %s", kind, project_id, rest, error)
        raise
    shop.services.jobs.succeed(kind, project_id)


def sweep(services: Services) -> list[tuple[Kind, int]]:
    """Ask for the work that SQL says is to be done; return what was asked for.

    Whatever was lost on the way, a webhook's nudge, a job, a worker, Redis itself, is found here again.
    """
    due: list[tuple[Kind, int]] = []
    for project in services.projects.all():
        newest, studied = services.versions.newest(project.id), services.studies.newest(project.id)
        position = newest.position if newest else 0
        if project.position > position or (newest and is_news(services, newest, studied)):
            due.append(("update", project.id))
        if is_due(newest, studied):
            due.append(("study", project.id))
        if services.versions.unlogged(project.id, 1):
            due.append(("log", project.id))
        champion = services.versions.champion(project.id)
        renewed = project.shown_version != (champion.number if champion else 0)
        unshown = services.ledger.has_unshown_tasks(project.id) and is_calm(services.settings, newest)
        if project.config and (unshown or (renewed and services.ledger.has_pool(project.id))):
            due.append(("show", project.id))
        if tabs.are_due(services, project):
            due.append(("tabs", project.id))
        if time.time() - (project.synced_at or 0.0) > services.settings.sync_interval:
            due.append(("sync", project.id))
    return [(kind, project_id) for kind, project_id in due if services.jobs.ask(kind, project_id)]


def run_worker(queue: QueueName, settings: Settings) -> None:
    """Work on one queue until asked to stop by SIGTERM or SIGINT; the job at hand is finished first."""
    if queue == "chores":
        os.nice(CHORES_NICENESS)
    shop = workshop()
    threadpool_limits(ALGEBRA_THREADS)
    ended = threading.Event()
    sweeper = threading.Thread(target=_sweep_until, args=(shop.services, ended), name="sweep", daemon=True)
    sweeper.start()
    _warm_up(queue, shop)
    try:
        while True:
            connection = redis.Redis.from_url(settings.redis)
            try:
                worker = OurWorker(
                    [rq.Queue(queue, connection=connection, serializer="json", job_class=OurJob)],
                    connection=connection,
                    serializer="json",
                    worker_ttl=WORKER_SECONDS,
                    maintenance_interval=WORKER_SECONDS,
                    log_job_description=False,
                )
                worker.work(logging_level="WARNING")
                if worker.stopping:
                    return
            except RedisError as error:
                logger.warning("Redis can't be reached (%s); trying again", error)
            time.sleep(1.0)
    finally:
        ended.set()


def _warm_up(queue: QueueName, shop: Workshop) -> None:
    """Load the encoder, and bring the heads up to the ledger, before the first job needs them."""
    shop.services.encoder.warm()
    if queue == "learn":
        for project in shop.services.projects.all():
            shop.services.jobs.ask("update", project.id)


def _sweep_until(services: Services, ended: threading.Event) -> None:
    """Sweep again and again; a database that can't be reached now is there again later."""
    while not ended.wait(services.settings.sweep_interval):
        try:
            for kind, project_id in sweep(services):
                logger.debug("The %s of project %d was due", kind, project_id)
            checkpoint(services.engine)
        except (SQLAlchemyError, RedisError, LookupError) as error:
            logger.warning("The sweep failed: %s", error)
