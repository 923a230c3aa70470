"""What the model knows now, and how sure that is: the numbers of the page Overview, of its JSON and of `tandem status`.

Every share is told with how many it is of and with its interval. Nothing is read whole: what grows with the tasks is
counted by the database, and of the labels measured the newest `MEASURED` are looked at.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import quantiles
from typing import Any

import sqlalchemy as sa

from backend.database import annotation_table, outcomes, reading, tasks
from backend.insight.improvement import Improvement, improvement
from backend.projects import Project
from backend.services import Services
from backend.studies import Study
from backend.versions import version_name
from model.evaluation import reliability_of, wilson_interval

MEASURED = 20_000
"""Newest labels whose outcomes are looked at."""
RECENT = 100
"""Newest labels that tell how good it is now."""
WINDOW = 50
"""Labels that each point of the curve is the accuracy of."""
POINTS, LEAST_OF_POINT = 40, 10
"""Points of a curve, at most, and labels that each has on average, at least, where they are put together by time."""
BINS = 10
"""Bins of how sure it was."""
CLASSES = 15
"""Classes of the confusion table, the most frequent ones."""
MISTAKES = 10
"""Mistakes that are listed."""
TIMED = 5_000
"""Newest annotations whose seconds are compared."""
STEPS = (60, 600, 3600, 6 * 3600, 86400, 7 * 86400, 30 * 86400)
"""Lengths of time, in seconds, that labels are put together by."""


@dataclass(frozen=True, slots=True)
class Rate:
    """`hits` of `count`; the interval is Wilson's, at 95 %; `share` is None of nothing."""

    count: int
    hits: int
    share: float | None
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Class:
    """A class: its `labels` in force, and how well it was known before.

    Of the images people gave it, so many were `found`; of those that were said to be it, so many were `right`.
    """

    name: str
    labels: int
    found: Rate
    right: Rate


@dataclass(frozen=True, slots=True)
class Point:
    """Accuracy on the labels up to the `labels`-th, or of the time from `at` (Unix seconds)."""

    labels: int
    at: float
    rate: Rate


@dataclass(frozen=True, slots=True)
class Bin:
    """Predictions that were `low` to `high` sure, on average `confidence`, and how often they were right."""

    low: float
    high: float
    confidence: float
    rate: Rate


@dataclass(frozen=True, slots=True)
class Calibration:
    """How sure it was against how often it was right; `error`, the expected calibration error, is their mean gap."""

    error: float
    bins: list[Bin]


@dataclass(frozen=True, slots=True)
class Mistake:
    """`predicted` was said of `count` images that people gave `label`."""

    label: str
    predicted: str
    count: int


@dataclass(frozen=True, slots=True)
class Confusion:
    """How many images with a label (rows) were said to be what (columns); `others` are those of other classes."""

    classes: list[str]
    counts: list[list[int]]
    others: int
    mistakes: list[Mistake]


@dataclass(frozen=True, slots=True)
class Measured:
    """What was said of images before their label was learned.

    `labels` is how many there are, `looked_at` how many of the newest are told of here.
    """

    labels: int
    looked_at: int
    recent: Rate
    all: Rate
    sets: Rate
    by_labels: list[Point]
    by_time: list[Point]
    step: int
    calibration: Calibration
    confusion: Confusion | None


