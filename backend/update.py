"""Learn: what the ledger holds becomes a new version.

The learner of a project is a view of the ledger. It remembers which label of which image each annotation taught it;
an update makes that equal to the labels in force, by forgetting what left and learning what came. So it does not
matter how often it runs, where it stopped, or who ran before it.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, cast

import numpy as np

from backend.features import Found, Vector
from backend.ledger import Changes, Label
from backend.projects import Project
from backend.services import Services
from backend.versions import Version, VersionTaken
from model.comparison import IncrementalHead, make_head
from model.evaluation import Prequential
from model.head import StreamingLDA
from model.weights import Weights

log = logging.getLogger(__name__)

BURST_SECONDS = 0.1
"""Pause between two versions of one job: what comes in a burst is learned together, and leaves the cores to answers."""

HeadKind = Literal["streaming_lda", "mlp", "sgd"]
Lesson = tuple[str, str]
"""A label and the content hash of the image it was given to: what one annotation taught."""


@dataclass(slots=True)
class Learner:
    """A head and what it was taught.

    `position` is how far the ledger was followed; `lessons` are what each annotation taught, by annotation id;
    `pictures` count the content hashes among them; `waiting` are labels in force whose image could not be read so far;
    `weights` are those of version `number`, the last that was committed here.
    """

    kind: HeadKind
    head: StreamingLDA | IncrementalHead
    classes: tuple[str, ...]
    encoder_id: str
    position: int = 0
    lessons: dict[int, Lesson] = field(default_factory=dict)
    pictures: Counter[str] = field(default_factory=Counter)
    waiting: dict[int, Label] = field(default_factory=dict)
    number: int = 0
    weights: Weights | None = None


class Learners:
    """The learners that this process keeps up to date, by project."""

    def __init__(self) -> None:
        self._learners: dict[int, Learner] = {}

    def get(self, services: Services, project: Project) -> Learner:
        """Return the project's learner; a new and empty one when its classes or the encoder are others by now."""
        learner = self._learners.get(project.id)
        encoder_id = services.encoder.id
        if learner is None or (learner.classes, learner.encoder_id) != (project.classes, encoder_id):
            kind = services.settings.head
            learner = Learner(kind, make_head(kind, project.classes), project.classes, encoder_id)
            self._learners[project.id] = learner
        return learner

    def drop(self, project_id: int) -> None:
        """Forget a learner: it is built anew from the ledger when next needed."""
        self._learners.pop(project_id, None)


def update(services: Services, learners: Learners, project_id: int) -> Version | None:
    """Learn everything the ledger holds; return the newest version made, or None when there was nothing to learn.

    Each pass takes in all that was told since the last, so a burst of labels becomes few versions.
    """
    newest = None
    with services.jobs.lock("update", project_id):
        while True:
            try:
                version = _learn_once(services, learners, project_id)
            except VersionTaken as taken:
                log.warning("Project %d: another learner committed %s first; going on from there", project_id, taken)
                continue
            except Exception:
                # Half of a fold may be in the head.
                learners.drop(project_id)
                raise
            if version is None:
                return newest
            newest = version
            services.jobs.ask("log", project_id)
            services.jobs.ask("show", project_id)
            time.sleep(BURST_SECONDS)


def weights_of(services: Services, version: Version) -> Weights | None:
    """Return the served weights of a version, None when it has learned nothing.

    Weights that were pruned are learned again from the ledger at the version's position.
    """
    data = services.versions.stored_weights(version.project_id, version.number)
    if data is not None:
        return Weights.from_bytes(data) if data else None
    head = make_head(cast(HeadKind, version.head), version.classes)
    labels = [
        label
        for label in services.ledger.in_force(version.project_id, version.position).values()
        if label.label in version.classes and label.image is not None
    ]
    found = services.features.find(version.project_id, [(label.image or "", label.task_id) for label in labels])
    known = [label for label in labels if label.image in found.vectors]
    if not known:
        return None
    head.partial_fit(np.stack([found.vectors[label.image or ""] for label in known]), [each.label for each in known])
    return head.weights()


def _learn_once(services: Services, learners: Learners, project_id: int) -> Version | None:
    """Bring the learner up to the ledger and commit what came of it; None when that is what the newest version has."""
    stopwatch = _Stopwatch()
    with stopwatch("read"):
        project = services.projects.get(project_id)
        parent = services.versions.newest(project_id)
        learner = learners.get(services, project)
        changes = services.ledger.since(project_id, learner.position)
    if parent is None and changes.position == 0:
        return None
    with stopwatch("features"):
        lessons, waiting, found = _lessons(services, project_id, learner, changes)
    with stopwatch("measure"):
        prequential = _measure(services, parent, learner, changes, lessons, found)
    with stopwatch("fold"):
        _fold(services, learner, lessons, found)
        learner.waiting, learner.position = waiting, changes.position
    if parent is not None and (parent.position, parent.encoder_id, parent.head, parent.metrics["waiting"]) == (
        learner.position,
        learner.encoder_id,
        learner.kind,
        len(learner.waiting),
    ):
        return None
    with stopwatch("solve"):
        learner.weights = learner.head.weights() if learner.lessons else None
        data = learner.weights.to_bytes() if learner.weights else b""
    version = Version(
        project_id=project_id,
        number=(parent.number if parent else 0) + 1,
        position=learner.position,
        created_at=time.time(),
        encoder_id=learner.encoder_id,
        head=learner.kind,
        classes=list(learner.classes),
        metrics={
            "labels": dict(Counter(label for label, _ in learner.lessons.values())),
            "waiting": len(learner.waiting),
            "prequential": prequential.to_dict(),
            "seconds": stopwatch.seconds,
        },
    )
    services.versions.commit(version, data)
    learner.number = version.number
    log.info("Project %d: %s has learned %d labels", project_id, version.name, len(learner.lessons))
    return version


