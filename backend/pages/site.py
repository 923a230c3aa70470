"""The house of the pages: templates, navigation, who is asking, what is live, and the documentation of the JSON.

To add a page, say `queue`:

1. `backend/insight/queue.py` says what there is to see, as dataclasses; a page decides nothing.
2. `backend/pages/queue.py` has `router = APIRouter(tags=["queue"])`, with plain `def` routes (each runs in a thread)::

       @router.get("/ui/projects/{label_studio_id}/queue", include_in_schema=False)
       def page(request: Request, known: Known) -> HTMLResponse:
           return site.render(request, "queue.html", known, queue=queue(site.services(request), known))

       @router.get("/api/projects/{label_studio_id}/queue", summary="The tasks in the order they are asked")
       def queue_as_json(request: Request, known: Known) -> Queue: ...

   `Known` is the project of the address (404 with a sentence where there is none), `Acting` the name of who asks: every
   route that changes something has it as a parameter, which also refuses what another site sent. What can't be done is
   an `HTTPException(4xx, "A sentence that says what to do.")`; below `/ui` people see it as a page.
3. `templates/queue.html` begins with `{% extends "base.html" %}` and fills the blocks `title` and `main`. Filters:
   `percent`, `count`, `ago`, `clock`, `duration`. A part that renews itself when the project changes::

       <section id="waiting" {{ live("#waiting") }}> ... </section>

   Give whatever in a list can have the focus an id: by it the focus is found again. A `<details>` with an id stays
   open. What has `data-say="A sentence."` is read out when it changed. Links and forms: `{{ at("queue", page=2) }}`;
   `{{ task_at(7) }}` is a task in Label Studio, `{{ task_at() }}` the project there. Plots are tables: see
   `static/plots.js`. No inline script or style passes the content security policy.
4. `backend/pages/__init__.py` includes its router. The navigation has its name already.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode, urlsplit

import jinja2
import sqlalchemy as sa
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi import Path as PathParameter
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from markupsafe import Markup
from starlette.exceptions import HTTPException as StarletteHTTPException

from backend.database import projects, reading, reviews, scores, studies, versions
from backend.projects import Project, UnknownProject
from backend.services import Services

PAGES = ("overview", "queue", "doubts", "versions", "try")
"""The pages of a project, in the order of the navigation."""
LOOK_EVERY = 1.0
"""Seconds between two looks for what changed, while somebody has a page open."""
NOBODY = "unnamed"
"""Who acts, where the browser was given no user name."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""What a page may load: only what Tandem serves. Pictures of the toolkit's style are inside of it (data:)."""
DOCS_POLICY = POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
"""Swagger UI writes styles into its elements."""
_FOREVER = {"Cache-Control": "private, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
_NOT_KEPT = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"}

router = APIRouter()
_STATIC = Path(__file__).parent / "static"
_SWAGGER = Path(str(files("fastapi_offline"))) / "static"
_FILES = {
    path.relative_to(_STATIC).as_posix(): path for path in _STATIC.rglob("*") if path.suffix in (".css", ".js", ".svg")
} | {name: _SWAGGER / name for name in ("swagger-ui-bundle.js", "swagger-ui.css")}
_DIGESTS: dict[str, str] = {}

Number = Annotated[int, PathParameter(ge=1, le=(1 << 63) - 1)]
"""An id in an address, no larger than SQL can hold."""
_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))


def services(request: Request) -> Services:
    """Return what this process works with."""
    return request.app.state.services  # type: ignore[no-any-return]


def known(request: Request, label_studio_id: Number) -> Project:
    """Return the project of the address."""
    try:
        return services(request).projects.named(label_studio_id)
    except UnknownProject as unknown:
        raise HTTPException(404, f"{unknown}.") from unknown


