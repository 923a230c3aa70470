"""Show: the pool is encoded, scored by the champion, and pushed to Label Studio, whose queue and scores follow.

Label Studio asks for the smallest score first; what it says is told in `pool.py`. Before the first label nothing is
preselected.

Label Studio, on SQLite, lets nobody write while it imports or deletes predictions: pushing the whole pool with each
label would make annotators wait. So a version's first predictions are the few most worth asking, under a name of its
own, to which the project is switched; Label Studio then asks for those before all others. The rest follows slice by
slice when no label has come for a moment. What stands under older names stays for an hour: an annotation names the
prediction that its annotator saw, and Label Studio refuses it when that one is gone.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from backend.label_config import LabelConfig
from backend.labelstudio import LabelStudioError
from backend.pool import (
    ENCODED_AT_A_TIME,
    NOVEL_AT_ONCE,
    Candidate,
    Pool,
    Pools,
    candidates_of,
    keep,
    look_for_novelty,
    probabilities_of,
    rank,
)
from backend.predict import Champions, preselect
from backend.projects import Project
from backend.services import Services
from backend.settings import Settings
from backend.versions import Version, version_name
from model.uncertainty import Novelty
from model.weights import Weights

log = logging.getLogger(__name__)

OUR_NAMES = re.compile(r"tandem-v(\d+)(?:\.(\d+))?")
"""Names under which Tandem pushes predictions; only those are ever dropped."""
DROPPED_AT_A_TIME = 5
"""Retired names deleted before other work gets its turn."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What one job did: how many predictions were pushed, and under which name."""

    name: str
    pushed: int


def show(services: Services, pools: Pools, champions: Champions, project_id: int) -> Shown | None:
    """Push what Label Studio does not show yet; return what was pushed, None when there is nothing to do now.

    Raises
    ------
    backend.labelstudio.LabelStudioError
        When Label Studio refuses or can't be reached; what stands there stays.
    """
    with services.jobs.lock("show", project_id):
        pools.throttle(project_id, services.settings.show_interval)
        project = services.projects.get(project_id)
        config = project.config
        version, weights, novelty = champions.of(services, project_id)
        number = version.number if version else 0
        renew = project.shown_version != number
        newest = services.versions.newest(project_id)
        if config is None or not (renew or is_calm(services.settings, newest)):
            return None
        if version is not None and version.metrics["waiting"]:
            _read_again(services, project_id)
        pool = pools.get(project_id, services.encoder.id)
        candidates, more_to_encode = candidates_of(services, project_id, pool, hurry=renew)
        todo = [candidate for candidate in candidates if renew or candidate.shown != project.shown]
        if weights is None and not renew:
            # The cold start orders the pool as a whole: anew once the newcomers are all known, and not before.
            renew = bool(todo) and not more_to_encode and not pool.has_scores(number, candidates)
            todo = candidates if renew else [] if more_to_encode else todo
        if len(candidates) <= NOVEL_AT_ONCE or (not more_to_encode and is_calm(services.settings, newest)):
            look_for_novelty(version, novelty, pool, candidates)
        count = 0
        if todo:
            scores = rank(services, project_id, config, pool, version, weights, candidates)
            todo = sorted(todo, key=lambda candidate: scores[candidate.task_id])
            part = todo[: services.settings.show_first if renew else services.settings.show_slice]
            name = _fresh_name(services, project, number) if renew else project.shown or version_name(number)
            results = _results(config, version, weights, novelty, pool, part, services.settings.preselect_from)
            predictions = [
                {
                    "task": candidate.task_id,
                    "result": results.get(candidate.task_id, []),
                    "score": round(scores[candidate.task_id], 6),
                    "model_version": name,
                }
                for candidate in part
            ]
            _push(services, project, predictions)
            if renew:
                _switch(services, project, name, number)
            count = len(part)
            services.ledger.note_shown(project_id, [candidate.task_id for candidate in part], name)
            log.info("Project %d: %s is shown for %d more tasks, %d to go", project_id, name, count, len(todo) - count)
        keep(services, project_id, pool, candidates)
        more = more_to_encode or len(todo) > count
        if not more and project.shown is not None and is_calm(services.settings, newest):
            more = _drop_retired(services, project, name if count else project.shown)
        pools.rest(project_id)
    if more:
        services.jobs.ask("show", project_id)
    return Shown(name, count) if count else None


