"""The door for HTTP: Label Studio's protocol for ML backends. It reads, asks an act, and answers; it decides nothing.

``/health`` answers whatever else happens. A webhook is answered when the ledger has it, before anybody learns from it.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import secrets
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import Enum
from functools import partial
from typing import Any, TypeVar

import redis.exceptions
import sqlalchemy as sa
from anyio import CapacityLimiter, to_thread
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from backend import pages
from backend.database import reading
from backend.events import BadEvent, Event, TasksTold, TrainingAsked, parse_predict, parse_setup, parse_webhook
from backend.insight.gallery import Galleries
from backend.jobs import Kind
from backend.ledger import Told
from backend.pages import site
from backend.predict import Champions, heard_of, predict
from backend.services import Services
from backend.settings import Settings
from backend.versions import version_name

log = logging.getLogger(__name__)

PREDICTING = 4
"""Requests for predictions worked on at the same time; the others wait, and nothing else does."""
MODEL_CLASS = "Tandem"

Answer = dict[str, Any]
T = TypeVar("T")


def create_app(settings: Settings, services: Services | None = None) -> FastAPI:
    """Return the web application of these settings.

    Parameters
    ----------
    settings
        What the process runs with.
    services
        The parts to work with; made from the settings unless given.
    """
    services = services or Services(settings)
    app = FastAPI(
        title="Tandem",
        version="0.1.0",
        description="What Tandem knows and does, as JSON: the same as on its pages at /ui/.",
        lifespan=_lifespan,
        openapi_url=None,
    )
    app.state.services = services
    app.state.champions = Champions()
    app.state.galleries = Galleries()
    # One thread writes the ledger: SQLite has one writer anyway, and waiting for one's turn beats trying again.
    app.state.telling = CapacityLimiter(1)
    app.state.predicting = CapacityLimiter(PREDICTING)
    app.state.reading = CapacityLimiter(8)
    protected = [Depends(_check_secret)]
    tags: list[str | Enum] = ["what Label Studio asks"]
    app.add_api_route("/", health, methods=["GET"], tags=tags)
    app.add_api_route("/health", health, methods=["GET"], tags=tags)
    app.add_api_route("/ready", ready, methods=["GET"], tags=tags)
    app.add_api_route("/setup", setup, methods=["POST"], tags=tags, dependencies=protected)
    app.add_api_route("/predict", predictions, methods=["POST"], tags=tags, dependencies=protected)
    app.add_api_route("/webhook", webhook, methods=["POST"], tags=tags, dependencies=protected)
    app.add_api_route("/versions", versions, methods=["GET"], tags=tags, dependencies=protected)
    app.include_router(pages.router, dependencies=protected)
    app.add_exception_handler(StarletteHTTPException, site.tell_error)
    app.add_exception_handler(BadEvent, _bad_event)
    return app


async def health() -> Answer:
    """Tell that the process is alive."""
    return {"status": "UP", "model_class": MODEL_CLASS}


async def ready(request: Request) -> JSONResponse:
    """Tell whether everything the process needs is there, and what is not."""
    missing = await _in_thread(request, "reading", partial(_missing, request.app.state.services))
    return JSONResponse({"ready": not missing, "missing": missing}, status_code=503 if missing else 200)


async def setup(request: Request) -> Answer:
    """Take in the project's label config; tell the version that serves.

    Label Studio also sends its own address and a user's key: Tandem uses those of its settings and ignores these.
    """
    label_studio_id, created, xml = parse_setup(await _body(request))
    services: Services = request.app.state.services

    def name() -> str:
        project = heard_of(services, label_studio_id, created, xml)
        version = services.versions.champion(project.id)
        return version.name if version else version_name(0)

    return {"model_version": await _in_thread(request, "reading", name)}


async def predictions(request: Request) -> Answer:
    """Predict: exactly as many results as tasks."""
    asked = parse_predict(await _body(request))
    state = request.app.state
    name, results = await _in_thread(request, "predicting", partial(predict, state.services, state.champions, asked))
    return {"results": results, "model_version": name}


async def webhook(request: Request, background: BackgroundTasks) -> Answer:
    """Take in one event; what follows from it is asked for after the answer."""
    event = parse_webhook(await _body(request))
    if event is None:
        return {"status": "ignored"}
    services: Services = request.app.state.services
    told = await _in_thread(request, "telling", partial(services.ledger.tell, event))
    for kind in _work(event, told):
        background.add_task(services.jobs.ask, kind, told.project.id)
    return {"status": "told", "position": told.project.position}


async def versions(request: Request) -> Answer:
    """List the versions Label Studio may choose from: each project's newest."""
    services: Services = request.app.state.services

    def names() -> list[str]:
        listed = [services.versions.all(project.id, limit=20) for project in services.projects.all()]
        return list(dict.fromkeys(version.name for theirs in listed for version in theirs))

    return {"versions": await _in_thread(request, "reading", names)}


