"""What Tandem stands on, on this machine or beside it: database, disk, Redis, workers, MLflow, its own web process."""

from __future__ import annotations

import shutil
import socket
import time
from functools import partial
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from redis.exceptions import RedisError, ResponseError

from backend.connect import USER
from backend.database import writing
from backend.doctor.finding import ANSWER_SECONDS, Check, Finding, first_line
from backend.jobs import QUEUES, Seen
from backend.services import Services

LITTLE_DISK, NO_DISK = 2 << 30, 200 << 20
"""Free bytes below which a disk is nearly full, and full."""
SILENT_SECONDS = 60.0
"""Seconds without a sign of life after which an idle worker counts as gone; it gives one every quarter of a minute."""
MIGRATIONS = Path(__file__).parents[1] / "migrations"
LOCAL = {"127.0.0.1", "localhost", "::1"}


def checks(services: Services) -> list[dict[str, Check]]:
    """Return the checks by name, in groups that can be asked side by side."""
    groups = [
        {"database": _database, "schema": _schema},
        {"disk": _disk},
        {"redis": _redis, "redis-persistence": _redis_persistence, "workers": _workers},
        {"mlflow": _mlflow, "artifacts": _artifacts},
        {"web": _web},
        {"secret": _secret},
    ]
    return [{name: partial(check, services) for name, check in group.items()} for group in groups]


def _database(services: Services) -> Finding:
    address = sa.make_url(services.settings.database)
    shown = address.render_as_string(hide_password=True)
    try:
        with writing(services.engine) as connection:
            connection.execute(sa.text("SELECT 1"))
    except sa.exc.SQLAlchemyError as error:
        mend = (
            "See whether the disk is full or the file is owned by another user."
            if address.get_backend_name() == "sqlite"
            else "Start the database, or correct TANDEM_DATABASE_URL."
        )
        return Finding("database", "broken", f"{shown} can't be used: {first_line(error)}.", mend)
    return Finding("database", "fine", f"{shown} answers.")


def _schema(services: Services) -> Finding:
    script = ScriptDirectory(str(MIGRATIONS))
    with services.engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    newest = script.get_current_head()
    if current == newest:
        return Finding("schema", "fine", f"The tables are those of this release ({newest}).")
    if current is None:
        return Finding("schema", "broken", "The database has no tables yet.", "Make them: `tandem migrate`.")
    if current in {revision.revision for revision in script.walk_revisions()}:
        told = f"The tables are those of an older release ({current}; this one needs {newest})."
        return Finding("schema", "broken", told, "Bring them up to date: `tandem migrate`.")
    told = f"The tables are those of a newer release ({current}; this one knows {newest})."
    return Finding("schema", "broken", told, "Install the newer Tandem here too.")


def _disk(services: Services) -> Finding:
    folder = services.settings.state.resolve()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    told = f"{free / 1e9:.1f} GB are free for {folder}."
    mend = "Free some space, or put the state elsewhere with TANDEM_STATE."
    if free < NO_DISK:
        return Finding("disk", "broken", told, mend)
    if free < LITTLE_DISK:
        return Finding("disk", "warning", told, mend)
    return Finding("disk", "fine", told)


def _redis(services: Services) -> Finding:
    try:
        services.jobs.redis.ping()
    except RedisError as error:
        told = f"Redis does not answer ({first_line(error)}): labels are kept, and learned when it is back."
        return Finding("redis", "broken", told, "Start Redis, or correct TANDEM_REDIS_URL.")
    return Finding("redis", "fine", "Redis answers.")


def _redis_persistence(services: Services) -> Finding:
    name = "redis-persistence"
    try:
        told = services.jobs.redis.config_get("appendonly", "save", "maxmemory", "maxmemory-policy")
    except ResponseError:
        return Finding(
            name,
            "warning",
            "Redis does not say whether it keeps anything.",
            "See that it has an append-only file and the policy noeviction; CONFIG GET is not allowed to Tandem.",
        )
    config = {_text(key): _text(value) for key, value in told.items()}
    if config.get("appendonly") != "yes" and not config.get("save"):
        return Finding(
            name,
            "warning",
            "Redis forgets everything when it restarts; what was asked for is then found again from the database.",
            "Start Redis with --appendonly yes.",
        )
    policy = config.get("maxmemory-policy", "noeviction")
    if policy != "noeviction" and config.get("maxmemory", "0") != "0":
        told_policy = f"Redis may drop jobs when its memory is full (policy {policy})."
        return Finding(name, "warning", told_policy, "Set its maxmemory-policy to noeviction.")
    kept = "an append-only file" if config.get("appendonly") == "yes" else "snapshots: the last minutes may be lost"
    return Finding(name, "fine", f"Redis keeps {kept}.")


def _workers(services: Services) -> Finding:
    depth, workers = services.jobs.depth(), services.jobs.workers()
    alive = {queue: [each for each in workers if each.queue == queue and _lives(services, each)] for queue in depth}
    idle = [queue for queue in sorted(set(QUEUES.values())) if not alive[queue]]
    waiting = ", ".join(f"{count} on {queue}" for queue, count in depth.items())
    if idle:
        commands = " and ".join(f"`tandem worker {queue}`" for queue in idle)
        gone = f", which {len(workers)} once did" if workers else ""
        told = f"No worker is alive on the queue {' and '.join(idle)}{gone}; jobs waiting: {waiting}."
        return Finding("workers", "broken", told, f"Start {commands}, or everything with `make run`.")
    counts = ", ".join(f"{len(alive[queue])} on {queue}" for queue in depth)
    return Finding("workers", "fine", f"Alive: {counts}; jobs waiting: {waiting}.")