def is_calm(settings: Settings, newest: Version | None) -> bool:
    """Tell whether no label has come for a moment, so that annotators hardly notice a large push."""
    return newest is None or time.time() - newest.created_at >= settings.show_calm


def _read_again(services: Services, project_id: int) -> None:
    """Try the images of labels that could not be learned so far; when one can be read now, ask for it to be learned."""
    labels = services.ledger.in_force(project_id).values()
    wanted = [(label.image, label.task_id) for label in labels if label.image is not None]
    if services.features.find(project_id, wanted, ENCODED_AT_A_TIME).encoded:
        services.jobs.ask("update", project_id)


def _results(
    config: LabelConfig,
    version: Version | None,
    weights: Weights | None,
    novelty: Novelty | None,
    pool: Pool,
    candidates: Sequence[Candidate],
    sure: float,
) -> dict[int, list[dict[str, object]]]:
    """Return what is preselected and told, by task, where the image is known and something was learned."""
    known = [candidate for candidate in candidates if candidate.address is not None]
    if version is None or weights is None or not known:
        return {}
    places = pool.places(candidate.address or "" for candidate in known)
    probabilities = probabilities_of(weights, pool.rows, places)
    foreign = novelty.score(pool.rows[places]) if novelty else None
    told = preselect(config, version, weights, probabilities, foreign, sure)
    return {candidate.task_id: result for candidate, result in zip(known, told, strict=True)}


def _fresh_name(services: Services, project: Project, number: int) -> str:
    """Return a name for version `number` under which Label Studio has no prediction yet."""
    taken = services.label_studio.model_versions(project.label_studio_id)
    name, again = version_name(number), 0
    while name in taken:
        again += 1
        name = f"{version_name(number)}.{again}"
    return name


def _push(services: Services, project: Project, predictions: Sequence[dict[str, Any]]) -> None:
    """Import predictions, and look whether Label Studio took them all: what it drops, it drops silently."""
    try:
        created = services.label_studio.import_predictions(project.label_studio_id, predictions)
    except LabelStudioError as error:
        if error.status == HTTPStatus.BAD_REQUEST:
            # A task that is gone makes Label Studio refuse all of them: find out which.
            services.jobs.ask("sync", project.id)
        raise
    if created != len(predictions):
        log.error(
            "Project %d: Label Studio took %d of %d predictions; does its labeling configuration still have the "
            "classes that Tandem knows? Comparing with it now",
            project.id,
            created,
            len(predictions),
        )
        services.jobs.ask("sync", project.id)


def _switch(services: Services, project: Project, name: str, number: int) -> None:
    """Let the project show the predictions `name`."""
    services.label_studio.update_project(project.label_studio_id, model_version=name)
    services.projects.note_shown(project.id, name, number)


def _drop_retired(services: Services, project: Project, name: str) -> bool:
    """Delete some of what Tandem pushed under names that were replaced long ago; return whether more is left.

    Not sooner: Label Studio refuses the annotation of someone who has a task open whose prediction is gone.
    """
    kept_since = time.time() - services.settings.show_keep
    if any(pin.at > kept_since for pin in services.projects.pins(project.id, limit=1)):
        # What was shown until somebody rolled back may be open still, however old the version.
        return False
    retired = []
    for other in services.label_studio.model_versions(project.label_studio_id):
        ours = OUR_NAMES.fullmatch(other)
        successor = services.versions.get(project.id, int(ours[1]) + 1) if ours and other != name else None
        if successor is not None and successor.created_at <= kept_since:
            retired.append(other)
    for other in retired[:DROPPED_AT_A_TIME]:
        services.label_studio.delete_model_version(project.label_studio_id, other)
    return len(retired) > DROPPED_AT_A_TIME
