"""The page Doubts: labels to look at again, confirmed or corrected from here; for people and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse
from pydantic import Field

from backend.insight.doubts import LARGEST_ODDS, Doubts, doubts
from backend.labelstudio import LabelStudioError, LabelStudioUnreachable
from backend.pages import site
from backend.pages.site import Acting, Known, Number
from backend.review import NoSuchClass, NotReviewed, Overtaken, Unknown, confirm, correct, undo
from backend.reviews import Review

router = APIRouter(tags=["doubts"])

KEYS = "1234567890"
"""Keys that choose a class, in the order of the labelling interface; of more classes, the others are in a list."""

Label = Annotated[list[str], Field(max_length=1000, description="Names of classes.")]
REFUSALS: dict[int | str, dict[str, Any]] = {
    404: {"description": "There is no such label or review, or no longer. Nothing was changed."},
    409: {"description": "Somebody changed the label in the meantime. Nothing was changed."},
}
CAN_FAIL = REFUSALS | {
    502: {"description": "Label Studio refused."},
    503: {"description": "Label Studio can't be reached."},
}


@dataclass(frozen=True)
class Seen:
    """What the reviewer saw the annotation say; nothing is done when it says something else by now."""

    seen: Label


@dataclass(frozen=True)
class Correction:
    """What the reviewer saw the annotation say, and what it is to say."""

    seen: Label
    label: Label


@router.get("/ui/projects/{label_studio_id}/doubts", include_in_schema=False)
def page(request: Request, known: Known) -> HTMLResponse:
    """Show the labels to look at again."""
    now = doubts(site.services(request), known)
    return site.render(request, "doubts.html", known, now=now, keys=KEYS, largest_odds=LARGEST_ODDS)


@router.get("/api/projects/{label_studio_id}/doubts", summary="The labels to look at again")
def as_json(request: Request, known: Known) -> Doubts:
    """Labels that all others speak against, with the reason; disagreements between people; what was decided last."""
    return doubts(site.services(request), known)


@router.post(
    "/api/projects/{label_studio_id}/doubts/{annotation}/confirm",
    summary="Say that a label is right",
    responses=REFUSALS,
)
def confirm_doubt(request: Request, known: Known, who: Acting, annotation: Number, body: Seen) -> Review:
    """Doubt it no more, as long as it stands. Nothing is changed in Label Studio."""
    return _answered(lambda: confirm(site.services(request), known, annotation, body.seen, who))


@router.post(
    "/api/projects/{label_studio_id}/doubts/{annotation}/correct", summary="Correct a label", responses=CAN_FAIL
)
def correct_doubt(request: Request, known: Known, who: Acting, annotation: Number, body: Correction) -> Review:
    """Let the annotation in Label Studio name other classes; all else in it stays."""
    return _answered(lambda: correct(site.services(request), known, annotation, body.seen, body.label, who))


@router.post("/api/projects/{label_studio_id}/reviews/{review}/undo", summary="Take a review back", responses=CAN_FAIL)
def undo_review(request: Request, known: Known, who: Acting, review: Number) -> Review:
    """Doubt again what was confirmed; let what was corrected say again what it said."""
    return _answered(lambda: undo(site.services(request), known, review, who))


def _answered(act: Callable[[], Review]) -> Review:
    """Do it, or say in a sentence why it was not done."""
    try:
        return act()
    except NotReviewed as refused:
        status = {Unknown: 404, Overtaken: 409, NoSuchClass: 422}.get(type(refused), 400)
        raise HTTPException(status, str(refused)) from refused
    except LabelStudioUnreachable as error:
        raise HTTPException(
            503, f"{error} Try again then: should the change have arrived after all, you are told so."
        ) from error
    except LabelStudioError as error:
        raise HTTPException(502, str(error)) from error
