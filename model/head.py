"""Linear discriminant analysis from running sums: learns a label in a millisecond, and takes it back exactly.

It holds three sums over the labelled samples: how many there are of each class, the sum of their features, and the
second moment of all of them. Sums don't know an order, can be split and merged, and a sample can be subtracted again.
This is the streaming LDA of Hayes and Kanan (Lifelong Machine Learning with Deep Streaming Linear Discriminant
Analysis, CVPR Workshops 2020) on the signed roots of the features, with class means drawn towards the grand mean and
a temperature, both as far as few samples can't tell better.
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

from model.weights import Floats, LinearWeights, as_features, signed_root

Labels = NDArray[Any]

TOLERANCE = 1e-9
"""Counts below it are rounding, not samples: weights are added and subtracted as floats."""

UNSEEN = 1.0
"""Pseudo-labels of every class in its probability before features are seen: Laplace's rule of succession."""

HEAVY_TAILS = 0.03
"""Part of the classes' mean distance that is added to the temperature; see `_temperature`."""

FEW_LABELS = 8.0
"""How much larger that part is, times classes per label."""

LEAST_SIGNAL = 0.4
"""Part of the class means' measured spread that is believed even where noise explains it all, times classes per label:
with few labels the noise is a guess."""

PROBES = 32
"""Random vectors that the trace of an inverse is estimated with."""


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


@dataclass(frozen=True)
class Moments:
    """What the sums say of the labelled classes.

    Attributes
    ----------
    classes : numpy.ndarray, shape (c,)
        Sorted.
    counts : numpy.ndarray of float64, shape (c,)
    means : numpy.ndarray of float64, shape (c, d)
    centre : numpy.ndarray of float64, shape (d,)
        The grand mean.
    within : numpy.ndarray of float64, shape (d, d)
        The scatter within classes; only its lower triangle is filled.
    around, squares : float
        Sums of the squared distances of all samples from the grand mean, and from 0.
    """

    classes: Labels
    counts: Floats
    means: Floats
    centre: Floats
    within: Floats
    around: float
    squares: float


@dataclass(frozen=True)
class Prior:
    """What makes a covariance of the scatter within classes: (scatter + ridge * identity) / spread.

    Attributes
    ----------
    ridge, spread : float or numpy.ndarray
    freedom : float or numpy.ndarray
        Degrees of freedom of the scatter, and 1 for the total variance that is added to it.
    pull : float or numpy.ndarray
        The part of the ridge that is shrinkage.
    """

    ridge: Any
    spread: Any
    freedom: Any
    pull: Any


