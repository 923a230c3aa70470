"""What a study tells people beside what the head needs: who disagrees, what has shifted, what more labels would bring.

Everything here is plain numbers and texts, as JSON can hold them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.learner import Learner, samples
from backend.ledger import Label
from backend.outcomes import Outcome
from backend.services import Services
from model.evaluation import accuracy_matrix, forgetting, score_by_domain, wilson_interval
from model.head import StreamingLDA
from model.people import Consensus, consensus
from model.selection import in_random_sample
from model.shift import Alarm, drifting_features, rising_errors
from model.stopping import Forecast, forecast

RECENT = 300
"""Newest images without a label that are compared with the labelled ones."""
AHEAD = 100
"""Labels whose gain is forecast."""
GROWTH = 1.1
"""How many times as many labels there must be for a new forecast: it takes a second or two."""
LEAST_SAMPLE = 30
"""Labelled tasks of the random sample from which a forecast is made of it alone."""
DOMAINS, LEAST_OF_DOMAIN = 8, 20
"""How many domains are compared, and how many labels each must have, half to learn from and half to try."""

Told = Sequence[tuple[Outcome, Mapping[str, Any]]]
"""Every outcome of a project in the order it was learned, with the data fields of its task: see `Outcomes.all`."""


def alarms(services: Services, project_id: int, learner: Learner, told: Told) -> list[Alarm]:
    """Return what has shifted: predictions that err more than they admit, new images unlike all labelled ones."""
    errors = rising_errors(
        [outcome.confidence for outcome, _ in told], [outcome.predicted == outcome.label for outcome, _ in told]
    )
    newest = [address for _, address, _ in services.ledger.pool(project_id)[-RECENT:] if address is not None]
    recent = services.features.cached(project_id, newest).vectors
    labelled = services.features.by_hash(list(learner.pictures)) if recent else {}
    drift = None
    if recent and labelled:
        drift = drifting_features(
            np.stack(list(labelled.values())), np.stack([recent[address] for address in newest if address in recent])
        )
    return [alarm for alarm in (errors, drift) if alarm is not None]


def domains(services: Services, told: Told) -> dict[str, Any]:
    """Return how good predictions were in each domain, if a field of the tasks names it."""
    named = _by_domain(services, told)
    scores = score_by_domain(
        [domain for _, domain in named],
        [outcome.probability for outcome, _ in named],
        [outcome.predicted == outcome.label for outcome, _ in named],
    )
    return {domain: asdict(score) for domain, score in scores.items()}


def forgotten(services: Services, learner: Learner, told: Told) -> dict[str, Any] | None:
    """Return the accuracy on each domain after each domain was learned, None with fewer than two.

    Domains are learned in the order of their first label, half of each one's tasks; the accuracy is that on the other
    halves. So it tells whether what comes later harms what came before, apart from which labels happened to come.
    """
    tasks: dict[str, list[int]] = {}
    for outcome, domain in _by_domain(services, told):
        if outcome.task_id in learner.lessons:
            tasks.setdefault(domain, []).append(outcome.task_id)
    names = [name for name, theirs in tasks.items() if len(theirs) >= LEAST_OF_DOMAIN][:DOMAINS]
    if len(names) < 2 or not isinstance(learner.head, StreamingLDA):
        return None
    head, heads, tried = StreamingLDA(**learner.head.get_params()).declare(learner.classes), [], []
    for name in names:
        halves = [[learner.lessons[task] for task in sorted(tasks[name])[start::2]] for start in (0, 1)]
        vectors = services.features.by_hash([lesson.digest for half in halves for lesson in half])
        features, labels, weights = samples(halves[0], vectors)
        heads.append(head.partial_fit(features, labels, sample_weight=weights).weights())
        rows = np.stack([vectors[lesson.digest] for lesson in halves[1]])
        tried.append((rows, [max(lesson.shares, key=lambda share: share[1])[0] for lesson in halves[1]]))
    matrix = accuracy_matrix(heads, tried)
    return {"domains": names, "accuracy": matrix.round(4).tolist(), **asdict(forgetting(matrix))}


def sample(services: Services, tasks: Sequence[int], right: npt.NDArray[np.bool_]) -> dict[str, Any] | None:
    """Return how often the head is right on tasks that were drawn at random, None before one of them is labelled.

    Parameters
    ----------
    services
        Their settings say which share of the tasks is drawn.
    tasks
        Label Studio's ids of labelled tasks.
    right
        Of shape (n,): whether the head, without the task's own label, finds it.
    """
    drawn = _drawn(services, tasks)
    count, hits = int(drawn.sum()), int(right[drawn].sum())
    if not count:
        return None
    return {"count": count, "accuracy": hits / count, "interval": list(wilson_interval(hits, count))}


def outlook(
    services: Services,
    tasks: Sequence[int],
    features: npt.NDArray[np.float32],
    labels: Sequence[str],
    head: StreamingLDA,
    last: Mapping[str, Any] | None,
) -> dict[str, Any] | None:
    """Return what the next labels would bring; the last forecast as long as not many labels came since.

    Parameters
    ----------
    services
        Their settings say which share of the tasks is drawn at random.
    tasks, features, labels
        Of the labelled tasks: ids, vectors of shape (n, d), classes.
    head
        Whose shrinkage and temperature count.
    last
        What this returned the last time.
    """
    if last is not None and last["labels"] <= len(tasks) < GROWTH * last["labels"]:
        return dict(last)
    drawn = _drawn(services, tasks)
    found: Forecast | None = forecast(
        features, labels, AHEAD, tested=drawn if drawn.sum() >= LEAST_SAMPLE else None, head=head
    )
    return None if found is None else asdict(found) | {"interval": list(found.interval)}


def people(learner: Learner) -> Consensus[int, int]:
    """Compare the people who labelled the same tasks, each by the newest label they gave to a task."""
    answers: dict[tuple[int, int], Label] = {}
    for task, labels in learner.answers.items():
        for label in labels.values():
            if label.completed_by is not None:
                answers[task, label.completed_by] = label
    told = [(task, person, " + ".join(label.names)) for (task, person), label in answers.items()]
    classes = sorted(Counter(answer for _, _, answer in told).keys() | set(learner.classes))
    return consensus(told, classes)


def told_of(found: Consensus[int, int]) -> dict[str, Any]:
    """Return what is known of people as JSON can hold it."""
    return {
        "alpha": _number(found.alpha),
        "classes": list(found.classes),
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
            for person, known in found.people.items()
        ],
    }


def _by_domain(services: Services, told: Told) -> list[tuple[Outcome, str]]:
    """Return every outcome whose task names its domain, in the order it was learned, with the domain."""
    name = services.settings.domain_field
    return [(outcome, str(fields[name])) for outcome, fields in told if name in fields]


def _drawn(services: Services, tasks: Sequence[int]) -> npt.NDArray[np.bool_]:
    return in_random_sample([str(task) for task in tasks], services.settings.random_share)


def _number(value: float) -> float | None:
    """Return a number as JSON can hold it: none for one that isn't."""
    return value if math.isfinite(value) else None
