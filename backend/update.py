"""Learn: what the ledger holds becomes a new version.

What came is first measured: what did the newest version say of each picture, before it learned its label? Then it is
folded into the head, and the head is frozen, with the calibration of the newest study, as the next version.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np

from backend.features import Vector
from backend.learner import HeadKind, Learner, Learners, Preparation, calibration_of, new_learner
from backend.ledger import Changes, Label
from backend.outcomes import Outcome
from backend.rollback import release_if_unfit
from backend.services import Services
from backend.studies import Study
from backend.versions import Version, VersionTaken
from model.calibration import AdaptiveCoverage, prediction_sets
from model.evaluation import Prequential
from model.multilabel import agreement
from model.weights import Weights

log = logging.getLogger(__name__)

BURST_SECONDS = 0.1
"""Pause between two versions of one job: what comes in a burst is learned together, and leaves the cores to answers."""
COVERAGE = 0.9
"""How often the set of classes that may be the right one shall hold it."""
LIKELY = 0.5
"""Probability from which a class is chosen where several can be."""
LITTLE = 0.1
"""Change (of the temperature's logarithm, of a probability, of trust in the pool) not worth a version by itself."""


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
    learner = new_learner(cast(HeadKind, version.head), version.classes, version.encoder_id)
    labels = services.ledger.in_force(version.project_id, version.position)
    changes = Changes(version.position, labels, frozenset(labels), config_changed=False)
    study = services.studies.get(version.project_id, version.study) if version.study is not None else None
    learner.fold(services, learner.prepare(services, version.project_id, changes, reliability(services, study)))
    return learner.solve(services, study)


def reliability(services: Services, study: Study | None) -> dict[int, float]:
    """Return how much the label of each person counts where people disagree: alike, unless it is to be weighed."""
    if study is None or not services.settings.weigh_people:
        return {}
    return {int(person): weight for person, weight in study.reliability.items()}


def _learn_once(services: Services, learners: Learners, project_id: int) -> Version | None:
    """Bring the learner up to the ledger and commit what came of it; None when that is what the newest version has."""
    stopwatch = _Stopwatch()
    with stopwatch("read"):
        project = services.projects.get(project_id)
        parent = services.versions.newest(project_id)
        study = services.studies.newest(project_id)
        learner = learners.get(services, project)
        changes = services.ledger.since(project_id, learner.position)
    if parent is None and changes.position == 0:
        return None
    with stopwatch("features"):
        prepared = learner.prepare(services, project_id, changes, reliability(services, study))
    with stopwatch("measure"):
        outcomes = _measure(services, parent, learner, changes, prepared)
    with stopwatch("fold"):
        learner.fold(services, prepared)
    if parent is not None:
        known = (parent.position, parent.encoder_id, parent.head, parent.metrics["waiting"])
        same = known == (learner.position, learner.encoder_id, learner.kind, len(learner.waiting))
        if same and not is_news(services, parent, study):
            return None
    with stopwatch("solve"):
        learner.weights = learner.solve(services, study)
        data = learner.weights.to_bytes() if learner.weights else b""
    prequential = Prequential.from_dict(parent.metrics["prequential"]) if parent else Prequential()
    coverage = _coverage(parent)
    for outcome in outcomes:
        prequential.add(outcome.probability, outcome.predicted == outcome.label)
        if outcome.covered is not None:
            coverage = coverage.update(outcome.covered)
    version = Version(
        project_id=project_id,
        number=(parent.number if parent else 0) + 1,
        position=learner.position,
        created_at=time.time(),
        encoder_id=learner.encoder_id,
        head=learner.kind,
        classes=list(learner.classes),
        metrics={
            "labels": learner.counts(),
            "waiting": len(learner.waiting),
            "prequential": prequential.to_dict(),
            "coverage": coverage.to_dict(),
            "threshold": calibration_of(study).threshold(cast(float, coverage.level)),
            "seconds": stopwatch.seconds,
        },
        study=study.number if study else None,
    )
    release_if_unfit(services, project, version)
    services.versions.commit(version, data, outcomes)
    learner.number = version.number
    log.info("Project %d: %s has learned %d tasks", project_id, version.name, len(learner.lessons))
    return version


def is_news(services: Services, version: Version, study: Study | None) -> bool:
    """Tell whether a study lets the head serve otherwise than this version, by more than a little or a label less."""
    if study is None or study.number == version.study or study.encoder_id != version.encoder_id:
        return False
    before = services.studies.get(version.project_id, version.study) if version.study is not None else None
    old, new = calibration_of(before), calibration_of(study)
    return (
        old.shrinkage != new.shrinkage
        or abs(math.log(new.heat / old.heat)) > LITTLE
        or abs(new.threshold(COVERAGE) - old.threshold(COVERAGE)) > LITTLE
        or abs(study.trust - (before.trust if before else 0.0)) > LITTLE
        or reliability(services, before) != reliability(services, study)
        or (before is not None and before.trust > 0 and _took_back(services, before))
    )


def _took_back(services: Services, study: Study) -> bool:
    """Tell whether a label was changed or deleted since a study: what the pool taught then still has it in it."""
    changes = services.ledger.since(study.project_id, study.position)
    return not changes.first_labels.issuperset(changes.labels)


def _coverage(parent: Version | None) -> AdaptiveCoverage:
    told = parent.metrics.get("coverage") if parent else None
    return AdaptiveCoverage.from_dict(told) if told else AdaptiveCoverage(COVERAGE)


def _measure(
    services: Services, parent: Version | None, learner: Learner, changes: Changes, prepared: Preparation
) -> list[Outcome]:
    """Return what the parent, which has not learned them, says of the labels that came since.

    A second label for a picture, and a corrected one, say nothing about pictures the head has not seen.
    """
    if parent is None or parent.encoder_id != learner.encoder_id or not any(parent.metrics["labels"].values()):
        return []
    first = changes.first_labels
    if learner.position != parent.position:
        first = services.ledger.since(parent.project_id, parent.position).first_labels
    found = prepared.found
    seen = set(learner.pictures)
    fresh = {}
    for task, labels in prepared.answers.items():
        lesson = prepared.lessons[task]
        if lesson is not None and first.issuperset(labels):
            fresh[lesson.digest] = next(iter(labels.values()))
        elif lesson is not None:
            seen.add(lesson.digest)
    fresh = {digest: label for digest, label in fresh.items() if digest not in seen}
    if not fresh:
        return []
    weights = learner.weights if learner.weights and learner.number == parent.number else weights_of(services, parent)
    if weights is None:
        return []
    by_hash = {found.hashes[address]: vector for address, vector in found.vectors.items()}
    vectors = np.stack([by_hash[digest] for digest in fresh])
    judge = _judge_sets if learner.kind == "multilabel_lda" else _judge_choices
    now = time.time()
    return [
        Outcome(
            project_id=parent.project_id,
            annotation_id=label.annotation_id,
            task_id=label.task_id,
            version=parent.number,
            position=changes.position,
            told_at=now,
            **judged,
        )
        for label, judged in zip(fresh.values(), judge(parent, weights, vectors, list(fresh.values())), strict=True)
    ]


def _judge_choices(
    parent: Version, weights: Weights, vectors: Vector, labels: Sequence[Label]
) -> Iterator[dict[str, Any]]:
    """Yield what was said of each image whose label is one class."""
    names = [str(name) for name in weights.classes]
    threshold = parent.metrics.get("threshold", 1.0)
    rows = weights.predict_proba(vectors)
    for row, likely, label in zip(rows, prediction_sets(rows, threshold), labels, strict=True):
        (name,) = label.names
        place = names.index(name) if name in names else None
        yield {
            "label": name,
            "predicted": names[int(row.argmax())],
            "probability": 0.0 if place is None else float(row[place]),
            "confidence": float(row.max()),
            "covered": (place is not None and bool(likely[place])) if threshold < 1 else None,
        }


def _judge_sets(
    parent: Version, weights: Weights, vectors: Vector, labels: Sequence[Label]
) -> Iterator[dict[str, Any]]:
    """Yield what was said of each image whose label is a set of classes."""
    names = [str(name) for name in weights.classes]
    rows = weights.predict_proba(vectors)
    present = np.array([[name in label.names for name in names] for label in labels])
    given, _ = agreement(rows, present)
    expected, _ = agreement(rows, rows > LIKELY)
    for row, label, probability, confidence in zip(rows, labels, given, expected, strict=True):
        yield {
            "label": json.dumps(label.names),
            "predicted": json.dumps(sorted(name for name, share in zip(names, row, strict=True) if share > LIKELY)),
            "probability": float(probability),
            "confidence": float(confidence),
            "covered": None,
        }


class _Stopwatch:
    """Seconds per stage, in the order they were entered."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - start, 6)
