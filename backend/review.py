"""Review: a label somebody looked at again is confirmed, or corrected in Label Studio.

A correction changes the annotation itself, as someone who opens it in Label Studio and presses Update does: whoever
gave it stays its author, and Label Studio notes that it was updated. A second annotation beside it would not correct
it: both labels would be in force. Label Studio then tells of the change as of any other, and it is learned like any.

Nothing is changed when the annotation no longer says what the reviewer saw. Who decided what is in `backend.reviews`,
where Label Studio only sees the user whose key Tandem has; so is the old annotation, to be put back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from http import HTTPStatus
from secrets import token_hex
from typing import Any

from backend.label_config import LabelConfig
from backend.labelstudio import LabelStudioError
from backend.projects import Project
from backend.reviews import Review
from backend.services import Services

log = logging.getLogger(__name__)


class NotReviewed(Exception):  # noqa: N818 - reads as what it says
    """Raised when nothing was changed; the message says why, and what to do."""


class Unknown(NotReviewed):
    """Raised when there is no such annotation or review, or no longer."""


class NoSuchClass(NotReviewed):
    """Raised when the label is none that the project has."""


class Overtaken(NotReviewed):
    """Raised when somebody changed the annotation after the reviewer saw it."""


def confirm(services: Services, project: Project, annotation_id: int, seen: Sequence[str], who: str) -> Review:
    """Remember that a label is right, so that it is not doubted again while it stands.

    Parameters
    ----------
    services, project
        Whose.
    annotation_id
        Label Studio's id of the annotation.
    seen
        The classes that the reviewer saw it name.
    who
        Name of the reviewer.

    Raises
    ------
    NotReviewed
        When it says something else by now, or is gone.
    """
    task_id, label = _known(services, project, annotation_id)
    if sorted(label) != sorted(seen):
        raise Overtaken(_overtaken(label))
    return services.reviews.add(project.id, task_id, annotation_id, label, label, who)


def correct(
    services: Services, project: Project, annotation_id: int, seen: Sequence[str], label: Sequence[str], who: str
) -> Review:
    """Let an annotation in Label Studio name other classes; everything else in it stays.

    Parameters
    ----------
    services, project
        Whose.
    annotation_id
        Label Studio's id of the annotation.
    seen
        The classes that the reviewer saw it name.
    label
        The classes it is to name.
    who
        Name of the reviewer.

    Raises
    ------
    NotReviewed
        When it says something else by now, is gone, or can't say this.
    backend.labelstudio.LabelStudioError
        When Label Studio refuses or can't be reached.
    """
    config = _config(project)
    task_id, _ = _known(services, project, annotation_id)
    wanted = tuple(name for name in config.classes if name in label)
    if not wanted or set(wanted) != set(label) or (len(wanted) > 1 and not config.multiple):
        raise NoSuchClass(f"Choose {'some' if config.multiple else 'one'} of {', '.join(config.classes)}.")
    before = _changed(services, project, config, annotation_id, tuple(seen), _with(config, wanted))
    log.info("Project %d: %s corrected annotation %d", project.id, who, annotation_id)
    return services.reviews.add(project.id, task_id, annotation_id, tuple(seen), wanted, who, before)


def undo(services: Services, project: Project, review_id: int, who: str) -> Review:
    """Take a review back: what was confirmed may be doubted again, what was corrected says again what it said.

    Raises
    ------
    NotReviewed
        When there is nothing to take back, or the annotation was changed since.
    backend.labelstudio.LabelStudioError
        When Label Studio refuses or can't be reached.
    """
    known = services.reviews.get(project.id, review_id)
    if known is None or known[0].undone_at is not None:
        raise Unknown("This was taken back already.")
    review, result = known
    if result is not None:
        _changed(services, project, _config(project), review.annotation_id, review.after, lambda _: result)
        log.info("Project %d: %s took the correction of annotation %d back", project.id, who, review.annotation_id)
    services.reviews.undo(review.id, who)
    return review


def _known(services: Services, project: Project, annotation_id: int) -> tuple[int, tuple[str, ...]]:
    """Return the task of an annotation, and the classes it names as far as Tandem was told."""
    label = services.ledger.label(project.id, annotation_id)
    if label is None:
        raise Unknown("This label is gone: it was deleted, or skipped, since the list was made.")
    return label.task_id, label.names


def _config(project: Project) -> LabelConfig:
    config = project.config
    if config is None:
        raise NoSuchClass("Tandem can't work with the labelling interface of this project: change it in Label Studio.")
    return config


def _with(config: LabelConfig, label: Sequence[str]) -> Callable[[list[Any]], list[Any]]:
    """Return what puts `label` into a result, in the place where classes are named; all else stays."""

    def put(result: list[Any]) -> list[Any]:
        ours = [region for region in result if config.labels([region])]
        region = {
            "id": (ours[0].get("id") if ours else None) or token_hex(5),
            "from_name": config.from_name,
            "to_name": config.to_name,
            "type": "choices",
            "origin": "manual",
            "value": {"choices": list(label)},
        }
        others = [each for each in result if each not in ours]
        place = result.index(ours[0]) if ours else len(others)
        return [*others[:place], region, *others[place:]]

    return put


def _changed(
    services: Services,
    project: Project,
    config: LabelConfig,
    annotation_id: int,
    expected: Sequence[str],
    edit: Callable[[list[Any]], list[Any]],
) -> list[Any]:
    """Edit the result of an annotation in Label Studio if it names what is `expected`; return what it was before."""
    try:
        told = services.label_studio.annotation(annotation_id)
        result = told.get("result")
        label = config.labels(result)
        if told.get("was_cancelled") or not isinstance(result, list) or sorted(label) != sorted(expected):
            # What Label Studio told of that may have been lost.
            services.jobs.ask("sync", project.id)
            raise Overtaken(_overtaken(() if told.get("was_cancelled") else label))
        services.label_studio.update_annotation(annotation_id, result=edit(result))
    except LabelStudioError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            services.jobs.ask("sync", project.id)
            raise Unknown("This label is no longer in Label Studio: it was deleted. Nothing was changed.") from error
        raise
    return result


def _overtaken(label: Sequence[str]) -> str:
    now = f"it says {' + '.join(label)} now" if label else "it was skipped"
    return f"Somebody changed this label in the meantime: {now}. Nothing was changed here."
