"""The queue: the tasks without a label in the order they are asked, with what Tandem makes of each and why."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from backend.database import annotation_table, events, images, reading, tasks
from backend.label_config import LabelConfig
from backend.predict import rivals
from backend.projects import Project
from backend.scores import Scored
from backend.services import Services
from backend.update import LIKELY
from backend.versions import Version, version_name
from model.calibration import prediction_sets
from model.selection import in_random_sample
from model.uncertainty import AMBIGUOUS, NOVEL, ambiguity, reason
from model.weights import Floats, Weights

Kind = Literal["all", "ambiguous", "novel"]
"""Which tasks are listed: all, those where the classes overlap, or those unlike anything labelled (foreign first)."""
PAGE = 30
"""Tasks on a page, unless asked for otherwise."""
LONGEST_PAGE = 200


@dataclass(frozen=True, slots=True)
class Waiting:
    """A task that waits for a label.

    Attributes
    ----------
    place
        Where it stands in the list, from 1.
    task
        Its id in Label Studio.
    score
        What Label Studio orders by, the smallest first: how far the likeliest class is ahead of the next.
    predicted
        The likeliest class; where several can be chosen, all that are likelier than not. None before anything is known.
    probability
        Of what is predicted; of several, the least.
    likely
        The prediction set: the classes that can't be ruled out.
    ambiguity
        How much the classes overlap here, from 0; where it is known.
    novelty
        How few of the labelled images look as foreign, from 0 to 1; where it is known.
    reason
        The same in words, as the annotator reads them.
    drawn
        Whether it was drawn at random, to measure by, and is asked in between for that.
    unreadable
        Why the image can't be read, in a word; None when it can.
    """

    place: int
    task: int
    score: float
    predicted: tuple[str, ...] = ()
    probability: float | None = None
    likely: tuple[str, ...] = ()
    ambiguity: float | None = None
    novelty: float | None = None
    reason: str = ""
    drawn: bool = False
    unreadable: str | None = None

    @property
    def is_ambiguous(self) -> bool:
        """Whether more than one class fits."""
        return self.ambiguity is not None and self.ambiguity >= AMBIGUOUS

    @property
    def is_novel(self) -> bool:
        """Whether it is unlike what was labelled."""
        return self.novelty is not None and self.novelty >= NOVEL


@dataclass(frozen=True, slots=True)
class Queue:
    """A page of the queue.

    Attributes
    ----------
    version
        Name of the version that ordered it; None before anything was.
    ordered_at
        When, in Unix seconds.
    unlabelled
        Tasks without a label, as far as Tandem was told of them.
    ordered
        How many of those have their place already; the images of the others are still to be read.
    kind, predicted
        What is listed: see `Kind`; and only tasks of which this class is predicted, unless it is None.
    listed
        How many tasks that are, on all pages.
    page, pages, size
        Which page this is, from 1, of how many, and how many tasks are on one.
    classes
        What can be predicted by now.
    tasks
        The page's tasks.
    """

    version: str | None
    ordered_at: float | None
    unlabelled: int
    ordered: int
    kind: Kind
    predicted: str | None
    listed: int
    page: int
    pages: int
    size: int
    classes: tuple[str, ...]
    tasks: tuple[Waiting, ...]


def queue(
    services: Services,
    project: Project,
    kind: Kind = "all",
    predicted: str | None = None,
    page: int = 1,
    size: int = PAGE,
) -> Queue:
    """Return a page of the tasks without a label, in the order they are asked.

    Parameters
    ----------
    services, project
        Whose.
    kind
        Which tasks: those that are novel come with the most foreign first, all others as they are asked.
    predicted
        Only tasks of which this class is predicted.
    page
        Which page, from 1; one behind the last is the last.
    size
        How many tasks are on a page, `LONGEST_PAGE` at most.
    """
    size = min(max(size, 1), LONGEST_PAGE)
    told = services.scores.get(project.id)
    count = _unlabelled(services, project.id)
    if told is None:
        return Queue(None, None, count, 0, kind, predicted, 0, 1, 1, size, (), ())
    version = services.versions.get(project.id, told.version)
    open_ = ~np.isin(told.tasks, _labelled_since(services, project.id, version.position if version else 0))
    places = np.flatnonzero(open_ & _chosen(told, kind, predicted))
    if kind == "novel":
        places = places[np.argsort(-told.novelty[places], kind="stable")]
    pages = max(-(-len(places) // size), 1)
    page = min(max(page, 1), pages)
    start = (page - 1) * size
    return Queue(
        version=version_name(told.version),
        ordered_at=told.made_at,
        unlabelled=count,
        ordered=int(open_.sum()),
        kind=kind,
        predicted=predicted,
        listed=len(places),
        page=page,
        pages=pages,
        size=size,
        classes=told.classes,
        tasks=_waiting(services, project, told, version, places[start : start + size], start + 1),
    )


def _chosen(told: Scored, kind: Kind, predicted: str | None) -> npt.NDArray[np.bool_]:
    """Say which of the tasks are listed."""
    chosen = np.ones(len(told.tasks), dtype=bool)
    if kind == "ambiguous":
        # What is novel is not called ambiguous: the labels are no evidence about it.
        chosen &= (told.ambiguity >= AMBIGUOUS) & ~(told.novelty >= NOVEL)
    elif kind == "novel":
        chosen &= told.novelty >= NOVEL
    if predicted is not None:
        chosen &= told.labels == (told.classes.index(predicted) if predicted in told.classes else -2)
    return chosen


def _unlabelled(services: Services, project_id: int) -> int:
    """Count the tasks without a label."""
    labelled = sa.select(sa.func.count(annotation_table.c.task_id.distinct())).where(
        annotation_table.c.project_id == project_id, annotation_table.c.label.is_not(None)
    )
    everything = sa.select(sa.func.count()).select_from(tasks).where(tasks.c.project_id == project_id)
    with reading(services.engine) as connection:
        return max(connection.execute(everything).scalar_one() - connection.execute(labelled).scalar_one(), 0)


def _labelled_since(services: Services, project_id: int, position: int) -> list[int]:
    """Return the tasks that got a label after a ledger position."""
    touched = sa.select(events.c.annotation_id).where(
        events.c.project_id == project_id, events.c.position > position, events.c.annotation_id.is_not(None)
    )
    query = sa.select(annotation_table.c.task_id).where(
        annotation_table.c.project_id == project_id,
        annotation_table.c.id.in_(touched),
        annotation_table.c.label.is_not(None),
    )
    with reading(services.engine) as connection:
        return list(connection.scalars(query))


def _waiting(
    services: Services,
    project: Project,
    told: Scored,
    version: Version | None,
    places: npt.NDArray[np.intp],
    first: int,
) -> tuple[Waiting, ...]:
    """Return what is known of the tasks at these places of the order."""
    ids = told.tasks[places].tolist()
    addresses, unreadable = _images(services, project.id, ids)
    seen = _seen(services, project, version, {task: address for task, address in addresses.items() if address})
    drawn = in_random_sample([str(task) for task in ids], services.settings.random_share)
    found = []
    for number, (place, task) in enumerate(zip(places.tolist(), ids, strict=True), start=first):
        if task not in addresses:
            continue  # It was deleted since.
        novelty = float(told.novelty[place])
        waiting = Waiting(
            place=number,
            task=task,
            score=float(told.scores[place]),
            novelty=None if np.isnan(novelty) else novelty,
            drawn=bool(drawn[number - first]),
            unreadable=unreadable.get(task),
        )
        found.append(replace(waiting, **_opinion(seen[task], novelty, project.config)) if task in seen else waiting)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a version makes of one image: the probabilities of the classes `names`, and which can't be ruled out."""

    names: list[str]
    probabilities: Floats
    likely: list[str]


