"""The ledger: every change to a label, numbered per project, and the labels now in force.

Events may come twice, late, in any order or not at all; told again they change nothing. The head is a pure function
of the labels in force at a position, so that position is all a learner has to remember.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from backend.database import annotation_table, events, projects, reading, tasks, upsert, writing
from backend.events import (
    Annotation,
    AnnotationsDeleted,
    AnnotationsTold,
    Event,
    ProjectTold,
    Task,
    TasksDeleted,
    TasksTold,
    TrainingAsked,
)
from backend.label_config import LabelConfig
from backend.projects import Project, find_or_add, get_project

Source = Literal["webhook", "sync"]
Answer = str | tuple[str, ...]
"""The name of the class chosen; where several can be chosen, the names of all that were, sorted: perhaps of none."""
IN_CHUNKS = 500
"""Values in one ``IN (...)``: under every database's limit on parameters."""
LONGEST_FIELD, MOST_FIELDS = 100, 30
"""Characters of a task's data field, and how many of its fields, that are kept beside its image."""


_LABELLED = sa.exists().where(
    annotation_table.c.project_id == tasks.c.project_id,
    annotation_table.c.task_id == tasks.c.id,
    annotation_table.c.label.is_not(None),
)


@dataclass(frozen=True, slots=True)
class Label:
    """A label in force: `annotation_id`, by the person `completed_by`, says that the image at `image` is a `label`."""

    annotation_id: int
    task_id: int
    image: str | None
    label: Answer
    completed_by: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The classes chosen, one or several or none: told before the label config came to be another, it may be any.

        Examples
        --------
        >>> Label(1, 7, "face.png", "sad").names, Label(2, 7, "face.png", ("angry", "sad")).names
        (('sad',), ('angry', 'sad'))
        """
        return (self.label,) if isinstance(self.label, str) else self.label


@dataclass(frozen=True, slots=True)
class Changes:
    """What the ledger holds after some position.

    `position` is the newest one; `labels` maps each annotation touched since to its label in force now, None for none;
    `first_labels` are the annotations among them that had no label in force before; `config_changed` tells that the
    project's classes may be others.
    """

    position: int
    labels: Mapping[int, Label | None]
    first_labels: frozenset[int]
    config_changed: bool


@dataclass(frozen=True, slots=True)
class Told:
    """What an event changed: the `project` afterwards, and whether `labels`, `tasks` or the `config` are others."""

    project: Project
    labels: bool = False
    tasks: bool = False
    config: bool = False


class Ledger:
    """Events in, labels in force out."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    def tell(self, told: Event, as_of: float | None = None) -> Told:
        """Take in one event of Label Studio, durably and together; nothing when it is known already.

        Parameters
        ----------
        told
            The event.
        as_of
            Unix seconds (our clock) when Label Studio was asked, if the event was not sent but found by comparing:
            then it is the truth, except about what was told since.
        """
        source: Source = "webhook" if as_of is None else "sync"
        with writing(self.engine) as connection:
            facts = told.project
            project = find_or_add(connection, facts.id, facts.created, facts.title, facts.label_config)
            match told:
                case AnnotationsTold():
                    changed = self._tell_tasks(connection, project, told.tasks, source)
                    labels = self._tell_annotations(connection, project, told, as_of)
                    return Told(project, labels=labels or changed.labels, tasks=changed.tasks)
                case AnnotationsDeleted():
                    withdrawn = self._withdraw(connection, project, told.ids, source)
                    return Told(project, labels=withdrawn, tasks=withdrawn)
                case TasksTold():
                    renamed = self._withdraw_from_namesakes(connection, project, told.tasks, source)
                    changed = self._tell_tasks(connection, project, told.tasks, source)
                    return Told(project, labels=renamed or changed.labels, tasks=changed.tasks)
                case TasksDeleted():
                    return self._delete_tasks(connection, project, told.ids, source)
                case ProjectTold():
                    return self._tell_project(connection, project, told, source)
                case TrainingAsked():
                    return Told(project)

    def position(self, project_id: int) -> int:
        """Return the newest position of a project; 0 when nothing was told."""
        with reading(self.engine) as connection:
            return get_project(connection, project_id).position

    def since(self, project_id: int, position: int) -> Changes:
        """Return what changed after `position`, all seen at the same moment."""
        with reading(self.engine) as connection:
            newest = get_project(connection, project_id).position
            rows = connection.execute(
                sa.select(events.c.annotation_id, events.c.position).where(
                    events.c.project_id == project_id, events.c.position > position, events.c.position <= newest
                )
            ).all()
            touched = {row.annotation_id for row in rows if row.annotation_id is not None}
            now = _current(connection, project_id, touched)
            before = _labels_at(connection, project_id, position, touched) if position else {}
            return Changes(
                position=newest,
                labels={annotation: now.get(annotation) for annotation in touched},
                first_labels=frozenset(annotation for annotation in now if annotation not in before),
                config_changed=any(row.annotation_id is None for row in rows),
            )

    def in_force(self, project_id: int, position: int | None = None) -> dict[int, Label]:
        """Return the labels in force by annotation id, now or at an older `position`, in the order they were told."""
        with reading(self.engine) as connection:
            if position is None:
                return _current(connection, project_id, None)
            return _labels_at(connection, project_id, position, None)

    def label(self, project_id: int, annotation_id: int) -> Label | None:
        """Return what an annotation says now, None when that is nothing to learn or there is no such annotation."""
        with reading(self.engine) as connection:
            return _current(connection, project_id, [annotation_id]).get(annotation_id)

    def standing(self, project_id: int) -> dict[str, int]:
        """Return how many annotations stand how: in force, skipped, empty, several, machine or deleted."""
        standing = annotation_table.c.standing
        query = sa.select(standing, sa.func.count()).where(annotation_table.c.project_id == project_id)
        with reading(self.engine) as connection:
            return {row[0]: row[1] for row in connection.execute(query.group_by(standing))}

    def known_annotations(self, project_id: int, told_before: float) -> set[int]:
        """Return the annotations, not deleted, that were last told of before `told_before` (Unix seconds)."""
        query = sa.select(annotation_table.c.id).where(
            annotation_table.c.project_id == project_id,
            annotation_table.c.standing != "deleted",
            annotation_table.c.told_at < told_before,
        )
        with reading(self.engine) as connection:
            return set(connection.scalars(query))

    def known_tasks(self, project_id: int, told_before: float) -> set[int]:
        """Return the tasks that were last told of before `told_before` (Unix seconds)."""
        query = sa.select(tasks.c.id).where(tasks.c.project_id == project_id, tasks.c.told_at < told_before)
        with reading(self.engine) as connection:
            return set(connection.scalars(query))

    def pool(self, project_id: int) -> list[tuple[int, str | None, str | None]]:
        """Return the tasks without a label in force: id, address of the image, name it is shown under; by id."""
        query = (
            sa.select(tasks.c.id, tasks.c.image, tasks.c.shown)
            .where(tasks.c.project_id == project_id, ~_LABELLED)
            .order_by(tasks.c.id)
        )
        with reading(self.engine) as connection:
            return [(row[0], row[1], row[2]) for row in connection.execute(query)]

    def has_pool(self, project_id: int) -> bool:
        """Tell whether a task is left without a label in force."""
        query = sa.select(tasks.c.id).where(tasks.c.project_id == project_id, ~_LABELLED).limit(1)
        with reading(self.engine) as connection:
            return connection.scalar(query) is not None

    def has_unshown_tasks(self, project_id: int) -> bool:
        """Tell whether a task of the pool has no prediction in Label Studio under the name in force."""
        name = sa.select(projects.c.shown).where(projects.c.id == project_id).scalar_subquery()
        unshown = sa.or_(tasks.c.shown.is_(None), tasks.c.shown != name)
        query = sa.select(tasks.c.id).where(tasks.c.project_id == project_id, unshown, ~_LABELLED).limit(1)
        with reading(self.engine) as connection:
            return connection.scalar(query) is not None

    def note_shown(self, project_id: int, task_ids: Iterable[int], name: str) -> None:
        """Remember that these tasks have a prediction in Label Studio under `name`."""
        with writing(self.engine) as connection:
            for chunk in _chunks(task_ids):
                where = (tasks.c.project_id == project_id, tasks.c.id.in_(chunk))
                connection.execute(tasks.update().where(*where).values(shown=name))

    def _tell_project(self, connection: sa.Connection, project: Project, told: ProjectTold, source: Source) -> Told:
        facts = told.project
        if (project.title, project.label_config) == (facts.title, facts.label_config):
            return Told(project)
        values = {"title": facts.title, "label_config": facts.label_config}
        connection.execute(projects.update().where(projects.c.id == project.id).values(values))
        after = get_project(connection, project.id)
        if after.config == project.config:
            return Told(after)
        self._append(connection, project.id, [{"annotation_id": None}], source)
        return Told(get_project(connection, project.id), config=True)

    def _tell_tasks(self, connection: sa.Connection, project: Project, told: Sequence[Task], source: Source) -> Told:
        if not told:
            return Told(project)
        known: dict[int, tuple[str | None, object]] = {}
        columns = (tasks.c.id, tasks.c.image, tasks.c.fields)
        for chunk in _chunks(task.id for task in told):
            query = sa.select(*columns).where(tasks.c.project_id == project.id, tasks.c.id.in_(chunk))
            known.update((row.id, (row.image, row.fields)) for row in connection.execute(query))
        now = time.time()
        fresh = [
            {"project_id": project.id, "id": task.id, "image": task.image, "fields": fields, "told_at": now}
            for task in told
            if known.get(task.id) != (task.image, fields := _short_fields(task))
        ]
        if not fresh:
            return Told(project)
        statement = upsert(self.engine, tasks)
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=[tasks.c.project_id, tasks.c.id],
                set_={name: statement.excluded[name] for name in ("image", "fields", "told_at")},
            ),
            fresh,
        )
        moved = [task for task in told if task.id in known and known[task.id][0] != task.image]
        labels = [self._move(connection, project, task, source) for task in moved]
        return Told(project, labels=any(labels), tasks=True)

    def _withdraw_from_namesakes(
        self, connection: sa.Connection, project: Project, made: Sequence[Task], source: Source
    ) -> bool:
        """Take back the labels of tasks that are gone unheard, and whose ids Label Studio has given to new ones."""
        images = {task.id: task.image for task in made}
        theirs: list[int] = []
        for chunk in _chunks(images):
            where = (annotation_table.c.project_id == project.id, annotation_table.c.task_id.in_(chunk))
            rows = connection.execute(sa.select(annotation_table).where(*where, annotation_table.c.label.is_not(None)))
            theirs += [row.id for row in rows if row.image != images[row.task_id]]
        return self._withdraw(connection, project, theirs, source)

    def _move(self, connection: sa.Connection, project: Project, task: Task, source: Source) -> bool:
        """Let a task have another picture: its labels count for that one now, and what was pushed is void."""
        where = (tasks.c.project_id == project.id, tasks.c.id == task.id)
        connection.execute(tasks.update().where(*where).values(shown=None))
        theirs = (annotation_table.c.project_id == project.id, annotation_table.c.task_id == task.id)
        connection.execute(annotation_table.update().where(*theirs).values(image=task.image))
        query = sa.select(annotation_table).where(*theirs, annotation_table.c.label.is_not(None))
        rows = [dict(row) for row in connection.execute(query).mappings()]
        self._append(connection, project.id, rows, source, annotation_key="id")
        self._note_positions(connection, project.id, rows)
        return bool(rows)

    def _tell_annotations(
        self, connection: sa.Connection, project: Project, told: AnnotationsTold, as_of: float | None
    ) -> bool:
        config = told.project.config
        addresses = {task.id: task.image for task in told.tasks}
        missing = [annotation.task_id for annotation in told.annotations if annotation.task_id not in addresses]
        for chunk in _chunks(missing):
            query = sa.select(tasks.c.id, tasks.c.image).where(tasks.c.project_id == project.id, tasks.c.id.in_(chunk))
            addresses.update((row.id, row.image) for row in connection.execute(query))
        known: dict[int, Any] = {}
        for chunk in _chunks(annotation.id for annotation in told.annotations):
            query = sa.select(annotation_table).where(
                annotation_table.c.project_id == project.id, annotation_table.c.id.in_(chunk)
            )
            known.update((row.id, row) for row in connection.execute(query))
        now = time.time()
        rows, appended = [], []
        for annotation in {each.id: each for each in told.annotations}.values():
            before = known.get(annotation.id)
            image = addresses.get(annotation.task_id, before.image if before else None)
            answer, standing = _judge(annotation, config)
            label, multiple = _written(answer)
            if before is not None and _is_known(before, annotation, (label, multiple, standing, image), as_of):
                continue
            moved = before is None or (before.label, before.multiple, before.image) != (label, multiple, image)
            row = {
                "project_id": project.id,
                "id": annotation.id,
                "task_id": annotation.task_id,
                "image": image,
                "label": label,
                "multiple": multiple,
                "standing": standing,
                "updated_at": annotation.updated_at,
                "told_at": now,
                "completed_by": annotation.completed_by,
                "lead_time": annotation.lead_time,
                "ground_truth": annotation.ground_truth,
                "prediction_version": annotation.prediction_version or (before.prediction_version if before else None),
                "position": before.position if before else 0,
            }
            rows.append(row)
            if moved and (label is not None or (before is not None and before.label is not None)):
                appended.append(row)
        self._append(connection, project.id, appended, "webhook" if as_of is None else "sync", annotation_key="id")
        if rows:
            statement = upsert(self.engine, annotation_table)
            kept = ("project_id", "id")
            changed = {key: statement.excluded[key] for key in rows[0] if key not in kept}
            conflict = [annotation_table.c.project_id, annotation_table.c.id]
            connection.execute(statement.on_conflict_do_update(index_elements=conflict, set_=changed), rows)
        return bool(appended)

    def _withdraw(self, connection: sa.Connection, project: Project, ids: Sequence[int], source: Source) -> bool:
        appended: list[dict[str, object]] = []
        now = time.time()
        for chunk in _chunks(ids):
            where = (annotation_table.c.project_id == project.id, annotation_table.c.id.in_(chunk))
            found = connection.execute(
                sa.select(annotation_table).where(*where, annotation_table.c.label.is_not(None))
            ).all()
            appended += [
                {"id": row.id, "task_id": row.task_id, "image": row.image, "completed_by": row.completed_by}
                for row in found
            ]
            # The row stays as a tombstone, so that a copy of an older event can't bring the label back.
            gone = {"label": None, "multiple": False, "standing": "deleted", "told_at": now}
            connection.execute(annotation_table.update().where(*where).values(gone))
        self._append(connection, project.id, appended, source, annotation_key="id")
        self._note_positions(connection, project.id, appended)
        return bool(appended)

    def _note_positions(self, connection: sa.Connection, project_id: int, rows: Iterable[Mapping[str, object]]) -> None:
        for row in rows:
            where = (annotation_table.c.project_id == project_id, annotation_table.c.id == row["id"])
            connection.execute(annotation_table.update().where(*where).values(position=row["position"]))

    def _delete_tasks(self, connection: sa.Connection, project: Project, ids: Sequence[int], source: Source) -> Told:
        labels, gone = False, 0
        for chunk in _chunks(ids):
            where = (annotation_table.c.project_id == project.id, annotation_table.c.task_id.in_(chunk))
            theirs = list(connection.scalars(sa.select(annotation_table.c.id).where(*where)))
            labels |= self._withdraw(connection, project, theirs, source)
            gone += connection.execute(
                tasks.delete().where(tasks.c.project_id == project.id, tasks.c.id.in_(chunk))
            ).rowcount
        return Told(project, labels=labels, tasks=gone > 0)

    def _append(
        self,
        connection: sa.Connection,
        project_id: int,
        rows: list[dict[str, object]],
        source: Source,
        annotation_key: str = "annotation_id",
    ) -> None:
        """Append one event per row, numbered without gaps, and write each one's position into its row."""
        if not rows:
            return
        statement = projects.update().where(projects.c.id == project_id)
        raised = statement.values(position=projects.c.position + len(rows)).returning(projects.c.position)
        newest = connection.execute(raised).scalar_one()
        now = time.time()
        for position, row in enumerate(rows, start=newest - len(rows) + 1):
            row["position"] = position
        connection.execute(
            events.insert(),
            [
                {
                    "project_id": project_id,
                    "position": row["position"],
                    "annotation_id": row[annotation_key],
                    "task_id": row.get("task_id"),
                    "image": row.get("image"),
                    "label": row.get("label"),
                    "multiple": row.get("multiple", False),
                    "completed_by": row.get("completed_by"),
                    "source": source,
                    "told_at": now,
                }
                for row in rows
            ],
        )


