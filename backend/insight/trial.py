"""Try: what the version that serves makes of any picture, and which labelled ones are most like it.

Nothing of the picture is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import sqlalchemy as sa

from backend.database import annotation_table, reading, taught
from backend.features import Vector
from backend.images import content_hash
from backend.insight.gallery import Galleries, names_of
from backend.predict import Champions
from backend.projects import Project
from backend.services import Services
from backend.teach import KnownTask, check, known_task
from backend.update import COVERAGE, LIKELY
from model.calibration import prediction_sets
from model.multilabel import least_clear
from model.uncertainty import AMBIGUOUS, NOVEL, ambiguity, reason

SIMILAR = 6
"""Labelled images shown for comparison."""
LATELY = 10
"""Taught pictures that are listed."""


@dataclass(frozen=True, slots=True)
class Probability:
    """How probably a picture shows a class, from 0 to 1."""

    name: str
    probability: float


@dataclass(frozen=True, slots=True)
class Similar:
    """A labelled task whose image is like the picture: the cosine of their features, 1 for the same picture."""

    task: int
    labels: tuple[str, ...]
    likeness: float


@dataclass(frozen=True, slots=True)
class Trial:
    """What is made of a picture.

    Attributes
    ----------
    version
        Name of the version that serves; None while nothing was learned.
    width, height
        Pixels of the picture, the right way up.
    chosen
        The class it is most probably; where several can be, those that are rather there than not.
    probabilities
        Of every class, the most probable first; they sum to 1 unless several classes can be there at once.
    likely
        The classes of which one is the right one in `coverage` of all pictures; empty where that is not known yet.
    coverage
        How often such a set holds the right class; None where that is not known yet.
    ambiguity, ambiguous
        How much the classes overlap here, from 0, where one is certain: the chance that two answers drawn from the
        probabilities differ; and whether that is a lot.
    novelty, novel
        The share of the labelled pictures that look less foreign than this one, None where that is not known yet; and
        whether that is most of them.
    told
        Both in a few words, as annotators see them.
    similar, searched
        The labelled tasks most like it, and among how many they were looked for.
    known
        The task that has this very picture, None when Tandem has read no such task.
    """

    version: str | None
    width: int
    height: int
    chosen: tuple[str, ...]
    probabilities: tuple[Probability, ...]
    likely: tuple[str, ...]
    coverage: float | None
    ambiguity: float | None
    ambiguous: bool
    novelty: float | None
    novel: bool
    told: str
    similar: tuple[Similar, ...]
    searched: int
    known: KnownTask | None


@dataclass(frozen=True, slots=True)
class Teaching:
    """A picture that `who` taught: its label as it is now, which someone may have changed since; None for none."""

    task: int
    labels: tuple[str, ...] | None
    who: str
    at: float


def taught_lately(services: Services, project: Project, limit: int = LATELY) -> list[Teaching]:
    """Return the pictures taught last, newest first."""
    theirs = (annotation_table.c.project_id == taught.c.project_id) & (annotation_table.c.id == taught.c.annotation_id)
    label = (annotation_table.c.label, annotation_table.c.multiple)
    query = (
        sa.select(taught.c.task_id, taught.c.who, taught.c.taught_at, *label)
        .select_from(taught.outerjoin(annotation_table, theirs))
        .where(taught.c.project_id == project.id)
        .order_by(taught.c.taught_at.desc())
        .limit(limit)
    )
    with reading(services.engine) as connection:
        return [Teaching(task, names_of(*told), who, at) for task, who, at, *told in connection.execute(query)]


def trial(
    services: Services,
    champions: Champions,
    galleries: Galleries,
    project: Project,
    data: bytes,
    similar: int = SIMILAR,
) -> Trial:
    """Return what the version that serves makes of a picture.

    Parameters
    ----------
    services, champions, galleries
        What this process has.
    project
        Whose version to ask.
    data
        The image file, as it was sent: nothing of it is trusted.
    similar
        Labelled tasks to compare it with; 0: none, which spares reading them.

    Raises
    ------
    backend.images.ImageUnreadable
        When the file is no image, or a larger one than the settings allow.
    """
    picture = check(services, data)
    digest = content_hash(data)
    vector = services.features.by_hash([digest]).get(digest)
    if vector is None:
        vector = services.encoder.encode([picture])[0]
    alike, searched = _similar(services, galleries, project, vector, similar)
    blank = Trial(
        version=None,
        width=picture.width,
        height=picture.height,
        chosen=(),
        probabilities=(),
        likely=(),
        coverage=None,
        ambiguity=None,
        ambiguous=False,
        novelty=None,
        novel=False,
        told="Nothing was learned so far.",
        similar=alike,
        searched=searched,
        known=known_task(services, project.id, digest),
    )
    version, weights, novelty = champions.of(services, project.id)
    if version is None or weights is None or version.encoder_id != services.encoder.id:
        return blank
    row = weights.predict_proba(vector[None])
    foreign = float(novelty.score(vector[None])[0]) if novelty else None
    names = [str(name) for name in weights.classes]
    several = version.head == "multilabel_lda"
    threshold = version.metrics.get("threshold", 1.0)
    has_set = not several and threshold < 1
    likely = [name for name, within in zip(names, prediction_sets(row, threshold)[0], strict=True) if within]
    overlap = float(ambiguity(least_clear(row) if several else row)[0])
    ordered = sorted(zip(names, row[0].tolist(), strict=True), key=lambda each: -each[1])
    chosen = tuple(name for name, share in ordered if share > LIKELY) if several else (ordered[0][0],)
    return replace(
        blank,
        version=version.name,
        chosen=chosen,
        probabilities=tuple(Probability(*each) for each in ordered),
        likely=tuple(name for name, _ in ordered if name in likely) if has_set else (),
        coverage=COVERAGE if has_set else None,
        ambiguity=overlap,
        ambiguous=overlap >= AMBIGUOUS,
        novelty=foreign,
        novel=foreign is not None and foreign >= NOVEL,
        told=_in_words(ordered) if several else reason(names, row[0], likely, foreign or 0.0),
    )


def _in_words(ordered: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {int(100 * share)} %" for name, share in ordered if share > LIKELY) or "none of them"


def _similar(
    services: Services, galleries: Galleries, project: Project, vector: Vector, count: int
) -> tuple[tuple[Similar, ...], int]:
    """Return the labelled tasks most like a picture, and among how many they were looked for."""
    if not count:
        return (), 0
    images = galleries.of(services, project.id).images(services)
    likeness = images.likeness(vector)
    nearest = np.argsort(-likeness, kind="stable")[:count]
    found = [(images.labelled[place], float(likeness[place])) for place in nearest]
    return tuple(Similar(each.task, each.names, min(alike, 1.0)) for each, alike in found), len(likeness)
