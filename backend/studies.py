"""Studies: what the labels in force tell beside the head, at a ledger position.

Learning takes milliseconds, a study seconds: leaving each label out, comparing people, looking for what drifts. So the
head serves with the calibration of the newest study there is, and each version names the one it was made with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from backend.database import reading, studies, writing

LIGHT = [column for column in studies.c if column.name not in ("novelty", "pool")]
KEPT = 100
"""Newest studies whose novelty stays: a version made with an older one tells of no image that it is novel."""


@dataclass(frozen=True, slots=True)
class Study:
    """What was found out at a ledger position.

    `calibration` is what the head is served with, None while there is nothing to go by; `reliability` is how much the
    label of each person counts, by the id of the user; `findings` is what people read of it, None once a newer study
    stands; `trust` is how far the classes that labels lend to unlabelled images are believed, from 0 to 1.
    """

    project_id: int
    number: int
    position: int
    encoder_id: str
    created_at: float
    seconds: float
    calibration: dict[str, Any] | None
    reliability: dict[str, float]
    findings: dict[str, Any] | None
    trust: float


class Studies:
    """The table of studies."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    def add(self, study: Study, novelty: bytes | None = None, pool: bytes | None = None) -> None:
        """Write a study down, with what tells novel images and what the pool teaches; older findings are dropped."""
        values = {column.name: getattr(study, column.name) for column in LIGHT}
        pruned = (studies.c.project_id == study.project_id, studies.c.number == study.number - KEPT)
        older = (studies.c.project_id == study.project_id, studies.c.findings.is_not(None))
        with writing(self.engine) as connection:
            connection.execute(studies.update().where(*older).values(findings=sa.null()))
            connection.execute(studies.update().where(*pruned).values(novelty=None))
            connection.execute(studies.insert().values(novelty=novelty, pool=pool, **values))

    def newest(self, project_id: int) -> Study | None:
        """Return the newest study of a project, or None before the first."""
        query = sa.select(*LIGHT).where(studies.c.project_id == project_id)
        with reading(self.engine) as connection:
            row = connection.execute(query.order_by(studies.c.number.desc()).limit(1)).first()
        return Study(*row) if row else None

    def get(self, project_id: int, number: int) -> Study | None:
        """Return study `number` of a project, or None when there is none."""
        query = sa.select(*LIGHT).where(studies.c.project_id == project_id, studies.c.number == number)
        with reading(self.engine) as connection:
            row = connection.execute(query).first()
        return Study(*row) if row else None

    def novelty(self, project_id: int, number: int) -> bytes | None:
        """Return what tells novel images, or None when there was nothing to go by or it was pruned."""
        return self._stored(studies.c.novelty, project_id, number)

    def pool(self, project_id: int, number: int) -> bytes | None:
        """Return what unlabelled images teach, or None when that is nothing."""
        return self._stored(studies.c.pool, project_id, number)

    def _stored(self, column: sa.Column[bytes], project_id: int, number: int) -> bytes | None:
        query = sa.select(column).where(studies.c.project_id == project_id, studies.c.number == number)
        with reading(self.engine) as connection:
            return connection.scalar(query)