def _short_fields(task: Task) -> dict[str, str | int | float]:
    """Return what a task's data says in a word or a number: its camera, its site, its family, not its image.

    Examples
    --------
    >>> _short_fields(Task(1, "/a.png", {"image": "/a.png", "camera": "crib", "boxes": [1, 2], "night": True}))
    {'camera': 'crib', 'night': True}
    """
    short = {
        name: value
        for name, value in task.data.items()
        if isinstance(value, (str, int, float))
        and len(str(value)) <= LONGEST_FIELD
        and value not in (task.image, float("inf"), float("-inf"))
        and value == value  # NaN is no JSON
    }
    return dict(list(short.items())[:MOST_FIELDS])


def _judge(annotation: Annotation, config: LabelConfig | None) -> tuple[Answer | None, str]:
    """Return the label to learn from an annotation, if any, and how the annotation stands."""
    if annotation.cancelled:
        return None, "skipped"
    if annotation.machine_made:
        return None, "machine"
    if not annotation.labels and not (config and config.may_be_empty):
        return None, "empty"
    if config and config.multiple:
        return tuple(sorted(annotation.labels)), "in force"
    if len(annotation.labels) > 1:
        return None, "several"
    return annotation.labels[0], "in force"


def _is_known(
    before: Any,
    annotation: Annotation,
    judged: tuple[str | None, bool, str, str | None],
    as_of: float | None,
) -> bool:
    """Tell whether an annotation says nothing new: a copy of what is known, or older than it."""
    if as_of is not None and before.told_at >= as_of:
        return True
    if as_of is None and before.standing == "deleted":
        return True
    known = (before.label, before.multiple, before.standing, before.image)
    same = known == judged and before.updated_at == annotation.updated_at
    return same or bool(before.updated_at > annotation.updated_at)