def _lives(services: Services, worker: Seen) -> bool:
    """Tell whether a worker works: one on this machine has a process, any has given a sign of life lately."""
    if worker.host == socket.gethostname() and not psutil.pid_exists(worker.pid):
        return False
    # A worker at a job gives no sign until it is done.
    longest = SILENT_SECONDS + (services.settings.job_timeout if worker.busy else 0)
    return time.time() - worker.heard_at < longest


def _mlflow(services: Services) -> Finding:
    uri = services.tracking.uri
    try:
        services.tracking.artifacts()
    except Exception as error:
        told = f"MLflow at {_without_password(uri)} does not answer ({first_line(error)}): versions are logged later."
        return Finding("mlflow", "broken", told, "Start MLflow, or correct TANDEM_MLFLOW_TRACKING_URI.")
    return Finding("mlflow", "fine", f"MLflow answers at {_without_password(uri)}.")


def _artifacts(services: Services) -> Finding:
    location = services.tracking.artifacts()
    if not location:
        return Finding("artifacts", "fine", "MLflow has nothing to keep yet.")
    try:
        services.tracking.try_artifacts(location)
    except Exception as error:
        told = f"{location} takes no file ({first_line(error)}): versions are logged later."
        whose = "MLflow's server" if location.startswith("mlflow-artifacts:") else "this machine"
        mend = (
            f"Give {whose} the credentials to write and delete there (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), and "
            "the address of an S3 that is not Amazon's (TANDEM_S3_ENDPOINT_URL)."
            if location.startswith(("s3:", "mlflow-artifacts:"))
            else f"Give {whose} the right to write there."
        )
        return Finding("artifacts", "broken", told, mend)
    return Finding("artifacts", "fine", f"{location} takes files and lets go of them.")


def _web(services: Services) -> Finding:
    settings = services.settings
    # From another container than the web process's, only the address that Label Studio uses leads to it.
    addresses = dict.fromkeys(each for each in (settings.web_url, settings.public_url.rstrip("/")) if each)
    told = ""
    with httpx.Client(timeout=ANSWER_SECONDS, trust_env=False) as client:
        for address in addresses:
            url = address.replace("//0.0.0.0", "//127.0.0.1").replace("//::", "//[::1]")
            try:
                answer = client.get(f"{url}/health")
            except httpx.HTTPError as error:
                told = told or f"Nothing answers at {url} ({first_line(error)})."
                continue
            if not _is_tandem(answer):
                return Finding(
                    "web",
                    "broken",
                    f"Another program answers at {url}.",
                    "End it, or give Tandem another port, for example TANDEM_WEB_PORT="
                    f"{settings.web_port + 1}, and run `tandem connect` for each project.",
                )
            return _web_works(services, client, url)
    return Finding("web", "broken", told, "Start it: `tandem web`, or everything with `make run`.")


def _web_works(services: Services, client: httpx.Client, url: str) -> Finding:
    """Return whether the Tandem at `url` is ready, and has the secret of these settings."""
    asked = client.get(f"{url}/versions", auth=(USER, services.settings.secret.get_secret_value()))
    if asked.status_code == HTTPStatus.UNAUTHORIZED:
        mend = "Start it again with the TANDEM_SECRET of this command, then run `tandem connect` for each project."
        return Finding("web", "broken", f"Tandem at {url} runs with another secret.", mend)
    try:
        ready = client.get(f"{url}/ready").json()
    except httpx.TimeoutException:
        return Finding("web", "warning", f"Tandem at {url} is not ready yet.", "Wait: it loads its encoder.")
    missing = {what: why for what, why in ready["missing"].items() if what not in {"redis", "database"}}
    if missing:
        told = "; ".join(f"{what}: {why}" for what, why in missing.items())
        mend = "See TANDEM_ENCODER, TANDEM_ENCODER_WEIGHTS and TANDEM_ENCODER_RUNTIME."
        return Finding("web", "broken", f"Tandem at {url} is not ready ({told}).", mend)
    return Finding("web", "fine", f"Tandem answers at {url}.")


def _is_tandem(answer: httpx.Response) -> bool:
    try:
        told = answer.json()
    except ValueError:
        return False
    return isinstance(told, dict) and told.get("model_class") == "Tandem"


def _secret(services: Services) -> Finding:
    settings = services.settings
    if settings.secret.get_secret_value():
        return Finding("secret", "fine", "Tandem asks for the secret.")
    if settings.web_host in LOCAL:
        return Finding("secret", "fine", "There is no secret, and only this machine reaches Tandem.")
    told = (
        f"There is no secret: whoever reaches {settings.web_host}:{settings.web_port} can read and change everything."
    )
    mend = "Set TANDEM_SECRET, start Tandem again, and run `tandem connect` for each project."
    return Finding("secret", "warning", told, mend)


def _text(told: object) -> str:
    return told.decode() if isinstance(told, bytes) else str(told)


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    return uri.replace(f":{parts.password}@", ":***@") if parts.password else uri
