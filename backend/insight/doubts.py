"""Doubts: labels worth a second look, and tasks about which people disagree.

A study lists what the other labels speak against; of that, what still stands is told here: not what was changed since,
nor what somebody confirmed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from backend.database import annotation_table, reading
from backend.projects import Project
from backend.reviews import Review
from backend.services import Services

MOST_TOLD = 50
"""Disagreements that are listed, the newest first."""
REMEMBERED = 10
"""Newest reviews that are listed, to be taken back."""
LARGEST_ODDS = 1000


@dataclass(frozen=True, slots=True)
class Said:
    """A label in force.

    Attributes
    ----------
    annotation
        Its id in Label Studio.
    label
        The classes it names.
    person
        Label Studio's id of the user who gave it, None when Label Studio does not say.
    given_at
        When it was given or last changed: Unix seconds, by Label Studio's clock.
    """

    annotation: int
    label: tuple[str, ...]
    person: int | None
    given_at: float


@dataclass(frozen=True, slots=True)
class LookAlike:
    """A task whose image shows the same, and what it is labelled."""

    task: int
    labels: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Doubt:
    """A label that the others speak against.

    Attributes
    ----------
    task
        Its id in Label Studio.
    said
        The label in doubt.
    suggested
        The class that speaks against it.
    odds
        How many times as likely as the given class it is to Tandem, which left this label and all copies of the
        picture out to say so; `LARGEST_ODDS` at most.
    reason
        The same in words.
    look_alike
        A task that shows the same and is labelled as suggested, if there is one.
    """

    task: int
    said: Said
    suggested: str
    odds: float
    reason: str
    look_alike: LookAlike | None = None


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A task that people labelled differently."""

    task: int
    labels: tuple[Said, ...]


@dataclass(frozen=True, slots=True)
class Person:
    """How a person's labels compare with those of others.

    `shared` counts the tasks that others labelled too; `agreement` is the share of other people's labels on those that
    say the same, None without any.
    """

    id: int
    labels: int
    shared: int
    agreement: float | None


@dataclass(frozen=True, slots=True)
class Doubts:
    """What to look at again.

    Attributes
    ----------
    studied_at
        When the newest study was made (Unix seconds), None before the first.
    behind
        How many changes of labels have come since; the next study takes them in.
    classes
        What can be chosen.
    doubts
        The clearest first.
    disagreements
        The newest first.
    people
        Those who labelled, if others labelled the same tasks.
    reviews
        What was decided last and can be taken back, the newest first.
    """

    studied_at: float | None
    behind: int
    classes: tuple[str, ...]
    doubts: tuple[Doubt, ...]
    disagreements: tuple[Disagreement, ...]
    people: tuple[Person, ...]
    reviews: tuple[Review, ...]


def doubts(services: Services, project: Project) -> Doubts:
    """Return the labels of a project to look at again."""
    study = services.studies.newest(project.id)
    findings: Mapping[str, Any] = study.findings or {} if study else {}
    listed = findings.get("doubts", [])
    alike = {doubt["look_alike"] for doubt in listed if doubt["look_alike"] is not None}
    said = _said(services, project.id, {doubt["task"] for doubt in listed} | alike)
    settled = services.reviews.settled(project.id)
    reviewed = services.reviews.newest(project.id, REMEMBERED)
    corrected = {(review.annotation_id, review.before) for review in reviewed if not review.confirmed}
    found = []
    for doubt in listed:
        given, task = (str(doubt["given"]),), int(doubt["task"])
        for each in said.get(task, ()):
            # Label Studio's webhook about a correction may still be on its way.
            if each.label != given or (task, given) in settled or (each.annotation, given) in corrected:
                continue
            twin = doubt["look_alike"]
            labels = tuple(dict.fromkeys(other.label for other in said.get(twin, ()))) if twin != task else ()
            found.append(
                Doubt(
                    task=task,
                    said=each,
                    suggested=str(doubt["suggested"]),
                    odds=min(math.exp(min(float(doubt["evidence"]), 20.0)), LARGEST_ODDS),
                    reason=str(doubt["reason"]),
                    look_alike=LookAlike(int(twin), labels) if labels else None,
                )
            )
    people = findings.get("people", {}).get("annotators", [])
    return Doubts(
        studied_at=study.created_at if study else None,
        behind=max(project.position - study.position, 0) if study else project.position,
        classes=project.classes,
        doubts=tuple(found),
        disagreements=_disagreements(services, project.id),
        people=tuple(
            Person(int(each["id"]), each["labels"], each["shared"], each["agreement"])
            for each in people
            if each["shared"]
        ),
        reviews=tuple(reviewed),
    )


def _said(services: Services, project_id: int, tasks: Collection[int]) -> dict[int, list[Said]]:
    """Return the labels in force of some tasks."""
    query = _labels(project_id).where(annotation_table.c.task_id.in_(list(tasks))).order_by(annotation_table.c.id)
    found: dict[int, list[Said]] = {}
    with reading(services.engine) as connection:
        for row in connection.execute(query):
            found.setdefault(row.task_id, []).append(_read(row))
    return found


def _disagreements(services: Services, project_id: int) -> tuple[Disagreement, ...]:
    """Return the tasks whose labels in force are not all the same, the newest first."""
    table = annotation_table.c
    several = (
        sa.select(table.task_id)
        .where(table.project_id == project_id, table.label.is_not(None))
        .group_by(table.task_id)
        .having(sa.func.min(table.label) != sa.func.max(table.label))
        .order_by(sa.func.max(table.position).desc())
        .limit(MOST_TOLD)
    )
    with reading(services.engine) as connection:
        ids = list(connection.scalars(several))
    said = _said(services, project_id, ids)
    return tuple(Disagreement(task, tuple(said[task])) for task in ids if task in said)


def _labels(project_id: int) -> sa.Select[Any]:
    told = (annotation_table.c[name] for name in ("id", "task_id", "label", "multiple", "completed_by", "updated_at"))
    return sa.select(*told).where(annotation_table.c.project_id == project_id, annotation_table.c.label.is_not(None))


def _read(row: Any) -> Said:
    label = tuple(json.loads(row.label)) if row.multiple else (row.label,)
    return Said(row.id, label, row.completed_by, row.updated_at)