def _opinion(seen: _Seen, novelty: float, config: LabelConfig | None) -> dict[str, Any]:
    """Return what a version makes of an image, as fields of `Waiting`."""
    row = seen.probabilities
    if config is not None and config.multiple:
        chosen = {name: float(share) for name, share in zip(seen.names, row, strict=True) if share > LIKELY}
        return {
            "predicted": tuple(chosen),
            "probability": min(chosen.values(), default=None),
            "likely": tuple(chosen),
            "ambiguity": float(ambiguity(rivals(config, row[np.newaxis]))[0]),
            "reason": ", ".join(f"{name} {int(100 * share)} %" for name, share in chosen.items()) or "rather none",
        }
    best = int(np.argmax(row))
    return {
        "predicted": (seen.names[best],),
        "probability": float(row[best]),
        "likely": tuple(seen.likely),
        "ambiguity": float(ambiguity(row[np.newaxis])[0]),
        "reason": reason(seen.names, row, seen.likely, 0.0 if np.isnan(novelty) else novelty),
    }


def _seen(services: Services, project: Project, version: Version | None, addresses: dict[int, str]) -> dict[int, _Seen]:
    """Return what the version that ordered the pool makes of these images, as far as it is at hand."""
    data = services.versions.stored_weights(project.id, version.number) if version else None
    if not data or version is None:
        return {}
    weights = Weights.from_bytes(data)
    names = [str(name) for name in weights.classes]
    vectors = services.features.cached(project.id, list(addresses.values())).vectors
    known = [task for task, address in addresses.items() if address in vectors]
    if not known:
        return {}
    probabilities = weights.predict_proba(np.stack([vectors[addresses[task]] for task in known]))
    sets = prediction_sets(probabilities, version.metrics.get("threshold", 1.0))
    return {
        task: _Seen(names, row, [name for name, within in zip(names, likely, strict=True) if within])
        for task, row, likely in zip(known, probabilities, sets, strict=True)
    }


def _images(services: Services, project_id: int, ids: Collection[int]) -> tuple[dict[int, str | None], dict[int, str]]:
    """Return the address of each task that is still there, and why those that can't be read can't be."""
    addresses: dict[int, str | None] = {}
    unreadable: dict[int, str] = {}
    joined = tasks.outerjoin(
        images, sa.and_(images.c.project_id == tasks.c.project_id, images.c.address == tasks.c.image)
    )
    query = sa.select(tasks.c.id, tasks.c.image, images.c.reason).select_from(joined)
    with reading(services.engine) as connection:
        where = (tasks.c.project_id == project_id, tasks.c.id.in_(list(ids)))
        for row in connection.execute(query.where(*where)):
            addresses[row.id] = row.image
            if row.reason is not None or row.image is None:
                unreadable[row.id] = row.reason or "no_address"
    return addresses, unreadable
