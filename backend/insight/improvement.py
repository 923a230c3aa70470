"""Has learning on been worth it? What was served, against an older version that had stopped learning.

Both are asked about the same pictures, each before its label was learned: what was served then is written down as the
label's outcome, and the older version, which has learned none of them, is asked now.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
import sqlalchemy as sa

from backend.database import features, images, outcomes, reading, tasks, versions
from backend.features import Vector
from backend.projects import Project
from backend.services import Services
from backend.update import LIKELY
from backend.versions import version_name
from model.weights import Weights

LOOK_BACK = 100
"""Newest labels that the two are compared on, unless a version is pinned: then all since, up to this many."""
LEAST = 20
"""Labels below which nothing is compared."""


@dataclass(frozen=True, slots=True)
class Improvement:
    """What was served while learning went on, against the version `older` by itself, on the same `labels` pictures.

    `newer_right` and `older_right` count where either was right, `only_newer` and `only_older` where the other was not;
    `sure` is how probable it is that the newer ones are the better ones, see `probability_of_better`.
    """

    older: str
    newer: str
    labels: int
    newer_right: int
    older_right: int
    only_newer: int
    only_older: int
    sure: float


def improvement(services: Services, project: Project) -> Improvement | None:
    """Compare what was served lately with the version of before; None while there is too little to go by.

    The older version is the pinned one; else the one that served `LOOK_BACK` labels ago, or the first after it whose
    weights are still kept.
    """
    with reading(services.engine) as connection:
        newest = connection.execute(
            sa.select(versions.c.number, versions.c.encoder_id, versions.c.head)
            .where(versions.c.project_id == project.id)
            .order_by(versions.c.number.desc())
            .limit(1)
        ).first()
        if newest is None:
            return None
        recent = (
            sa.select(outcomes.c.version)
            .where(outcomes.c.project_id == project.id)
            .order_by(outcomes.c.position.desc())
            .limit(LOOK_BACK)
            .subquery()
        )
        wanted = project.pinned
        if wanted is None:
            wanted = connection.scalar(sa.select(sa.func.min(recent.c.version)))
        older = connection.execute(
            sa.select(versions.c.number, versions.c.weights)
            .where(
                versions.c.project_id == project.id,
                versions.c.number >= (wanted or 0),
                versions.c.number < newest.number,
                versions.c.encoder_id == newest.encoder_id,
                versions.c.head == newest.head,
                sa.func.length(versions.c.weights) > 0,
            )
            .order_by(versions.c.number)
            .limit(1)
        ).first()
        if older is None:
            return None
        asked = connection.execute(
            sa.select(outcomes.c.label, outcomes.c.predicted, features.c.vector)
            .select_from(
                outcomes.join(tasks, (tasks.c.project_id == outcomes.c.project_id) & (tasks.c.id == outcomes.c.task_id))
                .join(images, (images.c.project_id == tasks.c.project_id) & (images.c.address == tasks.c.image))
                .join(features, features.c.content_hash == images.c.content_hash)
            )
            .where(
                outcomes.c.project_id == project.id,
                outcomes.c.version >= older.number,
                features.c.encoder_id == newest.encoder_id,
            )
            .order_by(outcomes.c.position.desc())
            .limit(LOOK_BACK)
        ).all()
    if len(asked) < LEAST:
        return None
    vectors = np.stack([np.frombuffer(row.vector, dtype="<f4") for row in asked])
    said = _said(Weights.from_bytes(older.weights), vectors, several=newest.head == "multilabel_lda")
    newer = [row.predicted == row.label for row in asked]
    before = [mine == row.label for mine, row in zip(said, asked, strict=True)]
    only_newer = sum(now and not then for now, then in zip(newer, before, strict=True))
    only_older = sum(then and not now for now, then in zip(newer, before, strict=True))
    return Improvement(
        older=version_name(older.number),
        newer=version_name(newest.number),
        labels=len(asked),
        newer_right=sum(newer),
        older_right=sum(before),
        only_newer=only_newer,
        only_older=only_older,
        sure=probability_of_better(only_newer, only_older),
    )


def probability_of_better(wins: int, losses: int) -> float:
    """Return how probable it is that who won `wins` and lost `losses` wins more than half of all such.

    Where both are right or both are wrong nothing is learned about which is better (McNemar, Note on the sampling error
    of the difference between correlated proportions or percentages, Psychometrika 1947). Of the others, with every
    share of wins equally probable beforehand, this is the part of the Beta distribution above one half.

    Examples
    --------
    >>> probability_of_better(0, 0), round(probability_of_better(6, 1), 3)
    (0.5, 0.965)
    """
    trials = wins + losses + 1
    return float(sum(comb(trials, won) for won in range(wins + 1)) / 2**trials)


def _said(weights: Weights, vectors: Vector, several: bool) -> Sequence[str]:
    """Return what the weights say of each image, as outcomes have it."""
    names, rows = [str(name) for name in weights.classes], weights.predict_proba(vectors)
    if not several:
        return [names[place] for place in rows.argmax(axis=1)]
    return [json.dumps(sorted(name for name, share in zip(names, row, strict=True) if share > LIKELY)) for row in rows]
