"""The orders in which labels are asked: at random, as Tandem asks, and the worst there is, class by class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.selection import CANDIDATES, COLD_START, cold_start, order
from model.uncertainty import margin
from model.weights import Weights
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


class Asker:
    """Asks for one label after the other as the service does: what stands for the pool first, then what is least clear.

    Parameters
    ----------
    X : numpy.ndarray of float, shape (n, d)
        Features of the pool.
    seed : int
    """

    def __init__(self, X: Rows, seed: int) -> None:  # noqa: N803
        self._rows = X.astype(np.float16)  # as the service holds its pool
        self._left = np.ones(len(X), dtype=bool)
        self._first = np.argsort(cold_start(self._rows, random_state=seed))[:COLD_START].tolist()

    def next(self, weights: Weights | None) -> int:
        """Return the place in the pool of the next sample to label; it counts as labelled from then on.

        Parameters
        ----------
        weights : model.weights.Weights or None
            The head by now; None before the first label.
        """
        place = self._first.pop(0) if self._first or weights is None else self._least_clear(weights)
        self._left[place] = False
        return place

    def _least_clear(self, weights: Weights) -> int:
        left = np.flatnonzero(self._left)
        probabilities = weights.predict_proba(self._rows[left])
        # Only the least clear are told apart.
        least = np.argsort(margin(probabilities), kind="stable")[: CANDIDATES + 1]
        labelled = self._rows[~self._left]
        scores = order(probabilities[least], self._rows[left[least]], labelled=labelled)
        return int(left[least[scores.argmin()]])
