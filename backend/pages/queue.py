"""The page Queue: the tasks without a label in the order they are asked, for people and as JSON."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from backend.insight.queue import LONGEST_PAGE, PAGE, Kind, Queue, queue
from backend.pages import site
from backend.pages.site import Known

router = APIRouter(tags=["queue"])

Page = Annotated[int, Query(ge=1, le=1_000_000, description="Which page, from 1; one behind the last is the last.")]
Size = Annotated[int, Query(ge=1, le=LONGEST_PAGE, description="Tasks on a page.")]
Only = Annotated[Kind, Query(description="All tasks, those where the classes overlap, or those unlike any label.")]
Predicted = Annotated[str, Query(max_length=1000, description="Only tasks of which this class is predicted.")]


@router.get("/ui/projects/{label_studio_id}/queue", include_in_schema=False)
def page(request: Request, known: Known, kind: Only = "all", predicted: Predicted = "", page: Page = 1) -> HTMLResponse:
    """Show what waits for a label."""
    now = queue(site.services(request), known, kind, predicted or None, page)
    return site.render(request, "queue.html", known, now=now)


@router.get("/api/projects/{label_studio_id}/queue", summary="The tasks without a label, in the order they are asked")
def as_json(
    request: Request, known: Known, kind: Only = "all", predicted: Predicted = "", page: Page = 1, size: Size = PAGE
) -> Queue:
    """Each task with what is predicted, how sure that is, and why it is asked.

    Novel tasks come with the most foreign first, all others in the order in which Label Studio asks for them.
    """
    return queue(site.services(request), known, kind, predicted or None, page, size)
