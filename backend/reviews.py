"""Reviews: which labels somebody looked at again, and what they decided.

A label that was confirmed is not doubted again as long as it stands, and who changed one can be told and taken back.
Label Studio has no place for this: it knows one user for all that Tandem does, and its ground-truth star can be on one
annotation of a task only.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from backend.database import annotation_table, reading, reviews, writing

LIGHT = [column for column in reviews.c if column.name not in ("project_id", "result")]


@dataclass(frozen=True, slots=True)
class Review:
    """What somebody decided about an annotation that named the classes `before`.

    With `after` the same it was confirmed; else the annotation was corrected to it. It stands until it is undone.
    """

    id: int
    task_id: int
    annotation_id: int
    before: tuple[str, ...]
    after: tuple[str, ...]
    who: str
    reviewed_at: float
    undone_at: float | None = None
    undone_by: str | None = None

    @property
    def confirmed(self) -> bool:
        """Whether the label was found right."""
        return self.before == self.after


class Reviews:
    """The table of reviews."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    def add(
        self,
        project_id: int,
        task_id: int,
        annotation_id: int,
        before: tuple[str, ...],
        after: tuple[str, ...],
        who: str,
        result: list[dict[str, Any]] | None = None,
    ) -> Review:
        """Write down what was decided; `result` is the annotation's before it was corrected."""
        values = {
            "task_id": task_id,
            "annotation_id": annotation_id,
            "before": list(before),
            "after": list(after),
            "who": who,
            "reviewed_at": time.time(),
        }
        statement = reviews.insert().values(
            project_id=project_id, result=sa.null() if result is None else result, **values
        )
        with writing(self.engine) as connection:
            identity = connection.execute(statement.returning(reviews.c.id)).scalar_one()
        return _review((identity, *values.values(), None, None))

    def get(self, project_id: int, review_id: int) -> tuple[Review, list[dict[str, Any]] | None] | None:
        """Return a review, and the annotation's result before it was corrected; None when there is none."""
        query = sa.select(*LIGHT, reviews.c.result)
        with reading(self.engine) as connection:
            row = connection.execute(query.where(reviews.c.project_id == project_id, reviews.c.id == review_id)).first()
        return (_review(row[:-1]), row[-1]) if row else None

    def newest(self, project_id: int, limit: int) -> list[Review]:
        """Return the newest `limit` reviews that stand, newest first."""
        query = sa.select(*LIGHT).where(reviews.c.project_id == project_id, reviews.c.undone_at.is_(None))
        with reading(self.engine) as connection:
            rows = connection.execute(query.order_by(reviews.c.reviewed_at.desc(), reviews.c.id.desc()).limit(limit))
            return [_review(row) for row in rows]

    def undo(self, review_id: int, who: str) -> None:
        """Remember that a review was taken back."""
        values = {"undone_at": time.time(), "undone_by": who}
        with writing(self.engine) as connection:
            connection.execute(reviews.update().where(reviews.c.id == review_id).values(values))

    def settled(self, project_id: int) -> set[tuple[int, tuple[str, ...]]]:
        """Return the tasks and labels that are not to be doubted: confirmed here, corrected to, or starred.

        The star is Label Studio's own mark of a label that is known to be right (ground truth).
        """
        stands = (reviews.c.project_id == project_id, reviews.c.undone_at.is_(None))
        starred = (annotation_table.c.project_id == project_id, annotation_table.c.ground_truth)
        told = (annotation_table.c[name] for name in ("task_id", "label"))
        with reading(self.engine) as connection:
            settled = {
                (row.task_id, tuple(row.after))
                for row in connection.execute(sa.select(reviews.c.task_id, reviews.c.after).where(*stands))
            }
            labels = connection.execute(
                sa.select(*told).where(*starred, annotation_table.c.label.is_not(None), ~annotation_table.c.multiple)
            )
            return settled | {(row.task_id, (row.label,)) for row in labels}


def _review(row: Any) -> Review:
    identity, task_id, annotation_id, before, after, *rest = row
    return Review(identity, task_id, annotation_id, tuple(before), tuple(after), *rest)
