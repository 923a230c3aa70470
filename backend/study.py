"""Study: what takes too long to be done with each label, and follows within seconds.

Every label in force is left out once, which tells how strongly the head should shrink, how sure it may be, how many
classes it has to name, and which labels look wrong; and the people who labelled the same tasks are compared. What the
head is served with from then on makes a new version when it is another by more than a little. What people should know
(which labels to look at again, who disagrees, what is novel, what has shifted, how each domain fares) is kept with it.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from backend.learner import Learner, Learners, samples
from backend.ledger import Label
from backend.services import Services
from backend.studies import Study
from backend.update import is_news, reliability
from backend.versions import Version
from model.calibration import Calibration, calibrate, leave_one_out
from model.doubt import doubts, look_alikes
from model.evaluation import score_by_domain
from model.head import StreamingLDA
from model.people import Consensus, consensus
from model.shift import Alarm, drifting_features, rising_errors
from model.uncertainty import NOVEL, Novelty, fit_novelty, regions

log = logging.getLogger(__name__)

LEAST_PAUSE = 1.0
"""Seconds between the end of a study and the start of the next, at least."""
SHARE_OF_TIME = 0.1
"""Part of the time that may be spent on studies while labels keep coming."""
DRAWN, LISTED = 2000, 100
"""Images without a label that are drawn to tell what is novel, and how many novel tasks, or doubts, are listed."""
RECENT = 300
"""Newest images without a label that are compared with the labelled ones."""


def study(services: Services, learners: Learners, project_id: int) -> Study | None:
    """Study the labels in force; return what was found, None when that is known already.

    Parameters
    ----------
    services
        What this process has.
    learners
        Learners of the studies' own: they follow the ledger without making versions.
    project_id
        Our id of the project.
    """
    with services.jobs.lock("study", project_id):
        start = time.time()
        last = services.studies.newest(project_id)
        if not is_due(services.versions.newest(project_id), last):
            return None
        project = services.projects.get(project_id)
        learner = learners.get(services, project)
        try:
            changes = services.ledger.since(project_id, learner.position)
            prepared = learner.prepare(services, project_id, changes, reliability(services, last))
            learner.fold(services, prepared)
        except Exception:
            # Half of a fold may be in the head.
            learners.drop(project_id)
            raise
        people = _people(learner)
        judged = _judge(services, project_id, learner)
        found = Study(
            project_id=project_id,
            number=last.number + 1 if last else 1,
            position=learner.position,
            encoder_id=learner.encoder_id,
            created_at=time.time(),
            seconds=time.time() - start,
            calibration=judged.calibration.to_dict() if judged else None,
            reliability={str(person): each.reliability for person, each in people.people.items()},
            findings={
                "people": _told(people),
                "shift": [asdict(alarm) for alarm in _alarms(services, project_id, learner)],
                "domains": _domains(services, project_id),
                "novel": judged.novel if judged else [],
                "doubts": judged.doubts if judged else [],
            },
        )
        services.studies.add(found, judged.novelty.to_bytes() if judged else None)
    newest = services.versions.newest(project_id)
    if newest is not None and is_news(services, newest, found):
        services.jobs.ask("update", project_id)
    log.info("Project %d: study %d of %d tasks", project_id, found.number, len(learner.lessons))
    return found


def is_due(version: Version | None, last: Study | None) -> bool:
    """Tell whether the newest version learned from labels that the last study did not see, and some time has passed."""
    if version is None or (last and (last.position, last.encoder_id) == (version.position, version.encoder_id)):
        return False
    pause = max(LEAST_PAUSE, last.seconds / SHARE_OF_TIME) if last else 0.0
    return last is None or time.time() - last.created_at >= pause


@dataclass(frozen=True)
class _Judged:
    """What leaving each label out told.

    `novel` are tasks without a label whose images look foreign, `doubts` labels that the others speak against.
    """

    calibration: Calibration
    novelty: Novelty
    novel: list[dict[str, Any]]
    doubts: list[dict[str, Any]]


def _judge(services: Services, project_id: int, learner: Learner) -> _Judged | None:
    """Leave each label out; None before there is one, or where the head can't do without it."""
    if not learner.lessons or not isinstance(learner.head, StreamingLDA):
        return None
    lessons = list(learner.lessons.values())
    features, labels, weights = samples(lessons, services.features.by_hash([lesson.digest for lesson in lessons]))
    pictures = [lesson.digest for lesson in lessons for _ in lesson.shares]
    task_of = [task for task, lesson in learner.lessons.items() for _ in lesson.shares]
    alike = look_alikes(features)
    calibration = calibrate(learner.head, features, labels, sample_weight=weights, groups=alike)
    calibration.apply_to(learner.head)
    left_out = leave_one_out(learner.head, features, labels, sample_weight=weights, groups=alike)
    doubted = [
        asdict(doubt)
        | {
            "task": task_of[doubt.index],
            "look_alike": None if doubt.look_alike is None else task_of[doubt.look_alike],
        }
        for doubt in doubts(left_out, labels, learner.head.classes_, alike, task_of)[:LISTED]
    ]
    first = np.unique(pictures, return_index=True)[1]

    tasks = {address: task for task, address, _ in services.ledger.pool(project_id) if address is not None}
    addresses = sorted(tasks)
    drawn = np.random.default_rng(0).permutation(len(addresses))[:DRAWN]
    pool = services.features.cached(project_id, [addresses[place] for place in drawn]).vectors
    unlabelled = np.array(list(pool.values()), dtype=np.float32).reshape(len(pool), features.shape[1])
    everything = np.concatenate([features[first], unlabelled])
    likely = learner.head.weights().predict_proba(unlabelled) if len(pool) else np.zeros((0, left_out.shape[1]))
    where = regions(everything, len(learner.classes))
    novelty = fit_novelty(features[first], np.array(labels)[first], where, left_out[first], likely)
    scores = novelty.score(unlabelled).tolist() if len(pool) else []
    foreign = sorted(((score, tasks[address]) for score, address in zip(scores, pool, strict=True)), reverse=True)
    novel = [{"task": task, "novelty": score} for score, task in foreign[:LISTED] if score >= NOVEL]
    return _Judged(calibration, novelty, novel, doubted)


