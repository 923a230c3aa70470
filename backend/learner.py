"""The learner of a project: a head, and what it was taught. It is a view of the ledger.

Each task teaches one lesson: its picture, and the share of each label among the people who labelled it. To learn means
to make the lessons taught equal to those that the labels in force give, by forgetting what left and learning what came.
So it does not matter how often that is done, where it stopped, or who did it before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from backend.features import Found, Vector
from backend.ledger import Answer, Changes, Label
from backend.projects import Project
from backend.services import Services
from backend.studies import Study
from model.calibration import Calibration
from model.comparison import IncrementalHead, make_head
from model.head import StreamingLDA
from model.multilabel import MultilabelLDA
from model.neighbours import PoolLessons
from model.people import MISTAKEN, TRUSTED, weighted_shares
from model.weights import Weights

HeadKind = Literal["streaming_lda", "multilabel_lda", "mlp", "sgd"]
Head = StreamingLDA | MultilabelLDA | IncrementalHead
UNKNOWN_RELIABILITY = TRUSTED / (TRUSTED + MISTAKEN)
"""How probably someone is right of whom nothing is known yet."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one task teaches: the picture of this content hash is each label to that share; the shares sum to 1."""

    digest: str
    shares: tuple[tuple[Answer, float], ...]


@dataclass(frozen=True, slots=True)
class Preparation:
    """What changes will teach.

    `answers` are the labels in force of each task they touch, by annotation; `lessons` what is made of them, None where
    nothing is left to learn; `waiting` are the labels among them whose image can't be read now; `found` has the
    features of the pictures; and from `position` on the learner will know the ledger.
    """

    position: int
    reliability: Mapping[int, float]
    answers: Mapping[int, Mapping[int, Label]]
    lessons: Mapping[int, Lesson | None]
    waiting: Mapping[int, Label]
    found: Found