def _work(event: Event, told: Told) -> list[Kind]:
    """Return the kinds of work that follow from an event."""
    work: list[Kind] = []
    # Under another label config an annotation may say something else, and the ledger holds only what it learned of it.
    if isinstance(event, TrainingAsked) or (isinstance(event, TasksTold) and event.with_annotations) or told.config:
        work.append("sync")
    if told.labels or told.config:
        work.append("update")
    elif told.tasks:
        work.append("show")
    return work


def _missing(services: Services) -> dict[str, str]:
    """Return what can't be used now, and why."""
    missing = {}
    try:
        with reading(services.engine) as connection:
            connection.execute(sa.text("SELECT 1 FROM projects LIMIT 1"))
    except sa.exc.SQLAlchemyError as error:
        missing["database"] = f"{error.__class__.__name__}: run `tandem migrate`, or see TANDEM_DATABASE_URL"
    try:
        services.jobs.redis.ping()
    except redis.exceptions.RedisError as error:
        missing["redis"] = f"{error}: labels are kept and learned when it is back"
    try:
        services.encoder.warm()
    except Exception as error:
        missing["encoder"] = str(error)
    return missing


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the encoder beside the first requests, not before them."""
    services: Services = app.state.services

    def warm() -> None:
        try:
            services.encoder.warm()
        except Exception:
            log.exception("The encoder can't be loaded: images that are new can't be predicted")

    threading.Thread(target=warm, name="warm-up", daemon=True).start()
    yield
    services.close()


async def _check_secret(request: Request) -> None:
    """Refuse who does not know the secret: sent as a bearer token (webhooks) or as the password (everything else)."""
    secret = request.app.state.services.settings.secret.get_secret_value()
    if not secret:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            given = ""
    if not secrets.compare_digest(given.encode(), secret.encode()):
        # A browser asks without it first.
        if scheme or not request.url.path.startswith(("/ui/", "/api/", "/docs")):
            log.warning("%s without the secret: refused. Run `tandem connect` for this project", request.url.path)
        raise HTTPException(
            401,
            "The secret is missing or wrong. Label Studio gets it by `tandem connect`; people give their name as user "
            "name and the secret as password.",
            {"WWW-Authenticate": 'Basic realm="tandem"'},
        )


async def _body(request: Request) -> Any:
    """Return the parsed body, no larger than the settings allow."""
    limit = request.app.state.services.settings.webhook_max_bytes
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise HTTPException(413, f"The body is larger than {limit} bytes: see TANDEM_WEBHOOK_MAX_BYTES.")
        parts.append(part)
    try:
        return json.loads(b"".join(parts))
    except (ValueError, RecursionError) as error:
        raise BadEvent(f"The body is not JSON: {error}.") from error


async def _in_thread(request: Request, room: str, work: Callable[[], T]) -> T:
    """Do work that waits in a thread, among those of its kind."""
    return await to_thread.run_sync(work, limiter=getattr(request.app.state, room))


async def _bad_event(_request: Request, error: Exception) -> JSONResponse:
    log.warning("Refused: %s", error)
    return JSONResponse({"detail": str(error)}, status_code=400)
