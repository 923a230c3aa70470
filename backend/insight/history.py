"""Versions: what each was made of and how good it was then, which one serves and who chose so, and two compared.

What two versions are worth is fairly told only by labels that came after both, of pictures that neither had seen.
On all other labelled images a version may just say what it was taught.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from backend.database import annotation_table, events, outcomes, reading
from backend.insight.gallery import Galleries, Images, names_of
from backend.projects import Pin, Project
from backend.services import Services
from backend.update import LIKELY
from backend.versions import Version
from model.evaluation import Prequential, wilson_interval
from model.weights import Floats, Weights

PAGE = 50
"""Versions of one page."""
LISTED = 24
"""Changed labels, or images told apart, of one page."""
PINS = 20
"""Choices of what serves that are listed."""
FAIR = 2000
"""Labels, the newest, on which two versions are held against each other."""


@dataclass(frozen=True, slots=True)
class Line:
    """A version in a list.

    Attributes
    ----------
    number, name, created_at
        Which, and when it was made (Unix seconds).
    serves, newest
        Whether predictions are its own now, and whether it is the last one made.
    labels, more
        Labels learned, and how many more than its parent had: fewer where labels were taken back.
    changes
        Changes to labels that it learned since its parent: given, corrected or taken back.
    measured, accuracy, recent
        Labels that were predicted before they were learned, up to this version, and how often that was right: of all,
        and of the last 50. None before the first.
    threshold
        Probability above which a class stays in the set of those that may be right; None without a study.
    study
        Number of the study it was made with, None without one.
    waiting
        Labels that could not be learned, since their image could not be read.
    encoder, head
        What turned images into features, and what learned on them.
    run
        Address of its run in MLflow; None where it has none yet, or MLflow has no address.
    """

    number: int
    name: str
    created_at: float
    serves: bool
    newest: bool
    labels: int
    more: int
    changes: int
    measured: int
    accuracy: float | None
    recent: float | None
    threshold: float | None
    study: int | None
    waiting: int
    encoder: str
    head: str
    run: str | None


@dataclass(frozen=True, slots=True)
class History:
    """The versions of a project, newest first: those before number `older` are on the next page, None on the last.

    `serves` is the number of the version that serves, None before the first; `pinned` tells who chose it, None while
    that is simply the newest; `pins` are the newest choices.
    """

    versions: list[Line]
    older: int | None
    serves: int | None
    newest: int | None
    pinned: Pin | None
    pins: list[Pin]


@dataclass(frozen=True, slots=True)
class Change:
    """One label that one ledger position has and another has otherwise; None where it has none."""

    task: int
    annotation: int
    before: tuple[str, ...] | None
    after: tuple[str, ...] | None
    person: int | None
    at: float


@dataclass(frozen=True, slots=True)
class Learned:
    """How the labels of a version differ from those of an earlier one: how many, and `LISTED` of them from `offset`."""

    given: int
    corrected: int
    withdrawn: int
    listed: list[Change]
    offset: int
    following: int | None


@dataclass(frozen=True, slots=True)
class Detail:
    """One version: its `line`, labels per class, seconds per stage of its making, and what it learned."""

    line: Line
    classes: dict[str, int]
    seconds: dict[str, float]
    learned: Learned


@dataclass(frozen=True, slots=True)
class Said:
    """What a version says of an image, how sure it is of each class at least, and whether people say the same."""

    names: tuple[str, ...]
    probability: float
    right: bool


@dataclass(frozen=True, slots=True)
class Difference:
    """A labelled task of which two versions say something else."""

    task: int
    labels: tuple[str, ...]
    left: Said
    right: Said


@dataclass(frozen=True, slots=True)
class Fair:
    """How often each of two versions is right about labels that came after both, with 95 % intervals.

    `only_left` and `only_right` are the labels about which just one of them was right.
    """

    labels: int
    left: float
    left_interval: tuple[float, float]
    right: float
    right_interval: tuple[float, float]
    only_left: int
    only_right: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two versions side by side.

    Attributes
    ----------
    left, right
        The versions.
    learned
        How the labels of the later one differ from those of the earlier.
    hindrance
        Why their predictions can't be compared; None when they can.
    images, differing
        Labelled images they were both asked about, and how many of those they disagree on.
    differences, offset, following
        Some of these, the newest label first, and where the next page begins, None on the last.
    fair
        Each one's accuracy on labels that came after both; None when there are none.
    """

    left: Line
    right: Line
    learned: Learned
    hindrance: str | None
    images: int
    differing: int
    differences: list[Difference]
    offset: int
    following: int | None
    fair: Fair | None


class UnknownVersion(LookupError):  # noqa: N818 - reads as what it says
    """Raised when a version is asked for that there is not."""