@dataclass(frozen=True, slots=True)
class Seconds:
    """How long annotations took: `count` of them by `people`, median and quartiles in seconds.

    `order` is where the middle one stands in the order they were made, from 0 (first) to 1 (last).
    """

    count: int
    people: int
    median: float
    low: float
    high: float
    order: float


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds per label where a prediction stood in the task when it was opened, and where none did."""

    with_prediction: Seconds | None
    without: Seconds | None
    people_in_both: int


@dataclass(frozen=True, slots=True)
class Domain:
    """How often predictions were right for images of one domain."""

    name: str
    count: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Forgetting:
    """Accuracy on each domain (columns) after each was learned (rows), and how much was lost on the way."""

    domains: list[str]
    accuracy: list[list[float]]
    average_forgetting: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the next `ahead` labels should bring, told at `labels` labels.

    A `gain` of accuracy, which lies between `low` and `high` nine times of ten.
    """

    labels: int
    ahead: int
    accuracy: float
    gain: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something has shifted.

    Predictions err more than they admit (``errors``), or new images are unlike the labelled ones (``features``).
    """

    kind: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Overview:
    """What the model of a project knows now.

    `version` serves, `newest` is the newest one; `labels` counts labels in force, `waiting` those whose image could not
    be read. `sample` is accuracy on tasks drawn at random, the one number that speaks for all images; what comes from
    the newest study was found at its position of the ledger, `behind` labels ago.
    """

    project: int
    title: str
    several: bool
    version: str
    newest: str
    learned_at: float | None
    tasks: int
    labelled: int
    labels: int
    waiting: int
    classes: list[Class]
    measured: Measured | None
    sample: Rate | None
    improvement: Improvement | None
    pace: Pace
    domain_field: str
    domains: list[Domain]
    forgetting: Forgetting | None
    forecast: Forecast | None
    alarms: list[Alarm]
    studied_at: float | None
    behind: int


@dataclass(frozen=True, slots=True)
class _Said:
    """One outcome, with what was labelled and predicted as names."""

    label: tuple[str, ...]
    predicted: tuple[str, ...]
    right: bool
    confidence: float
    covered: bool | None
    told_at: float


def overview(services: Services, project: Project) -> Overview:
    """Return what the model of a project knows now."""
    several = bool(project.config and project.config.multiple)
    newest = services.versions.newest(project.id)
    champion = services.versions.champion(project.id)
    study = services.studies.newest(project.id)
    findings = (study.findings if study else None) or {}
    labels, waiting = _labels(services, project), newest.metrics["waiting"] if newest else 0
    known, labelled = _tasks(services, project)
    measured, said = _outcomes(services, project, several)
    return Overview(
        project=project.label_studio_id,
        title=project.title,
        several=several,
        version=champion.name if champion else version_name(0),
        newest=newest.name if newest else version_name(0),
        learned_at=newest.created_at if newest else None,
        tasks=known,
        labelled=labelled,
        labels=sum(count for _, count in labels),
        waiting=waiting,
        classes=_classes(project, labels, said),
        measured=_measured(measured, said, several),
        sample=_sample(findings.get("sample")),
        improvement=improvement(services, project),
        pace=_pace(services, project),
        domain_field=services.settings.domain_field,
        domains=[
            Domain(name, each["count"], each["accuracy"], *each["interval"])
            for name, each in findings.get("domains", {}).items()
        ],
        forgetting=_forgetting(findings.get("forgetting")),
        forecast=_forecast(findings.get("forecast")),
        alarms=[Alarm(each["kind"], each["sentence"]) for each in findings.get("shift", [])],
        studied_at=study.created_at if study else None,
        behind=_behind(services, project, study),
    )


def rate(hits: int, count: int) -> Rate:
    """Return a share with its interval.

    Examples
    --------
    >>> rate(9, 10).share, round(rate(9, 10).low, 2)
    (0.9, 0.6)
    """
    return Rate(count, hits, hits / count if count else None, *wilson_interval(hits, count))


def _names(text: str, several: bool) -> tuple[str, ...]:
    """Return the classes of a label as SQL has it; where several can be chosen it is a list, if it is not older."""
    if several and text.startswith("["):
        try:
            return tuple(str(name) for name in json.loads(text))
        except ValueError:
            return (text,)
    return (text,)


def _labels(services: Services, project: Project) -> list[tuple[tuple[str, ...], int]]:
    """Return each answer that is in force, and how often."""
    columns = (annotation_table.c.label, annotation_table.c.multiple)
    query = (
        sa.select(*columns, sa.func.count())
        .where(annotation_table.c.project_id == project.id, annotation_table.c.label.is_not(None))
        .group_by(*columns)
    )
    with reading(services.engine) as connection:
        return [(_names(label, multiple), count) for label, multiple, count in connection.execute(query)]


def _tasks(services: Services, project: Project) -> tuple[int, int]:
    """Return how many tasks there are, and how many of them have a label in force."""
    labelled = sa.select(sa.func.count(annotation_table.c.task_id.distinct())).where(
        annotation_table.c.project_id == project.id, annotation_table.c.label.is_not(None)
    )
    every = sa.select(sa.func.count()).select_from(tasks).where(tasks.c.project_id == project.id)
    with reading(services.engine) as connection:
        return connection.scalar(every) or 0, connection.scalar(labelled) or 0


def _outcomes(services: Services, project: Project, several: bool) -> tuple[int, list[_Said]]:
    """Return how many labels were measured, and the newest of them in the order they were learned."""
    columns = ("label", "predicted", "confidence", "covered", "told_at")
    here = outcomes.c.project_id == project.id
    query = (
        sa.select(*(outcomes.c[name] for name in columns))
        .where(here)
        .order_by(outcomes.c.position.desc(), outcomes.c.annotation_id.desc())
        .limit(MEASURED)
    )
    with reading(services.engine) as connection:
        count = connection.scalar(sa.select(sa.func.count()).select_from(outcomes).where(here)) or 0
        rows = connection.execute(query).all()[::-1]
    return count, [
        _Said(_names(label, several), _names(predicted, several), label == predicted, confidence, covered, told_at)
        for label, predicted, confidence, covered, told_at in rows
    ]


def _classes(project: Project, labels: Iterable[tuple[tuple[str, ...], int]], said: Sequence[_Said]) -> list[Class]:
    """Return each class of the project, in the order people see them, and those that only labels have."""
    in_force: Counter[str] = Counter()
    for names, count in labels:
        for name in names:
            in_force[name] += count
    given, predicted, both = Counter[str](), Counter[str](), Counter[str]()
    for each in said:
        given.update(each.label)
        predicted.update(each.predicted)
        both.update(set(each.label) & set(each.predicted))
    every = dict.fromkeys((*project.classes, *sorted(in_force)))
    return [
        Class(name, in_force[name], rate(both[name], given[name]), rate(both[name], predicted[name])) for name in every
    ]


def _measured(count: int, said: Sequence[_Said], several: bool) -> Measured | None:
    """Return what was said of images before their label was learned; None before the first."""
    if not said:
        return None
    right = [each.right for each in said]
    covered = [each.covered for each in said if each.covered is not None]
    by_time, step = _by_time(said)
    return Measured(
        labels=count,
        looked_at=len(said),
        recent=rate(sum(right[-RECENT:]), len(right[-RECENT:])),
        all=rate(sum(right), len(right)),
        sets=rate(sum(covered[-RECENT:]), len(covered[-RECENT:])),
        by_labels=_by_labels(said, right, count - len(said)),
        by_time=by_time,
        step=step,
        calibration=_calibration(said, right),
        confusion=None if several else _confusion(said),
    )


def _by_labels(said: Sequence[_Said], right: Sequence[bool], earlier: int) -> list[Point]:
    """Return the accuracy of windows that end at evenly spaced labels."""
    first = min(len(said), WINDOW)
    points = min(POINTS, len(said) - first + 1)
    ends = [len(said) - round(step * (len(said) - first) / max(points - 1, 1)) for step in range(points)]
    return [
        Point(earlier + end, said[end - 1].told_at, rate(sum(right[max(end - WINDOW, 0) : end]), min(end, WINDOW)))
        for end in reversed(ends)
    ]


def _by_time(said: Sequence[_Said]) -> tuple[list[Point], int]:
    """Return the accuracy of each length of time in which there were labels, and that length in seconds."""
    times = [each.told_at for each in said]
    span = max(times) - min(times)
    points = min(POINTS, len(said) / LEAST_OF_POINT)
    step = next((length for length in STEPS if span / length < points), STEPS[-1])
    found, labels = [], 0
    for place, group in groupby(sorted(said, key=lambda each: each.told_at), key=lambda each: each.told_at // step):
        theirs = [each.right for each in group]
        labels += len(theirs)
        found.append(Point(labels, place * step, rate(sum(theirs), len(theirs))))
    return found[-POINTS:], step


def _calibration(said: Sequence[_Said], right: Sequence[bool]) -> Calibration:
    """Return how sure it was against how often it was right."""
    found = reliability_of([each.confidence for each in said], right, BINS)
    bins = [
        Bin(place / BINS, (place + 1) / BINS, confidence, rate(round(accuracy * count), count))
        for place, (count, confidence, accuracy) in enumerate(
            zip(found.count.tolist(), found.confidence.tolist(), found.accuracy.tolist(), strict=True)
        )
        if count
    ]
    return Calibration(found.error, bins)


def _confusion(said: Sequence[_Said]) -> Confusion:
    """Return what was taken for what."""
    pairs = Counter((each.label[0], each.predicted[0]) for each in said)
    frequent: Counter[str] = Counter()
    for (label, predicted), count in pairs.items():
        frequent.update({label: count, predicted: count})
    classes = sorted(name for name, _ in frequent.most_common(CLASSES))
    counts = [[pairs[label, predicted] for predicted in classes] for label in classes]
    wrong = Counter({pair: count for pair, count in pairs.items() if pair[0] != pair[1]})
    return Confusion(
        classes,
        counts,
        others=len(said) - sum(map(sum, counts)),
        mistakes=[Mistake(*pair, count) for pair, count in wrong.most_common(MISTAKES)],
    )


def _pace(services: Services, project: Project) -> Pace:
    """Return how long the newest annotations took, with a prediction and without."""
    columns = (annotation_table.c[name] for name in ("lead_time", "prediction_version", "completed_by"))
    query = (
        sa.select(*columns)
        .where(
            annotation_table.c.project_id == project.id,
            annotation_table.c.label.is_not(None),
            annotation_table.c.lead_time > 0,
        )
        .order_by(annotation_table.c.id.desc())
        .limit(TIMED)
    )
    with reading(services.engine) as connection:
        rows = connection.execute(query).all()[::-1]
    # The cold start fills in nothing: whoever saw its prediction saw none.
    groups: dict[bool, list[tuple[float, int | None, float]]] = {True: [], False: []}
    for place, (seconds, version, person) in enumerate(rows):
        seen = version is not None and version != version_name(0)
        groups[seen].append((seconds, person, place / max(len(rows) - 1, 1)))
    people = {seen: {person for _, person, _ in theirs} for seen, theirs in groups.items()}
    return Pace(_seconds(groups[True]), _seconds(groups[False]), len(people[True] & people[False]))


def _seconds(timed: Sequence[tuple[float, int | None, float]]) -> Seconds | None:
    """Return median and quartiles; None of fewer than two."""
    if len(timed) < 2:
        return None
    low, median, high = quantiles([seconds for seconds, _, _ in timed], n=4, method="inclusive")
    order = sorted(place for _, _, place in timed)[len(timed) // 2]
    return Seconds(len(timed), len({person for _, person, _ in timed}), median, low, high, order)


def _behind(services: Services, project: Project, study: Study | None) -> int:
    """Return how many changes of labels the newest study has not seen."""
    return project.position - study.position if study else project.position


def _sample(found: Mapping[str, Any] | None) -> Rate | None:
    return rate(round(found["accuracy"] * found["count"]), found["count"]) if found else None


def _forgetting(found: Mapping[str, Any] | None) -> Forgetting | None:
    return Forgetting(found["domains"], found["accuracy"], found["average_forgetting"]) if found else None


def _forecast(found: Mapping[str, Any] | None) -> Forecast | None:
    if not found:
        return None
    return Forecast(found["labels"], found["ahead"], found["accuracy"], found["gain"], *found["interval"])