class ClassSums(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """How many samples of each class there are, the sums of their features, and the second moment of all samples.

    What both heads hold, here and in `model.multilabel`; classes may come and go.
    """

    classes_: Labels
    counts_: Floats
    n_features_in_: int
    _declared: Labels
    _sums: Floats
    _moment: Floats

    def _reset(self) -> None:
        self.classes_ = np.array([], dtype="U1")
        self.counts_ = np.zeros(0)
        self._declared = self.classes_
        self._sums = np.zeros((0, 0))
        if hasattr(self, "n_features_in_"):
            del self.n_features_in_, self._moment

    def _reset_learned(self) -> None:
        """Forget everything but what was declared."""
        declared = self._declared
        self._reset()
        self._declared = declared
        self._reclass(declared)

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


class StreamingLDA(ClassifierMixin, ClassSums):  # type: ignore[misc]  # scikit-learn has no types
    """Linear discriminant analysis with a shared covariance, learned and unlearned one sample at a time.

    The covariance is the posterior mean under an inverse-Wishart prior worth ``shrinkage * d`` samples, whose
    covariance is spherical, with the trace that was found within the classes. So it is all but spherical with few
    labels, and all but the sample covariance with many.

    The class means are drawn towards the grand mean, each by the share of noise in its distance from it: the posterior
    mean where the true means are Gaussian with a variance that is estimated from all of them (Efron and Morris, Stein's
    estimation rule and its competitors, Journal of the American Statistical Association, 1973).

    Never-labelled classes can't be told from features. Each gets the share that Laplace's rule of succession gives a
    class not met in n draws, 1 / (n + k), whatever the features; the others share the rest.

    Parameters
    ----------
    shrinkage : float
        Pseudo-samples per feature that pull the covariance towards a sphere.
    heat : float
        Factor on the temperature that the sums give (see `_temperature`). Both are found by `calibration.calibrate`.

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

    _solution: LinearWeights | None
    _solved_for: dict[str, Any]

    def __init__(self, shrinkage: float = 1.0, heat: float = 1.0) -> None:
        self.shrinkage = shrinkage
        self.heat = heat

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
            self._reset_learned()
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

    def moments(self) -> Moments:
        """Return what the sums say of the labelled classes: their means, and how the samples lie around them.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            When nothing was learned yet.
        """
        if not hasattr(self, "n_features_in_"):
            raise NotFittedError("This head has learned nothing yet; call partial_fit first.")
        seen = self.counts_ > 0
        counts, sums = self.counts_[seen], self._sums[seen]
        centre = sums.sum(axis=0) / counts.sum()
        within = dsyrk(-1.0, sums / np.sqrt(counts)[:, np.newaxis], beta=1.0, c=self._moment, trans=1, lower=1)
        squares = float(np.trace(self._moment))
        around = squares - counts.sum() * float(centre @ centre)
        return Moments(self.classes_[seen], counts, sums / counts[:, np.newaxis], centre, within, around, squares)

    def _solve(self, classes: Labels) -> LinearWeights:
        """Shrink the covariance and the class means, choose the temperature, and put them into linear weights."""
        known, dim = self.moments(), self.n_features_in_
        prior = prior_of(
            self.shrinkage,
            dim,
            np.trace(known.within),
            known.around,
            known.squares,
            known.counts.sum(),
            len(known.counts),
        )
        covariance = known.within
        covariance /= prior.spread
        covariance.flat[:: dim + 1] += prior.ridge / prior.spread
        factor, failed = dpotrf(covariance, lower=1, overwrite_a=1, clean=0)
        if failed:
            raise ValueError("The features are too large or too uneven for a covariance in float64; scale them.")

        offsets = np.asfortranarray((known.means - known.centre).T)
        directions = dpotrs(factor, offsets, lower=1)[0]
        squares = directions.T @ offsets
        halves = dtrtrs(factor, np.asfortranarray(probes(dim)), lower=1)[0]
        noise, leverage = noise_of(prior, dim, (halves**2).sum() / PROBES)
        share = signal_share(known.counts, np.diagonal(squares), noise)
        directions *= share
        squares *= np.outer(share, share)
        within = (prior.spread * squares - prior.pull * directions.T @ directions) / prior.freedom
        temperature = self.heat * _temperature(squares, within / (1 - leverage) ** 2, known.counts)
        intercept = -0.5 * np.diagonal(squares) - known.centre @ directions + temperature * log_prior(known.counts)
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
        return LinearWeights(classes, full_coef, full_intercept, float(temperature), reserved, scale="root")

    def _sums_of(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None) -> Sums:  # noqa: N803
        features = signed_root(as_features(X, getattr(self, "n_features_in_", None)))
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
        super()._reset()
        self._solution = None


def prior_of(
    shrinkage: float,
    dim: int,
    trace: float | Floats,
    around: float | Floats,
    squares: float | Floats,
    count: float | Floats,
    classes: int | NDArray[np.intp],
) -> Prior:
    """Return what is added to the scatter within classes to make it a covariance.

    All but `shrinkage` and `dim` may be arrays of one shape, for as many heads.

    Parameters
    ----------
    shrinkage : float
        Pseudo-samples per feature.
    dim : int
        Number of features.
    trace, around, squares : float
        Sums of squared distances of the samples: from the means of their classes, from the grand mean, and from 0.
    count, classes : float, int
        How many samples there are, and classes among them.
    """
    # Before the scatter within classes is known, the total variance stands in for it as one pseudo-sample.
    freedom = np.maximum(count - classes, 0) + 1
    total_variance = np.maximum(around, 0) / (np.maximum(count - 1, 1) * dim)
    variance = (trace / dim + total_variance) / freedom
    variance = np.maximum(variance, 1e-12 * squares / dim / count)
    pull = shrinkage * dim * np.where(variance > 0, variance, 1.0)
    return Prior(total_variance + pull, freedom + shrinkage * dim, freedom, pull)


def noise_of(prior: Prior, dim: int, inverse_trace: float | Floats) -> tuple[Floats, Floats]:
    """Return the expected squared distance of one sample from the mean of its class, and the mean leverage.

    The first is tr(P S), where P is the inverse of the shrunk covariance, whose trace is given, and S the covariance
    before shrinkage, divided by 1 - leverage: so does leaving a sample out change its own distance.
    """
    trace = (prior.spread * dim - prior.pull * inverse_trace) / prior.freedom
    leverage = np.minimum(trace / prior.spread, 1 - 1 / (prior.freedom + 1))
    return np.maximum(trace, 0) / (1 - leverage), leverage


def signal_share(counts: Floats, squares: Floats, noise: float | Floats) -> Floats:
    """Return what part of each class mean's squared distance from the grand mean is no noise.

    The variance of the true means is that of a one-way analysis of variance with unequal group sizes.

    Parameters
    ----------
    counts : numpy.ndarray of float64, shape (..., c)
        Samples of each class; 0 for one that is not there.
    squares : numpy.ndarray of float64, shape (..., c)
        Squared distances of the class means from the grand mean.
    noise : float or numpy.ndarray, shape (...)
        Expected squared distance of one sample from the mean of its class.
    """
    count = np.maximum(counts.sum(axis=-1), TOLERANCE)
    classes = (counts > 0).sum(axis=-1)
    total = (counts * squares).sum(axis=-1)
    room = np.maximum(count - (counts**2).sum(axis=-1) / count, TOLERANCE)
    signal = np.maximum((total - (classes - 1) * noise) / room, LEAST_SIGNAL * classes / count * total / count)
    signal = signal[..., np.newaxis] * counts
    return cast(Floats, signal / np.maximum(signal + np.asarray(noise)[..., np.newaxis], np.finfo(float).tiny))


def log_prior(counts: Floats) -> Floats:
    """Return the log-probability of each class before its features are seen.

    It lies between 1 / c and the class's share of the labels, nearer to this the more unequal the counts are than those
    of as many draws from equally frequent classes would be (Fienberg and Holland, Simultaneous Estimation of
    Multinomial Cell Probabilities, Journal of the American Statistical Association, 1973). So few labels say nothing of
    how frequent classes are, and many tell rare classes from others.

    Parameters
    ----------
    counts : numpy.ndarray of float64, shape (..., c)
        Samples of each class; 0 for one that is not there, which gets none.

    Examples
    --------
    >>> np.exp(log_prior(np.array([[1.0, 3.0], [1000.0, 3000.0]]))).round(2)
    array([[0.5 , 0.5 ],
           [0.25, 0.75]])
    """
    there = counts > 0
    classes = there.sum(axis=-1, keepdims=True)
    even = np.where(there, counts.sum(axis=-1, keepdims=True), 0.0) / classes
    unevenness = np.divide((counts - even) ** 2, even, out=np.zeros_like(even), where=there).sum(axis=-1, keepdims=True)
    share = 1 - np.minimum((classes - 1) / np.maximum(unevenness, TOLERANCE), 1)
    pseudo = np.where(there, share * (counts + UNSEEN) + (1 - share) * (even + UNSEEN), 0.0)
    with np.errstate(divide="ignore"):
        return cast(Floats, np.log(pseudo / pseudo.sum(axis=-1, keepdims=True)))


def probes(dim: int) -> Floats:
    """Return the fixed random signs, shape (d, 32), of Hutchinson's estimate of the trace of an inverse.

    Exact would take as long as the factor itself; the estimate is within a few percent of what is made of it.
    """
    return cast(Floats, np.random.default_rng(0).choice([-1.0, 1.0], size=(dim, PROBES)))


def _temperature(squares: Floats, within: Floats, counts: Floats) -> float:
    """Temperature at which the probabilities of samples not seen yet are about right, from sums alone.

    The difference of two classes' logits is, over one class's new samples, a number with some mean and variance. If
    it is Gaussian, its log-odds are linear with slope (distance of the two means) / (variance): one over the
    temperature. What the training samples tell of the variance is flattered by the fit, and corrected as leaving one
    out would, by (1 - leverage)^-2. This is enough where classes overlap much (faces). Where they lie far apart
    (scenes, digits), most errors come from tails and mixed images that no Gaussian has, and the right temperature grows
    with the distance. The two constants were fitted on the train parts of Intel scenes, Fashion-MNIST, FER2013 and
    scikit-learn's digits, n = 20 to 1,000; the right temperature is then within a factor of 1.3 at one deviation.

    Parameters
    ----------
    squares, within : numpy.ndarray of float64, shape (c, c)
        Inner products of the class means, and of the directions under the covariance within classes.
    counts : numpy.ndarray of float64, shape (c,)
        Samples of each class.
    """
    if len(counts) < 2:
        return 1.0
    pairs = np.triu_indices(len(counts), 1)
    distance = max(float(_between(squares)[pairs].mean()), TOLERANCE)
    variance = max(float(_between(within)[pairs].mean()), 0.0)
    doubt = 1 + FEW_LABELS * len(counts) / counts.sum()
    return float(variance / distance + HEAVY_TAILS * doubt * distance)


def _between(products: Floats) -> Floats:
    """Turn inner products of vectors to the squared lengths of their differences."""
    own = np.diagonal(products)
    return np.add.outer(own, own) - 2 * products


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
