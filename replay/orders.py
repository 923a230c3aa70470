"""The orders in which labels are asked: at random, as Tandem asks, and the worst there is, class by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.selection import CANDIDATES, COLD_START, RANDOM_SHARE, cold_start, explore, in_random_sample, order
from model.uncertainty import margin
from model.weights import Floats, Weights
from replay.heads import Names, Rows

ORDERS = ("random", "ours", "sorted")
"""All orders there are to compare."""

Places = NDArray[np.intp]


def at_random(pool: Places, labels: int, seed: int) -> Places:
    """Return the first `labels` places of a pool in random order."""
    return np.random.default_rng(seed).permutation(pool)[:labels]


def by_class(pool: Places, y: Names, labels: int, seed: int) -> Places:
    """Return the same places as `at_random`, sorted by class: the classes in random order, none met again later."""
    places = at_random(pool, labels, seed)
    classes = np.random.default_rng([seed, 1]).permutation(np.unique(y[places]))
    rank = {name: at for at, name in enumerate(classes.tolist())}
    return places[np.argsort([rank[name] for name in y[places].tolist()], kind="stable")]


def key_of(place: int) -> str:
    """Return what names the sample at this place of the data for ever."""
    return str(place)


class Asker:
    """Asks for one label after the other as the service does: what stands for the pool first, then what is least clear.

    From then on, one question in ten is drawn at random.

    Parameters
    ----------
    X : numpy.ndarray of float, shape (n, d)
        Features of the pool.
    keys : sequence of str, length n
        What names its samples.
    seed : int
    """

    def __init__(self, X: Rows, keys: Sequence[str], seed: int) -> None:  # noqa: N803
        self._rows = X.astype(np.float16)  # as the service holds its pool
        self._keys = np.array(keys)
        self._left = np.ones(len(X), dtype=bool)
        self._cold = cold_start(self._rows, random_state=seed, apart=in_random_sample(keys, RANDOM_SHARE))

    def ask(self, weights: Weights | None, count: int = 1) -> Places:
        """Return the places in the pool of the next samples to label; they count as labelled from then on.

        Parameters
        ----------
        weights : model.weights.Weights or None
            The head by now; None before the first label.
        count : int
            How many to ask for before the head is looked at again.
        """
        left = np.flatnonzero(self._left)
        asked = len(self._left) - len(left)
        scores = self._cold[left] if asked < COLD_START or weights is None else self._clarity(left, weights)
        scores = explore(scores, self._keys[left].tolist(), RANDOM_SHARE, asked, first=COLD_START)
        places = left[np.argsort(scores, kind="stable")[:count]]
        self._left[places] = False
        return places

    def _clarity(self, left: Places, weights: Weights) -> Floats:
        probabilities = weights.predict_proba(self._rows[left])
        scores = margin(probabilities)
        # Only the least clear are told apart.
        least = np.argsort(scores, kind="stable")[: CANDIDATES + 1]
        labelled = self._rows[~self._left]
        scores[least] = order(probabilities[least], self._rows[left[least]], labelled=labelled)
        return scores
