"""Label Studio's JSON -> dataclasses: what was told, checked for type and range, and nothing else.

Knows the shapes that Label Studio 1.23 sends to a backend and lists through its API; knows nothing of HTTP or SQL.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from backend.label_config import REGION_PREFIX, LabelConfig, UnusableConfig, parse_label_config, plain_text

UNDEFINED_KEY = "$undefined$"
"""Data key of tasks that were imported as plain files; Label Studio shows it under whatever key the project has."""

_LARGEST_ID = 2**63 - 1
_PROJECT_KEY = re.compile(r"([0-9]{1,19})\.([0-9]{1,12})")


class BadEvent(ValueError):  # noqa: N818 - reads as the sentence it carries
    """JSON that Label Studio does not send; the message is a sentence that says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class ProjectFacts:
    """A project as Label Studio tells of it; `created` (unix seconds) tells apart two that got the same id."""

    id: int
    created: int
    title: str
    label_config: str

    @property
    def config(self) -> LabelConfig | None:
        """The parsed label config, or None when Tandem can't work with it."""
        return _config(self.label_config)


@dataclass(frozen=True, slots=True)
class Task:
    """One image to label; `image` is its raw address, None where the data has none."""

    id: int
    image: str | None
    data: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Annotation:
    """One person's label on a task, or a copy of a prediction that no person has touched (`machine_made`).

    Attributes
    ----------
    labels
        Choices for the project's control, in the order made; empty when skipped, when nothing was chosen, or when the
        project's configuration is none that Tandem can use.
    updated_at
        Unix seconds, to the microsecond.
    completed_by
        Id of the user.
    lead_time
        Seconds the person took.
    prediction_version
        Model version of the prediction that the person saw.
    """

    id: int
    task_id: int
    labels: tuple[str, ...]
    cancelled: bool
    ground_truth: bool
    machine_made: bool
    updated_at: float
    completed_by: int | None
    lead_time: float | None
    prediction_version: str | None


@dataclass(frozen=True, slots=True)
class AnnotationsTold:
    """Annotations were made or changed."""

    project: ProjectFacts
    annotations: tuple[Annotation, ...]
    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class AnnotationsDeleted:
    """Annotations are gone; Label Studio tells their ids only."""

    project: ProjectFacts
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TasksTold:
    """Tasks were made; `with_annotations` when some came with annotations, of which no event will tell."""

    project: ProjectFacts
    tasks: tuple[Task, ...]
    with_annotations: bool


@dataclass(frozen=True, slots=True)
class TasksDeleted:
    """Tasks are gone, and their annotations with them."""

    project: ProjectFacts
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ProjectTold:
    """The project was changed: perhaps its classes, perhaps by ourselves."""

    project: ProjectFacts


@dataclass(frozen=True, slots=True)
class TrainingAsked:
    """Someone pressed Start Training."""

    project: ProjectFacts


Event = AnnotationsTold | AnnotationsDeleted | TasksTold | TasksDeleted | ProjectTold | TrainingAsked


