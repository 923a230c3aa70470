"""Versions: a head frozen at a ledger position, its served weights and what was measured.

The newest serves, or a pinned one.
A version's number follows its parent's and is unique per project. That alone keeps two learners from writing over
each other, whatever happens to their lock: the second to commit fails, and begins again from the first one's version.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from backend.database import projects, reading, versions, writing
from backend.outcomes import Outcome, add_outcomes

LIGHT = [column for column in versions.c if column.name != "weights"]


@dataclass(frozen=True, slots=True)
class Version:
    """A version without its weights.

    `metrics` holds plain numbers: ``labels`` per class, ``prequential`` sums, ``seconds`` per stage, ``waiting`` labels
    whose image could not be read. `study` is the number of the study it was made with, None without one.
    """

    project_id: int
    number: int
    position: int
    created_at: float
    encoder_id: str
    head: str
    classes: list[str]
    metrics: dict[str, Any]
    study: int | None = None
    logging_since: float | None = None
    run_id: str | None = None

    @property
    def name(self) -> str:
        """The version's name in Label Studio and MLflow."""
        return version_name(self.number)

    @property
    def parent(self) -> str:
        """The name of the version it grew from."""
        return version_name(self.number - 1)


class VersionTaken(Exception):  # noqa: N818 - reads as what it says
    """Raised when another learner committed a version of this number first."""


def version_name(number: int) -> str:
    """Return the name of version `number`; 0 is the cold start, before anything was learned.

    Examples
    --------
    >>> version_name(12)
    'tandem-v12'
    """
    return f"tandem-v{number}"


class Versions:
    """The table of versions."""

    def __init__(self, engine: sa.Engine, keep_weights: int) -> None:
        self.engine, self.keep_weights = engine, keep_weights

    def commit(self, version: Version, weights: bytes, outcomes: Sequence[Outcome] = ()) -> None:
        """Write a version, its served weights and what its parent said of what it learned down together.

        Raises
        ------
        VersionTaken
            When the project has a version of this number already.
        """
        values = {column.name: getattr(version, column.name) for column in LIGHT}
        try:
            with writing(self.engine) as connection:
                connection.execute(versions.insert().values(weights=weights, **values))
                add_outcomes(connection, outcomes)
                # One version falls out of the window with each commit: never a long clean-up.
                pinned = sa.select(projects.c.pinned).where(projects.c.id == version.project_id).scalar_subquery()
                connection.execute(
                    versions.update()
                    .where(
                        versions.c.project_id == version.project_id,
                        versions.c.number == version.number - self.keep_weights,
                        versions.c.number != sa.func.coalesce(pinned, -1),
                    )
                    .values(weights=None)
                )
        except sa.exc.IntegrityError as error:
            raise VersionTaken(version.name) from error

    def newest(self, project_id: int) -> Version | None:
        """Return the newest version of a project, or None before the first."""
        query = sa.select(*LIGHT).where(versions.c.project_id == project_id).order_by(versions.c.number.desc()).limit(1)
        with reading(self.engine) as connection:
            row = connection.execute(query).first()
        return Version(*row) if row else None

    def champion(self, project_id: int) -> Version | None:
        """Return the version that serves: the pinned one, else the newest; None before the first."""
        pinned = sa.select(projects.c.pinned).where(projects.c.id == project_id).scalar_subquery()
        newest = sa.select(sa.func.max(versions.c.number)).where(versions.c.project_id == project_id).scalar_subquery()
        query = sa.select(*LIGHT).where(
            versions.c.project_id == project_id, versions.c.number == sa.func.coalesce(pinned, newest)
        )
        with reading(self.engine) as connection:
            row = connection.execute(query).first()
        return Version(*row) if row else None

    def get(self, project_id: int, number: int) -> Version | None:
        """Return version `number` of a project, or None when there is none."""
        query = sa.select(*LIGHT).where(versions.c.project_id == project_id, versions.c.number == number)
        with reading(self.engine) as connection:
            row = connection.execute(query).first()
        return Version(*row) if row else None

    def all(self, project_id: int, limit: int | None = None, before: int | None = None) -> list[Version]:
        """Return the versions of a project, newest first: `limit` at most, and older than number `before`."""
        query = sa.select(*LIGHT).where(versions.c.project_id == project_id).order_by(versions.c.number.desc())
        if before is not None:
            query = query.where(versions.c.number < before)
        with reading(self.engine) as connection:
            return [Version(*row) for row in connection.execute(query.limit(limit))]

    def stored_weights(self, project_id: int, number: int) -> bytes | None:
        """Return a version's served weights, or None when they were pruned."""
        query = sa.select(versions.c.weights).where(versions.c.project_id == project_id, versions.c.number == number)
        with reading(self.engine) as connection:
            return connection.scalar(query)

    def unlogged(self, project_id: int, limit: int) -> list[Version]:
        """Return the oldest `limit` versions that MLflow has not seen, in order."""
        query = sa.select(*LIGHT).where(versions.c.project_id == project_id, versions.c.run_id.is_(None))
        with reading(self.engine) as connection:
            rows = connection.execute(query.order_by(versions.c.number).limit(limit)).all()
        return [Version(*row) for row in rows]

    def note_logging(self, version: Version) -> None:
        """Remember that a run for `version` may exist from now on, so that a retry looks for it first."""
        self._update(version, logging_since=time.time())

    def note_logged(self, version: Version, run_id: str) -> None:
        """Remember the MLflow run of `version`."""
        self._update(version, run_id=run_id)

    def _update(self, version: Version, **values: object) -> None:
        where = (versions.c.project_id == version.project_id, versions.c.number == version.number)
        with writing(self.engine) as connection:
            connection.execute(versions.update().where(*where).values(values))
