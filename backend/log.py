"""Log: every version that MLflow has not seen becomes one run and one registered model version, in order, once.

The alias ``champion`` follows what serves, also when somebody rolls back; where MLflow is away just then, it follows
with the next version.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from backend.projects import Project
from backend.services import Services
from backend.update import weights_of
from backend.versions import Version
from model.evaluation import Prequential

logger = logging.getLogger(__name__)

AT_A_TIME = 20
"""Versions logged before the worker looks for other work."""


def log(services: Services, project_id: int) -> int:
    """Log the oldest unlogged versions of a project; return how many. A backlog goes on in the next job.

    Raises
    ------
    mlflow.exceptions.MlflowException
        When MLflow can't be reached: what was logged so far stays logged.
    """
    with services.jobs.lock("log", project_id):
        project = services.projects.get(project_id)
        waiting = services.versions.unlogged(project_id, AT_A_TIME)
        for version in waiting:
            services.versions.note_logging(version)
            run_id = services.tracking.log_version(
                model_name(project),
                version.name,
                parent=version.parent,
                created_at=version.created_at,
                params=_params(project, version),
                metrics=_metrics(version),
                files=_files(services, version),
                look_first=version.logging_since is not None,
            )
            services.versions.note_logged(version, run_id)
        _crown(services, project)
    if len(waiting) == AT_A_TIME:
        services.jobs.ask("log", project_id)
    return len(waiting)


def model_name(project: Project) -> str:
    """Return the name of a project's experiment and registered model in MLflow."""
    return f"tandem-project-{project.label_studio_id}-{project.created}"


def _crown(services: Services, project: Project) -> None:
    champion = services.versions.champion(project.id)
    if champion is None or champion.run_id is None:
        return
    if services.tracking.crown(model_name(project), champion.run_id):
        logger.info("Project %d: %s is the champion in MLflow", project.id, champion.name)


def _params(project: Project, version: Version) -> dict[str, Any]:
    return {
        "project": f"{project.title} ({project.label_studio_id})",
        "parent": version.parent,
        "ledger_position": version.position,
        "encoder": version.encoder_id,
        "head": version.head,
        "classes": version.classes,
    }


def _metrics(version: Version) -> dict[str, float]:
    labels = version.metrics["labels"]
    return (
        {"labels": sum(labels.values()), "ledger_position": version.position, "waiting": version.metrics["waiting"]}
        | {f"labels/{_slug(label)}": count for label, count in labels.items()}
        | {f"prequential/{name}": value for name, value in _prequential(version).items()}
        | {f"seconds/{stage}": seconds for stage, seconds in version.metrics["seconds"].items()}
    )


def _prequential(version: Version) -> dict[str, float]:
    prequential = Prequential.from_dict(version.metrics["prequential"])
    if not prequential.count:
        return {}
    return {
        "count": prequential.count,
        "accuracy": prequential.accuracy,
        "log_loss": prequential.log_loss,
        "recent_accuracy": prequential.recent_accuracy,
    }


def _files(services: Services, version: Version) -> dict[str, bytes]:
    weights = weights_of(services, version)
    about = {"version": version.name, "parent": version.parent, "position": version.position, **version.metrics}
    files = {"version.json": json.dumps(about | {"classes": version.classes}, indent=1).encode()}
    return files | ({"weights.npz": weights.to_bytes()} if weights else {})


def _slug(label: str) -> str:
    """Return a class name as MLflow allows it in a metric's name.

    Examples
    --------
    >>> _slug("sad, or tired?")
    'sad_ or tired_'
    """
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in label)