def parse_webhook(body: object) -> Event | None:
    """Read the body of a webhook.

    Parameters
    ----------
    body
        Decoded JSON.

    Returns
    -------
    Event or None
        None for an action that Tandem does not know.

    Raises
    ------
    BadEvent
        When the body is not what Label Studio sends.
    """
    told = _mapping(body, "The body")
    action = told.get("action")
    if not isinstance(action, str):
        raise BadEvent("The body has no action: only Label Studio's webhooks are understood here.")
    match action:
        case "ANNOTATION_CREATED" | "ANNOTATION_UPDATED" | "ANNOTATIONS_CREATED":
            project = parse_project(told.get("project"))
            config = project.config
            return AnnotationsTold(
                project,
                tuple(parse_annotation(item, config) for item in _one_or_more(told.get("annotation"), "annotation")),
                tuple(parse_task(item, config) for item in _one_or_more(told.get("task"), "task")),
            )
        case "ANNOTATIONS_DELETED":
            return AnnotationsDeleted(parse_project(told.get("project")), _ids(told.get("annotations"), "annotations"))
        case "TASKS_CREATED":
            project = parse_project(told.get("project"))
            config = project.config
            tasks = [_mapping(item, "A task") for item in _list(told.get("tasks"), "tasks")]
            return TasksTold(
                project,
                tuple(parse_task(item, config) for item in tasks),
                any(item.get(key) for item in tasks for key in ("total_annotations", "cancelled_annotations")),
            )
        case "TASKS_DELETED":
            return TasksDeleted(parse_project(told.get("project")), _ids(told.get("tasks"), "tasks"))
        case "PROJECT_UPDATED":
            return ProjectTold(parse_project(told.get("project")))
        case "START_TRAINING":
            return TrainingAsked(parse_project(told.get("project")))
        case _:
            return None


def parse_setup(body: object) -> tuple[int, int, str]:
    """Read the body of a set-up request.

    Returns
    -------
    tuple of int, int, str
        The project's id, when it was made (unix seconds), its labeling configuration.

    Raises
    ------
    BadEvent
        When the body is not what Label Studio sends.

    Examples
    --------
    >>> parse_setup({"project": "2.1795246825", "schema": "<View/>"})
    (2, 1795246825, '<View/>')
    """
    told = _mapping(body, "The body")
    return *_project_key(told.get("project")), _text(told.get("schema"), "schema")


def parse_predict(body: object) -> tuple[int, int, str, tuple[Task, ...]]:
    """Read the body of a request for predictions.

    Returns
    -------
    tuple of int, int, str, tuple of Task
        The project's id, when it was made (unix seconds), its labeling configuration, and exactly as many tasks as
        were asked for: one that can't be read has no image, and the id 0 when that is what can't be read.

    Raises
    ------
    BadEvent
        When the body is not what Label Studio sends.
    """
    told = _mapping(body, "The body")
    number, created = _project_key(told.get("project"))
    xml = _text(told.get("label_config"), "label_config")
    config = _config(xml)
    tasks: list[Task] = []
    for item in _list(told.get("tasks"), "tasks"):
        try:
            tasks.append(parse_task(item, config))
        except BadEvent:
            tasks.append(Task(_id_or_none(item.get("id") if isinstance(item, dict) else None) or 0, None, {}))
    return number, created, xml, tuple(tasks)


def parse_project(body: object) -> ProjectFacts:
    """Read a project as webhooks and the API tell of it.

    Raises
    ------
    BadEvent
        When it is not what Label Studio sends.
    """
    told = _mapping(body, "The project")
    return ProjectFacts(
        id=_id(told.get("id"), "The project's id"),
        created=int(_seconds(told.get("created_at"), "The project's created_at")),
        title=plain_text(told.get("title")) or "",
        label_config=_text(told.get("label_config") or "", "label_config"),
    )


def parse_task(body: object, config: LabelConfig | None) -> Task:
    """Read a task; without a usable configuration (None) it has no image.

    Raises
    ------
    BadEvent
        When it is not what Label Studio sends.
    """
    told = _mapping(body, "A task")
    data = _mapping(told.get("data"), "A task's data")
    image = None
    if config is not None:
        image = plain_text(data.get(config.data_key)) or plain_text(data.get(UNDEFINED_KEY))
    return Task(_id(told.get("id"), "A task's id"), image, data)


