"""Ask: tasks -> predictions, exactly as many as tasks, by the version that serves now."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.events import ProjectFacts, ProjectTold, Task
from backend.images import ImageUnreadable
from backend.label_config import LabelConfig
from backend.projects import Project, UnknownProject
from backend.services import Services
from backend.update import weights_of
from backend.versions import Version, version_name
from model.selection import margin
from model.weights import Weights

log = logging.getLogger(__name__)

Prediction = dict[str, Any]
Probabilities = npt.NDArray[np.float64]


class Champions:
    """The served weights of each project's champion, read again as soon as SQL says that another one serves."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[Version, Weights | None]] = {}
        self._lock = threading.Lock()

    def of(self, services: Services, project_id: int) -> tuple[Version | None, Weights | None]:
        """Return the version that serves and its weights; None for what there is not."""
        version = services.versions.champion(project_id)
        if version is None:
            return None, None
        with self._lock:
            held = self._held.get(project_id)
            if held is None or (held[0].number, held[0].created_at) != (version.number, version.created_at):
                held = (version, weights_of(services, version))
                self._held[project_id] = held
        return version, held[1]


def predict(
    services: Services, champions: Champions, asked: tuple[int, int, str, Sequence[Task]]
) -> tuple[str, list[Prediction]]:
    """Return the name of the version and one prediction per task, in the tasks' order.

    A task that can't be predicted gets an answer that keeps the annotator going: an empty result where nothing is known
    or its image is broken for good, and no result at all, so that Label Studio asks again, where the trouble may pass.

    Parameters
    ----------
    services, champions
        What this process has.
    asked
        Label Studio's id of the project, when it was created (Unix seconds), its label config, and the tasks.
    """
    label_studio_id, created, xml, tasks = asked
    project = heard_of(services, label_studio_id, created, xml)
    version, weights = champions.of(services, project.id)
    name = version.name if version else version_name(0)
    config = project.config
    if config is None:
        return name, [{"result": [], "score": 0.0, "model_version": name} for _ in tasks]
    found = services.features.find(project.id, [(task.image, task.id) for task in tasks if task.image is not None])
    known = [task for task in tasks if task.image in found.vectors]
    probabilities: dict[int, Probabilities] = {}
    if weights is not None and known:
        rows = weights.predict_proba(np.stack([found.vectors[task.image or ""] for task in known]))
        probabilities = {task.id: row for task, row in zip(known, rows, strict=True)}
    return name, [
        _prediction(name, config, weights, probabilities.get(task.id), found.unreadable.get(task.image or ""))
        for task in tasks
    ]


def preselect(config: LabelConfig, weights: Weights, probabilities: Probabilities) -> list[dict[str, object]]:
    """Return the result that chooses the most probable class, with its confidence; `probabilities` has shape (k,)."""
    best = int(np.argmax(probabilities))
    return config.result(str(weights.classes[best]), score=round(float(probabilities[best]), 4))


def _prediction(
    name: str,
    config: LabelConfig,
    weights: Weights | None,
    probabilities: Probabilities | None,
    problem: ImageUnreadable | None,
) -> Prediction:
    if weights is not None and probabilities is not None:
        score = float(margin(probabilities[None])[0])
        return {"result": preselect(config, weights, probabilities), "score": score, "model_version": name}
    if problem is not None and problem.temporary:
        return {}
    return {"result": [], "score": 0.0 if problem is None else 1.0, "model_version": name}


def heard_of(services: Services, label_studio_id: int, created: int, xml: str) -> Project:
    """Return the project Label Studio speaks of, made known when it is new, with the label config it has now."""
    try:
        project = services.projects.named(label_studio_id, created)
    except UnknownProject:
        project = None
    if project is not None and project.label_config == xml:
        return project
    title = project.title if project else f"Project {label_studio_id}"
    told = services.ledger.tell(ProjectTold(ProjectFacts(label_studio_id, created, title, xml)))
    if project is None:
        log.info("Heard of project %d of Label Studio; asking it for its tasks", label_studio_id)
        services.jobs.ask("sync", told.project.id)
    return told.project
