"""Roll back: an older version serves, until the newest is let serve again; who chose is kept.

Learning goes on underneath: versions are made, studied and logged as ever, and labels are measured against the newest,
so that whoever looks sees whether it has become good enough to serve again. `/predict` asks SQL each time which version
serves and follows at once; Label Studio is shown the predictions of the other version by the next `show`.
"""

from __future__ import annotations

import logging

from backend.projects import Pin, Project
from backend.services import Services
from backend.versions import Version

log = logging.getLogger(__name__)


class CanNotServe(ValueError):  # noqa: N818 - reads as what it says
    """Raised when a version can't be rolled back to; the message says why and what to do."""


def roll_back(services: Services, project: Project, number: int, who: str | None, why: str = "") -> Pin:
    """Let version `number` serve until `release` is called; return who chose so, and when.

    A choice that is in force already stays as it is, with the name of who made it.

    Raises
    ------
    CanNotServe
        When there is no such version, or when it does not know the images or the classes of today.
    """
    version, newest = services.versions.get(project.id, number), services.versions.newest(project.id)
    if version is None or newest is None:
        known = f"there are the versions 1 to {newest.number}" if newest else "nothing was learned so far"
        raise CanNotServe(f"There is no version {number} of project {project.label_studio_id}: {known}.")
    if unfit := _why_unfit(version, newest):
        raise CanNotServe(f"{version.name} can't serve: {unfit}.")
    if services.projects.get(project.id).pinned == number:
        return services.projects.pins(project.id, limit=1)[0]
    log.info("Project %d: %s serves from now on, chosen by %s", project.id, version.name, who or "nobody named")
    return _pin(services, project.id, number, who, why)


def release(services: Services, project: Project, who: str | None, why: str = "") -> Pin | None:
    """Let the newest version serve again; return who chose so, and when, or None when none was pinned."""
    if services.projects.get(project.id).pinned is None:
        return None
    log.info("Project %d: the newest version serves again, chosen by %s", project.id, who or "nobody named")
    return _pin(services, project.id, None, who, why)


def release_if_unfit(services: Services, project: Project, newest: Version) -> None:
    """Let the newest version serve again where the pinned one does not know the images or the classes of `newest`."""
    pinned = services.versions.get(project.id, project.pinned) if project.pinned is not None else None
    if pinned is not None and (unfit := _why_unfit(pinned, newest)):
        log.warning("Project %d: %s can't serve any more: %s. The newest serves", project.id, pinned.name, unfit)
        _pin(services, project.id, None, None, f"{pinned.name} can't serve any more: {unfit}")


def _why_unfit(version: Version, newest: Version) -> str | None:
    """Return why a version can't serve what the newest one does; None when it can.

    A class that came since is no hindrance: the version just never names it.
    """
    if version.encoder_id != newest.encoder_id:
        return f"its images were encoded by {version.encoder_id}, those of today are by {newest.encoder_id}"
    if (version.head == "multilabel_lda") != (newest.head == "multilabel_lda"):
        return "how many classes one image may have is another today"
    gone = [name for name in version.classes if name not in newest.classes]
    if gone:
        return f"it knows the class {gone[0]!r}, which Label Studio's labeling configuration no longer has"
    return None


def _pin(services: Services, project_id: int, number: int | None, who: str | None, why: str) -> Pin:
    pin = services.projects.pin(project_id, number, who, why)
    services.jobs.ask("show", project_id)
    services.jobs.ask("log", project_id)
    return pin