def parse_annotation(body: object, config: LabelConfig | None, task_id: int | None = None) -> Annotation:
    """Read an annotation; without a usable configuration (None) it has no labels.

    Parameters
    ----------
    body
        The annotation as webhooks and the API tell of it.
    config
        The project's control.
    task_id
        Task it belongs to, where the annotation itself does not say.

    Raises
    ------
    BadEvent
        When it is not what Label Studio sends.
    """
    told = _mapping(body, "An annotation")
    person = told.get("completed_by")
    if isinstance(person, dict):
        person = person.get("id")
    seen = told.get("prediction")
    return Annotation(
        id=_id(told.get("id"), "An annotation's id"),
        task_id=_id(told.get("task", task_id), "An annotation's task"),
        labels=config.labels(told.get("result")) if config is not None else (),
        cancelled=told.get("was_cancelled") is True,
        ground_truth=told.get("ground_truth") is True,
        machine_made=_is_machine_made(told),
        updated_at=_seconds(told.get("updated_at"), "An annotation's updated_at"),
        completed_by=_id_or_none(person),
        lead_time=_number_or_none(told.get("lead_time")),
        prediction_version=plain_text(seen.get("model_version")) if isinstance(seen, dict) else None,
    )


def parse_task_with_annotations(body: object, config: LabelConfig | None) -> tuple[Task, tuple[Annotation, ...]]:
    """Read a task as Label Studio lists or exports it, with its annotations.

    Raises
    ------
    BadEvent
        When it is not what Label Studio sends.
    """
    task = parse_task(body, config)
    annotations = _list(_mapping(body, "A task").get("annotations"), "annotations")
    return task, tuple(parse_annotation(item, config, task.id) for item in annotations)


def _is_machine_made(annotation: Mapping[str, object]) -> bool:
    """Whether "Create annotations from predictions" made it and no person has touched it since.

    Label Studio clears `parent_prediction` when that prediction is deleted, as each new version does to the one before
    it; the region's id stays. Nothing stays of a copied prediction that chose nothing, so an empty annotation without a
    trace of a person is taken for one: else "none of them" would be learned of every task at once.
    """
    if annotation.get("updated_by") is not None or annotation.get("lead_time") is not None:
        return False
    if annotation.get("ground_truth") is True:
        # A person said so, or imported it as such.
        return False
    result = annotation.get("result")
    return (
        not result
        or annotation.get("parent_prediction") is not None
        or any(identity.startswith(REGION_PREFIX) for identity in _region_ids(result))
    )


def _region_ids(result: object) -> Iterator[str]:
    for region in result if isinstance(result, list) else ():
        identity = region.get("id") if isinstance(region, dict) else None
        if isinstance(identity, str):
            yield identity


def _config(xml: str) -> LabelConfig | None:
    try:
        return parse_label_config(xml)
    except UnusableConfig:
        return None


def _project_key(value: object) -> tuple[int, int]:
    match = _PROJECT_KEY.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise BadEvent('The project is not named as Label Studio does, for example "2.1795246825".')
    return _id(int(match[1]), "The project's id"), int(match[2])


def _mapping(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadEvent(f"{what} is not a JSON object.")
    return value


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise BadEvent(f"{what} is not a JSON list.")
    return value


def _one_or_more(value: object, what: str) -> list[Any]:
    return [value] if isinstance(value, dict) else _list(value, what)


def _text(value: object, what: str) -> str:
    text = plain_text(value)
    if text is None:
        raise BadEvent(f"{what} is not text.")
    return text


def _id_or_none(value: object) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 < value <= _LARGEST_ID else None


def _id(value: object, what: str) -> int:
    number = _id_or_none(value)
    if number is None:
        raise BadEvent(f"{what} is not a positive whole number.")
    return number


def _number_or_none(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _ids(value: object, what: str) -> tuple[int, ...]:
    return tuple(_id(_mapping(item, f"One of {what}").get("id"), f"An id in {what}") for item in _list(value, what))


def _seconds(value: object, what: str) -> float:
    """Return the unix seconds of an ISO 8601 time; one without a zone is in UTC."""
    try:
        moment = datetime.fromisoformat(value)  # type: ignore[arg-type]
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError) as error:
        raise BadEvent(f"{what} is not a time such as 2026-11-21T07:42:14.172889Z.") from error
