"""How Tandem is doing: what waits, who works, what was last heard of each project. What is wrong the doctor finds."""

from __future__ import annotations

from dataclasses import dataclass, field

import sqlalchemy as sa
from redis.exceptions import RedisError

from backend.database import events, reading, versions
from backend.jobs import Kind, Seen
from backend.projects import Project
from backend.services import Services
from backend.versions import version_name

LOOKED_AT = 10_000
"""Newest changes of labels that are looked at for how each was heard of."""


@dataclass(frozen=True, slots=True)
class ProjectHealth:
    """What was last heard of a project, and what is left to do.

    Attributes
    ----------
    project, title
        Label Studio's id, and its name there.
    version
        The newest version; `behind` are the changes of labels it has not learned.
    heard_at, compared_at
        When a webhook last told of a label, and when the ledger was last compared with Label Studio (Unix seconds).
    missed, missed_at
        Changes of labels which that comparison found that no webhook had told of, and when any comparison last did.
    by_webhook, by_comparison
        Of the newest changes of labels, how many were heard of how.
    unlogged
        Versions that MLflow has not seen.
    unreadable
        Images that can't be read, by reason.
    standing
        Annotations by how they stand: in force, skipped, empty, several, machine or deleted.
    waiting
        Labels that can't be learned since their image can't be read.
    failing
        Kinds of work that failed since they last went well, and how often.
    """

    project: int
    title: str
    version: str
    behind: int
    heard_at: float | None
    compared_at: float | None
    missed: int
    missed_at: float | None
    by_webhook: int
    by_comparison: int
    unlogged: int
    unreadable: dict[str, int]
    standing: dict[str, int]
    waiting: int
    failing: dict[Kind, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Health:
    """How Tandem is doing: jobs waiting on each queue and the workers alive, None where Redis can't be asked."""

    waiting: dict[str, int] | None
    workers: list[Seen] | None
    projects: list[ProjectHealth]


def health(services: Services) -> Health:
    """Return how Tandem is doing; nothing outside the database and Redis is asked."""
    known = services.projects.all()
    try:
        depth, workers = services.jobs.depth(), services.jobs.workers()
        failing = {project.id: services.jobs.failing(project.id) for project in known}
    except RedisError:
        depth, workers, failing = None, None, {}
    return Health(depth, workers, [_project(services, project, failing.get(project.id, {})) for project in known])


def _project(services: Services, project: Project, failing: dict[Kind, int]) -> ProjectHealth:
    newest = services.versions.newest(project.id)
    here = (events.c.project_id == project.id, events.c.annotation_id.is_not(None))
    lately = events.c.position > project.position - LOOKED_AT
    by_source = (
        sa.select(events.c.source, sa.func.count(), sa.func.max(events.c.told_at))
        .where(*here, lately)
        .group_by(events.c.source)
    )
    missed = sa.select(sa.func.count()).where(
        *here, lately, events.c.source == "sync", events.c.told_at >= (project.synced_at or 0.0)
    )
    unlogged = sa.select(sa.func.count()).where(versions.c.project_id == project.id, versions.c.run_id.is_(None))
    with reading(services.engine) as connection:
        heard = {source: (count, at) for source, count, at in connection.execute(by_source)}
        found = connection.scalar(missed) or 0
        left = connection.scalar(unlogged) or 0
    return ProjectHealth(
        project=project.label_studio_id,
        title=project.title,
        version=newest.name if newest else version_name(0),
        behind=project.position - (newest.position if newest else 0),
        heard_at=heard.get("webhook", (0, None))[1],
        compared_at=project.synced_at,
        missed=found,
        missed_at=heard.get("sync", (0, None))[1],
        by_webhook=heard.get("webhook", (0, None))[0],
        by_comparison=heard.get("sync", (0, None))[0],
        unlogged=left,
        unreadable=services.features.unreadable(project.id),
        standing=services.ledger.standing(project.id),
        waiting=newest.metrics["waiting"] if newest else 0,
        failing=failing,
    )
