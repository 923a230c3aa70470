"""Tandem's parts put together for tests: a real database, the real encoder, demo images read from their folder."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from backend.database import migrate
from backend.events import Annotation, AnnotationsTold, ProjectFacts, Task, TasksTold
from backend.projects import Project
from backend.services import Services
from backend.settings import Settings
from tests.conftest import REPOSITORY, STATE

DEMO = REPOSITORY / "demo" / "expressions"
CONFIG = (REPOSITORY / "label_config.xml").read_text()
FACTS = ProjectFacts(7, 1795246825, "expressions", CONFIG)
PAYLOADS = Path(__file__).parent / "payloads"
NO_REDIS = "redis://127.0.0.1:1/0"


def make_services(folder: Path, redis_url: str = NO_REDIS, **settings: Any) -> Services:
    """Return the services of a new state folder; exported encoders are shared between tests."""
    (STATE / "cache").mkdir(parents=True, exist_ok=True)
    (folder / "cache").symlink_to((STATE / "cache").resolve())
    values: dict[str, Any] = {
        "label_studio_files": DEMO,
        "label_studio_url": "http://127.0.0.1:1",
        "label_studio_api_key": "a key of the tests",
    } | settings
    services = Services(Settings(_env_file=None, state=folder, redis_url=redis_url, **values))
    migrate(services.settings.database)
    return services


def recorded(name: str) -> Any:
    """Return the body of a recorded request."""
    return json.loads((PAYLOADS / f"{name}.json").read_text())["json"]


@dataclass
class Classroom:
    """A project whose tasks are demo images, and a person who labels them as their folder says."""

    services: Services
    per_class: int = 4
    fields: dict[str, object] = field(default_factory=dict)
    tasks: dict[int, Task] = field(default_factory=dict)
    truth: dict[int, str] = field(default_factory=dict)
    annotations: dict[int, Annotation] = field(default_factory=dict)
    project: Project = field(init=False)
    _ids: Iterator[int] = field(default_factory=lambda: count(1))
    _clock: Iterator[int] = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        paths = [path for folder in sorted(DEMO.iterdir()) for path in sorted(folder.glob("*.png"))[: self.per_class]]
        random.Random(0).shuffle(paths)
        for task_id, path in enumerate(paths, start=1):
            self.tasks[task_id] = Task(task_id, f"/data/local-files/?d={path.relative_to(DEMO)}", self.fields)
            self.truth[task_id] = path.parent.name
        told = self.services.ledger.tell(TasksTold(FACTS, tuple(self.tasks.values()), with_annotations=False))
        self.project = told.project

    def annotate(
        self, task_id: int, label: str | None = None, annotation_id: int | None = None, person: int = 1
    ) -> int:
        """Label a task, rightly unless `label` says otherwise, or change annotation `annotation_id`; return its id."""
        annotation_id = annotation_id or next(self._ids)
        annotation = Annotation(
            id=annotation_id,
            task_id=task_id,
            labels=(label or self.truth[task_id],),
            cancelled=False,
            ground_truth=False,
            machine_made=False,
            updated_at=float(next(self._clock)),
            completed_by=person,
            lead_time=2.0,
            prediction_version=None,
        )
        self.annotations[annotation_id] = annotation
        self.services.ledger.tell(AnnotationsTold(FACTS, (annotation,), (self.tasks[task_id],)))
        return annotation_id

    def predict_body(self, *task_ids: int) -> dict[str, Any]:
        """Return what Label Studio posts to ``/predict`` for tasks."""
        tasks = [{"id": each, "data": {"image": self.tasks[each].image}} for each in task_ids]
        return {"tasks": tasks, "project": f"{FACTS.id}.{FACTS.created}", "label_config": CONFIG, "params": {}}
