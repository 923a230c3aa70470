"""Ask: tasks -> predictions, exactly as many as tasks, by the version that serves now."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from backend.events import ProjectFacts, ProjectTold, Task
from backend.images import ImageUnreadable
from backend.label_config import LabelConfig
from backend.projects import Project, UnknownProject
from backend.services import Services
from backend.update import LIKELY, weights_of
from backend.versions import Version, version_name
from model.calibration import prediction_sets
from model.multilabel import least_clear
from model.uncertainty import Novelty, clarity, reason
from model.weights import Floats, Weights

log = logging.getLogger(__name__)

Prediction = dict[str, Any]


class Champions:
    """The served weights of each project's champion, read again as soon as SQL says that another one serves."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[Version, Weights | None, Novelty | None]] = {}
        self._lock = threading.Lock()

    def of(self, services: Services, project_id: int) -> tuple[Version | None, Weights | None, Novelty | None]:
        """Return the version that serves, its weights and what tells it novel images; None for what there is not."""
        version = services.versions.champion(project_id)
        if version is None:
            return None, None, None
        with self._lock:
            held = self._held.get(project_id)
            if held is None or (held[0].number, held[0].created_at) != (version.number, version.created_at):
                if held is not None and (held[0].study, held[0].encoder_id) == (version.study, version.encoder_id):
                    novelty = held[2]
                else:
                    novelty = _novelty_of(services, version)
                held = self._held[project_id] = (version, weights_of(services, version), novelty)
        return version, *held[1:]


def _novelty_of(services: Services, version: Version) -> Novelty | None:
    data = services.studies.novelty(version.project_id, version.study) if version.study is not None else None
    return Novelty.from_bytes(data) if data else None


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
    version, weights, novelty = champions.of(services, project.id)
    name = version.name if version else version_name(0)
    config = project.config
    if config is None:
        return name, [{"result": [], "score": 0.0, "model_version": name} for _ in tasks]
    found = services.features.find(project.id, [(task.image, task.id) for task in tasks if task.image is not None])
    known = [task for task in tasks if task.image in found.vectors]
    answers: dict[int, Prediction] = {}
    if version is not None and weights is not None and known:
        vectors = np.stack([found.vectors[task.image or ""] for task in known])
        probabilities = weights.predict_proba(vectors)
        foreign = novelty.score(vectors) if novelty else None
        results = preselect(config, version, weights, probabilities, foreign, services.settings.preselect_from)
        answers = {
            task.id: {"result": result, "score": float(clear), "model_version": name}
            for task, result, clear in zip(known, results, clarity(rivals(config, probabilities), foreign), strict=True)
        }
    return name, [answers.get(task.id) or _unknown(name, found.unreadable.get(task.image or "")) for task in tasks]


def preselect(
    config: LabelConfig, version: Version, weights: Weights, probabilities: Floats, novelty: Floats | None, sure: float
) -> list[list[dict[str, object]]]:
    """Return, for each image, the result that chooses the most probable class, with its confidence and the reason.

    Where that class is not probable enough, the reason stands alone: a wrong choice that is there already is easily
    left standing.

    Parameters
    ----------
    config, version, weights
        The project's, and what serves.
    probabilities
        Of shape (n, k).
    novelty
        Of shape (n,); None when nothing can be said of it yet.
    sure
        Least probability of what is chosen.
    """
    names = weights.classes.tolist()
    if config.multiple:
        return [_preselect_several(config, names, row, sure) for row in probabilities]
    sets = prediction_sets(probabilities, version.metrics.get("threshold", 1.0))
    results = []
    for place, row in enumerate(probabilities):
        best = int(np.argmax(row))
        likely = [name for name, within in zip(names, sets[place], strict=True) if within]
        why = reason(names, row, likely, 0.0 if novelty is None else float(novelty[place]))
        if "%" not in why:
            why = f"{why} ({names[best]} {int(100 * row[best])} %)"
        chosen = [str(names[best])] if row[best] >= sure else []
        results.append(config.result(chosen, score=round(float(row[best]), 4), text=why))
    return results


def _preselect_several(config: LabelConfig, names: Sequence[str], row: Floats, sure: float) -> list[dict[str, object]]:
    """Return the result that chooses every class which is rather there than not, and surely enough."""
    likely = {str(name): float(share) for name, share in zip(names, row, strict=True) if share > LIKELY}
    why = ", ".join(f"{name} {int(100 * share)} %" for name, share in likely.items())
    if not likely:
        best = int(np.argmax(row))
        why = f"rather none ({names[best]} {int(100 * row[best])} %)"
    chosen = {name: share for name, share in likely.items() if share >= sure}
    return config.result(list(chosen), score=round(min(chosen.values(), default=0.0), 4), text=why)


def rivals(config: LabelConfig, probabilities: Floats) -> Floats:
    """Return the probabilities between which the margin lies: of all classes, or of the least clear one of several."""
    return least_clear(probabilities) if config.multiple else probabilities


def _unknown(name: str, problem: ImageUnreadable | None) -> Prediction:
    """Return the answer for a task of which nothing is known."""
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
    if project is None or told.config:
        log.info("Heard of project %d of Label Studio, or of its label config; comparing with it", label_studio_id)
        services.jobs.ask("sync", told.project.id)
    return told.project
