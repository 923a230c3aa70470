"""The heads that are compared: Tandem's own, two that learn label by label, and one that is refitted from scratch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from model.calibration import Calibration, calibrate, prediction_sets
from model.comparison import IncrementalHead
from model.doubt import Doubt, doubts, look_alikes
from model.head import StreamingLDA
from model.left_out import leave_one_out
from model.neighbours import PoolLessons, learn_from_pool, neighbour_graph
from model.selection import RANDOM_SHARE, asked_regardless
from model.weights import Floats, Weights

HEADS = ("ours", "mlp", "sgd", "logistic")
"""All heads there are to compare."""

Rows = NDArray[np.floating[Any]]
Names = NDArray[np.str_]
Sets = NDArray[np.bool_]

COVERAGE = 0.9
"""How often prediction sets should hold the true class."""

DRAWN = 2000
"""Images of the pool that tell how clear it is, as of the service."""


class Head(Protocol):
    """What is replayed.

    Attributes
    ----------
    each_label : bool
        Whether it is cheap enough to ask before each label is learned, which prequential evaluation needs.
    """

    each_label: bool

    def learn(self, features: Rows, label: str, key: str) -> None:
        """Learn the label of one sample, shape (d,); the key names it for ever."""

    def study(self) -> None:
        """Do what the service does apart from learning, every so often."""

    def predict_proba(self, X: Rows) -> Floats:  # noqa: N803
        """Return probabilities, shape (n, k), a column per class, sorted."""
        ...

    def prediction_sets(self, proba: Floats) -> Sets | None:
        """Return which classes may be the true ones, shape (n, k), or None where the head can't tell."""


def calibrate_as_served(
    head: StreamingLDA, features: Rows, labels: ArrayLike, keys: Sequence[str], unlabelled: ArrayLike
) -> Calibration:
    """Calibrate a head by the labels it has learned, as a study of the service does.

    Parameters
    ----------
    head : StreamingLDA
    features, labels, keys
        Of the labels, in the order in which they came: shape (n, d), and n classes and names.
    unlabelled : array-like of float, shape (m, d)
        Features of images without a label that were drawn from the pool; at most `DRAWN`.
    """
    representative = asked_regardless(keys, RANDOM_SHARE)
    calibration = calibrate(
        head, features, labels, groups=look_alikes(features), representative=representative, pool=unlabelled
    )
    calibration.apply_to(head)
    return calibration


class Ours:
    """Tandem's own head, with what its labels and its pool teach it whenever it is studied.

    Parameters
    ----------
    classes : numpy.ndarray of str, shape (k,)
    pool : numpy.ndarray of float, shape (p, d)
        Features of the samples that can be asked, labelled or not.
    """

    each_label = True

    def __init__(self, classes: Names, pool: Rows) -> None:
        self._head = StreamingLDA().declare(classes)
        drawn = pool[np.random.default_rng(0).permutation(len(pool))[:DRAWN]]
        self._unlabelled = {row.tobytes(): row for row in drawn}
        self._graph = neighbour_graph(pool)
        self._lessons = PoolLessons()
        self._calibration = Calibration()
        self._weights: Weights | None = None
        self._features: list[Rows] = []
        self._labels: list[str] = []
        self._keys: list[str] = []

    def learn(self, features: Rows, label: str, key: str) -> None:
        """Learn the label of one sample."""
        self._head.partial_fit(features[np.newaxis], [label])
        self._features.append(features)
        self._labels.append(label)
        self._keys.append(key)
        self._unlabelled.pop(features.tobytes(), None)
        self._weights = None

    def study(self) -> None:
        """Calibrate by leaving the labels out in turn; let the pool speak while labels are few."""
        features = np.array(self._features)
        unlabelled = list(self._unlabelled.values())
        self._calibration = calibrate_as_served(self._head, features, self._labels, self._keys, unlabelled)
        self._lessons = learn_from_pool(self._graph, self._head, features, self._labels)
        self._weights = None

    def predict_proba(self, X: Rows) -> Floats:  # noqa: N803
        """Return probabilities; equal ones before anything is learned."""
        return self.weights().predict_proba(X) if self._labels else self._head.predict_proba(X)

    def prediction_sets(self, proba: Floats) -> Sets:
        """Return 90 % prediction sets."""
        return prediction_sets(proba, self._calibration.threshold(COVERAGE))

    def weights(self) -> Weights:
        """Return what serves, once something was learned."""
        if self._weights is None:
            self._weights = self._lessons.add_to(self._head.weights(), len(self._labels))
        return self._weights

    def doubts(self) -> list[Doubt]:
        """Return the learned labels that the others speak against."""
        features = np.array(self._features)
        groups = look_alikes(features)
        left_out = leave_one_out(self._head, features, self._labels, groups=groups)
        return doubts(left_out, self._labels, self._head.classes_, groups)


class Incremental:
    """A classifier of scikit-learn that learns by ``partial_fit``; the MLP is the head that Tandem's forerunner had."""

    each_label = True

    def __init__(self, kind: Literal["mlp", "sgd"], classes: Names, seed: int) -> None:
        self._head = IncrementalHead(kind, classes, random_state=seed)

    def learn(self, features: Rows, label: str, key: str) -> None:
        """Learn the label of one sample."""
        self._head.partial_fit(features[np.newaxis], [label])

    def predict_proba(self, X: Rows) -> Floats:  # noqa: N803
        """Return probabilities; equal ones before anything is learned."""
        return self._head.predict_proba(X)

    def study(self) -> None:
        """Do nothing: it can't be calibrated by its own labels."""

    def prediction_sets(self, proba: Floats) -> None:
        """Return nothing: it knows no threshold."""


class Refit:
    """Logistic regression, fitted from scratch to all labels so far whenever it is asked."""

    each_label = False

    def __init__(self, classes: Names) -> None:
        self._classes = classes
        self._features: list[Rows] = []
        self._labels: list[str] = []

    def learn(self, features: Rows, label: str, key: str) -> None:
        """Note the label of one sample."""
        self._features.append(features)
        self._labels.append(label)

    def study(self) -> None:
        """Do nothing; it is fitted when it is asked."""

    def prediction_sets(self, proba: Floats) -> None:
        """Return nothing: it knows no threshold."""

    def predict_proba(self, X: Rows) -> Floats:  # noqa: N803
        """Fit, and return probabilities: 0 for a class without labels, 1 for one that alone has some."""
        labelled = np.unique(self._labels)
        probabilities = np.zeros((len(X), len(self._classes)))
        if len(labelled) < 2:
            probabilities[:, np.searchsorted(self._classes, labelled)] = 1.0
            return probabilities
        with warnings.catch_warnings():
            # A fit that stops a little early classifies no worse.
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = LogisticRegression(max_iter=1000).fit(np.array(self._features), self._labels)
        probabilities[:, np.searchsorted(self._classes, labelled)] = fitted.predict_proba(X)
        return probabilities


def make_head(name: str, classes: Names, pool: Rows, seed: int) -> Head:
    """Return a head that has learned nothing.

    Parameters
    ----------
    name : str
        One of `HEADS`.
    classes : numpy.ndarray of str, shape (k,)
        All classes, sorted.
    pool : numpy.ndarray of float, shape (p, d)
        Features of the samples that can be asked.
    seed : int
        Of its first weights, where it has random ones.
    """
    if name == "ours":
        return Ours(classes, pool)
    if name == "logistic":
        return Refit(classes)
    return Incremental(cast("Literal['mlp', 'sgd']", name), classes, seed)
