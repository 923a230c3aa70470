"""Outcomes: what the newest version said of an image before it learned the label that a person gave.

Each first label of a picture is measured once, so together they tell, without holding any image back, how good the
predictions of the newest version were. That is the one that serves, unless somebody rolled back: then these are not
the predictions that people saw, but they tell whether it is time to let the newest serve again, and they keep the
head's calibration to what the head does. What the version rolled back to is worth on those labels, `insight.history`
works out when it is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from backend.database import outcomes, reading, tasks, upsert


@dataclass(frozen=True, slots=True)
class Outcome:
    """What version number `version` said of the image that `annotation_id` labelled.

    `probability` is that of the label, `confidence` that of the class `predicted`; `covered` tells whether the
    prediction set held the label, None when there was no set; `position` is the ledger's when the label was learned.
    """

    project_id: int
    annotation_id: int
    task_id: int
    version: int
    position: int
    label: str
    predicted: str
    probability: float
    confidence: float
    covered: bool | None
    told_at: float


class Outcomes:
    """The table of outcomes."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    def all(self, project_id: int) -> list[tuple[Outcome, Mapping[str, Any]]]:
        """Return every outcome in the order it was learned, and the data fields of its task."""
        query = (
            sa.select(*outcomes.c, tasks.c.fields)
            .select_from(
                outcomes.outerjoin(
                    tasks, (tasks.c.project_id == outcomes.c.project_id) & (tasks.c.id == outcomes.c.task_id)
                )
            )
            .where(outcomes.c.project_id == project_id)
            .order_by(outcomes.c.position, outcomes.c.annotation_id)
        )
        with reading(self.engine) as connection:
            return [(Outcome(*row[:-1]), row[-1] or {}) for row in connection.execute(query)]


def add_outcomes(connection: sa.Connection, told: Iterable[Outcome]) -> None:
    """Write outcomes down; an annotation that has one keeps it: a label set again was learned before."""
    rows = [asdict(outcome) for outcome in told]
    if rows:
        connection.execute(upsert(connection.engine, outcomes).on_conflict_do_nothing(), rows)
