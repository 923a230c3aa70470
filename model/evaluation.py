"""How good a head is: before each label it learns, and on samples it never learned."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.weights import Floats, Weights

LEAST_PROBABILITY = 1e-6
"""No single surprise counts as more than -log of it, or one wrong label would drown a thousand."""


class Prequential:
    """Accuracy and log-loss of predictions made before their labels were learned: tested first, then trained on.

    Every label is a test sample that was held out, so no labels have to be put aside; see Gama, Sebastiao and Rodrigues
    (On evaluating stream learning algorithms, Machine Learning, 2013).

    Parameters
    ----------
    window : int
        Number of newest labels that `recent_accuracy` looks at.

    Examples
    --------
    >>> prequential = Prequential(window=2)
    >>> for probability, correct in [(0.2, False), (0.5, True), (0.8, True)]:
    ...     prequential.add(probability, correct)
    >>> prequential.count, prequential.recent_accuracy
    (3, 1.0)
    >>> round(prequential.accuracy, 3), round(prequential.log_loss, 3)
    (0.667, 0.842)
    """

    def __init__(self, window: int = 50) -> None:
        if window < 1:
            raise ValueError("The window of a prequential evaluation must hold at least one label.")
        self.count = 0
        self._correct = 0
        self._loss = 0.0
        self._recent: deque[bool] = deque(maxlen=window)

    def add(self, probability: float, correct: bool) -> None:
        """Count one label.

        Parameters
        ----------
        probability : float
            What the label's class was given before it was learned; 0 for a class that was not known.
        correct : bool
            Whether the label's class was the likeliest.
        """
        if not 0 <= probability <= 1 + 1e-9:
            raise ValueError(f"A probability lies between 0 and 1, not at {probability}.")
        self.count += 1
        self._correct += bool(correct)
        self._loss -= float(np.log(max(min(probability, 1.0), LEAST_PROBABILITY)))
        self._recent.append(bool(correct))

    @property
    def accuracy(self) -> float:
        """Share of all labels whose class was the likeliest; NaN before the first."""
        return self._correct / self.count if self.count else float("nan")

    @property
    def recent_accuracy(self) -> float:
        """The same of the newest labels; NaN before the first."""
        return sum(self._recent) / len(self._recent) if self._recent else float("nan")

    @property
    def log_loss(self) -> float:
        """Mean of -log of the probability that was given to the label's class, in nats; NaN before the first."""
        return self._loss / self.count if self.count else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it."""
        return {
            "count": self.count,
            "correct": self._correct,
            "loss": self._loss,
            "window": self._recent.maxlen,
            "recent": "".join("1" if correct else "0" for correct in self._recent),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Prequential:
        """Go on from what `to_dict` gave.

        Raises
        ------
        ValueError
            When it is something else.
        """
        try:
            prequential = cls(int(values["window"]))
            prequential.count, prequential._correct = int(values["count"]), int(values["correct"])
            prequential._loss = float(values["loss"])
            recent = str(values["recent"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"This is no prequential evaluation: {error}.") from error
        if (
            not 0 <= prequential._correct <= prequential.count
            or len(recent) > prequential.count
            or set(recent) - {*"01"}
        ):
            raise ValueError("This prequential evaluation contradicts itself.")
        prequential._recent.extend(digit == "1" for digit in recent)
        return prequential


def accuracy(proba: ArrayLike, y: ArrayLike) -> float:
    """Share of samples whose likeliest class is theirs.

    Parameters
    ----------
    proba : array-like of float, shape (n, k)
        Probabilities.
    y : array-like of int, shape (n,)
        The column of each sample's class.
    """
    probabilities, columns = _checked(proba, y)
    return float((probabilities.argmax(axis=1) == columns).mean())


def log_loss(proba: ArrayLike, y: ArrayLike) -> float:
    """Mean of -log of the probability that was given to each sample's class, in nats; parameters as in `accuracy`."""
    probabilities, columns = _checked(proba, y)
    given = probabilities[np.arange(len(columns)), columns]
    return float(-np.log(np.maximum(given, LEAST_PROBABILITY)).mean())


def confusion(proba: ArrayLike, y: ArrayLike) -> NDArray[np.intp]:
    """Count samples by class (rows) and likeliest class (columns), shape (k, k); parameters as in `accuracy`.

    Examples
    --------
    >>> confusion([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], [0, 1, 1])
    array([[1, 0],
           [1, 1]])
    """
    probabilities, columns = _checked(proba, y)
    classes = probabilities.shape[1]
    pairs = np.bincount(columns * classes + probabilities.argmax(axis=1), minlength=classes**2)
    return pairs.reshape(classes, classes)


