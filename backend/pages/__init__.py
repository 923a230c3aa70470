"""The pages for who reviews and who runs it, and the same as JSON: one file per page, with both kinds of routes."""

from __future__ import annotations

from fastapi import APIRouter

from backend.pages import doubts, health, overview, queue, site, thumbnails, trial, versions

router = APIRouter()
for page in (site, overview, health, doubts, queue, thumbnails, versions, trial):
    router.include_router(page.router)