def acting(request: Request) -> str:
    """Return the name of who asks for a change; refuse what another site's page sent in their name.

    A browser adds the password by itself, so that is no proof of who wrote the request. It also says where the request
    comes from, and no page can make it lie about that; what is no browser says nothing, and has to know the secret.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    ours = {request.headers.get("host"), urlsplit(services(request).settings.public_url).netloc} - {""}
    if site not in (None, "same-origin") or (site is None and origin and urlsplit(origin).netloc not in ours):
        raise HTTPException(403, "This came from a page of another site: use Tandem's own pages.")
    return asking(request)


def asking(request: Request) -> str:
    """Return the user name that was given with the password."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            name = base64.b64decode(given, validate=True).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            name = ""
        name = "".join(letter for letter in name if letter.isprintable()).strip()[:100]
        return name or NOBODY
    return NOBODY


Known = Annotated[Project, Depends(known)]
Acting = Annotated[str, Depends(acting)]


def render(
    request: Request, template: str, project: Project | None = None, status_code: int = 200, **values: Any
) -> HTMLResponse:
    """Return a page.

    Parameters
    ----------
    request
        Who asks for it.
    template
        File below `templates/`.
    project
        The project it is about, if it is about one: then the navigation leads to its other pages.
    status_code
        What the answer says it is.
    values
        What the template is given besides.
    """
    service = services(request)
    every = service.projects.all()
    around = project or (every[0] if len(every) == 1 else None)

    def at(page: str, /, **query: Any) -> str:
        path = f"/ui/projects/{around.label_studio_id}/{page}" if around else f"/ui/{page}"
        return f"{path}?{urlencode(query)}" if query else path

    def task_at(task: int | None = None) -> str:
        number = around.label_studio_id if around else 0
        path = f"{service.settings.label_studio_for_people}/projects/{number}/data"
        return path if task is None else f"{path}?task={task}"

    def live(part: str, also: str = "") -> Markup:
        changed = f"sse:project-{project.label_studio_id}" if project else "sse:projects"
        query = f"?{request.url.query}" if request.url.query else ""
        return Markup(
            'hx-get="{}" hx-trigger="{}" hx-select="{}" hx-target="this" hx-swap="outerHTML show:none"'
        ).format(request.url.path + query, ", ".join(filter(None, (changed, also))), part)

    html = _templates.get_template(template).render(
        pages=PAGES,
        here=template.removesuffix(".html"),
        project=project,
        around=around,
        projects=every,
        task_at=task_at,
        person=asking(request),
        at=at,
        live=live,
        **values,
    )
    return HTMLResponse(html, status_code, {"Content-Security-Policy": POLICY, **_NOT_KEPT})


@router.get("/ui/", include_in_schema=False)
def front(request: Request) -> Response:
    """Show the projects; with only one, its overview."""
    told = services(request).projects.all()
    if len(told) == 1:
        return RedirectResponse(f"/ui/projects/{told[0].label_studio_id}/overview", 302, _NOT_KEPT)
    return render(request, "projects.html")


@router.get("/ui/static/{name:path}", include_in_schema=False)
def static(name: str) -> Response:
    """Give a file of the pages; its address names its content, so a browser asks for it once."""
    path = _FILES.get(name)
    if path is None:
        raise HTTPException(404, f"There is no {name}.")
    return FileResponse(path, headers=_FOREVER)


@router.get("/ui/events", include_in_schema=False)
async def events(request: Request) -> StreamingResponse:
    """Tell a page which projects changed, as server-sent events, for as long as it is open."""
    return StreamingResponse(_changes(services(request)), media_type="text/event-stream", headers=_NOT_KEPT)


async def tell_error(request: Request, error: Exception) -> Response:
    """Tell what went wrong: as a page to who looks at pages, as JSON to everything else."""
    assert isinstance(error, StarletteHTTPException)  # noqa: S101 - it is registered for these
    wants_page = request.url.path.startswith("/ui/") and "text/html" in request.headers.get("accept", "")
    if not wants_page or error.status_code == 401:
        return await http_exception_handler(request, error)
    return await to_thread.run_sync(
        lambda: render(request, "error.html", status_code=error.status_code, told=error.detail)
    )


@router.get("/openapi.json", include_in_schema=False)
def openapi(request: Request) -> JSONResponse:
    """Describe the JSON."""
    return JSONResponse(request.app.openapi())