def _written(answer: Answer | None) -> tuple[str | None, bool]:
    """Return an answer as its columns hold it: the label, and whether that is a JSON list of names."""
    if answer is None or isinstance(answer, str):
        return answer, False
    return json.dumps(answer, ensure_ascii=False), True


def _label(
    annotation_id: int, task_id: int, image: str | None, label: str, multiple: bool, completed_by: int | None
) -> Label:
    return Label(annotation_id, task_id, image, tuple(json.loads(label)) if multiple else label, completed_by)


def _current(connection: sa.Connection, project_id: int, only: Iterable[int] | None) -> dict[int, Label]:
    told = (annotation_table.c[name] for name in ("id", "task_id", "image", "label", "multiple", "completed_by"))
    query = (
        sa.select(*told)
        .where(annotation_table.c.project_id == project_id, annotation_table.c.label.is_not(None))
        .order_by(annotation_table.c.position)
    )
    if only is None:
        return {row.id: _label(*row) for row in connection.execute(query)}
    found: dict[int, Label] = {}
    for chunk in _chunks(only):
        theirs = connection.execute(query.where(annotation_table.c.id.in_(chunk)))
        found.update((row.id, _label(*row)) for row in theirs)
    return found


def _labels_at(
    connection: sa.Connection, project_id: int, position: int, only: Iterable[int] | None
) -> dict[int, Label]:
    """Return the labels in force at a position: each annotation's last event up to there, where it set a label."""
    last = sa.select(sa.func.max(events.c.position)).where(
        events.c.project_id == project_id, events.c.position <= position, events.c.annotation_id.is_not(None)
    )
    told = (events.c[name] for name in ("annotation_id", "task_id", "image", "label", "multiple", "completed_by"))
    query = (
        sa.select(*told)
        .where(events.c.project_id == project_id, events.c.label.is_not(None))
        .order_by(events.c.position)
    )
    if only is None:
        found = connection.execute(query.where(events.c.position.in_(last.group_by(events.c.annotation_id))))
        return {row.annotation_id: _label(*row) for row in found}
    labels: dict[int, Label] = {}
    for chunk in _chunks(only):
        theirs = last.where(events.c.annotation_id.in_(chunk)).group_by(events.c.annotation_id)
        found = connection.execute(query.where(events.c.position.in_(theirs)))
        labels.update((row.annotation_id, _label(*row)) for row in found)
    return labels


def _chunks(values: Iterable[int]) -> Iterable[list[int]]:
    """Split values into lists short enough for one statement."""
    listed = list(values)
    return (listed[start : start + IN_CHUNKS] for start in range(0, len(listed), IN_CHUNKS))
