"""Tabs: what the pages list of a project is listed in Label Studio's Data Manager too, and follows what is learned.

`connect` makes the tabs; here only their filters are changed, and only as far as they are Tandem's: a tab that somebody
deleted stays away, and what somebody changed in one by hand stays as they want it.

Why a label is in doubt is told where it is looked at. A task's data is no place for it (it is the user's, and is
exported), nor is the annotation. So the task gets one more prediction, whose name asks: "Look again: happy?". The name
stands in the tab's column *Prediction model versions* and above the task, and the prediction holds the reason. The
project shows another version, so it is neither preselected nor does it count for the order.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from backend.data_manager import LISTS, LONGEST
from backend.insight.doubts import Doubt, doubts
from backend.insight.queue import Kind, queue
from backend.label_config import LabelConfig
from backend.labelstudio import LabelStudioError
from backend.projects import Project
from backend.services import Services

LEAST_PAUSE = 5.0
"""Seconds between two changes of the tabs, at least: each costs Label Studio, which lets one write at a time, 0.1 s."""
LEAST_ODDS = 3.0
"""How many times as likely as the label another class must be for the tab to list it: it can't list the clearest first,
and below that classes overlap. Our own page lists them all."""
QUESTION = "Look again: {}?"
"""Name of the prediction that tells why a label is in doubt, with the class that speaks against it."""
LONGEST_CLASS = 60
"""Characters of a class in that name."""


def renew(services: Services, project_id: int) -> None:
    """Let the tabs of a project list what is to be listed now.

    Raises
    ------
    backend.labelstudio.LabelStudioError
        When Label Studio refuses or can't be reached; what the tabs list stays.
    """
    with services.jobs.lock("tabs", project_id):
        project = services.projects.get(project_id)
        config = project.config
        if config is None:
            return
        as_of = _as_of(services, project)
        told = doubts(services, project)
        doubted = [doubt for doubt in told.doubts if doubt.odds >= LEAST_ODDS or doubt.look_alike][:LONGEST]
        found = {
            "Look again": [doubt.said.annotation for doubt in doubted],
            "Ambiguous": _listed(services, project, "ambiguous"),
            "Novel": _listed(services, project, "novel"),
            "Disagreements": [disagreement.labels[0].annotation for disagreement in told.disagreements],
        }
        for view in services.label_studio.views(project.label_studio_id):
            tab = LISTS.get(view.title)
            changed = tab.listing(view.data, found[view.title]) if tab else None
            if changed is not None:
                services.label_studio.update_view(view, changed)
        asked = _ask(services, project, config, {doubt.task: doubt for doubt in doubted})
        services.projects.note_tabs(project_id, {"as_of": as_of, "at": time.time(), "asked": asked})


def are_due(services: Services, project: Project) -> bool:
    """Tell whether the tabs may list something else by now, and some time has passed."""
    if project.config is None or project.shown is None:
        return False
    last = project.tabs or {}
    return time.time() - last.get("at", 0.0) >= LEAST_PAUSE and last.get("as_of") != _as_of(services, project)


def _as_of(services: Services, project: Project) -> list[Any]:
    """Return what the lists are made from: labels, the pool's scores, the newest study, the newest review."""
    study, reviewed = services.studies.newest(project.id), services.reviews.newest(project.id, 1)
    scored_at = services.scores.made_at(project.id)
    return [project.position, scored_at, study.number if study else 0, reviewed[0].id if reviewed else 0]


def _listed(services: Services, project: Project, kind: Kind) -> list[int]:
    return [waiting.task for waiting in queue(services, project, kind, size=LONGEST).tasks]


def _ask(services: Services, project: Project, config: LabelConfig, doubted: Mapping[int, Doubt]) -> list[list[Any]]:
    """Let each doubted task have its question; return the task, name and time (Unix seconds) of all that stand.

    What is answered stays as long as other predictions do: somebody may be making an annotation of it.
    """
    now, kept_since = time.time(), time.time() - services.settings.show_keep
    asked: list[list[Any]] = (project.tabs or {}).get("asked", [])
    wanted = {
        (task, QUESTION.format(doubt.suggested[:LONGEST_CLASS])): doubt
        for task, doubt in doubted.items()
        if doubt.suggested in config.classes
    }
    for task, name, at in asked:
        if (task, name) not in wanted and at < kept_since:
            services.label_studio.delete_predictions(task, name)
    standing = [each for each in asked if tuple(each[:2]) in wanted or each[2] >= kept_since]
    known = {(task, name) for task, name, _ in standing}
    fresh = {key: doubt for key, doubt in wanted.items() if key not in known}
    if fresh:
        predictions = [
            {
                "task": task,
                "result": config.result(doubt.suggested, text=doubt.reason),
                "score": round(doubt.odds / (1 + doubt.odds), 4),
                "model_version": name,
            }
            for (task, name), doubt in fresh.items()
        ]
        try:
            services.label_studio.import_predictions(project.label_studio_id, predictions)
        except LabelStudioError as error:
            if error.status == HTTPStatus.BAD_REQUEST:
                # A task that is gone makes Label Studio refuse all of them: find out which.
                services.jobs.ask("sync", project.id)
            raise
    return standing + [[task, name, now] for task, name in fresh]
