"""Scores: the tasks without a label in the order they are asked, and what a version makes of each.

The pool lies in the memory of the worker that shows it; this is what other processes read of it. It is written whole,
as arrays in one row of the database: of 100,000 tasks that is 2.6 MB and 30 ms, where a row for each would take
seconds after each label. Novelty, which only a study changes, stands beside it.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from backend.database import reading, scores, upsert, writing
from model.uncertainty import ambiguity
from model.weights import Floats

Singles = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scored:
    """Tasks in the order they are asked; arrays of shape (n,).

    `version` is the number of the version that scored them, 0 for the cold start; `study` that of the study which told
    what is novel, None without one. A task's `label` is the place in `classes` of its likeliest class, -1 where nothing
    is known of it: before the first label, or when its image can't be read. `confidence` is that class's probability,
    `ambiguity` as in `model.uncertainty`, of the class that is least clear where several can be chosen. `novelty` is
    NaN where it has not been looked at yet.
    """

    project_id: int
    version: int
    made_at: float
    classes: tuple[str, ...]
    tasks: npt.NDArray[np.int64]
    scores: Singles
    labels: npt.NDArray[np.int32]
    confidence: Singles
    ambiguity: Singles
    novelty: Singles
    study: int | None = None


def scored(
    project_id: int,
    version: int,
    score_of: Mapping[int, float],
    known: Sequence[int] = (),
    classes: Sequence[str] = (),
    probabilities: Floats | None = None,
    rivals: Floats | None = None,
) -> Scored:
    """Return what a version makes of the pool.

    Parameters
    ----------
    project_id, version
        Whose.
    score_of
        The score by task: the smallest is asked first.
    known
        The tasks of which `probabilities` tell.
    classes
        The columns of `probabilities`.
    probabilities
        Of shape (len(known), k); None before anything was learned.
    rivals
        Those between which the margin lies, where they are others: see `backend.predict.rivals`.

    Examples
    --------
    >>> told = scored(1, 4, {7: 0.9, 8: 0.1, 9: 1.0}, [7, 8], ["cat", "dog"], np.array([[0.95, 0.05], [0.45, 0.55]]))
    >>> told.tasks.tolist(), told.labels.tolist(), told.confidence.round(2).tolist()
    ([8, 7, 9], [1, 0, -1], [0.550000011920929, 0.949999988079071, 0.0])
    """
    tasks = np.fromiter(score_of.keys(), np.int64, len(score_of))
    values = np.fromiter(score_of.values(), np.float32, len(score_of))
    labels = np.full(len(tasks), -1, np.int32)
    confidence, unclear = np.zeros(len(tasks), np.float32), np.zeros(len(tasks), np.float32)
    if probabilities is not None and len(known):
        by_id = np.argsort(tasks)
        places = by_id[np.searchsorted(tasks, np.asarray(known, np.int64), sorter=by_id)]
        labels[places] = probabilities.argmax(axis=1)
        confidence[places] = probabilities.max(axis=1)
        unclear[places] = ambiguity(probabilities if rivals is None else rivals)
    order = np.argsort(values, kind="stable")
    return Scored(
        project_id=project_id,
        version=version,
        made_at=time.time(),
        classes=tuple(classes),
        tasks=tasks[order],
        scores=values[order],
        labels=labels[order],
        confidence=confidence[order],
        ambiguity=unclear[order],
        novelty=np.full(len(tasks), np.nan, np.float32),
    )


class Scores:
    """The table of scores: one row per project."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    def keep(self, told: Scored) -> None:
        """Write down what a version makes of the pool, in place of what stood there; novelty stays as it was."""
        self._write(
            told.project_id,
            version=told.version,
            made_at=told.made_at,
            classes=list(told.classes),
            pool=_to_bytes(
                tasks=told.tasks,
                scores=told.scores,
                labels=told.labels,
                confidence=told.confidence,
                ambiguity=told.ambiguity,
            ),
        )

    def keep_novelty(self, project_id: int, study: int, tasks: Sequence[int], novelty: Floats) -> None:
        """Write down how novel a study finds these tasks of a pool that was kept before, shape (len(tasks),)."""
        order = np.argsort(tasks)
        ids, values = np.asarray(tasks, np.int64)[order], novelty[order].astype(np.float32)
        changed = {"study": study, "novelty": _to_bytes(tasks=ids, novelty=values)}
        with writing(self.engine) as connection:
            connection.execute(scores.update().where(scores.c.project_id == project_id).values(changed))

    def get(self, project_id: int) -> Scored | None:
        """Return what is known of a project's pool, None before it was scored once."""
        with reading(self.engine) as connection:
            row = connection.execute(sa.select(scores).where(scores.c.project_id == project_id)).first()
        if row is None:
            return None
        arrays = _from_bytes(row.pool)
        tasks = arrays["tasks"]
        return Scored(
            project_id=project_id,
            version=row.version,
            made_at=row.made_at,
            classes=tuple(row.classes),
            novelty=_looked_up(tasks, _from_bytes(row.novelty)) if row.novelty else _unknown(tasks),
            study=row.study,
            **arrays,
        )

    def made_at(self, project_id: int) -> float | None:
        """Return when a project's pool was scored last (Unix seconds), None before it was once."""
        with reading(self.engine) as connection:
            return connection.scalar(sa.select(scores.c.made_at).where(scores.c.project_id == project_id))

    def _write(self, project_id: int, **values: object) -> None:
        statement = upsert(self.engine, scores).values(project_id=project_id, **values)
        with writing(self.engine) as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=[scores.c.project_id], set_=values))


def _unknown(tasks: npt.NDArray[np.int64]) -> Singles:
    return np.full(len(tasks), np.nan, np.float32)


def _looked_up(tasks: npt.NDArray[np.int64], told: Mapping[str, npt.NDArray[Any]]) -> Singles:
    """Return the novelty of each task, NaN for those of which nothing was told."""
    found = _unknown(tasks)
    ids, values = told["tasks"], told["novelty"]
    if len(ids):
        places = np.minimum(np.searchsorted(ids, tasks), len(ids) - 1)
        there = ids[places] == tasks
        found[there] = values[places[there]]
    return found


def _to_bytes(**arrays: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def _from_bytes(data: bytes) -> dict[str, npt.NDArray[Any]]:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