@router.get("/docs", include_in_schema=False)
def docs() -> HTMLResponse:
    """Show the description of the JSON, to read and to try."""
    html = _templates.get_template("docs.html").render()
    return HTMLResponse(html, headers={"Content-Security-Policy": DOCS_POLICY, **_NOT_KEPT})


_looking = CapacityLimiter(4)


async def _changes(service: Services) -> AsyncIterator[str]:
    """Yield an event for each project that changed since the last look; a comment keeps the connection alive."""
    before: Mapping[int, tuple[object, ...]] = await to_thread.run_sync(_marks, service, limiter=_looking)
    yield "retry: 2000\n\n"
    while True:
        await asyncio.sleep(LOOK_EVERY)
        now = await to_thread.run_sync(_marks, service, limiter=_looking)
        told = [f"project-{project}" for project, mark in now.items() if before.get(project) != mark]
        if told:
            told.append("projects")
        yield "".join(f"event: {name}\ndata: {time.time():.0f}\n\n" for name in told) or ": still here\n\n"
        before = now


def _marks(service: Services) -> dict[int, tuple[object, ...]]:
    """Return what tells that something about a project changed, by its Label Studio id."""
    newest = sa.select(sa.func.max(versions.c.number)).where(versions.c.project_id == projects.c.id).scalar_subquery()
    study = sa.select(sa.func.max(studies.c.number)).where(studies.c.project_id == projects.c.id).scalar_subquery()
    seen = sa.select(scores.c.made_at).where(scores.c.project_id == projects.c.id).scalar_subquery()
    decided = sa.func.max(sa.func.coalesce(reviews.c.undone_at, reviews.c.reviewed_at))
    reviewed = sa.select(decided).where(reviews.c.project_id == projects.c.id).scalar_subquery()
    changing = (projects.c.position, projects.c.pinned, projects.c.shown, projects.c.synced_at, projects.c.title)
    with reading(service.engine) as connection:
        rows = connection.execute(sa.select(projects.c.label_studio_id, *changing, newest, study, seen, reviewed))
        return {row[0]: tuple(row[1:]) for row in rows}


def percent(share: float | None, digits: int = 0) -> str:
    """Return a share as people read it.

    Examples
    --------
    >>> percent(0.914), percent(0.914, 1), percent(None)
    ('91 %', '91.4 %', '–')
    """
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def count(number: int) -> str:
    """Return a number with its thousands apart.

    Examples
    --------
    >>> count(100000).replace("\u202f", " ")
    '100 000'
    """
    return f"{number:,}".replace(",", "\u202f")


def ago(at: float | None) -> str:
    """Return how long ago a moment (Unix seconds) was.

    Examples
    --------
    >>> ago(None), ago(time.time() - 7200)
    ('never', '2 hours ago')
    """
    if at is None:
        return "never"
    seconds = max(time.time() - at, 0.0)
    return "just now" if seconds < 10 else f"{duration(seconds)} ago"


def clock(at: float) -> str:
    """Return a moment (Unix seconds) in UTC.

    Examples
    --------
    >>> clock(1795246825)
    '2026-11-21 07:40 UTC'
    """
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def duration(seconds: float) -> str:
    """Return a length of time in its largest unit.

    Examples
    --------
    >>> duration(60), duration(6 * 3600), duration(45)
    ('1 minute', '6 hours', '45 seconds')
    """
    unit, length = next((each for each in _UNITS if seconds >= each[1]), _UNITS[-1])
    whole = int(seconds // length)
    return f"{whole} {unit}" if whole == 1 else f"{whole} {unit}s"


def _asset(name: str) -> str:
    """Return the address of a static file, which changes with its content."""
    if name not in _DIGESTS:
        _DIGESTS[name] = sha256(_FILES[name].read_bytes()).hexdigest()[:12]
    return f"/ui/static/{name}?{_DIGESTS[name]}"


_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("backend.pages"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters.update(percent=percent, count=count, ago=ago, clock=clock, duration=duration)
_templates.globals["asset"] = _asset