def _alarms(services: Services, project_id: int, learner: Learner) -> list[Alarm]:
    """Return what has shifted: predictions that err more than they admit, new images unlike all labelled ones."""
    outcomes = [outcome for outcome, _ in services.outcomes.all(project_id)]
    errors = rising_errors(
        [outcome.confidence for outcome in outcomes], [outcome.predicted == outcome.label for outcome in outcomes]
    )
    newest = [address for _, address, _ in services.ledger.pool(project_id)[-RECENT:] if address is not None]
    recent = services.features.cached(project_id, newest).vectors
    labelled = services.features.by_hash(list(learner.pictures))
    drift = None
    if recent and labelled:
        drift = drifting_features(
            np.stack(list(labelled.values())), np.stack([recent[address] for address in newest if address in recent])
        )
    return [alarm for alarm in (errors, drift) if alarm is not None]


def _domains(services: Services, project_id: int) -> dict[str, Any]:
    """Return how good predictions were in each domain, if a field of the tasks names it."""
    name = services.settings.domain_field
    told = [(outcome, fields[name]) for outcome, fields in services.outcomes.all(project_id) if name in fields]
    scores = score_by_domain(
        [str(domain) for _, domain in told],
        [outcome.probability for outcome, _ in told],
        [outcome.predicted == outcome.label for outcome, _ in told],
    )
    return {domain: asdict(score) for domain, score in scores.items()}


def _people(learner: Learner) -> Consensus[int, int]:
    """Compare the people who labelled the same tasks, each by the newest label they gave to a task."""
    answers: dict[tuple[int, int], Label] = {}
    for task, labels in learner.answers.items():
        for label in labels.values():
            if label.completed_by is not None:
                answers[task, label.completed_by] = label
    told = [(task, person, " + ".join(label.names)) for (task, person), label in answers.items()]
    classes = sorted(Counter(answer for _, _, answer in told).keys() | set(learner.classes))
    return consensus(told, classes)


def _told(people: Consensus[int, int]) -> dict[str, Any]:
    """Return what is known of people as JSON can hold it."""
    return {
        "alpha": _number(people.alpha),
        "classes": list(people.classes),
        "annotators": [
            {
                "id": person,
                "labels": known.labels,
                "shared": known.shared,
                "agreement": _number(known.agreement),
                "interval": list(known.interval),
                "confusion": known.confusion.round(3).tolist(),
                "reliability": known.reliability,
            }
            for person, known in people.people.items()
        ],
    }


def _number(value: float) -> float | None:
    """Return a number as JSON can hold it: none for one that isn't."""
    return value if math.isfinite(value) else None