@dataclass(slots=True)
class Learner:
    """A head and what it was taught.

    `position` is how far the ledger was followed; `answers` are the labels in force by task and annotation, and
    `lessons` what was made of them, by task; `pictures` count the content hashes of the lessons; `waiting` are labels
    in force whose image could not be read so far; `reliability` is how probably each person is right, where
    that counts, else empty; `weights` are those of version `number`, the last that was committed here; `from_pool` is
    what the unlabelled images of study `studied` teach.
    """

    kind: HeadKind
    head: Head
    classes: tuple[str, ...]
    encoder_id: str
    position: int = 0
    answers: dict[int, Mapping[int, Label]] = field(default_factory=dict)
    lessons: dict[int, Lesson] = field(default_factory=dict)
    pictures: Counter[str] = field(default_factory=Counter)
    waiting: dict[int, Label] = field(default_factory=dict)
    reliability: Mapping[int, float] = field(default_factory=dict)
    number: int = 0
    weights: Weights | None = None
    studied: int = 0
    from_pool: PoolLessons = field(default_factory=PoolLessons)
    _task_of: dict[int, int] = field(default_factory=dict)

    def prepare(
        self, services: Services, project_id: int, changes: Changes, reliability: Mapping[int, float]
    ) -> Preparation:
        """Return what `changes` will teach.

        Images never read before are fetched now; those that waited already are left to whoever tries them again.
        """
        answers = self._answers_after(changes, reliability)
        fresh = {label.task_id for label in changes.labels.values() if label is not None}
        image_of = {task: list(labels.values())[-1].image or "" for task, labels in answers.items() if labels}
        found = services.features.find(project_id, [(image_of[task], task) for task in fresh & image_of.keys()])
        found.add(services.features.cached(project_id, [image_of[task] for task in image_of.keys() - fresh]))
        lessons: dict[int, Lesson | None] = dict.fromkeys(answers)
        waiting: dict[int, Label] = {}
        for task, image in image_of.items():
            digest = found.hashes.get(image)
            if digest is None:
                waiting.update(answers[task])
            else:
                lessons[task] = Lesson(digest, self._shares(answers[task].values(), reliability))
        return Preparation(changes.position, reliability, answers, lessons, waiting, found)

    def fold(self, services: Services, prepared: Preparation) -> None:
        """Make what the head was taught equal to what was prepared."""
        changed = {task: lesson for task, lesson in prepared.lessons.items() if self.lessons.get(task) != lesson}
        gone = [self.lessons[task] for task in changed if task in self.lessons]
        come = [lesson for lesson in changed.values() if lesson is not None]
        self._note(prepared)
        if gone and isinstance(self.head, IncrementalHead):
            # It can't forget: it learns everything anew.
            self.head = _new_head(self.kind, self.classes)
            self.pictures.clear()
            gone, come = [], list(self.lessons.values())
        found = prepared.found
        vectors = {found.hashes[address]: vector for address, vector in found.vectors.items()}
        missing = {lesson.digest for lesson in [*gone, *come]} - vectors.keys()
        vectors |= services.features.by_hash(list(missing))
        if isinstance(self.head, IncrementalHead):
            if come:
                self.head.partial_fit(
                    np.stack([vectors[lesson.digest] for lesson in come]),
                    [max(lesson.shares, key=lambda share: share[1])[0] for lesson in come],
                )
        else:
            if gone:
                self.head.forget(*samples(gone, vectors))
            if come:
                features, labels, weights = samples(come, vectors)
                self.head.partial_fit(features, labels, sample_weight=weights)
        self.pictures.subtract(lesson.digest for lesson in gone)
        self.pictures = +self.pictures
        self.pictures.update(lesson.digest for lesson in come)

    def solve(self, services: Services, study: Study | None) -> Weights | None:
        """Return what serves, as a study calibrated it and with what the pool taught then; None before any label."""
        if not self.lessons:
            return None
        if not isinstance(self.head, StreamingLDA):
            return self.head.weights()
        calibration_of(study).apply_to(self.head)
        if study is None or study.trust == 0 or study.encoder_id != self.encoder_id:
            return self.head.weights()
        if self.studied != study.number:
            data = services.studies.pool(study.project_id, study.number)
            self.from_pool = PoolLessons.from_bytes(data) if data else PoolLessons()
            self.studied = study.number
        return self.from_pool.add_to(self.head.weights(), sum(len(lesson.shares) for lesson in self.lessons.values()))

    def _shares(self, labels: Iterable[Label], reliability: Mapping[int, float]) -> tuple[tuple[Answer, float], ...]:
        several = self.kind == "multilabel_lda"
        alike = [replace(label, label=label.names if several else label.names[0]) for label in labels]
        return shares(alike, reliability, len(self.classes))

    def counts(self) -> dict[str, int]:
        """Return how many labels of each class were learned."""
        answers = (label for task in self.lessons for label in self.answers[task].values())
        return dict(Counter(name for label in answers for name in label.names))

    def _answers_after(self, changes: Changes, reliability: Mapping[int, float]) -> dict[int, Mapping[int, Label]]:
        """Return the labels in force of every task whose lesson may be another now, by annotation."""
        touched = {self._task_of[annotation] for annotation in changes.labels if annotation in self._task_of}
        touched |= {label.task_id for label in [*changes.labels.values(), *self.waiting.values()] if label is not None}
        if reliability != self.reliability:
            touched |= {task for task, labels in self.answers.items() if len(labels) > 1}
        answers: dict[int, dict[int, Label]] = {
            task: {
                annotation: label
                for annotation, label in self.answers.get(task, {}).items()
                if annotation not in changes.labels
            }
            for task in touched
        }
        for annotation, label in changes.labels.items():
            if label is not None and label.image is not None and self._can_learn(label.names):
                answers[label.task_id][annotation] = label
        return dict(answers)

    def _can_learn(self, names: tuple[str, ...]) -> bool:
        """Tell whether an answer is one of this project: its label config may have been another when it was given."""
        return set(names) <= set(self.classes) and (self.kind == "multilabel_lda" or len(names) == 1)

    def _note(self, prepared: Preparation) -> None:
        self.position, self.reliability = prepared.position, prepared.reliability
        self.waiting = dict(prepared.waiting)
        for task, labels in prepared.answers.items():
            for annotation in self.answers.pop(task, {}):
                self._task_of.pop(annotation, None)
            if labels:
                self.answers[task] = labels
        for task, labels in prepared.answers.items():
            self._task_of.update(dict.fromkeys(labels, task))
        for task, lesson in prepared.lessons.items():
            if lesson is None:
                self.lessons.pop(task, None)
            else:
                self.lessons[task] = lesson


