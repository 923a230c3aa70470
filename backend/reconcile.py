"""Reconcile: what Label Studio says is compared with the ledger, and the difference is told as events.

Label Studio never repeats a webhook, so this is what makes "nothing lost" true.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from backend.events import (
    Annotation,
    AnnotationsDeleted,
    AnnotationsTold,
    ProjectTold,
    Task,
    TasksDeleted,
    parse_task_with_annotations,
)
from backend.services import Services

log = logging.getLogger(__name__)

TASKS_AT_A_TIME = 200
"""Tasks told to the ledger in one transaction, so that no webhook waits long behind it."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What a comparison found: ledger events that were missing, and annotations and tasks seen in Label Studio."""

    events: int
    annotations: int
    tasks: int


def reconcile(services: Services, project_id: int) -> Difference:
    """Make the ledger agree with Label Studio about one project, and ask for the work that follows from it.

    Raises
    ------
    backend.labelstudio.LabelStudioError
        When Label Studio refuses or can't be reached; the ledger keeps what it has.
    """
    with services.jobs.lock("sync", project_id):
        started = time.time()
        known = services.projects.get(project_id)
        facts = services.label_studio.project(known.label_studio_id).facts
        if facts.created != known.created:
            log.warning(
                "Project %d of Label Studio is another one now than the one learned from; its labels are left alone",
                known.label_studio_id,
            )
            services.projects.note_synced(project_id, started)
            return Difference(0, 0, 0)
        before = known.position
        services.ledger.tell(ProjectTold(facts), as_of=started)
        config = services.projects.get(project_id).config
        told_tasks: set[int] = set()
        told_annotations: set[int] = set()
        listed = (parse_task_with_annotations(each, config) for each in services.label_studio.tasks(facts.id))
        for batch in _batches(listed):
            annotations = tuple(annotation for _, theirs in batch for annotation in theirs)
            services.ledger.tell(AnnotationsTold(facts, annotations, tuple(task for task, _ in batch)), as_of=started)
            told_tasks.update(task.id for task, _ in batch)
            told_annotations.update(annotation.id for annotation in annotations)
        gone = services.ledger.known_annotations(project_id, started) - told_annotations
        services.ledger.tell(AnnotationsDeleted(facts, tuple(sorted(gone))), as_of=started)
        gone = services.ledger.known_tasks(project_id, started) - told_tasks
        services.ledger.tell(TasksDeleted(facts, tuple(sorted(gone))), as_of=started)
        services.projects.note_synced(project_id, started)
        events = services.ledger.position(project_id) - before
    log.info("Project %d: compared with Label Studio, %d events were missing", project_id, events)
    services.jobs.ask("update", project_id)
    services.jobs.ask("show", project_id)
    return Difference(events, len(told_annotations), len(told_tasks))


def _batches(
    listed: Iterator[tuple[Task, tuple[Annotation, ...]]],
) -> Iterator[Sequence[tuple[Task, tuple[Annotation, ...]]]]:
    while batch := list(islice(listed, TASKS_AT_A_TIME)):
        yield batch
