"""The page Versions: what serves and who chose so, every version, two of them compared; for people and as JSON."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, HTTPException, Query, Request
from fastapi import Path as PathParameter
from fastapi.responses import HTMLResponse, RedirectResponse

from backend.insight import history
from backend.insight.history import Comparison, Detail, History, UnknownVersion
from backend.pages import site
from backend.pages.forms import read_form
from backend.pages.site import Acting, Known
from backend.projects import Pin, Project
from backend.rollback import CanNotServe, release, roll_back

router = APIRouter(tags=["versions"])

LONGEST_REASON = 200
"""Characters of a reason."""
LARGEST_FORM = 1 << 16
"""Bytes of a form without a file."""

Number = Annotated[int, Query(ge=1, lt=1 << 31)]
Which = Annotated[int, PathParameter(ge=1, lt=1 << 31)]
Offset = Annotated[int, Query(ge=0, lt=1 << 31)]


@router.get("/ui/projects/{label_studio_id}/versions", include_in_schema=False)
def page(request: Request, known: Known, before: Number | None = None) -> HTMLResponse:
    """Show what serves and every version."""
    told = history.history(site.services(request), known, before)
    return site.render(request, "versions.html", known, told=told, first=before is None)


@router.get("/ui/projects/{label_studio_id}/versions/compare", include_in_schema=False)
def compare_page(request: Request, known: Known, left: Number, right: Number) -> HTMLResponse:
    """Show two versions side by side; what they say of images follows by itself, since it takes a moment."""
    lines = [_version(request, known, number).line for number in (left, right)]
    return site.render(request, "compare.html", known, left=lines[0], right=lines[1])


@router.get("/ui/projects/{label_studio_id}/versions/compared", include_in_schema=False)
def compared_part(
    request: Request, known: Known, left: Number, right: Number, offset: Offset = 0, learned: Offset = 0
) -> HTMLResponse:
    """Show what two versions say of the labelled images, and what one learned that the other did not."""
    told = _compare(request, known, left, right, offset, learned)
    return site.render(request, "compared.html", known, told=told)


@router.get("/ui/projects/{label_studio_id}/versions/{number}", include_in_schema=False)
def version_page(request: Request, known: Known, number: Which, learned: Offset = 0) -> HTMLResponse:
    """Show one version."""
    return site.render(request, "version.html", known, told=_version(request, known, number, learned), refused=None)


@router.post("/ui/projects/{label_studio_id}/versions/{number}/pin", include_in_schema=False)
async def pin_from_page(request: Request, known: Known, person: Acting, number: Which) -> RedirectResponse:
    """Let a version serve, and show that it does."""
    why = await _why(request)
    await to_thread.run_sync(lambda: _pin(request, known, person, number, why))
    return _back(known)


@router.post("/ui/projects/{label_studio_id}/versions/release", include_in_schema=False)
async def release_from_page(request: Request, known: Known, person: Acting) -> RedirectResponse:
    """Let the newest version serve again, and show that it does."""
    why = await _why(request)
    await to_thread.run_sync(lambda: release(site.services(request), known, person, why))
    return _back(known)


@router.get("/api/projects/{label_studio_id}/versions", summary="The versions, newest first")
def as_json(
    request: Request,
    known: Known,
    before: Annotated[Number | None, Query(description="Only versions older than this number")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = history.PAGE,
) -> History:
    """Tell what serves, who chose so, and a page of versions; `older` is the `before` of the next page.

    Shares lie between 0 and 1, times are Unix seconds.
    """
    return history.history(site.services(request), known, before, limit)


@router.get("/api/projects/{label_studio_id}/versions/compare", summary="Two versions compared")
def compare_as_json(
    request: Request,
    known: Known,
    left: Number,
    right: Number,
    offset: Annotated[Offset, Query(description="First listed of the images they disagree on")] = 0,
    learned: Annotated[Offset, Query(description="First listed of the labels that only one of them has")] = 0,
) -> Comparison:
    """Tell what one learned that the other did not, where they disagree, how good each is on labels after both.

    Only the last is a fair test: on other images a version may just say what it was taught.
    """
    return _compare(request, known, left, right, offset, learned)


@router.get("/api/projects/{label_studio_id}/versions/{number}", summary="One version")
def version_as_json(request: Request, known: Known, number: Which, learned: Offset = 0) -> Detail:
    """Tell labels per class, seconds of its making, and the labels it learned since its parent, from `learned` on."""
    return _version(request, known, number, learned)


@router.post("/api/projects/{label_studio_id}/versions/{number}/pin", summary="Roll back to a version")
def pin(
    request: Request,
    known: Known,
    person: Acting,
    number: Which,
    why: Annotated[str, Query(max_length=LONGEST_REASON)] = "",
) -> Pin:
    """Let a version serve until it is released; learning goes on underneath. Who chose so is the user name."""
    return _pin(request, known, person, number, why)


@router.delete("/api/projects/{label_studio_id}/versions/pin", summary="Let the newest version serve again")
def unpin(
    request: Request, known: Known, person: Acting, why: Annotated[str, Query(max_length=LONGEST_REASON)] = ""
) -> History:
    """Let the newest version serve again, and every one after it; nothing changes where it does."""
    release(site.services(request), known, person, why)
    return history.history(site.services(request), known)


def _version(request: Request, project: Project, number: int, learned: int = 0) -> Detail:
    try:
        return history.version(site.services(request), project, number, learned)
    except UnknownVersion as unknown:
        raise HTTPException(404, str(unknown)) from unknown


def _compare(request: Request, project: Project, left: int, right: int, offset: int, learned: int) -> Comparison:
    galleries = request.app.state.galleries
    try:
        return history.compare(site.services(request), galleries, project, left, right, offset, learned)
    except UnknownVersion as unknown:
        raise HTTPException(404, str(unknown)) from unknown


def _pin(request: Request, project: Project, person: str, number: int, why: str) -> Pin:
    try:
        return roll_back(site.services(request), project, number, person, why)
    except CanNotServe as refused:
        raise HTTPException(409, str(refused)) from refused


async def _why(request: Request) -> str:
    """Return the reason that was given, as far as it is text."""
    given = (await read_form(request, LARGEST_FORM)).get("why")
    text = given if isinstance(given, str) else ""
    return "".join(letter for letter in text if letter.isprintable()).strip()[:LONGEST_REASON]


def _back(project: Project) -> RedirectResponse:
    return RedirectResponse(f"/ui/projects/{project.label_studio_id}/versions", 303)