@dataclass(frozen=True, eq=False)
class Reliability:
    """How sure the likeliest class was against how often it was right, in bins of equal width.

    Attributes
    ----------
    count : numpy.ndarray of int, shape (bins,)
        Samples.
    confidence : numpy.ndarray of float64, shape (bins,)
        Mean probability of the likeliest class; NaN in an empty bin.
    accuracy : numpy.ndarray of float64, shape (bins,)
        Share of samples whose likeliest class is theirs; NaN in an empty bin.
    """

    count: NDArray[np.intp]
    confidence: Floats
    accuracy: Floats

    @property
    def error(self) -> float:
        """The expected calibration error; see `expected_calibration_error`."""
        gaps = np.abs(self.confidence - self.accuracy) * self.count
        return float(np.nansum(gaps) / self.count.sum())


def reliability(proba: ArrayLike, y: ArrayLike, bins: int = 15) -> Reliability:
    """Return the points of a calibration plot; parameters as in `expected_calibration_error`.

    Examples
    --------
    >>> points = reliability([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6]], [0, 1, 1], bins=2)
    >>> points.count, points.confidence.round(2), points.accuracy.round(2)
    (array([0, 3]), array([ nan, 0.77]), array([ nan, 0.67]))
    """
    probabilities, columns = _checked(proba, y)
    return reliability_of(probabilities.max(axis=1), probabilities.argmax(axis=1) == columns, bins)


def reliability_of(confidence: ArrayLike, correct: ArrayLike, bins: int = 15) -> Reliability:
    """Return the points of a calibration plot where only what was most likely is known.

    Parameters
    ----------
    confidence : array-like of float, shape (n,)
        Probability of the likeliest class.
    correct : array-like of bool, shape (n,)
        Whether it was the sample's class.
    bins : int
        Number of bins between 0 and 1.

    Examples
    --------
    >>> round(reliability_of([0.9, 0.8, 0.6], [True, True, False], bins=2).error, 2)
    0.1
    """
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    places = np.minimum((sure * bins).astype(int), bins - 1)
    count = np.bincount(places, minlength=bins)
    divisor = np.where(count, count, np.nan)
    return Reliability(count, np.bincount(places, sure, bins) / divisor, np.bincount(places, right, bins) / divisor)


def expected_calibration_error(proba: ArrayLike, y: ArrayLike, bins: int = 15) -> float:
    """Mean distance between how sure the likeliest class was and how often it was right, over bins of equal width.

    Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017, equation 3.

    Parameters
    ----------
    proba : array-like of float, shape (n, k)
        Probabilities.
    y : array-like of int, shape (n,)
        The column of each sample's class.
    bins : int
        Number of bins between 0 and 1.

    Examples
    --------
    >>> expected_calibration_error([[0.9, 0.1], [0.9, 0.1]], [0, 1])
    0.4
    """
    return reliability(proba, y, bins).error