def _lessons(
    services: Services, project_id: int, learner: Learner, changes: Changes
) -> tuple[dict[int, Lesson | None], dict[int, Label], Found]:
    """Return what each touched annotation should have taught, the labels that wait for their image, and the features.

    Images never read before are fetched now; those that waited already are left to whoever tries them again.
    """
    learnable: dict[int, Label] = {
        annotation: label
        for annotation, label in (learner.waiting | dict(changes.labels)).items()
        if label is not None and label.image is not None and label.label in learner.classes
    }
    fresh = [label for annotation, label in learnable.items() if annotation in changes.labels]
    found = services.features.find(project_id, [(label.image or "", label.task_id) for label in fresh])
    earlier = [label.image or "" for annotation, label in learnable.items() if annotation not in changes.labels]
    found.add(services.features.cached(project_id, earlier))
    lessons: dict[int, Lesson | None] = dict.fromkeys(changes.labels)
    waiting = {}
    for annotation, label in learnable.items():
        digest = found.hashes.get(label.image or "")
        if digest is None:
            waiting[annotation] = label
        else:
            lessons[annotation] = (label.label, digest)
    return lessons, waiting, found


def _measure(
    services: Services,
    parent: Version | None,
    learner: Learner,
    changes: Changes,
    lessons: Mapping[int, Lesson | None],
    found: Found,
) -> Prequential:
    """Score the labels that came since the parent with the parent, which has not learned them.

    A second label for a picture, and a corrected one, say nothing about pictures the head has not seen.
    """
    prequential = Prequential.from_dict(parent.metrics["prequential"]) if parent else Prequential()
    if parent is None or parent.encoder_id != learner.encoder_id or not any(parent.metrics["labels"].values()):
        return prequential
    first = changes.first_labels
    if learner.position != parent.position:
        first = services.ledger.since(parent.project_id, parent.position).first_labels
    seen = set(learner.pictures)
    seen.update(lesson[1] for annotation, lesson in lessons.items() if lesson and annotation not in first)
    fresh = {
        lesson[1]: lesson[0] for annotation in first if (lesson := lessons.get(annotation)) and lesson[1] not in seen
    }
    if not fresh:
        return prequential
    weights = learner.weights if learner.weights and learner.number == parent.number else weights_of(services, parent)
    if weights is not None:
        by_hash = {found.hashes[address]: vector for address, vector in found.vectors.items()}
        columns = {str(label): column for column, label in enumerate(weights.classes)}
        rows = weights.predict_proba(np.stack([by_hash[digest] for digest in fresh]))
        for row, label in zip(rows, fresh.values(), strict=True):
            column = columns.get(label)
            prequential.add(0.0 if column is None else float(row[column]), column == int(row.argmax()))
    return prequential


def _fold(services: Services, learner: Learner, lessons: Mapping[int, Lesson | None], found: Found) -> None:
    """Make what the head was taught equal to `lessons` for the annotations they name."""
    changed = {
        annotation: lesson for annotation, lesson in lessons.items() if learner.lessons.get(annotation) != lesson
    }
    gone = [learner.lessons[annotation] for annotation in changed if annotation in learner.lessons]
    for annotation, lesson in changed.items():
        if lesson is None:
            learner.lessons.pop(annotation, None)
        else:
            learner.lessons[annotation] = lesson
    come = [lesson for lesson in changed.values() if lesson is not None]
    if gone and not isinstance(learner.head, StreamingLDA):
        # It can't forget: it learns everything anew.
        learner.head = make_head(learner.kind, learner.classes)
        learner.pictures.clear()
        gone, come = [], list(learner.lessons.values())
    by_hash = {found.hashes[address]: vector for address, vector in found.vectors.items()}
    missing = {digest for _, digest in [*gone, *come]} - by_hash.keys()
    by_hash |= services.features.by_hash(list(missing))
    if gone and isinstance(learner.head, StreamingLDA):
        learner.head.forget(*_samples(gone, by_hash))
    if come:
        learner.head.partial_fit(*_samples(come, by_hash))
    learner.pictures.subtract(digest for _, digest in gone)
    learner.pictures = +learner.pictures
    learner.pictures.update(digest for _, digest in come)


def _samples(lessons: Iterable[Lesson], by_hash: Mapping[str, Vector]) -> tuple[Vector, list[str]]:
    """Return features of shape (n, d) and labels, as an estimator takes them."""
    labels, digests = zip(*lessons, strict=True)
    return np.stack([by_hash[digest] for digest in digests]), list(labels)


class _Stopwatch:
    """Seconds per stage, in the order they were entered."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - start, 6)
