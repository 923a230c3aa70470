"""What is put on RQ, and how it is not put twice.

A job carries a kind and a project, never data: the truth is in SQL, so a job that is lost is asked for again by the
sweep, and one that runs twice finds nothing to do. Three things are kept in Redis, all of them forgotten by time alone:

- *asked*: set by who asks, cleared first by who works, so that a burst makes one job and nothing told
  meanwhile is lost;
- *rest*: how long a kind of work stays untried after it failed, doubled each time;
- *lock*: who works on a project now; renewed while it works, open again soon after it died.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast, get_args

import redis
import rq
from redis.exceptions import LockError, RedisError

log = logging.getLogger(__name__)

Kind = Literal["update", "study", "log", "show", "tabs", "sync"]
QUEUES: dict[Kind, str] = {
    "update": "learn",
    "study": "chores",
    "log": "chores",
    "show": "chores",
    "tabs": "chores",
    "sync": "chores",
}
"""The queue of each kind of work: one queue per worker process, since RQ can lose a job of a worker with two."""
PERFORM = "backend.worker.perform"
"""The only function that a worker runs; the job's arguments are a kind and a project."""
ASKED_SECONDS = 10
"""Seconds after which a request counts as lost, when a worker died between taking it and starting."""
FIRST_REST, LONGEST_REST = 1.0, 60.0
"""Seconds until work that failed is tried again: doubled with each failure, up to the longest."""
CIRCUIT_SECONDS = 1.0
"""Seconds for which an unreachable Redis is not tried again, so that no webhook waits for it twice."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A worker as Redis knows it: on which queue, where it runs, when it last gave a sign of life (Unix seconds)."""

    queue: str
    host: str
    pid: int
    heard_at: float
    busy: bool


class Busy(Exception):  # noqa: N818 - reads as what it says
    """Raised when another worker has held the lock of a project all the while."""


class Jobs:
    """Requests for work.

    Parameters
    ----------
    url
        Address of Redis.
    job_timeout
        Seconds after which RQ stops a job.
    lock_timeout
        Seconds after which the lock of a worker that died falls open.
    """

    def __init__(self, url: str, *, job_timeout: int = 600, lock_timeout: float = 10.0) -> None:
        self.redis = redis.Redis.from_url(url, socket_connect_timeout=0.5, socket_timeout=2.0)
        self.job_timeout, self.lock_timeout = job_timeout, lock_timeout
        self._queues = {name: rq.Queue(name, connection=self.redis, serializer="json") for name in QUEUES.values()}
        self._unreachable_until = 0.0

    def close(self) -> None:
        """Close the connection to Redis."""
        self.redis.close()

    def ask(self, kind: Kind, project_id: int) -> bool:
        """Ask for work on a project; return whether a job was put on the queue.

        It is not when one is waiting already, when the work rests after a failure, or when Redis can't be reached:
        in each case nothing is lost, since the sweep asks for whatever is still to be done.
        """
        if time.monotonic() < self._unreachable_until:
            return False
        try:
            if self.redis.exists(_key("rest", kind, project_id)):
                return False
            if not self.redis.set(_key("asked", kind, project_id), 1, nx=True, ex=ASKED_SECONDS):
                return False
            self._queues[QUEUES[kind]].enqueue_call(
                PERFORM, args=(kind, project_id), timeout=self.job_timeout, result_ttl=0, failure_ttl=3600
            )
        except RedisError as error:
            self._unreachable_until = time.monotonic() + CIRCUIT_SECONDS
            log.warning("Redis can't be reached (%s); %s of project %d waits for the sweep", error, kind, project_id)
            return False
        return True

    def begin(self, kind: Kind, project_id: int) -> None:
        """Clear the request, before anything is read: whatever is told from here on asks anew."""
        self.redis.delete(_key("asked", kind, project_id))

    def succeed(self, kind: Kind, project_id: int) -> None:
        """Forget earlier failures."""
        self.redis.delete(_key("failures", kind, project_id), _key("rest", kind, project_id))

    def fail(self, kind: Kind, project_id: int) -> float:
        """Let the work rest; return for how many seconds."""
        failures = int(self.redis.incr(_key("failures", kind, project_id)))
        rest: float = min(FIRST_REST * 2 ** min(failures - 1, 16), LONGEST_REST)
        self.redis.expire(_key("failures", kind, project_id), int(10 * LONGEST_REST))
        self.redis.set(_key("rest", kind, project_id), 1, px=int(rest * 1000))
        return rest

    @contextmanager
    def lock(self, kind: Kind, project_id: int) -> Iterator[None]:
        """Be the only one at this work on this project.

        Raises
        ------
        Busy
            When somebody else is for longer than a dead worker's lock would last.
        """
        lock = self.redis.lock(
            _key("lock", kind, project_id),
            timeout=self.lock_timeout,
            blocking_timeout=1.5 * self.lock_timeout,
            sleep=0.05,
            thread_local=False,
        )
        if not lock.acquire():
            raise Busy(f"another worker is at the {kind} of project {project_id}")
        done = threading.Event()

        def renew() -> None:
            while not done.wait(self.lock_timeout / 3):
                try:
                    lock.reacquire()
                except (LockError, RedisError) as error:
                    log.warning("The lock for the %s of project %d was lost: %s", kind, project_id, error)
                    return

        renewing = threading.Thread(target=renew, name=f"lock-{kind}-{project_id}", daemon=True)
        renewing.start()
        try:
            yield
        finally:
            done.set()
            renewing.join()
            try:
                lock.release()
            except (LockError, RedisError) as error:
                log.warning("The lock for the %s of project %d was gone already: %s", kind, project_id, error)

    def depth(self) -> dict[str, int]:
        """Return how many jobs wait on each queue."""
        return {name: len(queue) for name, queue in self._queues.items()}

    def workers(self) -> list[Seen]:
        """Return the workers that Redis knows; one that was killed stays for a minute or two after its last sign."""
        return [
            Seen(
                queue=name,
                host=worker.hostname or "",
                pid=worker.pid or 0,
                heard_at=worker.last_heartbeat.timestamp() if worker.last_heartbeat else 0.0,
                busy=worker.get_state() == "busy",
            )
            for name, queue in self._queues.items()
            for worker in rq.Worker.all(queue=queue, serializer="json")
        ]

    def failing(self, project_id: int) -> dict[Kind, int]:
        """Return how often each kind of work on a project has failed since it last went well, where it did."""
        kinds = get_args(Kind)
        counts = cast(list[bytes | None], self.redis.mget([_key("failures", kind, project_id) for kind in kinds]))
        return {kind: int(count) for kind, count in zip(kinds, counts, strict=True) if count}


def is_allowed(function: str, arguments: object) -> bool:
    """Tell whether a job is one of ours; whoever can write to Redis could ask for any function otherwise.

    Examples
    --------
    >>> is_allowed("backend.worker.perform", ["update", 1])
    True
    >>> is_allowed("os.system", ["true"])
    False
    """
    return (
        function == PERFORM
        and isinstance(arguments, (list, tuple))
        and len(arguments) == 2
        and arguments[0] in get_args(Kind)
        and isinstance(arguments[1], int)
    )


def _key(what: str, kind: Kind, project_id: int) -> str:
    return f"tandem:{what}:{kind}:{project_id}"
