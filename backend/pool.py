"""The pool of a project in memory: the features of its images without a label, and in which order they are asked.

A task's score says how soon it is asked, the smallest first. Before anything is learned it is the place in the cold
start's order; then how clear the task is to the version that serves. From then on every so-many-th task is one drawn at
random, with the score of the place it has. What other processes need of it is written down in `scores.py`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from backend.label_config import LabelConfig
from backend.predict import rivals
from backend.scores import Scored, scored
from backend.services import Services
from backend.versions import Version
from model.selection import CANDIDATES, COLD_START, cold_start, explore, in_random_sample, order
from model.uncertainty import Novelty, clarity
from model.weights import Weights

ENCODED_AT_A_TIME = 256
"""New images encoded before what is known is shown and other work gets its turn."""
UNREADABLE_SCORE = 1.0
"""Score of a task whose image can't be read: it is asked last."""
CHUNK = 2048
"""Vectors read, or scored, at a time."""
NOVEL_AT_ONCE = 5000
"""Tasks of a pool whose novelty is told with each study, in 0.1 s; that of a larger one waits for a calm moment."""


@dataclass(slots=True)
class Pool:
    """The features of a project's unlabelled images in memory, as float16 in rows; `row_of` finds them by address.

    `scores` are those of version `scored_for` by task, `scored` the same with what the version sees in each, and `kept`
    what was written down of it; `novelty` is that of the first rows, NaN where it is not known, `novelty_of` the study
    that told it and of how many rows, and `novelty_kept` what of that was written down; `medoids` are the addresses
    that stand for the pool, best first.
    """

    row_of: dict[str, int] = field(default_factory=dict)
    rows: npt.NDArray[np.float16] = field(default_factory=lambda: np.empty((0, 0), np.float16))
    encoder_id: str = ""
    scored_for: int = -1
    scores: dict[int, float] = field(default_factory=dict)
    scored: Scored | None = None
    kept: Scored | None = None
    novelty: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    novelty_of: tuple[int, int] | None = None
    novelty_kept: tuple[int, int] | None = None
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

    def has_scores(self, number: int, candidates: Sequence[Candidate]) -> bool:
        """Tell whether all these tasks were scored by version `number`."""
        return self.scored_for == number and all(candidate.task_id in self.scores for candidate in candidates)

    def places(self, addresses: Iterable[str]) -> npt.NDArray[np.intp]:
        """Return the rows of `addresses`, shape (n,)."""
        return np.array([self.row_of[address] for address in addresses], dtype=np.intp)

    def novelty_at(self, places: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        """Return the novelty of the images in these rows, NaN where it is not known, shape (n,)."""
        found = np.full(len(places), np.nan)
        known = places < len(self.novelty)
        found[known] = self.novelty[places[known]]
        return found


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
class Candidate:
    """A task of the pool; `address` is None when its image can't be read, `shown` is the name it is shown under."""

    task_id: int
    address: str | None
    shown: str | None


def candidates_of(services: Services, project_id: int, pool: Pool, hurry: bool) -> tuple[list[Candidate], bool]:
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
        Candidate(task_id, address if address in pool.row_of else None, shown)
        for task_id, address, shown in tasks
        if address is None or address in pool.row_of or address in found.unreadable
    ]
    return candidates, len(candidates) < len(tasks)


def rank(
    services: Services,
    project_id: int,
    config: LabelConfig,
    pool: Pool,
    version: Version | None,
    weights: Weights | None,
    candidates: Sequence[Candidate],
) -> dict[int, float]:
    """Return each candidate's score: the smaller, the sooner it is asked; remembered for the slices of one version."""
    number = version.number if version else 0
    if pool.has_scores(number, candidates):
        return pool.scores
    scores = {candidate.task_id: UNREADABLE_SCORE for candidate in candidates}
    known = {candidate.task_id: candidate.address for candidate in candidates if candidate.address is not None}
    labels = sum(version.metrics["labels"].values()) if version else 0
    probabilities: npt.NDArray[np.float64] | None = None
    if known:
        places = pool.places(known.values())
        keys, share = [str(task) for task in known], services.settings.random_share
        if weights is None:
            values = cold_start(pool.rows[places], apart=in_random_sample(keys, share))
            addresses = list(known.values())
            pool.medoids = [addresses[place] for place in np.argsort(values)[:COLD_START]]
        else:
            taken = pool.rows[_told_since(services, project_id, version, pool)]
            values, probabilities = score(config, weights, pool.rows, places, pool.novelty_at(places), taken)
            if labels < COLD_START:
                values = _medoids_first(values, list(known.values()), pool.medoids)
        values = explore(values, keys, share, labels, first=COLD_START)
        scores.update(zip(known, values.tolist(), strict=True))
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


