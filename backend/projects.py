"""The projects Tandem serves: which Label Studio project each is, its label config, and what of it is shown."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from backend.database import pins, projects, reading, upsert, writing
from backend.label_config import LabelConfig, UnusableConfig, parse_label_config


@dataclass(frozen=True, slots=True)
class Project:
    """A Label Studio project as Tandem knows it.

    `id` is ours. `label_studio_id` and `created` (Unix seconds) together name the project in Label Studio: an id alone
    comes again when Label Studio starts on a new database, and must not inherit a stranger's labels.
    """

    id: int
    label_studio_id: int
    created: int
    title: str
    label_config: str
    position: int
    pinned: int | None
    shown: str | None
    shown_version: int | None
    synced_at: float | None
    tabs: dict[str, Any] | None

    @property
    def config(self) -> LabelConfig | None:
        """The parsed label config, or None when Tandem can't work with it."""
        try:
            return parse_label_config(self.label_config)
        except UnusableConfig:
            return None

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes a person can choose from."""
        return self.config.classes if self.config else ()


@dataclass(frozen=True, slots=True)
class Pin:
    """Somebody's choice of what serves: `version` from `at` (Unix seconds) on, or the newest again when it is None.

    `who` is the person's name; None where Tandem chose by itself, or nobody was asked for a name.
    """

    version: int | None
    who: str | None
    why: str
    at: float


class UnknownProject(LookupError):  # noqa: N818 - reads as what it says
    """Raised when a project is asked for that Tandem was never told of."""


class Projects:
    """The table of projects."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    def all(self) -> list[Project]:
        """Return every project, oldest first."""
        with reading(self.engine) as connection:
            return [Project(*row) for row in connection.execute(sa.select(projects).order_by(projects.c.id))]

    def get(self, project_id: int) -> Project:
        """Return the project with our id `project_id`.

        Raises
        ------
        UnknownProject
            When there is none.
        """
        with reading(self.engine) as connection:
            return get_project(connection, project_id)

    def named(self, label_studio_id: int, created: int | None = None) -> Project:
        """Return the project with Label Studio's id `label_studio_id`: the newest, unless `created` tells which.

        Raises
        ------
        UnknownProject
            When there is none.
        """
        query = sa.select(projects).where(projects.c.label_studio_id == label_studio_id)
        if created is not None:
            query = query.where(projects.c.created == created)
        with reading(self.engine) as connection:
            row = connection.execute(query.order_by(projects.c.created.desc())).first()
        if row is None:
            raise UnknownProject(f"Tandem has not heard of project {label_studio_id}: run `tandem connect` for it")
        return Project(*row)

    def pin(self, project_id: int, version: int | None, who: str | None, why: str) -> Pin:
        """Let `version` serve from now on, or the newest again when it is None; who chose is kept."""
        pin = Pin(version, who, why, time.time())
        with writing(self.engine) as connection:
            connection.execute(projects.update().where(projects.c.id == project_id).values(pinned=version))
            connection.execute(
                pins.insert().values(project_id=project_id, version=version, who=who, why=why, pinned_at=pin.at)
            )
        return pin

    def pins(self, project_id: int, limit: int) -> list[Pin]:
        """Return the newest `limit` choices of what serves, newest first."""
        query = (
            sa.select(pins.c.version, pins.c.who, pins.c.why, pins.c.pinned_at)
            .where(pins.c.project_id == project_id)
            .order_by(pins.c.id.desc())
            .limit(limit)
        )
        with reading(self.engine) as connection:
            return [Pin(*row) for row in connection.execute(query)]

    def note_shown(self, project_id: int, name: str, version: int) -> None:
        """Remember that Label Studio shows the predictions `name` of version number `version`."""
        self._update(project_id, shown=name, shown_version=version)

    def note_synced(self, project_id: int, at: float) -> None:
        """Remember that the ledger was compared with Label Studio at `at` (Unix seconds)."""
        self._update(project_id, synced_at=at)

    def note_tabs(self, project_id: int, tabs: dict[str, Any]) -> None:
        """Remember what the tabs in Label Studio list; see `backend.tabs`."""
        self._update(project_id, tabs=tabs)

    def _update(self, project_id: int, **values: object) -> None:
        with writing(self.engine) as connection:
            connection.execute(projects.update().where(projects.c.id == project_id).values(**values))


def get_project(connection: sa.Connection, project_id: int) -> Project:
    """Return the project with our id `project_id` as `connection` sees it; see `Projects.get`."""
    row = connection.execute(sa.select(projects).where(projects.c.id == project_id)).first()
    if row is None:
        raise UnknownProject(f"there is no project {project_id}")
    return Project(*row)


def find_or_add(
    connection: sa.Connection, label_studio_id: int, created: int, title: str, label_config: str
) -> Project:
    """Return the project Label Studio speaks of, added when it is new (two processes may hear of it at once)."""
    query = sa.select(projects).where(projects.c.label_studio_id == label_studio_id, projects.c.created == created)
    row = connection.execute(query).first()
    if row is None:
        statement = upsert(connection.engine, projects).values(
            label_studio_id=label_studio_id, created=created, title=title, label_config=label_config
        )
        connection.execute(statement.on_conflict_do_nothing())
        row = connection.execute(query).one()
    return Project(*row)
