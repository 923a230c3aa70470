"""The page Try: what is made of any picture, and teaching it; for people and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from anyio import to_thread
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse
from starlette.datastructures import UploadFile

from backend.images import ImageUnreadable
from backend.insight.trial import Teaching, Trial, taught_lately, trial
from backend.pages import site
from backend.pages.forms import read_form
from backend.pages.site import Acting, Known
from backend.teach import CanNotTeach, Taught, teach

router = APIRouter(tags=["try"])

ROOM = 1 << 16
"""Bytes that a form may have beside its file."""
T = TypeVar("T")


def _takes(*more: str) -> dict[str, object]:
    """Return what the documentation says of a request: a form with a picture, and labels where those are taken."""
    fields: dict[str, object] = {"picture": {"type": "string", "format": "binary", "description": "The image file"}}
    if "label" in more:
        fields["label"] = {"type": "array", "items": {"type": "string"}, "description": "The class it shows"}
    schema = {"type": "object", "properties": fields, "required": list(fields)}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


@dataclass(frozen=True, slots=True)
class _Sent:
    """A form with a picture: its bytes, and the labels chosen."""

    data: bytes
    labels: tuple[str, ...]


@router.get("/ui/projects/{label_studio_id}/try", include_in_schema=False)
def page(request: Request, known: Known) -> HTMLResponse:
    """Show where to drop a picture."""
    services = site.services(request)
    lately = taught_lately(services, known)
    return site.render(request, "try.html", known, limit=services.settings.image_max_bytes, lately=lately)


@router.post("/ui/projects/{label_studio_id}/try", include_in_schema=False)
async def seen_part(request: Request, known: Known, person: Acting) -> HTMLResponse:
    """Show what is made of the picture that was sent."""
    del person  # asked for so that no other site sends pictures
    try:
        sent = await _sent(request)
        seen = await _work(request, lambda: _try(request, known, sent))
    except HTTPException as refused:
        return await _part(request, known, "refused.html", told=refused.detail)
    return await _part(request, known, "tried.html", seen=seen, config=known.config)


@router.post("/ui/projects/{label_studio_id}/teach", include_in_schema=False)
async def taught_part(request: Request, known: Known, person: Acting) -> HTMLResponse:
    """Teach the picture that was sent, and show what became of it."""
    try:
        sent = await _sent(request)
        taught = await _work(request, lambda: _teach(request, known, sent, person))
    except HTTPException as refused:
        return await _part(request, known, "refused.html", told=refused.detail)
    return await _part(request, known, "taught.html", taught=taught)


@router.post("/api/projects/{label_studio_id}/try", summary="What is made of a picture", openapi_extra=_takes())
async def as_json(request: Request, known: Known, person: Acting) -> Trial:
    """Tell class, probabilities, the set of classes it may be, both uncertainties, and the labelled tasks most like it.

    Nothing of the picture is kept. It may be as large as images of tasks may: `TANDEM_IMAGE_MAX_BYTES`.
    """
    del person  # asked for so that no other site sends pictures
    sent = await _sent(request)
    return await _work(request, lambda: _try(request, known, sent))


@router.get("/api/projects/{label_studio_id}/taught", summary="The pictures taught last")
def taught_as_json(request: Request, known: Known) -> list[Teaching]:
    """Tell which pictures were taught last, by whom, and what their label is now."""
    return taught_lately(site.services(request), known)


@router.post(
    "/api/projects/{label_studio_id}/teach",
    summary="Teach a picture",
    status_code=201,
    openapi_extra=_takes("label"),
)
async def teach_as_json(request: Request, known: Known, person: Acting) -> Taught:
    """Make a task of a picture in Label Studio, and label it; Tandem learns it as any other label.

    A picture that is a task already, and has no label, is labelled there.
    """
    sent = await _sent(request)
    return await _work(request, lambda: _teach(request, known, sent, person))


async def _sent(request: Request) -> _Sent:
    limit = site.services(request).settings.image_max_bytes
    form = await read_form(request, limit + ROOM)
    try:
        picture = form.get("picture")
        if not isinstance(picture, UploadFile) or not picture.size:
            raise HTTPException(400, "No picture was sent: choose an image file.")
        labels = tuple(each for each in form.getlist("label") if isinstance(each, str))
        return _Sent(await picture.read(), labels)
    finally:
        await form.close()


async def _work(request: Request, work: Callable[[], T]) -> T:
    """Work on a picture in a thread, among those that predict."""
    return await to_thread.run_sync(work, limiter=request.app.state.predicting)


async def _part(request: Request, project: Known, template: str, **values: Any) -> HTMLResponse:
    return await to_thread.run_sync(lambda: site.render(request, template, project, **values))


def _try(request: Request, project: Known, sent: _Sent) -> Trial:
    state = request.app.state
    try:
        return trial(site.services(request), state.champions, state.galleries, project, sent.data)
    except ImageUnreadable as unreadable:
        raise _refusal(unreadable) from unreadable


def _teach(request: Request, project: Known, sent: _Sent, person: str) -> Taught:
    try:
        return teach(site.services(request), project, sent.data, sent.labels, person)
    except ImageUnreadable as unreadable:
        raise _refusal(unreadable) from unreadable
    except CanNotTeach as refused:
        raise HTTPException(409, str(refused)) from refused


def _refusal(unreadable: ImageUnreadable) -> HTTPException:
    return HTTPException(413 if unreadable.reason.startswith("too_") else 400, str(unreadable))