def wilson_interval(successes: float, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval that holds a probability which was met in `successes` of `count` trials.

    Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 1927. It stays between 0 and 1
    and holds for few trials; without any it is all of it.

    Examples
    --------
    >>> [round(end, 3) for end in wilson_interval(9, 10)]
    [0.596, 0.982]
    """
    if not 0 <= successes <= count + 1e-9:
        raise ValueError(f"There can't be {successes} successes in {count} trials.")
    if count == 0:
        return 0.0, 1.0
    quantile = NormalDist().inv_cdf((1 + confidence) / 2)
    share, doubt = min(successes / count, 1.0), quantile**2 / count
    centre = (share + doubt / 2) / (1 + doubt)
    half = math.sqrt(doubt * (share * (1 - share) + doubt / 4)) / (1 + doubt)
    return max(centre - half, 0.0), min(centre + half, 1.0)


@dataclass(frozen=True)
class Score:
    """How good predictions were.

    Attributes
    ----------
    count : int
        Labels.
    accuracy : float
        Share of them whose class was the likeliest.
    interval : tuple of float
        Wilson's interval of the accuracy, at 95 %.
    log_loss : float
        Mean of -log of the probability that was given to the label's class, in nats.
    """

    count: int
    accuracy: float
    interval: tuple[float, float]
    log_loss: float


def score_by_domain(domains: Sequence[str], probability: ArrayLike, correct: ArrayLike) -> dict[str, Score]:
    """Score predictions apart by where their images come from: a camera, a site, a family.

    Parameters
    ----------
    domains : sequence of str, length n
        Where each image comes from.
    probability : array-like of float, shape (n,)
        What each label's class was given before it was learned.
    correct : array-like of bool, shape (n,)
        Whether the label's class was the likeliest.

    Returns
    -------
    dict of Score
        By domain, sorted.

    Raises
    ------
    ValueError
        When the three are not of the same labels, or a probability is none.

    Examples
    --------
    >>> scores = score_by_domain(["hall", "yard", "yard"], [0.9, 0.5, 0.2], [True, True, False])
    >>> {domain: (score.count, score.accuracy) for domain, score in scores.items()}
    {'hall': (1, 1.0), 'yard': (2, 0.5)}
    """
    given, right = np.asarray(probability, dtype=np.float64), np.asarray(correct)
    if given.shape != (len(domains),) or right.shape != given.shape:
        raise ValueError("There must be a domain, a probability and whether it was right for each label.")
    if not ((given >= 0) & (given <= 1 + 1e-9)).all():
        raise ValueError("Probabilities lie between 0 and 1.")
    losses = -np.log(np.clip(given, LEAST_PROBABILITY, 1))
    places: dict[str, list[int]] = {}
    for place, domain in enumerate(domains):
        places.setdefault(domain, []).append(place)
    scores = {}
    for domain in sorted(places):
        count, hits = len(places[domain]), int(right[places[domain]].astype(bool).sum())
        loss = float(losses[places[domain]].mean())
        scores[domain] = Score(count, hits / count, wilson_interval(hits, count), loss)
    return scores


def accuracy_matrix(heads: Sequence[Weights], samples: Sequence[tuple[ArrayLike, ArrayLike]]) -> Floats:
    """Accuracy on each domain after learning up to the end of each domain, shape (heads, domains).

    Parameters
    ----------
    heads : sequence of Weights
        What served at the end of each domain, in the order they were learned.
    samples : sequence of (X, y)
        Features, shape (n, d), and labels of each domain that were never learned, in the same order.
    """
    return np.array([[float(np.mean(head.predict(X) == np.asarray(y))) for X, y in samples] for head in heads])


@dataclass(frozen=True)
class Forgetting:
    """What learning later domains did to earlier ones.

    Attributes
    ----------
    average_accuracy : float
        Mean over all domains, at the end.
    average_forgetting : float
        How much lower accuracy is at the end than the best it ever was before, mean over all domains but the last.
    backward_transfer : float
        How much higher it is at the end than when the domain had just been learned, mean over all domains but the last.
    """

    average_accuracy: float
    average_forgetting: float
    backward_transfer: float


def forgetting(accuracies: ArrayLike) -> Forgetting:
    """Sum up what `accuracy_matrix` gave.

    Forgetting after Chaudhry, Dokania, Ajanthan and Torr (Riemannian Walk for Incremental Learning, ECCV 2018),
    backward transfer after Lopez-Paz and Ranzato (Gradient Episodic Memory for Continual Learning, NeurIPS 2017). With
    one domain nothing can be forgotten, and both are 0.

    Parameters
    ----------
    accuracies : array-like of float, shape (t, t)
        Row i: after learning up to the end of domain i; column j: on domain j.

    Raises
    ------
    ValueError
        When it is no square of accuracies.

    Examples
    --------
    >>> forgetting([[0.75, 0.25], [0.5, 1.0]])
    Forgetting(average_accuracy=0.75, average_forgetting=0.25, backward_transfer=-0.25)
    """
    matrix = np.asarray(accuracies, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError("Accuracies must be a square: a row after each domain, a column for each domain.")
    if not ((matrix >= 0) & (matrix <= 1)).all():
        raise ValueError("Accuracies lie between 0 and 1.")
    last = matrix[-1]
    if len(matrix) == 1:
        return Forgetting(float(last[0]), 0.0, 0.0)
    lost = matrix[:-1, :-1].max(axis=0) - last[:-1]
    gained = last[:-1] - np.diagonal(matrix)[:-1]
    return Forgetting(float(last.mean()), float(lost.mean()), float(gained.mean()))


def _checked(proba: ArrayLike, y: ArrayLike) -> tuple[Floats, NDArray[np.intp]]:
    probabilities, columns = np.asarray(proba, dtype=np.float64), np.asarray(y)
    if probabilities.ndim != 2 or columns.shape != (len(probabilities),) or not len(columns):
        raise ValueError("Probabilities must be a row per sample, and there must be a class for each row.")
    if columns.dtype.kind not in "iu" or columns.min() < 0 or columns.max() >= probabilities.shape[1]:
        raise ValueError("Each sample's class must be the number of a column of the probabilities.")
    return probabilities, cast("NDArray[np.intp]", columns)