def _told_since(services: Services, project_id: int, version: Version | None, pool: Pool) -> npt.NDArray[np.intp]:
    """Return the rows of images that were labelled after this version had learned."""
    changes = services.ledger.since(project_id, version.position if version else 0)
    images = {label.image for label in changes.labels.values() if label is not None and label.image is not None}
    return pool.places(images & pool.row_of.keys())


def _medoids_first(
    values: npt.NDArray[np.float64], addresses: Sequence[str], medoids: Sequence[str]
) -> npt.NDArray[np.float64]:
    """Return the scores with those of the medoids smallest: a head with few labels is unclear about the wrong tasks."""
    place_of = {address: place for place, address in enumerate(addresses)}
    first = [place_of[address] for address in medoids if address in place_of]
    others = np.delete(values, first)
    least = float(others.min()) if len(others) else 1.0
    values = values.copy()
    values[first] = least * np.arange(len(first)) / (len(first) + 1)
    return values


def score(
    config: LabelConfig,
    weights: Weights,
    rows: npt.NDArray[np.float16],
    places: npt.NDArray[np.intp],
    novelty: npt.NDArray[np.float64] | None = None,
    taken: npt.NDArray[np.float16] | None = None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return scores, shape (n,), and probabilities, shape (n, k), of a pool's vectors `rows[places]`, shape (n, d).

    The smallest score is asked first. `novelty` is theirs, NaN where it is not known; what is like the vectors `taken`,
    shape (m, d), waits.
    """
    probabilities = probabilities_of(weights, rows, places)
    unclear = rivals(config, probabilities)
    scores = clarity(unclear, novelty)
    # Only the least clear are told apart, so only their vectors are taken out.
    least = np.argsort(scores, kind="stable")[: CANDIDATES + 1]
    scores[least] = order(
        unclear[least], rows[places[least]], taken=taken, novelty=None if novelty is None else novelty[least]
    )
    return scores, probabilities


def probabilities_of(
    weights: Weights, rows: npt.NDArray[np.float16], places: npt.NDArray[np.intp]
) -> npt.NDArray[np.float64]:
    """Return probabilities of shape (n, k)."""
    chunks = (places[start : start + CHUNK] for start in range(0, len(places), CHUNK))
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return np.concatenate(list(threads.map(lambda chunk: weights.predict_proba(rows[chunk]), chunks)))


def look_for_novelty(
    version: Version | None, novelty: Novelty | None, pool: Pool, candidates: Sequence[Candidate]
) -> None:
    """Score how novel the pool's images are, when a study or images came since that was last done."""
    places = pool.places(candidate.address for candidate in candidates if candidate.address is not None)
    if version is None or version.study is None or novelty is None or not len(places):
        return
    if pool.novelty_of == (version.study, len(pool.row_of)):
        return
    chunks = (places[start : start + CHUNK] for start in range(0, len(places), CHUNK))
    pool.novelty = np.full(len(pool.row_of), np.nan)
    pool.novelty[places] = np.concatenate([novelty.score(pool.rows[chunk]) for chunk in chunks])
    pool.novelty_of = version.study, len(pool.row_of)


def keep(services: Services, project_id: int, pool: Pool, candidates: Sequence[Candidate]) -> None:
    """Write down what changed of the pool's scores and of its novelty."""
    if pool.scored is not None and pool.scored is not pool.kept:
        services.scores.keep(pool.scored)
        pool.kept = pool.scored
    if pool.kept is not None and pool.novelty_of is not None and pool.novelty_of != pool.novelty_kept:
        known = [candidate for candidate in candidates if candidate.address is not None]
        found = pool.novelty_at(pool.places(candidate.address or "" for candidate in known))
        services.scores.keep_novelty(project_id, pool.novelty_of[0], [candidate.task_id for candidate in known], found)
        pool.novelty_kept = pool.novelty_of
