"""The page Overview: what the model knows now, for people and as JSON."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from backend.insight.overview import Overview, overview
from backend.pages import site
from backend.pages.site import Known

router = APIRouter(tags=["overview"])


@router.get("/ui/projects/{label_studio_id}/overview", include_in_schema=False)
def page(request: Request, known: Known) -> HTMLResponse:
    """Show what the model knows now."""
    return site.render(request, "overview.html", known, now=overview(site.services(request), known))


@router.get("/api/projects/{label_studio_id}/overview", summary="What the model knows now")
def as_json(request: Request, known: Known) -> Overview:
    """Labels, accuracy before learning them, calibration, confusion, per class and per domain, pace, forecast, alarms.

    Shares lie between 0 and 1; their intervals are Wilson's, at 95 %. Times are Unix seconds.
    """
    return overview(site.services(request), known)
