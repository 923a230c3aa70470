"""Linear discriminant analysis from running sums: learns a label in a millisecond, and takes it back exactly.

It holds three sums over the labelled samples: how many there are of each class, the sum of their features, and the
second moment of all of them. Sums don't know an order, can be split and merged, and a sample can be subtracted again.
This is the streaming LDA of Hayes and Kanan (Lifelong Machine Learning with Deep Streaming Linear Discriminant
Analysis, CVPR Workshops 2020), with means and temperature corrected for what few samples can't tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg.blas import dsyr, dsyrk
from scipy.linalg.lapack import dpotrf, dpotrs, dtrtrs
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError

from model.weights import Floats, LinearWeights, as_features

Labels = NDArray[Any]

TOLERANCE = 1e-9
"""Counts below it are rounding, not samples: weights are added and subtracted as floats."""

UNSEEN = 1.0
"""Pseudo-labels of every class in the prior probabilities: Laplace's rule of succession."""

GAUSSIAN_PART = 1.2
"""Factor on the temperature that would be right if the classes were Gaussian; see `_temperature`."""

HEAVY_TAILS = 0.025
"""Part of the classes' mean distance that is added to the temperature; see `_temperature`."""

FEW_LABELS = 5.0
"""Part of the measured distance that is added to the corrected one in it, times classes per label."""

LEAST_DISTANCE = 0.1
"""Part of the classes' measured distance that is believed even where noise explains it all."""

_PROBES = 32


@dataclass(frozen=True)
class Sums:
    """What a change adds to or takes from the head, for the classes it names.

    Attributes
    ----------
    classes : numpy.ndarray, shape (c,)
        Sorted.
    counts : numpy.ndarray of float64, shape (c,)
    sums : numpy.ndarray of float64, shape (c, d)
    rows : numpy.ndarray of float64, shape (n, d)
        The samples, each times the root of its weight: their products are the second moment.
    """

    classes: Labels
    counts: Floats
    sums: Floats
    rows: Floats


