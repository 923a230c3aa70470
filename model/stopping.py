"""When to stop: what the next labels would bring, told from what the labels so far have brought."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from model.head import StreamingLDA
from model.weights import Floats, as_features

LEAST_LABELS = 40
"""With fewer, a quarter of them is too few to learn anything from."""

POWER, POWER_DEVIATION = 0.3, 0.25
"""The odds of an error fall by a power of the number of labels: its mean and standard deviation on scenes, clothes,
digits and faces, from 50 labels to 500. What is believed before any error is seen."""

CHANGE = 0.2
"""Standard deviation of how much the power changes from the labels so far to the next ones, on the same."""

_FOLDS = 4
_REPEATS = 3
_LEVELS, _POWERS = np.linspace(-6.0, 6.0, 201), np.linspace(-1.0, 2.0, 121)
_CHANGES = np.random.default_rng(0).normal(size=4000)


@dataclass(frozen=True)
class Forecast:
    """What more labels would bring.

    Attributes
    ----------
    labels, ahead : int
        How many there are, and how many more are asked about.
    accuracy : float
        Of the head with all labels so far, on tasks like those tested on.
    gain : float
        How much accuracy more labels would add.
    interval : tuple of float
        The gain lies in it in nine of ten cases. It may reach below 0: labels can lead astray for a while.
    """

    labels: int
    ahead: int
    accuracy: float
    gain: float
    interval: tuple[float, float]


def forecast(
    X: ArrayLike,  # noqa: N803
    y: ArrayLike,
    ahead: int = 100,
    tested: ArrayLike | None = None,
    head: StreamingLDA | None = None,
    random_state: int = 0,
) -> Forecast | None:
    """Estimate how much accuracy the next labels would add.

    The labels are cut into four at random. Heads that learned one, two or three of the parts are tested on the others,
    and the odds of the errors so found are fitted by a power of the number of labels.

    Parameters
    ----------
    X : array-like of float, shape (n, d)
        Features of the labelled tasks, a row per task.
    y : array-like of str or int, shape (n,)
        Their classes.
    ahead : int
        How many labels more.
    tested : array-like of bool, shape (n,), optional
        The tasks to test on. Those asked because they were unclear are more difficult than others; where there is a
        random sample, it alone tells the accuracy on all tasks.
    head : StreamingLDA, optional
        Whose parameters to use; it stays as it is.
    random_state : int
        Seed of the parts.

    Returns
    -------
    Forecast or None
        None with fewer than 40 labels, of fewer than two classes, or without a task to test on.

    Raises
    ------
    ValueError
        When an argument is of another shape, or holds values that are not finite.

    Notes
    -----
    Power laws fit learning curves of classifiers: Figueroa, Zeng-Treitler, Kandula and Ngo, Predicting sample size
    required for classification performance, BMC Medical Informatics and Decision Making, 2012; here that of the odds,
    which differ from the errors where these are frequent. The errors counted make some powers and levels more probable
    than others, so does what is usual, and the forecast is the mean over all of them. Of 64 random draws of 50 to 500
    labels (scenes, clothes, digits, faces), 58 were brought by 100 more what lay in the interval; of 24 in Tandem's own
    order, tested on the tenth of them that was drawn at random, 23.

    A head is made of sums, so each part is learned once; the rest is some 40 solutions, 1.5 s at d = 1280 on one core
    with 1,000 labels.
    """
    features = as_features(X, None)
    labels = np.asarray(y)
    mask = np.ones(len(features), dtype=bool) if tested is None else np.asarray(tested)
    if labels.shape != (len(features),) or mask.shape != labels.shape or mask.dtype != bool or ahead < 1:
        raise ValueError("There must be a class for each row, whether it is tested on, and at least one label ahead.")
    if len(labels) < LEAST_LABELS or len(np.unique(labels)) < 2 or not mask.any():
        return None
    parameters = (head or StreamingLDA()).get_params()
    levels, powers = _fitted(_errors(features, labels, parameters, random_state)[mask])
    now = expit(levels)
    gains = now - expit(levels - (powers + CHANGE * _CHANGES) * np.log((len(labels) + ahead) / len(labels)))
    low, high = np.quantile(gains, [0.05, 0.95]).tolist()
    return Forecast(len(labels), ahead, 1 - float(now.mean()), float(gains.mean()), (low, high))


def _fitted(errors: Floats) -> tuple[Floats, Floats]:
    """Return logits of the error with all labels, and powers, each as often as it is probable; both of shape (4000,).

    The same tasks are tested at each size, so that all sizes together count each task once.
    """
    sizes = np.log(np.arange(1, _FOLDS) / _FOLDS)
    expected = expit(_LEVELS[:, np.newaxis, np.newaxis] - _POWERS[:, np.newaxis] * sizes)
    missed = errors.mean(axis=0)
    likely = len(errors) * (missed * np.log(expected) + (1 - missed) * np.log(1 - expected)).mean(axis=2)
    likely -= 0.5 * ((_POWERS - POWER) / POWER_DEVIATION) ** 2
    shares = np.exp(likely - likely.max()).ravel()
    steps = (np.arange(len(_CHANGES)) + 0.5) / len(_CHANGES)
    drawn = np.minimum(np.searchsorted(np.cumsum(shares), steps * shares.sum()), len(shares) - 1)
    return _LEVELS[drawn // len(_POWERS)], _POWERS[drawn % len(_POWERS)]


def _errors(features: Floats, labels: NDArray[np.generic], parameters: dict[str, float], random_state: int) -> Floats:
    """Return how often each sample was missed by heads that did not learn it, for each size, shape (n, folds - 1)."""
    missed, met = np.zeros((2, len(labels), _FOLDS - 1))
    for repeat in range(_REPEATS):
        fold = np.random.default_rng([random_state, repeat]).permutation(len(labels)) % _FOLDS
        parts = [StreamingLDA(**parameters).fit(features[fold == part], labels[fold == part]) for part in range(_FOLDS)]
        for size in range(1, _FOLDS):
            for chosen in combinations(range(_FOLDS), size):
                head = copy.deepcopy(parts[chosen[0]])
                for part in chosen[1:]:
                    head.merge(parts[part])
                others = ~np.isin(fold, chosen)
                missed[others, size - 1] += head.predict(features[others]) != labels[others]
                met[others, size - 1] += 1
    return missed / met
