"""The page Health: how Tandem is doing, what the doctor finds, and both as JSON."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from backend.doctor import Finding, examine
from backend.insight.health import Health, health
from backend.pages import site
from backend.services import Services

FRESH = 30.0
"""Seconds for which what the doctor found is told again: looking means writing small files and asking others."""

router = APIRouter(tags=["health"])


@dataclass(frozen=True, slots=True)
class Examined:
    """What the doctor found, and when (Unix seconds)."""

    at: float
    findings: list[Finding]


@dataclass(frozen=True, slots=True)
class HealthTold:
    """How Tandem is doing, and what the doctor found when."""

    health: Health
    examined: Examined


_last: WeakKeyDictionary[Services, Examined] = WeakKeyDictionary()
_examining = threading.Lock()


@router.get("/ui/health", include_in_schema=False)
def page(request: Request) -> HTMLResponse:
    """Show how Tandem is doing; what the doctor finds follows, since looking takes seconds."""
    return site.render(request, "health.html", now=health(site.services(request)))


@router.get("/ui/health/findings", include_in_schema=False)
def findings(request: Request) -> HTMLResponse:
    """Show what the doctor finds."""
    return site.render(request, "findings.html", examined=examined(site.services(request)))


@router.get("/api/health", summary="How Tandem is doing, and what the doctor finds")
def as_json(request: Request) -> HealthTold:
    """Queues, workers, what was last heard of each project, and the doctor's findings, each with what to do.

    Looking takes up to 15 seconds; what was found is told again for half a minute. Times are Unix seconds.
    """
    services = site.services(request)
    return HealthTold(health(services), examined(services))


def examined(services: Services) -> Examined:
    """Return what the doctor finds; who asks while it looks waits for what it finds."""
    with _examining:
        last = _last.get(services)
        if last is None or time.time() - last.at > FRESH:
            last = _last[services] = Examined(time.time(), examine(services))
        return last