class StreamingLDA(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Linear discriminant analysis with a shared covariance, learned and unlearned one sample at a time.

    The covariance is the posterior mean under an inverse-Wishart prior worth ``shrinkage * d`` samples, whose
    covariance is spherical, with the trace that was found within the classes. So it is all but spherical with few
    labels, and all but the sample covariance with many.

    Never-labelled classes can't be told from features. Each gets the share that Laplace's rule of succession gives a
    class not met in n draws, 1 / (n + k), whatever the features; the others share the rest.

    Parameters
    ----------
    shrinkage : float
        Pseudo-samples per feature that pull the covariance towards a sphere. 2 was the best of 1, 2 and 4 in log-loss
        from 30 to 2,800 labels on scenes, faces and digits, by little.
    temperature : float, optional
        Divides the logits; by default a closed form of the sums (see `_temperature`).

    Attributes
    ----------
    classes_ : numpy.ndarray, shape (k,)
        Learned and declared classes, sorted.
    counts_ : numpy.ndarray of float64, shape (k,)
        Sum of the sample weights of each class.
    n_features_in_ : int
        Only there once something was learned.

    Examples
    --------
    >>> head = StreamingLDA().partial_fit([[0.0, 1.0], [0.2, 1.1], [1.0, 0.0]], ["cat", "cat", "dog"])
    >>> head.partial_fit([[1.1, 0.1], [0.5, 0.5]], ["dog", "fox"]).predict([[0.9, 0.0]])
    array(['dog'], dtype='<U3')
    >>> head.forget([[0.5, 0.5]], ["fox"]).classes_
    array(['cat', 'dog'], dtype='<U3')
    """

    can_forget = True

    classes_: Labels
    counts_: Floats
    n_features_in_: int
    _declared: Labels
    _sums: Floats
    _moment: Floats
    _solution: LinearWeights | None
    _solved_for: dict[str, Any]

    def __init__(self, shrinkage: float = 2.0, temperature: float | None = None) -> None:
        self.shrinkage = shrinkage
        self.temperature = temperature

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> StreamingLDA:  # noqa: N803
        """Learn these samples and nothing else; see `partial_fit`."""
        self._reset()
        return self.partial_fit(X, y, sample_weight=sample_weight)

    def partial_fit(
        self,
        X: ArrayLike,  # noqa: N803
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> StreamingLDA:
        """Learn more samples.

        Parameters
        ----------
        X : array-like of float, shape (n, d)
            Features.
        y : array-like of str or int, shape (n,)
            Classes; new ones may appear at any time.
        classes : array-like, optional
            Classes that exist although they may have no label yet. They are added to those declared before.
        sample_weight : array-like of float, shape (n,), optional
            How much each sample counts; 1 by default.

        Raises
        ------
        ValueError
            When an argument is of another shape, or holds values that are not finite. Nothing is learned then.
        """
        self._start()
        declared = self._declared if classes is None else _union(self._declared, _as_labels(classes, "classes"))
        change = self._sums_of(X, y, sample_weight)
        known = _union(_union(self.classes_, declared), change.classes)
        self._declared = declared
        self._reclass(known)
        if len(change.rows):
            self._open(change.rows.shape[1])
            places = np.searchsorted(self.classes_, change.classes)
            self.counts_[places] += change.counts
            self._sums[places] += change.sums
            self._moment = _add_products(self._moment, change.rows, 1.0)
        self._solution = None
        return self

    def forget(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> StreamingLDA:  # noqa: N803
        """Unlearn samples that were learned, with the features, class and weight they were learned with.

        A class without samples vanishes, unless it was declared. When nothing is left, the head is as new.

        Raises
        ------
        ValueError
            When an argument is not as in `partial_fit`, or these samples can't have been learned. Nothing is forgotten
            then. From sums not every such mistake can be seen.
        """
        self._start()
        change = self._sums_of(X, y, sample_weight)
        if not len(change.rows):
            return self
        places = self._places_of(change)
        counts, sums = self.counts_.copy(), self._sums.copy()
        counts[places] -= change.counts
        sums[places] -= change.sums
        diagonal = np.diagonal(self._moment)
        squares = diagonal - np.einsum("ij,ij->j", change.rows, change.rows)
        slack = 1e-7 * (1 + diagonal)
        gone = counts <= TOLERANCE
        between = (sums[~gone] ** 2 / counts[~gone, np.newaxis]).sum(axis=0)
        if (counts < -TOLERANCE).any() or (squares < between - slack).any() or (sums[gone] ** 2 > slack).any():
            raise ValueError("These samples were not learned as they are given, so they can't be forgotten.")
        if gone.all():
            declared = self._declared
            self._reset()
            self._declared = declared
            self._reclass(declared)
            return self
        counts[gone] = 0.0
        sums[gone] = 0.0
        self._moment = _add_products(self._moment, change.rows, -1.0)
        self.counts_, self._sums = counts, sums
        self._reclass(_union(self.classes_[~gone], self._declared))
        self._solution = None
        return self

    def merge(self, other: StreamingLDA) -> StreamingLDA:
        """Learn all that another head has learned and declared; the other stays as it is.

        Raises
        ------
        ValueError
            When the other learned features of another length.
        """
        self._start()
        other._start()
        known, declared = _union(self.classes_, other.classes_), _union(self._declared, other._declared)
        if hasattr(other, "n_features_in_"):
            self._open(other.n_features_in_)
            self._reclass(known)
            places = np.searchsorted(self.classes_, other.classes_)
            self.counts_[places] += other.counts_
            self._sums[places] += other._sums
            self._moment += other._moment
        self._declared = declared
        self._reclass(known)
        self._solution = None
        return self

    def declare(self, classes: ArrayLike) -> StreamingLDA:
        """Say which classes exist, instead of what was declared before; those without samples then vanish.

        Learned classes stay, also those that are not declared: `weights` can leave them out.
        """
        self._start()
        self._declared = np.unique(_as_labels(classes, "classes"))
        self._reclass(_union(self.classes_[self.counts_ > 0], self._declared))
        self._solution = None
        return self

    def predict_proba(self, X: ArrayLike) -> Floats:  # noqa: N803
        """Return probabilities, shape (n, k), columns as in `classes_`.

        Before anything is learned, they are equal.

        Raises
        ------
        ValueError
            When `X` is of another shape or not finite.
        sklearn.exceptions.NotFittedError
            When no class is known.
        """
        if not hasattr(self, "n_features_in_") and len(getattr(self, "classes_", [])):
            return np.full((len(as_features(X, None)), len(self.classes_)), 1 / len(self.classes_))
        return self.weights().predict_proba(X)

    def predict(self, X: ArrayLike) -> Labels:  # noqa: N803
        """Return the likeliest class of each sample, shape (n,)."""
        return cast(Labels, self.classes_[self.predict_proba(X).argmax(axis=1)])

    def weights(self, classes: ArrayLike | None = None) -> LinearWeights:
        """Return what serves: all that `predict_proba` needs, and no more.

        Solving takes some 25 ms at d = 1280 on one core; the solution is kept until something is learned or forgotten.

        Parameters
        ----------
        classes : array-like, optional
            The classes to choose from, in the order of the columns; `classes_` by default. Samples of others still
            count for the covariance.

        Raises
        ------
        ValueError
            When a class is named twice, or none is given.
        sklearn.exceptions.NotFittedError
            When nothing was learned yet.
        """
        if not hasattr(self, "n_features_in_"):
            raise NotFittedError("This head has learned nothing yet; call partial_fit first.")
        if classes is not None:
            return self._solve(_as_labels(classes, "classes"))
        if self._solution is None or self._solved_for != self.get_params():
            self._solution, self._solved_for = self._solve(self.classes_), self.get_params()
        return self._solution

    def _solve(self, classes: Labels) -> LinearWeights:
        """Shrink the covariance, correct the class means and the temperature, and put them into linear weights."""
        count, dim = self.counts_.sum(), self.n_features_in_
        seen = self.counts_ > 0
        counts, sums = self.counts_[seen], self._sums[seen]
        means, centre = sums / counts[:, np.newaxis], sums.sum(axis=0) / count
        offsets = np.asfortranarray((means - centre).T)

        scatter = dsyrk(-1.0, sums / np.sqrt(counts)[:, np.newaxis], beta=1.0, c=self._moment, trans=1, lower=1)
        diagonal = np.diagonal(self._moment)
        total_variance = (diagonal - count * centre**2).sum() / (max(count - 1, 1) * dim)
        # Before the scatter within classes is known, the total variance stands in for it as one pseudo-sample.
        freedom = max(count - len(counts), 0) + 1
        variance = (np.trace(scatter) / dim + total_variance) / freedom
        variance = max(variance, 1e-12 * diagonal.mean() / count) or 1.0
        prior = self.shrinkage * dim
        covariance = scatter
        covariance /= freedom + prior
        covariance.flat[:: dim + 1] += (total_variance + prior * variance) / (freedom + prior)

        factor, failed = dpotrf(covariance, lower=1, overwrite_a=1, clean=0)
        if failed:
            raise ValueError("The features are too large or too uneven for a covariance in float64; scale them.")
        directions = dpotrs(factor, offsets, lower=1)[0]

        # tr(P S) and W' S W, where P is the inverse of the shrunk covariance and S the covariance before shrinkage.
        spread = freedom + prior
        trace = (spread * dim - prior * variance * _inverse_trace(factor)) / freedom
        kept = min(trace / spread, 1 - 1 / (freedom + 1))
        squares = directions.T @ offsets
        within = (spread * squares - prior * variance * directions.T @ directions) / freedom
        # Leaving a sample out changes its own distance by 1 / (1 - leverage); `kept` is the mean leverage.
        noise = max(trace, 0.0) / (1 - kept)
        temperature = self.temperature
        if temperature is None:
            temperature = _temperature(squares, within / (1 - kept) ** 2, noise, counts)

        log_prior = np.log((counts + UNSEEN) / (counts + UNSEEN).sum())
        # A mean of few samples is off by noise / count in squared distance, which would count against its class.
        bias = 0.5 * (noise / counts - np.diagonal(squares))
        intercept = bias - centre @ directions + temperature * log_prior
        return self._arranged(classes, directions.T, intercept, temperature)

    def _arranged(self, classes: Labels, coef: Floats, intercept: Floats, temperature: float) -> LinearWeights:
        seen = self.classes_[self.counts_ > 0]
        rows = {label: row for row, label in enumerate(seen.tolist())}
        labelled = np.array([label in rows for label in classes.tolist()], dtype=bool)
        places = [rows[label] for label in classes[labelled].tolist()]
        full_coef, full_intercept = np.zeros((len(classes), coef.shape[1])), np.zeros(len(classes))
        full_coef[labelled], full_intercept[labelled] = coef[places], intercept[places]
        count = self.counts_[self.counts_ > 0][places].sum()
        reserved = np.where(labelled, 0.0, UNSEEN / (count + UNSEEN * len(classes)))
        return LinearWeights(classes, full_coef, full_intercept, float(temperature), reserved)

    def _sums_of(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None) -> Sums:  # noqa: N803
        features = as_features(X, getattr(self, "n_features_in_", None))
        labels = _as_labels(y, "y")
        if len(labels) != len(features):
            raise ValueError(f"X has {len(features)} samples, but y has {len(labels)} classes.")
        weight = np.ones(len(features)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        if weight.shape != labels.shape or not np.isfinite(weight).all() or (weight < 0).any():
            raise ValueError(f"sample_weight must be {len(labels)} finite numbers, none of them negative.")
        counted = weight > 0
        features, labels, weight = features[counted], labels[counted], weight[counted]
        _union(self.classes_, labels)  # refuses names among numbers
        classes, members = np.unique(labels, return_inverse=True)
        one_hot = np.zeros((len(classes), len(labels)))
        one_hot[members, np.arange(len(labels))] = weight
        rows = features if (weight == 1).all() else features * np.sqrt(weight)[:, np.newaxis]
        return Sums(classes, one_hot.sum(axis=1), one_hot @ features, rows)

    def _places_of(self, change: Sums) -> NDArray[np.intp]:
        unknown = [label for label in change.classes.tolist() if label not in self.classes_.tolist()]
        if unknown:
            raise ValueError(f"The class {unknown[0]!r} was never learned, so it can't be forgotten.")
        return np.searchsorted(self.classes_, change.classes)

    def _reset(self) -> None:
        self.classes_ = np.array([], dtype="U1")
        self.counts_ = np.zeros(0)
        self._declared = self.classes_
        self._sums = np.zeros((0, 0))
        self._solution = None
        if hasattr(self, "n_features_in_"):
            del self.n_features_in_, self._moment

    def _start(self) -> None:
        if not hasattr(self, "classes_"):
            self._reset()

    def _open(self, dim: int) -> None:
        """Make room for features of this length, if there is none yet."""
        if not hasattr(self, "n_features_in_"):
            self.n_features_in_ = dim
            self._sums = np.zeros((len(self.classes_), dim))
            self._moment = np.zeros((dim, dim), order="F")
        elif self.n_features_in_ != dim:
            raise ValueError(f"The other head learned {dim} features, this one {self.n_features_in_}.")

    def _reclass(self, classes: Labels) -> None:
        """Give every class its row, in sorted order; classes that are not among `classes` must be empty."""
        if np.array_equal(classes, self.classes_):
            return
        kept = np.isin(self.classes_, classes)
        counts, sums = np.zeros(len(classes)), np.zeros((len(classes), self._sums.shape[1]))
        places = np.searchsorted(classes, self.classes_[kept])
        counts[places], sums[places] = self.counts_[kept], self._sums[kept]
        self.classes_, self.counts_, self._sums = classes, counts, sums


def _temperature(squares: Floats, within: Floats, noise: float, counts: Floats) -> float:
    """Temperature at which the probabilities of samples not seen yet are about right, from sums alone.

    The difference of two classes' logits is, over one class's new samples, a number with some mean and variance. If
    it is Gaussian, its log-odds are linear with slope (distance of the two means) / (variance): one over the
    temperature. What the training samples tell of both is flattered by the fit, and corrected as leaving one out would:
    the variance by (1 - leverage)^-2, the distance by the noise of the two means. This is enough where classes
    overlap much (faces). Where they lie far apart (scenes, digits), most errors come from tails and mixed images that
    no Gaussian has, and the right temperature grows with the distance. The constants were fitted on Intel scenes,
    FER2013 and scikit-learn's digits, n = 2 to 1,000.

    Parameters
    ----------
    squares, within : numpy.ndarray of float64, shape (c, c)
        Inner products of the class means, and of the directions under the covariance within classes.
    noise : float
        Expected squared distance of one sample from the mean of its class.
    counts : numpy.ndarray of float64, shape (c,)
        Samples of each class.
    """
    if len(counts) < 2:
        return 1.0
    pairs = np.triu_indices(len(counts), 1)
    flattered = float(_between(squares)[pairs].mean())
    distance = flattered - noise * float(np.add.outer(1 / counts, 1 / counts)[pairs].mean())
    distance = max(distance, LEAST_DISTANCE * flattered, TOLERANCE)
    variance = max(float(_between(within)[pairs].mean()), 0.0)
    doubt = FEW_LABELS * len(counts) / counts.sum() * flattered
    return float(GAUSSIAN_PART * variance / distance + HEAVY_TAILS * (distance + doubt))


def _between(products: Floats) -> Floats:
    """Turn inner products of vectors to the squared lengths of their differences."""
    own = np.diagonal(products)
    return np.add.outer(own, own) - 2 * products


def _inverse_trace(factor: Floats) -> float:
    """Trace of the inverse of a matrix from its Cholesky factor, by Hutchinson's estimate with fixed probes.

    Exact would take as long as the factor itself; the estimate is within a few percent of what is made of it.
    """
    probes = np.random.default_rng(0).choice([-1.0, 1.0], size=(len(factor), _PROBES))
    halves = dtrtrs(factor, np.asfortranarray(probes), lower=1)[0]
    return float((halves**2).sum() / _PROBES)


def _add_products(moment: Floats, rows: Floats, sign: float) -> Floats:
    """Add or subtract the products of rows with themselves, in place, to the lower triangle of a Fortran array."""
    if len(rows) == 1:
        return cast(Floats, dsyr(sign, rows[0], a=moment, lower=1, overwrite_a=1))
    return cast(Floats, dsyrk(sign, rows, beta=1.0, c=moment, trans=1, lower=1, overwrite_c=1))


def _as_labels(labels: ArrayLike, name: str) -> Labels:
    array = np.asarray(labels)
    if array.size == 0:
        array = array.astype("U1")
    if array.ndim != 1 or array.dtype.kind not in "Ui":
        raise ValueError(f"{name} must be a list of names or of whole numbers, all of a kind.")
    return array


def _union(left: Labels, right: Labels) -> Labels:
    """Return the classes of both, sorted, without mixing names and numbers."""
    if not len(left) or not len(right):
        return np.unique(left if len(left) else right)
    if left.dtype.kind != right.dtype.kind:
        raise ValueError("Some classes are names and some are numbers; use one kind.")
    return np.union1d(left, right)
