"""Study: what takes too long to be done with each label, and follows within seconds.

Every label in force is left out once, which tells how strongly the head should shrink, how sure it may be, how many
classes it has to name, and which labels look wrong; and the people who labelled the same tasks are compared. What the
head is served with from then on makes a new version when it is another by more than a little. What people should know
(which labels to look at again, who disagrees, what is novel, what has shifted, how each domain fares) is kept with it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from backend import findings
from backend.learner import Learner, Learners, samples
from backend.services import Services
from backend.studies import Study
from backend.update import is_news, reliability
from backend.versions import Version
from model.calibration import Calibration, calibrate
from model.doubt import doubts, look_alikes
from model.head import StreamingLDA
from model.left_out import leave_one_out
from model.neighbours import learn_from_pool, neighbour_graph
from model.selection import asked_regardless
from model.uncertainty import NOVEL, Novelty, fit_novelty, regions

log = logging.getLogger(__name__)

LEAST_PAUSE = 1.0
"""Seconds between the end of a study and the start of the next, at least."""
SHARE_OF_TIME = 0.1
"""Part of the time that may be spent on studies while labels keep coming."""
DRAWN, LISTED = 2000, 100
"""Images without a label that are drawn to tell what is novel, and how clear the pool is; and how many novel tasks, or
doubts, are listed."""


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
        people = findings.people(learner)
        told = services.outcomes.all(project_id)
        judged = _judge(services, project_id, learner, last)
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
                "people": findings.told_of(people),
                "shift": [asdict(alarm) for alarm in findings.alarms(services, project_id, learner, told)],
                "domains": findings.domains(services, told),
                "novel": judged.novel if judged else [],
                "doubts": judged.doubts if judged else [],
                "sample": judged.sample if judged else None,
                "forecast": judged.forecast if judged else None,
                "forgetting": findings.forgotten(services, learner, told),
            },
            trust=judged.trust if judged else 0.0,
        )
        services.studies.add(found, *((judged.novelty.to_bytes(), judged.pool) if judged else ()))
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

    `novel` are tasks without a label whose images look foreign, `doubts` labels that the others speak against; `sample`
    and `forecast` are for people; `pool` is what the unlabelled images teach, and `trust` how far it is believed.
    """

    calibration: Calibration
    novelty: Novelty
    novel: list[dict[str, Any]]
    doubts: list[dict[str, Any]]
    sample: dict[str, Any] | None
    forecast: dict[str, Any] | None
    trust: float
    pool: bytes | None


def _judge(services: Services, project_id: int, learner: Learner, last: Study | None) -> _Judged | None:
    """Leave each label out; None before there is one, or where the head can't do without it."""
    if not learner.lessons or not isinstance(learner.head, StreamingLDA):
        return None
    lessons = list(learner.lessons.values())
    features, labels, weights = samples(lessons, services.features.by_hash([lesson.digest for lesson in lessons]))
    pictures = [lesson.digest for lesson in lessons for _ in lesson.shares]
    task_of = [task for task, lesson in learner.lessons.items() for _ in lesson.shares]
    alike = look_alikes(features)
    tasks = {address: task for task, address, _ in services.ledger.pool(project_id) if address is not None}
    addresses = sorted(tasks)
    drawn = np.random.default_rng(0).permutation(len(addresses))[:DRAWN]
    pool = services.features.cached(project_id, [addresses[place] for place in drawn])
    unlabelled = np.array(list(pool.vectors.values()), dtype=np.float32).reshape(len(pool.vectors), features.shape[1])
    calibration = calibrate(
        learner.head,
        features,
        labels,
        sample_weight=weights,
        groups=alike,
        representative=_asked_regardless(services, learner, task_of),
        pool=unlabelled,
    )
    calibration.apply_to(learner.head)
    left_out = leave_one_out(learner.head, features, labels, sample_weight=weights, groups=alike)
    settled = services.reviews.settled(project_id)
    doubted = [
        asdict(doubt)
        | {
            "task": task_of[doubt.index],
            "look_alike": None if doubt.look_alike is None else task_of[doubt.look_alike],
        }
        for doubt in doubts(left_out, labels, learner.head.classes_, alike, task_of)
        if (task_of[doubt.index], (str(doubt.given),)) not in settled
    ][:LISTED]
    first = np.unique(pictures, return_index=True)[1]

    everything = np.concatenate([features[first], unlabelled])
    likely = learner.head.weights().predict_proba(unlabelled) if len(unlabelled) else left_out[:0]
    where = regions(everything, len(learner.classes))
    novelty = fit_novelty(features[first], np.array(labels)[first], where, left_out[first], likely)
    scores = novelty.score(unlabelled).tolist() if len(unlabelled) else []
    foreign = sorted(
        ((score, tasks[address]) for score, address in zip(scores, pool.vectors, strict=True)), reverse=True
    )
    novel = [
        {"task": task, "novelty": score} for score, task in sorted(foreign, reverse=True)[:LISTED] if score >= NOVEL
    ]

    lent = learn_from_pool(neighbour_graph(everything), learner.head, features, labels, weights)
    ids, chief = _chief_answers(learner)
    right = learner.head.classes_[left_out[chief].argmax(axis=1)] == np.array(labels)[chief]
    before = last.findings if last and last.findings else {}
    return _Judged(
        calibration,
        novelty,
        novel,
        doubted,
        findings.sample(services, ids, right),
        findings.outlook(
            services, ids, features[chief], [str(labels[at]) for at in chief], learner.head, before.get("forecast")
        ),
        lent.trust,
        lent.to_bytes() if lent.trust else None,
    )


def _asked_regardless(services: Services, learner: Learner, tasks: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Tell which of these labelled tasks, shape (n,), were asked whatever the head thought of them."""
    by_first = sorted(learner.lessons, key=lambda task: min(learner.answers[task]))
    regardless = asked_regardless([str(task) for task in by_first], services.settings.random_share)
    return np.isin(tasks, np.array(by_first)[regardless])


def _chief_answers(learner: Learner) -> tuple[list[int], list[int]]:
    """Return the labelled tasks, and where among all their shares each one's largest stands."""
    chief, start = [], 0
    for lesson in learner.lessons.values():
        shares = [share for _, share in lesson.shares]
        chief.append(start + int(np.argmax(shares)))
        start += len(shares)
    return list(learner.lessons), chief