def history(services: Services, project: Project, before: int | None = None, limit: int = PAGE) -> History:
    """Return a page of a project's versions, newest first: those before number `before`, or the newest."""
    newest, champion = services.versions.newest(project.id), services.versions.champion(project.id)
    # One more than is shown: it is the parent of the last one shown.
    listed = services.versions.all(project.id, limit + 1, before)
    shown = listed[:limit]
    pins = services.projects.pins(project.id, PINS)
    return History(
        versions=_lines(services, shown, listed[1:], newest, champion),
        older=shown[-1].number if len(listed) > limit else None,
        serves=champion.number if champion else None,
        newest=newest.number if newest else None,
        pinned=pins[0] if pins and pins[0].version is not None else None,
        pins=pins,
    )


def version(services: Services, project: Project, number: int, offset: int = 0) -> Detail:
    """Return all there is to say of one version; `offset` is the first listed of the labels it learned.

    Raises
    ------
    UnknownVersion
        When there is none of that number.
    """
    (found,), (line,) = _found(services, project, [number])
    parent = services.versions.get(project.id, number - 1)
    return Detail(
        line=line,
        classes={name: found.metrics["labels"].get(name, 0) for name in found.classes},
        seconds=found.metrics["seconds"],
        learned=_learned(services, project, parent.position if parent else 0, found.position, offset),
    )


def compare(
    services: Services,
    galleries: Galleries,
    project: Project,
    left: int,
    right: int,
    offset: int = 0,
    learned_offset: int = 0,
) -> Comparison:
    """Compare two versions; `offset` and `learned_offset` are the first that is listed of either list.

    The weights of old versions were dropped; they are learned again from the ledger, which takes a moment.

    Raises
    ------
    UnknownVersion
        When there is no such version.
    """
    both, lines = _found(services, project, [left, right])
    earlier, later = sorted(both, key=lambda each: each.number)
    learned = _learned(services, project, earlier.position, later.position, learned_offset)
    hindrance = _hindrance(services, both)
    gallery = galleries.of(services, project.id)
    weights = [] if hindrance else [gallery.weights(services, each) for each in both]
    if not hindrance and None in weights:
        hindrance = "One of them had learned nothing yet."
    if hindrance:
        return Comparison(lines[0], lines[1], learned, hindrance, 0, 0, [], 0, None, None)
    images = gallery.images(services)
    told = [
        _Told(each, images.probabilities(each), several=both[0].head == "multilabel_lda") for each in weights if each
    ]
    apart = [place for place in range(len(images.labelled)) if told[0].names(place) != told[1].names(place)][::-1]
    page = apart[offset : offset + LISTED]
    return Comparison(
        left=lines[0],
        right=lines[1],
        learned=learned,
        hindrance=None,
        images=len(images.labelled),
        differing=len(apart),
        differences=[_difference(images, place, told) for place in page],
        offset=offset,
        following=offset + LISTED if len(apart) > offset + LISTED else None,
        fair=_fair(services, project, later.position, images, told),
    )


def _found(services: Services, project: Project, numbers: Sequence[int]) -> tuple[list[Version], list[Line]]:
    newest, champion = services.versions.newest(project.id), services.versions.champion(project.id)
    found, parents = [], []
    for number in numbers:
        each = services.versions.get(project.id, number)
        if each is None:
            known = f"there are the versions 1 to {newest.number}" if newest else "nothing was learned so far"
            raise UnknownVersion(f"There is no version {number}: {known}.")
        found.append(each)
        parents.append(services.versions.get(project.id, number - 1))
    return found, _lines(services, found, [each for each in parents if each], newest, champion)


def _lines(
    services: Services,
    found: Sequence[Version],
    parents: Sequence[Version],
    newest: Version | None,
    champion: Version | None,
) -> list[Line]:
    parent_of = {parent.number + 1: parent for parent in parents}
    return [_line(services, each, parent_of.get(each.number), newest, champion) for each in found]


def _line(
    services: Services, found: Version, parent: Version | None, newest: Version | None, champion: Version | None
) -> Line:
    metrics = found.metrics
    prequential = Prequential.from_dict(metrics["prequential"])
    labels = _sum(metrics)
    return Line(
        number=found.number,
        name=found.name,
        created_at=found.created_at,
        serves=champion is not None and champion.number == found.number,
        newest=newest is not None and newest.number == found.number,
        labels=labels,
        more=labels - (_sum(parent.metrics) if parent else 0),
        changes=found.position - (parent.position if parent else 0),
        measured=prequential.count,
        accuracy=prequential.accuracy if prequential.count else None,
        recent=prequential.recent_accuracy if prequential.count else None,
        threshold=metrics["threshold"] if metrics.get("threshold", 1.0) < 1 else None,
        study=found.study,
        waiting=metrics["waiting"],
        encoder=found.encoder_id,
        head=found.head,
        run=_run(services, found),
    )


def _sum(metrics: dict[str, Any]) -> int:
    return sum(metrics["labels"].values())


def _run(services: Services, found: Version) -> str | None:
    address = services.settings.mlflow
    if found.run_id is None or not address.startswith(("http://", "https://")):
        return None
    return f"{address.rstrip('/')}/#/runs/{found.run_id}"


