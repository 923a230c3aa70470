"""Show: the pool is encoded, scored by the champion, and pushed to Label Studio, whose queue and scores follow.

The score is the margin: how far the best class is ahead of the next, 0 when it could be either. Label Studio asks for
the smallest first. Before the first label it is the place in the cold-start order instead, with nothing preselected.

Label Studio, on SQLite, lets nobody write while it imports or deletes predictions: pushing the whole pool with each
label would make annotators wait. So a version's first predictions are the few most worth asking, under a name of its
own, to which the project is switched; Label Studio then asks for those before all others. The rest follows slice by
slice when no label has come for a moment. What stands under older names stays for an hour: an annotation names the
prediction that its annotator saw, and Label Studio refuses it when that one is gone.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.label_config import LabelConfig
from backend.labelstudio import LabelStudioError
from backend.predict import Champions, preselect, rivals
from backend.projects import Project
from backend.scores import Scored, scored
from backend.services import Services
from backend.settings import Settings
from backend.versions import Version, version_name
from model.selection import CANDIDATES, COLD_START, cold_start, order
from model.uncertainty import Novelty, margin
from model.weights import Weights

log = logging.getLogger(__name__)

ENCODED_AT_A_TIME = 256
"""New images encoded before what is known is shown and other work gets its turn."""
OUR_NAMES = re.compile(r"tandem-v(\d+)(?:\.(\d+))?")
"""Names under which Tandem pushes predictions; only those are ever dropped."""
DROPPED_AT_A_TIME = 5
"""Retired names deleted before other work gets its turn."""
UNREADABLE_SCORE = 1.0
"""Score of a task whose image can't be read: it is asked last."""
CHUNK = 2048
"""Vectors read, or scored, at a time."""
NOVEL_AT_ONCE = 5000
"""Tasks of a pool whose novelty is told with each study, in 0.1 s; that of a larger one waits for a calm moment."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What one job did: how many predictions were pushed, and under which name."""

    name: str
    pushed: int