class Learners:
    """The learners that this process keeps up to date, by project."""

    def __init__(self) -> None:
        self._learners: dict[int, Learner] = {}

    def get(self, services: Services, project: Project) -> Learner:
        """Return the project's learner; a new and empty one when its classes or the encoder are others by now."""
        learner = self._learners.get(project.id)
        encoder_id = services.encoder.id
        several = project.config is not None and project.config.multiple
        kind: HeadKind = "multilabel_lda" if several else services.settings.head
        if learner is None or (learner.kind, learner.classes, learner.encoder_id) != (
            kind,
            project.classes,
            encoder_id,
        ):
            learner = new_learner(kind, project.classes, encoder_id)
            self._learners[project.id] = learner
        return learner

    def drop(self, project_id: int) -> None:
        """Forget a learner: it is built anew from the ledger when next needed."""
        self._learners.pop(project_id, None)


def new_learner(kind: HeadKind, classes: Iterable[str], encoder_id: str) -> Learner:
    """Return a learner that was taught nothing."""
    known = tuple(classes)
    return Learner(kind, _new_head(kind, known), known, encoder_id)


def calibration_of(study: Study | None) -> Calibration:
    """Return what a study found to serve the head with; what is known beforehand, without one."""
    return Calibration.from_dict(study.calibration) if study and study.calibration else Calibration()


def _new_head(kind: HeadKind, classes: tuple[str, ...]) -> Head:
    return MultilabelLDA().declare(classes) if kind == "multilabel_lda" else make_head(kind, classes)


def shares(labels: Iterable[Label], reliability: Mapping[int, float], classes: int) -> tuple[tuple[Answer, float], ...]:
    """Return the share of each answer that people gave for one picture, sorted.

    Parameters
    ----------
    labels
        Their labels, at least one.
    reliability
        How probably each person is right, where that is to count; empty: all votes count the same.
    classes
        How many classes there are to choose from.

    Examples
    --------
    >>> sad, angry = Label(1, 7, "face.png", "sad", completed_by=1), Label(2, 7, "face.png", "angry", completed_by=2)
    >>> shares([sad, angry], {}, 7)
    (('angry', 0.5), ('sad', 0.5))
    >>> [(label, round(share, 2)) for label, share in shares([sad, angry], {1: 0.9, 2: 0.6}, 7)]
    [('angry', 0.14), ('sad', 0.86)]
    """
    told = sorted(labels, key=lambda label: label.annotation_id)
    if not reliability:
        votes = Counter(label.label for label in told)
        return tuple(sorted((label, vote / len(told)) for label, vote in votes.items()))
    weighed = [(label.label, reliability.get(label.completed_by or 0, UNKNOWN_RELIABILITY)) for label in told]
    return tuple(sorted(weighted_shares(weighed, classes).items()))


def samples(lessons: Iterable[Lesson], vectors: Mapping[str, Vector]) -> tuple[Vector, list[Answer], list[float]]:
    """Return features of shape (n, d), labels and sample weights, as an estimator takes them."""
    rows = [(lesson.digest, label, share) for lesson in lessons for label, share in lesson.shares]
    return np.stack([vectors[digest] for digest, _, _ in rows]), [row[1] for row in rows], [row[2] for row in rows]