def _learned(services: Services, project: Project, earlier: int, later: int, offset: int) -> Learned:
    """Return how the labels in force at one ledger position differ from those at an earlier one."""
    last = (
        sa.select(events.c.annotation_id, sa.func.max(events.c.position).label("position"))
        .where(events.c.project_id == project.id, events.c.position > earlier, events.c.position <= later)
        .where(events.c.annotation_id.is_not(None))
        .group_by(events.c.annotation_id)
        .cte()
    )
    # The sums keep SQLite from walking through every position instead of looking the few annotations up.
    first = (
        sa.select(events.c.annotation_id, sa.func.max(events.c.position + 0).label("position"))
        .where(events.c.project_id == project.id, events.c.annotation_id.in_(sa.select(last.c.annotation_id)))
        .where(events.c.position + 0 <= earlier)
        .group_by(events.c.annotation_id)
        .cte()
    )
    after, before = events.alias(), events.alias()
    both = (
        last.join(after, (after.c.project_id == project.id) & (after.c.position == last.c.position))
        .outerjoin(first, first.c.annotation_id == last.c.annotation_id)
        .outerjoin(before, (before.c.project_id == project.id) & (before.c.position == first.c.position))
    )
    another = after.c.label.is_distinct_from(before.c.label)
    kind = sa.case((after.c.label.is_(None), "withdrawn"), (before.c.label.is_(None), "given"), else_="corrected")
    columns = (after.c.task_id, after.c.annotation_id, after.c.completed_by, after.c.told_at)
    told = (before.c.label, before.c.multiple, after.c.label, after.c.multiple)
    query = sa.select(*columns, *told).select_from(both).where(another).order_by(last.c.position.desc())
    with reading(services.engine) as connection:
        counted = sa.select(kind, sa.func.count()).select_from(both).where(another).group_by(kind)
        counts = {row[0]: row[1] for row in connection.execute(counted)}
        rows = connection.execute(query.limit(LISTED).offset(offset)).all()
    total = sum(counts.values())
    return Learned(
        given=counts.get("given", 0),
        corrected=counts.get("corrected", 0),
        withdrawn=counts.get("withdrawn", 0),
        listed=[
            Change(task, annotation, names_of(*row[:2]), names_of(*row[2:]), person, at)
            for task, annotation, person, at, *row in rows
        ],
        offset=offset,
        following=offset + LISTED if total > offset + LISTED else None,
    )


def _hindrance(services: Services, both: Sequence[Version]) -> str | None:
    if any(each.encoder_id != services.encoder.id for each in both):
        return "One of them learned on features of another encoder than today's, so it can't look at images any more."
    if len({each.head == "multilabel_lda" for each in both}) > 1:
        return "One of them names several classes for an image, the other just one."
    return None


class _Told:
    """What one version says of labelled images, by their place among them."""

    def __init__(self, weights: Weights, probabilities: Floats, several: bool) -> None:
        self.classes = [str(name) for name in weights.classes]
        self.probabilities, self.several = probabilities, several

    def names(self, place: int) -> tuple[str, ...]:
        """Return the class it names, sorted where it may name several."""
        row = self.probabilities[place]
        if not self.several:
            return (self.classes[int(row.argmax())],)
        return tuple(sorted(name for name, share in zip(self.classes, row, strict=True) if share > LIKELY))

    def said(self, place: int, answers: Sequence[tuple[str, ...]]) -> Said:
        """Return what it says, given what people say."""
        row, names = self.probabilities[place], self.names(place)
        surest = float(np.maximum(row, 1 - row).min() if self.several else row.max())
        return Said(names, surest, names in answers)


def _difference(images: Images, place: int, told: Sequence[_Told]) -> Difference:
    labelled = images.labelled[place]
    answers = [tuple(sorted(label.names)) for label in labelled.labels]
    left, right = (each.said(place, answers) for each in told)
    return Difference(labelled.task, labelled.names, left, right)


def _fair(services: Services, project: Project, later: int, images: Images, told: Sequence[_Told]) -> Fair | None:
    """Return how often each was right about the labels that came after both: those were measured when learned."""
    seen_before = sa.exists().where(
        annotation_table.c.project_id == project.id,
        annotation_table.c.task_id == outcomes.c.task_id,
        events.c.project_id == project.id,
        events.c.annotation_id == annotation_table.c.id,
        events.c.position <= later,
    )
    query = (
        sa.select(outcomes.c.annotation_id)
        .where(outcomes.c.project_id == project.id, outcomes.c.position > later, ~seen_before)
        .order_by(outcomes.c.position.desc())
        .limit(FAIR)
    )
    with reading(services.engine) as connection:
        fresh = set(connection.scalars(query))
    right = [
        [each.names(place) == tuple(sorted(label.names)) for each in told]
        for place, labelled in enumerate(images.labelled)
        for label in labelled.labels
        if label.annotation_id in fresh
    ]
    if not right:
        return None
    lefts, rights = sum(each[0] for each in right), sum(each[1] for each in right)
    return Fair(
        labels=len(right),
        left=lefts / len(right),
        left_interval=wilson_interval(lefts, len(right)),
        right=rights / len(right),
        right_interval=wilson_interval(rights, len(right)),
        only_left=sum(each[0] and not each[1] for each in right),
        only_right=sum(each[1] and not each[0] for each in right),
    )