@dataclass(slots=True)
class Pool:
    """The features of a project's unlabelled images in memory, as float16 in rows; `row_of` finds them by address.

    `scores` are those of version `scored_for` by task, `scored` the same with what the version sees in each, and `kept`
    what was written down of it; `novelty_of` are the study and the number of images whose novelty was written down;
    `medoids` are the addresses that stand for the pool, best first.
    """

    row_of: dict[str, int] = field(default_factory=dict)
    rows: npt.NDArray[np.float16] = field(default_factory=lambda: np.empty((0, 0), np.float16))
    encoder_id: str = ""
    scored_for: int = -1
    scores: dict[int, float] = field(default_factory=dict)
    scored: Scored | None = None
    kept: Scored | None = None
    novelty_of: tuple[int, int] | None = None
    medoids: list[str] = field(default_factory=list)

    def add(self, vectors: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Take in vectors of shape (d,) by address; the room for them grows by halves."""
        fresh = {address: vector for address, vector in vectors.items() if address not in self.row_of}
        if not fresh:
            return
        used, dim = len(self.row_of), len(next(iter(fresh.values())))
        if used + len(fresh) > len(self.rows):
            grown = np.empty((max(used + len(fresh), used * 3 // 2), dim), np.float16)
            if used:
                grown[:used] = self.rows[:used]
            self.rows = grown
        for row, (address, vector) in enumerate(fresh.items(), start=used):
            self.rows[row] = vector
            self.row_of[address] = row

    def has_scores(self, number: int, candidates: Sequence[_Candidate]) -> bool:
        """Tell whether all these tasks were scored by version `number`."""
        return self.scored_for == number and all(candidate.task_id in self.scores for candidate in candidates)

    def places(self, addresses: Iterable[str]) -> npt.NDArray[np.intp]:
        """Return the rows of `addresses`, shape (n,)."""
        return np.array([self.row_of[address] for address in addresses], dtype=np.intp)


class Pools:
    """The pools this process holds, by project."""

    def __init__(self) -> None:
        self._pools: dict[int, Pool] = {}
        self._rested: dict[int, float] = {}

    def get(self, project_id: int, encoder_id: str) -> Pool:
        """Return the project's pool; an empty one when the encoder is another by now."""
        pool = self._pools.get(project_id)
        if pool is None or pool.encoder_id != encoder_id:
            pool = self._pools[project_id] = Pool(encoder_id=encoder_id)
        return pool

    def throttle(self, project_id: int, interval: float) -> None:
        """Wait until `interval` seconds have passed since this was last called for the project."""
        pause = self._rested.get(project_id, 0.0) + interval - time.monotonic()
        if pause > 0:
            time.sleep(pause)

    def rest(self, project_id: int) -> None:
        """Remember that something was shown just now."""
        self._rested[project_id] = time.monotonic()


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A task of the pool; `address` is None when its image can't be read, `shown` is the name it is shown under."""

    task_id: int
    address: str | None
    shown: str | None


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
        candidates, more_to_encode = _candidates(services, project_id, pool, hurry=renew)
        todo = [candidate for candidate in candidates if renew or candidate.shown != project.shown]
        if weights is None and not renew:
            # The cold start orders the pool as a whole: anew once the newcomers are all known, and not before.
            renew = bool(todo) and not more_to_encode and not pool.has_scores(number, candidates)
            todo = candidates if renew else [] if more_to_encode else todo
        count = 0
        if todo:
            labels = sum(version.metrics["labels"].values()) if version else 0
            scores = _scores(project_id, config, pool, number, weights, labels, candidates)
            todo = sorted(todo, key=lambda candidate: scores[candidate.task_id])
            part = todo[: services.settings.show_first if renew else services.settings.show_slice]
            name = _fresh_name(services, project, number) if renew else project.shown or version_name(number)
            results = _results(config, version, weights, novelty, pool, part)
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
            if pool.scored is not None and pool.scored is not pool.kept:
                services.scores.keep(pool.scored)
                pool.kept = pool.scored
            log.info("Project %d: %s is shown for %d more tasks, %d to go", project_id, name, count, len(todo) - count)
        if len(candidates) <= NOVEL_AT_ONCE or (not more_to_encode and is_calm(services.settings, newest)):
            _keep_novelty(services, project_id, version, novelty, pool, candidates)
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


def _candidates(services: Services, project_id: int, pool: Pool, hurry: bool) -> tuple[list[_Candidate], bool]:
    """Return the tasks that can be shown, with features in `pool`, and whether images are left to encode.

    Not more than `ENCODED_AT_A_TIME` new images are encoded; in a `hurry` none, unless nothing is known yet. A task
    whose image can't be read is shown as empty.
    """
    tasks = services.ledger.pool(project_id)
    task_of = {address: task_id for task_id, address, _ in tasks if address is not None}
    missing = [address for address in task_of if address not in pool.row_of]
    for start in range(0, len(missing), CHUNK):
        pool.add(services.features.cached(project_id, missing[start : start + CHUNK]).vectors)
    missing = [address for address in missing if address not in pool.row_of]
    limit = 0 if hurry and pool.row_of else ENCODED_AT_A_TIME
    found = services.features.find(project_id, [(each, task_of[each]) for each in missing], limit)
    pool.add(found.vectors)
    candidates = [
        _Candidate(task_id, address if address in pool.row_of else None, shown)
        for task_id, address, shown in tasks
        if address is None or address in pool.row_of or address in found.unreadable
    ]
    return candidates, len(candidates) < len(tasks)


def _read_again(services: Services, project_id: int) -> None:
    """Try the images of labels that could not be learned so far; when one can be read now, ask for it to be learned."""
    labels = services.ledger.in_force(project_id).values()
    wanted = [(label.image, label.task_id) for label in labels if label.image is not None]
    if services.features.find(project_id, wanted, ENCODED_AT_A_TIME).encoded:
        services.jobs.ask("update", project_id)


def _scores(
    project_id: int,
    config: LabelConfig,
    pool: Pool,
    number: int,
    weights: Weights | None,
    labels: int,
    candidates: Sequence[_Candidate],
) -> dict[int, float]:
    """Return each candidate's score: the smaller, the sooner it is asked; remembered for the slices of one version."""
    if pool.has_scores(number, candidates):
        return pool.scores
    scores = {candidate.task_id: UNREADABLE_SCORE for candidate in candidates}
    task_of = {candidate.address: candidate.task_id for candidate in candidates if candidate.address is not None}
    known = {candidate.task_id: candidate.address for candidate in candidates if candidate.address is not None}
    probabilities: npt.NDArray[np.float64] | None = None
    if known:
        places = pool.places(known.values())
        if weights is None:
            values = cold_start(pool.rows[places])
            addresses = list(known.values())
            pool.medoids = [addresses[place] for place in np.argsort(values)[:COLD_START]]
        else:
            values, probabilities = score(config, weights, pool.rows, places)
        scores.update(zip(known, values.tolist(), strict=True))
        if weights is not None and labels < COLD_START:
            # A head with so few labels is unclear about the wrong tasks: what stands for the pool is still asked first.
            first = [task_of[address] for address in pool.medoids if address in task_of]
            least = min((value for task_id, value in scores.items() if task_id not in first), default=1.0)
            scores.update({task_id: least * place / (len(first) + 1) for place, task_id in enumerate(first)})
    classes = [] if weights is None else [str(name) for name in weights.classes]
    pool.scored_for, pool.scores = number, scores
    pool.scored = scored(
        project_id,
        number,
        scores,
        list(known),
        classes,
        probabilities,
        None if probabilities is None else rivals(config, probabilities),
    )
    return scores


def score(
    config: LabelConfig, weights: Weights, rows: npt.NDArray[np.float16], places: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return scores, shape (n,), and probabilities, shape (n, k), of a pool's vectors `rows[places]`, shape (n, d).

    The smallest score is asked first.
    """
    probabilities = _probabilities(weights, rows, places)
    unclear = rivals(config, probabilities)
    scores = margin(unclear)
    # Only the least clear are told apart, so only their vectors are taken out.
    least = np.argsort(scores, kind="stable")[: CANDIDATES + 1]
    scores[least] = order(unclear[least], rows[places[least]])
    return scores, probabilities


def _probabilities(
    weights: Weights, rows: npt.NDArray[np.float16], places: npt.NDArray[np.intp]
) -> npt.NDArray[np.float64]:
    """Return probabilities of shape (n, k)."""
    chunks = (places[start : start + CHUNK] for start in range(0, len(places), CHUNK))
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return np.concatenate(list(threads.map(lambda chunk: weights.predict_proba(rows[chunk]), chunks)))


def _keep_novelty(
    services: Services,
    project_id: int,
    version: Version | None,
    novelty: Novelty | None,
    pool: Pool,
    candidates: Sequence[_Candidate],
) -> None:
    """Write down how novel the pool's images are, when a study or images came since it was last written down."""
    known = [candidate for candidate in candidates if candidate.address is not None]
    if version is None or version.study is None or novelty is None or not known or pool.kept is None:
        return
    if pool.novelty_of == (version.study, len(pool.row_of)):
        return
    places = pool.places(candidate.address or "" for candidate in known)
    chunks = (places[start : start + CHUNK] for start in range(0, len(places), CHUNK))
    found = np.concatenate([novelty.score(pool.rows[chunk]) for chunk in chunks])
    services.scores.keep_novelty(project_id, version.study, [candidate.task_id for candidate in known], found)
    pool.novelty_of = version.study, len(pool.row_of)


def _results(
    config: LabelConfig,
    version: Version | None,
    weights: Weights | None,
    novelty: Novelty | None,
    pool: Pool,
    candidates: Sequence[_Candidate],
) -> dict[int, list[dict[str, object]]]:
    """Return what is preselected, by task: a class where the image is known and something was learned."""
    known = [candidate for candidate in candidates if candidate.address is not None]
    if version is None or weights is None or not known:
        return {}
    places = pool.places(candidate.address or "" for candidate in known)
    probabilities = _probabilities(weights, pool.rows, places)
    told = preselect(config, version, weights, probabilities, novelty.score(pool.rows[places]) if novelty else None)
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
