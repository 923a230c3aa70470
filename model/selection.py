"""What to ask next: first what stands for the most, then what is least clear, and nothing twice.

Everything here is a score per task, and the task with the smallest is the one to ask. It is also what an annotator sees
beside the task, so as far as it can it says something true: how sure the head is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import KMeans

from model.uncertainty import clarity
from model.weights import Floats

COLD_START = 20
"""Labels to ask for by `cold_start` before margins mean anything: with 20 medoids labelled, Intel scenes reach 83 %,
with 20 random images 72 %, and margins of a head with fewer labels choose no better than chance."""

RANDOM_SHARE = 0.1
"""Share of the questions that are drawn at random, by default: they alone tell how often the head is right, and how
sure it may be, of images that nobody would ask for."""

CANDIDATES = 500
"""Least clear tasks among which alike ones are told apart; nobody labels more between two scorings."""

ALIKE = 0.1
"""Share of all pairs of candidates that count as alike. Above 0.3, too many unclear tasks wait: 80 % with 200 labels on
Intel scenes instead of 89 %."""

NEAR_DUPLICATE = 0.02
"""Cosine distance within which two images count as the same. Copies that are 20 % brighter or shifted by 3 % lie there
at the median; of 2,000 Intel scenes and of 2,000 pieces of Fashion-MNIST, the nearest different ones are 0.05 apart."""

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


def cold_start(
    X: ArrayLike,  # noqa: N803
    random_state: int = 0,
    count: int = COLD_START,
    apart: ArrayLike | None = None,
) -> Floats:
    """Score tasks before anything is known of the classes: medoids first, the others in random order.

    Parameters
    ----------
    X : array-like of float, shape (n, d)
        Features of all tasks.
    random_state : int
        Seed.
    count : int
        Number of medoids.
    apart : array-like of bool, shape (n,), optional
        Tasks that can't be medoids: those that have a turn of their own, by `explore`.

    Returns
    -------
    numpy.ndarray of float64, shape (n,)
        The task's rank, from 0 to n - 1, divided by n.
    """
    features = np.asarray(X)
    among = np.arange(len(features)) if apart is None else np.flatnonzero(~np.asarray(apart, dtype=bool))
    first = among[medoids(features[among], count, random_state)]
    rest = np.random.default_rng(random_state).permutation(np.setdiff1d(np.arange(len(features)), first))
    scores = np.empty(len(features))
    scores[np.concatenate([first, rest])] = np.arange(len(features)) / max(len(features), 1)
    return scores


def order(
    proba: ArrayLike,
    X: ArrayLike,  # noqa: N803
    candidates: int = CANDIDATES,
    taken: ArrayLike | None = None,
    labelled: ArrayLike | None = None,
    novelty: ArrayLike | None = None,
) -> Floats:
    """Score tasks by how sure the head is of them, and let those wait that are like one asked before.

    Among the candidates, which are the tasks of the smallest `clarity`, one waits when its cosine distance to a clearer
    need (a task that is taken, or a candidate less clear that does not wait itself) is within the nearest tenth
    of all the candidates' distances, and when it is a near-duplicate of a labelled task.
    The score of a task is its clarity. Only the score of one that waits is greater: those that wait come after all
    other candidates and before all other tasks, among themselves in the order of their clarity.

    Parameters
    ----------
    proba : array-like of float, shape (n, k)
        Probabilities.
    X : array-like of float, shape (n, d)
        Features of the same tasks; any float type, only the candidates' rows are read.
    candidates : int
        How many tasks to tell apart.
    taken : array-like of float, shape (m, d), optional
        Features of tasks that were handed out, or labelled too recently for `proba` to know of it: what is like them
        waits, so that people who label at the same time are not asked the same.
    labelled : array-like of float, shape (l, d), optional
        Features of labelled tasks, whose near-duplicates need no answer of their own.
    novelty : array-like of float, shape (n,), optional
        See `clarity`.

    Returns
    -------
    numpy.ndarray of float64, shape (n,)
        From 0, the task to ask first, to 1.

    Raises
    ------
    ValueError
        When arguments are not of the same tasks, or of features of another length.

    Examples
    --------
    >>> proba, X = [[0.5, 0.5], [0.6, 0.4], [0.8, 0.2]], [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    >>> order(proba, X)
    array([0. , 0.8, 0.6])
    >>> order(proba, X, taken=[[0.0, 2.0]])
    array([0.        , 0.73333333, 0.86666667])
    """
    scores = clarity(proba, novelty)
    features = X if isinstance(X, np.ndarray) else np.asarray(X)
    if features.ndim != 2 or len(features) != len(scores):
        raise ValueError(f"There are probabilities of {len(scores)} tasks, but features of shape {features.shape}.")
    others = [_others(rows, features.shape[1]) for rows in (taken, labelled)]
    places = np.argsort(scores, kind="stable")
    nearest, following = places[:candidates], places[candidates : candidates + 1]
    waiting = nearest[_alike_to_one_before(_unit_rows(features[nearest]), *others)]
    if len(waiting):
        last = scores[nearest[-1]]
        limit = scores[following[0]] if len(following) else 1.0
        scores[waiting] = last + (limit - last) * np.arange(1, len(waiting) + 1) / (len(waiting) + 1)
    return scores


def in_random_sample(keys: Sequence[str], share: float, random_state: int = 0) -> NDArray[np.bool_]:
    """Tell which tasks belong to a random sample, whatever other tasks there are.

    How often the head is right about these tasks is an estimate without bias of how often it is right about all, as
    long as they are asked by `explore` alone: the tasks that margins ask for are the difficult ones. Predictions made
    before their labels were learned tell it of the heads of then, `left_out.leave_one_out` of the head of now, and
    `evaluation.wilson_interval` how exactly.

    Parameters
    ----------
    keys : sequence of str
        What names a task for ever.
    share : float
        Size of the sample, from 0 to 1.
    random_state : int
        Seed.
    """
    return _draws(keys, share, random_state) < share


def asked_regardless(keys: Sequence[str], share: float, random_state: int = 0) -> NDArray[np.bool_]:
    """Tell which labelled tasks were asked whatever the head thought of them: first of all, or drawn at random.

    These stand for the whole pool. The medoids of the cold start were found before anything was known of the classes.

    Parameters
    ----------
    keys : sequence of str, length n
        What names each labelled task for ever, in the order in which they got their first label.
    share, random_state
        As of `explore`.

    Returns
    -------
    numpy.ndarray of bool, shape (n,)
        To be given to `model.calibration.calibrate`.
    """
    regardless = in_random_sample(keys, share, random_state)
    regardless[:COLD_START] = True
    return regardless


def explore(
    scores: ArrayLike, keys: Sequence[str], share: float, asked: int, random_state: int = 0, first: int = 0
) -> Floats:
    """Mix tasks of the random sample into an order: every so-many-th question is one of them, in random order.

    The tasks of the sample are asked in that order alone, however unclear they are, so that those labelled so far are
    a random sample, too.

    Parameters
    ----------
    scores : array-like of float, shape (n,)
        Of `cold_start` or `order`: the task with the smallest is asked first.
    keys : sequence of str, length n
        What names a task for ever.
    share : float
        Share of the sample's tasks among all, and among the questions; from 0, for none, to 1.
    asked : int
        How many tasks were asked so far: says which questions are the sample's.
    random_state : int
        Seed, as of `in_random_sample`.
    first : int
        How many questions there are before the counting begins, none of them the sample's: those of a cold start, which
        stand for the pool as they are.

    Returns
    -------
    numpy.ndarray of float64, shape (n,)
        The scores of the tasks outside the sample are unchanged. A task of the sample has one between those of the
        tasks that it comes between.

    Examples
    --------
    >>> keys = [f"task {number}" for number in range(6)]
    >>> in_random_sample(keys, 0.5)
    array([False,  True,  True, False,  True,  True])
    >>> explore([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], keys, share=0.5, asked=0)
    array([0.1 , 0.25, 0.85, 0.4 , 0.55, 0.7 ])
    """
    mixed = np.array(scores, dtype=np.float64)
    if mixed.shape != (len(keys),) or asked < 0:
        raise ValueError(f"There must be a score for each of {len(keys)} tasks, and no fewer than 0 asked.")
    draws = _draws(keys, share, random_state)
    sample = np.flatnonzero(draws < share)
    sample = sample[np.argsort(draws[sample], kind="stable")]
    if not len(sample):
        return mixed
    rest = np.sort(mixed[draws >= share])
    # The question numbers, counted from here, at which a whole number of the sample's questions is full.
    counted = max(asked - first, 0)
    turns = np.ceil((np.arange(1, len(sample) + 1) + np.floor(counted * share + 1e-9)) / share - 1e-9) - 1 - counted
    turns += max(first - asked, 0)
    before = np.minimum(turns.astype(int) - np.arange(len(sample)), len(rest))
    edges = np.concatenate([[0.0], rest, [max(1.0, rest[-1] if len(rest) else 1.0)]])
    low, high = edges[before], edges[before + 1]
    # Several between the same two: evenly, in their order.
    firsts = np.searchsorted(before, before, side="left")
    together = np.searchsorted(before, before, side="right") - firsts
    mixed[sample] = low + (high - low) * (np.arange(len(sample)) - firsts + 1) / (together + 1)
    return mixed


def _draws(keys: Sequence[str], share: float, random_state: int) -> Floats:
    """Return a number from 0 to 1 for each key, which depends on nothing but the key and the seed."""
    if not 0 <= share <= 1:
        raise ValueError(f"A share lies between 0 and 1, not at {share}.")
    digests = (hashlib.blake2b(f"{random_state}:{key}".encode(), digest_size=6).digest() for key in keys)
    return np.array([int.from_bytes(digest, "big") / 2**48 for digest in digests], dtype=np.float64)


def _others(X: ArrayLike | None, dim: int) -> NDArray[np.float32]:  # noqa: N803
    rows = np.zeros((0, dim)) if X is None else np.asarray(X)
    if rows.size == 0:
        rows = np.zeros((0, dim))
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise ValueError(f"The tasks have {dim} features each, but those taken or labelled are of shape {rows.shape}.")
    return _unit_rows(rows)


def _alike_to_one_before(
    unit: NDArray[np.float32], taken: NDArray[np.float32], labelled: NDArray[np.float32]
) -> NDArray[np.bool_]:
    if not len(unit):
        return np.zeros(0, dtype=bool)
    distances = 1 - unit @ unit.T
    pairs = distances[np.triu_indices(len(unit), 1)]
    radius = max(float(np.quantile(pairs, ALIKE)) if len(pairs) else 0.0, NEAR_DUPLICATE)
    alike = np.asarray((1 - unit @ taken.T <= radius).any(axis=1))
    alike |= np.asarray((1 - unit @ labelled.T <= NEAR_DUPLICATE).any(axis=1))
    for place, row in enumerate(distances):
        alike[place] |= (row[:place][~alike[:place]] <= radius).any()
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
