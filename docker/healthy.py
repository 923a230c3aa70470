#!/usr/bin/env python
"""Tell the container engine whether this container's process does its work: exit code 0, else 1 and the reason.

``healthy http://...`` asks the address; ``healthy worker`` asks Redis whether RQ knows a worker of this container: it
does once the worker's encoder is loaded.
"""

from __future__ import annotations

import os
import socket
import sys
import urllib.request

SECONDS = 4


def main(what: str) -> None:
    """Return if it is healthy; else end the process with the reason."""
    if what != "worker":
        try:
            urllib.request.urlopen(what, timeout=SECONDS).close()  # noqa: S310 - the image and compose.yml say what
        except OSError as error:
            sys.exit(f"{what} does not answer: {error}")
        return
    from redis import Redis, RedisError
    from rq import Worker

    try:
        workers = Worker.all(Redis.from_url(os.environ["TANDEM_REDIS_URL"], socket_timeout=SECONDS))
    except RedisError as error:
        sys.exit(f"Redis does not answer: {error}")
    if socket.gethostname() not in {worker.hostname for worker in workers}:
        sys.exit("RQ knows no worker of this container")


if __name__ == "__main__":
    main(sys.argv[1])
