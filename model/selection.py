"""What to ask next: first what stands for the most, then what is least clear, and nothing twice.

Everything here is a score per task, and the task with the smallest is the one to ask. It is also what an annotator sees
beside the task, so as far as it can it says something true: how sure the head is.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import KMeans

from model.weights import Floats

COLD_START = 20
"""Labels to ask for by `cold_start` before margins mean anything: with 20 medoids labelled, Intel scenes reach 83 %,
with 20 random images 72 %, and margins of a head with fewer labels choose no better than chance."""

CANDIDATES = 500
"""Least clear tasks among which alike ones are told apart; nobody labels more between two scorings."""

ALIKE = 0.1
"""Share of all pairs of candidates that count as alike. Above 0.3, too many unclear tasks wait: 80 % with 200 labels on
Intel scenes instead of 89 %."""

_SAMPLE = 5000


def medoids(X: ArrayLike, count: int, random_state: int = 0) -> NDArray[np.intp]:  # noqa: N803
    """Choose samples that stand for all: the nearest to each centre of k-means, on features of length one.

    Of more than 5,000 samples, as many are drawn at random and the choice is made among these.

    Parameters
    ----------
    X : array-like of float, shape (n, d)
        Features; any float type.
    count : int
        How many to choose; all, if there are fewer.
    random_state : int
        Seed of the draw and of the centres.

    Returns
    -------
    numpy.ndarray of int, shape (min(count, n),)
        Places in `X`, ordered so that any number of the first is a good choice too: each is the one that brings the
        samples, counted by cluster, nearest to what was chosen before it.
    """
    features = np.asarray(X)
    if features.ndim != 2 or count < 0:
        raise ValueError("Medoids need a table of features and a count that is not negative.")
    random = np.random.default_rng(random_state)
    drawn = np.sort(random.choice(len(features), min(_SAMPLE, len(features)), replace=False))
    count = min(count, len(drawn))
    if count == 0:
        return np.array([], dtype=np.intp)
    unit = _unit_rows(features[drawn])
    distinct = np.unique(unit, axis=0)
    clusters = KMeans(min(count, len(distinct)), n_init=1, random_state=random_state).fit(unit)
    nearest = np.unique(clusters.transform(unit).argmin(axis=0))
    sizes = np.bincount(_squared_distances(unit, unit[nearest]).argmin(axis=1), minlength=len(nearest))
    chosen = nearest[_most_telling_first(unit[nearest], sizes)]
    # Where samples repeat there are fewer clusters than asked for: the others are filled up in any order.
    others = random.permutation(np.setdiff1d(np.arange(len(drawn)), chosen))
    return cast("NDArray[np.intp]", drawn[np.concatenate([chosen, others])[:count]])


def cold_start(X: ArrayLike, random_state: int = 0, count: int = COLD_START) -> Floats:  # noqa: N803
    """Score tasks before anything is known of the classes: medoids first, the others in random order.

    Parameters
    ----------
    X : array-like of float, shape (n, d)
        Features of all tasks.
    random_state : int
        Seed.
    count : int
        Number of medoids.

    Returns
    -------
    numpy.ndarray of float64, shape (n,)
        The task's rank, from 0 to n - 1, divided by n.
    """
    features = np.asarray(X)
    first = medoids(features, count, random_state)
    rest = np.random.default_rng(random_state).permutation(np.setdiff1d(np.arange(len(features)), first))
    scores = np.empty(len(features))
    scores[np.concatenate([first, rest])] = np.arange(len(features)) / max(len(features), 1)
    return scores


def margin(proba: ArrayLike) -> Floats:
    """Return how far the likeliest class is ahead of the second, shape (n,): 0 is undecided, 1 is sure.

    Parameters
    ----------
    proba : array-like of float, shape (n, k)
        Probabilities. With one class there is nothing to decide, and the margin is 1.

    Examples
    --------
    >>> margin([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]])
    array([0.25, 0.25])
    """
    probabilities = np.asarray(proba, dtype=np.float64)
    if probabilities.ndim != 2 or probabilities.shape[1] == 0:
        raise ValueError("Probabilities must be a table of a row per sample and a column per class.")
    if probabilities.shape[1] == 1:
        return np.ones(len(probabilities))
    top = np.partition(probabilities, -2, axis=1)
    return top[:, -1] - top[:, -2]


def order(proba: ArrayLike, X: ArrayLike, candidates: int = CANDIDATES) -> Floats:  # noqa: N803
    """Score tasks by how sure the head is of them, and let those wait that are like one asked before.

    Among the candidates, which are the tasks of the smallest margins, one waits when its cosine distance to a clearer
    need (a candidate of smaller margin that does not wait itself) is within the nearest tenth of all their distances.
    The score of a task is its margin. Only the score of one that waits is greater: those that wait come after all other
    candidates and before all other tasks, among themselves in the order of their margins.

    Parameters
    ----------
    proba : array-like of float, shape (n, k)
        Probabilities.
    X : array-like of float, shape (n, d)
        Features of the same tasks; any float type, only the candidates' rows are read.
    candidates : int
        How many tasks to tell apart.

    Returns
    -------
    numpy.ndarray of float64, shape (n,)
        From 0, the task to ask first, to 1.

    Raises
    ------
    ValueError
        When the two are not of the same tasks.

    Examples
    --------
    >>> order([[0.5, 0.5], [0.6, 0.4], [0.8, 0.2]], [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    array([0. , 0.8, 0.6])
    """
    scores = margin(proba)
    features = X if isinstance(X, np.ndarray) else np.asarray(X)
    if features.ndim != 2 or len(features) != len(scores):
        raise ValueError(f"There are probabilities of {len(scores)} tasks, but features of shape {features.shape}.")
    places = np.argsort(scores, kind="stable")
    nearest, following = places[:candidates], places[candidates : candidates + 1]
    waiting = nearest[_alike_to_one_before(features[nearest])]
    if len(waiting):
        last = scores[nearest[-1]]
        limit = scores[following[0]] if len(following) else 1.0
        scores[waiting] = last + (limit - last) * np.arange(1, len(waiting) + 1) / (len(waiting) + 1)
    return scores


def _alike_to_one_before(features: NDArray[Any]) -> NDArray[np.bool_]:
    alike = np.zeros(len(features), dtype=bool)
    if len(features) < 2:
        return alike
    unit = _unit_rows(features)
    distances = 1 - unit @ unit.T
    radius = max(float(np.quantile(distances[np.triu_indices(len(unit), 1)], ALIKE)), 1e-6)
    for place, row in enumerate(distances):
        alike[place] = (row[:place][~alike[:place]] <= radius).any()
    return alike


def _most_telling_first(points: NDArray[np.float32], sizes: NDArray[np.intp]) -> NDArray[np.intp]:
    """Order points greedily, each by how much nearer it brings all others, counted by their sizes."""
    distances = np.sqrt(_squared_distances(points, points))
    reached = np.full(len(points), distances.max())
    chosen: list[int] = []
    for _ in points:
        gains = np.maximum(reached - distances, 0) @ sizes
        gains[chosen] = -1
        chosen.append(int(gains.argmax()))
        reached = np.minimum(reached, distances[chosen[-1]])
    return np.array(chosen, dtype=np.intp)


def _squared_distances(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    return cast("NDArray[np.float32]", np.maximum(2 - 2 * left @ right.T, 0))


def _unit_rows(features: NDArray[Any]) -> NDArray[np.float32]:
    rows = features.astype(np.float32)
    return cast("NDArray[np.float32]", rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
