"""Several labels for one image: a discriminant per class, there or not, from the same running sums as `model.head`.

It holds four sums over the labelled samples: how many there are, how many of each class, the sum of the features of all
and of each class, and the second moment of all. So it too learns a sample in a millisecond and takes it back exactly,
in any order, and two can be merged. All classes share one covariance and one factorization of it: what sets the
classes apart is a change of rank one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg.blas import dsyr
from scipy.linalg.lapack import dpotrf, dpotrs, dtrtrs
from sklearn.exceptions import NotFittedError

from model.head import (
    FEW_LABELS,
    HEAVY_TAILS,
    PROBES,
    TOLERANCE,
    UNSEEN,
    ClassSums,
    Labels,
    _add_products,
    _as_labels,
    _union,
    noise_of,
    prior_of,
    probes,
)
from model.weights import Floats, LinearWeights, as_features, signed_root

BORROWED = 5.0
"""Labels of a class at which half of what is believed of its distance is its own, and half that of all classes."""

LEAST_SIGNAL = 0.1
"""Part of the measured distances that is believed even where noise explains it all."""

LEAST_PROBABILITY = 1e-6
"""No class counts as less probable in `agreement`, or one surprise would drown all other classes."""


@dataclass(frozen=True)
class Sums:
    """What a change adds to or takes from the head.

    Attributes
    ----------
    count : float
    total : numpy.ndarray of float64, shape (d,)
    classes : numpy.ndarray, shape (c,)
        Those that are there in any of the samples, sorted.
    counts : numpy.ndarray of float64, shape (c,)
    sums : numpy.ndarray of float64, shape (c, d)
    rows : numpy.ndarray of float64, shape (n, d)
        The samples, each times the root of its weight: their products are the second moment.
    """

    count: float
    total: Floats
    classes: Labels
    counts: Floats
    sums: Floats
    rows: Floats


class MultilabelLDA(ClassSums):
    """Linear discriminants with a shared covariance, one for each class: is it there or not?

    For one class, the samples with it and those without are two classes of a linear discriminant analysis (Hastie,
    Tibshirani and Friedman, The Elements of Statistical Learning, section 4.3). Their scatter within is the scatter of
    all samples less a product of the two means' difference with itself, so that one Cholesky factor serves all classes
    (Sherman-Morrison). Shrinkage, means and temperature are as in `model.head`; how far a class with few labels lies
    from the others is partly believed from all classes.

    A class that was never there, or always, can't be told from features: its probability is (count + 1) / (n + 2), by
    Laplace's rule of succession. So a class without a label gets 1 / (n + 2).

    A class that is not named with a sample is learned as not there: also one that was added to the project later.

    Parameters
    ----------
    shrinkage : float
        Pseudo-samples per feature that pull the covariance towards a sphere.
    heat : float
        Factor on the temperatures that the sums give.

    Attributes
    ----------
    classes_ : numpy.ndarray of str, shape (k,)
        Learned and declared classes, sorted.
    counts_ : numpy.ndarray of float64, shape (k,)
        Sum of the sample weights with each class.
    count_ : float
        Sum of all sample weights.
    n_features_in_ : int
        Only there once something was learned.

    Examples
    --------
    >>> head = MultilabelLDA().partial_fit([[0.0, 4.0], [4.0, 4.0], [4.0, 0.0]], [["sun"], ["sea", "sun"], ["sea"]])
    >>> head.classes_, head.counts_
    (array(['sea', 'sun'], dtype='<U3'), array([2., 2.]))
    >>> head.predict([[0.1, 3.9], [4.0, 4.1]])
    array([[False,  True],
           [ True,  True]])
    >>> head.forget([[4.0, 0.0]], [["sea"]]).partial_fit([[0.0, 0.0]], [[]]).count_
    3.0
    """

    can_forget = True

    count_: float
    _total: Floats

    def __init__(self, shrinkage: float = 1.0, heat: float = 1.0) -> None:
        self.shrinkage = shrinkage
        self.heat = heat

    def fit(
        self,
        X: ArrayLike,  # noqa: N803
        y: Sequence[Collection[str]],
        sample_weight: ArrayLike | None = None,
    ) -> MultilabelLDA:
        """Learn these samples and nothing else; see `partial_fit`."""
        self._reset()
        return self.partial_fit(X, y, sample_weight=sample_weight)

    def partial_fit(
        self,
        X: ArrayLike,  # noqa: N803
        y: Sequence[Collection[str]],
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> MultilabelLDA:
        """Learn more samples.

        Parameters
        ----------
        X : array-like of float, shape (n, d)
            Features.
        y : sequence of collections of str, length n
            The names of the classes that are there in each sample, none for none of them; new ones may appear at any
            time. Of people who disagree, each answer is a sample with the weight that it has among them.
        classes : array-like of str, optional
            Classes that exist although they may have no label yet. They are added to those declared before.
        sample_weight : array-like of float, shape (n,), optional
            How much each sample counts; 1 by default.

        Raises
        ------
        ValueError
            When an argument is of another shape, or holds values that are not finite. Nothing is learned then.
        """
        self._start()
        declared = self._declared if classes is None else _union(self._declared, _as_names(classes))
        change = self._sums_of(X, y, sample_weight)
        self._declared = declared
        self._reclass(_union(_union(self.classes_, declared), change.classes))
        if len(change.rows):
            self._open(change.rows.shape[1])
            places = np.searchsorted(self.classes_, change.classes)
            self.count_ += change.count
            self._total += change.total
            self.counts_[places] += change.counts
            self._sums[places] += change.sums
            self._moment = _add_products(self._moment, change.rows, 1.0)
        return self

    def forget(
        self,
        X: ArrayLike,  # noqa: N803
        y: Sequence[Collection[str]],
        sample_weight: ArrayLike | None = None,
    ) -> MultilabelLDA:
        """Unlearn samples that were learned, with the features, classes and weight they were learned with.

        A class that is left in no sample vanishes, unless it was declared. When no sample is left, the head is as new.

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
        unknown = sorted(set(change.classes.tolist()) - set(self.classes_.tolist()))
        if unknown:
            raise ValueError(f"The class {unknown[0]!r} was never learned, so it can't be forgotten.")
        places = np.searchsorted(self.classes_, change.classes)
        count, total = self.count_ - change.count, np.zeros(change.rows.shape[1])
        counts, sums = self.counts_.copy(), self._sums.copy()
        counts[places] -= change.counts
        sums[places] -= change.sums
        gone = counts <= TOLERANCE
        possible = count >= -TOLERANCE and bool(((counts >= -TOLERANCE) & (counts <= count + TOLERANCE)).all())
        if possible:
            diagonal = np.diagonal(self._moment)
            slack = 1e-7 * (1 + diagonal)
            squares = diagonal - np.einsum("ij,ij->j", change.rows, change.rows)
            if count > TOLERANCE:
                total = self._total - change.total
                squares = squares - total**2 / count
            possible = not bool((squares < -slack).any() or (sums[gone] ** 2 > slack).any())
        if not possible:
            raise ValueError("These samples were not learned as they are given, so they can't be forgotten.")
        if count <= TOLERANCE:
            self._reset_learned()
            return self
        counts[gone], sums[gone] = 0.0, 0.0
        self._moment = _add_products(self._moment, change.rows, -1.0)
        self.count_, self._total, self.counts_, self._sums = count, total, counts, sums
        self._reclass(_union(self.classes_[~gone], self._declared))
        return self

    def merge(self, other: MultilabelLDA) -> MultilabelLDA:
        """Learn all that another head has learned and declared; the other stays as it is.

        Raises
        ------
        ValueError
            When the other learned features of another length.
        """
        self._start()
        other._start()
        declared = _union(self._declared, other._declared)
        if hasattr(other, "n_features_in_"):
            self._open(other.n_features_in_)
        self._declared = declared
        self._reclass(_union(_union(self.classes_, other.classes_), declared))
        if hasattr(other, "n_features_in_"):
            places = np.searchsorted(self.classes_, other.classes_)
            self.count_ += other.count_
            self._total += other._total
            self.counts_[places] += other.counts_
            self._sums[places] += other._sums
            self._moment += other._moment
        return self

    def declare(self, classes: ArrayLike) -> MultilabelLDA:
        """Say which classes exist, instead of what was declared before; those without samples then vanish.

        Learned classes stay, also those that are not declared: `weights` can leave them out.
        """
        self._start()
        self._declared = np.unique(_as_names(classes))
        self._reclass(_union(self.classes_[self.counts_ > 0], self._declared))
        return self

    def predict_proba(self, X: ArrayLike) -> Floats:  # noqa: N803
        """Return the probability that each class is there, shape (n, k), columns as in `classes_`.

        Raises
        ------
        ValueError
            When `X` is of another shape or not finite.
        sklearn.exceptions.NotFittedError
            When nothing was learned yet.
        """
        return self.weights().predict_proba(X)

    def predict(self, X: ArrayLike) -> NDArray[np.bool_]:  # noqa: N803
        """Return which classes are there rather than not, shape (n, k)."""
        return self.predict_proba(X) > 0.5

    def weights(self, classes: ArrayLike | None = None) -> LinearWeights:
        """Return what serves: all that `predict_proba` needs, and no more.

        Solving takes as long as that of `StreamingLDA`, whatever the number of classes.

        Parameters
        ----------
        classes : array-like of str, optional
            The classes to tell of, in the order of the columns; `classes_` by default.

        Raises
        ------
        ValueError
            When a class is named twice, or none is given.
        sklearn.exceptions.NotFittedError
            When nothing was learned yet.
        """
        if not hasattr(self, "n_features_in_"):
            raise NotFittedError("This head has learned nothing yet; call partial_fit first.")
        wanted = self.classes_ if classes is None else _as_names(classes)
        place_of = {name: place for place, name in enumerate(self.classes_.tolist())}
        known = np.array([name in place_of for name in wanted.tolist()], dtype=bool)
        places = [place_of[name] for name in wanted[known].tolist()]
        counts = np.zeros(len(wanted))
        counts[known] = self.counts_[places]
        # Of what is always or never there, only how often is known.
        told_apart = np.minimum(counts, self.count_ - counts) > TOLERANCE
        coef = np.zeros((len(wanted), self.n_features_in_))
        intercept = np.log((counts + UNSEEN) / (self.count_ - counts + UNSEEN))
        if told_apart.any():
            sums = self._sums[[place_of[name] for name in wanted[told_apart].tolist()]]
            coef[told_apart], offsets = self._solve(counts[told_apart], sums)
            intercept[told_apart] += offsets
        return LinearWeights(wanted, coef, intercept, 1.0, np.zeros(len(wanted)), link="sigmoid", scale="root")

    def _solve(self, counts: Floats, sums: Floats) -> tuple[Floats, Floats]:
        """Return coefficients and offsets, before the prior log-odds, of classes that are there in some samples."""
        count, dim, centre = self.count_, self.n_features_in_, self._total / self.count_
        squares = float(np.trace(self._moment))
        around = squares - count * float(centre @ centre)
        prior = prior_of(self.shrinkage, dim, around, around, squares, count, 1)
        covariance = dsyr(-count, centre, a=self._moment, lower=1)
        covariance /= prior.spread
        covariance.flat[:: dim + 1] += prior.ridge / prior.spread
        factor, failed = dpotrf(covariance, lower=1, overwrite_a=1, clean=0)
        if failed:
            raise ValueError("The features are too large or too uneven for a covariance in float64; scale them.")
        halves = dtrtrs(factor, np.asfortranarray(probes(dim)), lower=1)[0]
        noise, leverage = noise_of(prior, dim, (halves**2).sum() / PROBES)

        there = sums / counts[:, np.newaxis]
        absent = (self._total - sums) / (count - counts)[:, np.newaxis]
        apart = there - absent
        directions = dpotrs(factor, np.asfortranarray(apart.T), lower=1)[0].T
        flat = np.einsum("ij,ij->i", directions, apart)
        # The covariance above has the scatter between the two means in it: taken out, directions only get longer.
        size = counts * (count - counts) / count
        longer = 1 / (1 - np.minimum(size * flat / prior.spread, 1 - TOLERANCE))
        share = _signal_share(size, longer * flat, noise, np.minimum(counts, count - counts))
        stretch = longer * share
        directions = directions * stretch[:, np.newaxis]
        along = stretch * flat  # the distance of the two means along the direction
        pulled = prior.pull * np.einsum("ij,ij->i", directions, directions)
        scatter = np.maximum(prior.spread * stretch * along - pulled - size * along**2, 0.0)
        variance = scatter / prior.freedom / (1 - leverage) ** 2
        temperature = self.heat * _temperature(variance, share * along, count)
        middle = centre + share[:, np.newaxis] * ((there + absent) / 2 - centre)
        coef = directions / temperature[:, np.newaxis]
        return coef, -np.einsum("ij,ij->i", coef, middle)

    def _sums_of(self, X: ArrayLike, y: Sequence[Collection[str]], sample_weight: ArrayLike | None) -> Sums:  # noqa: N803
        features = signed_root(as_features(X, getattr(self, "n_features_in_", None)))
        classes, there = _as_indicators(y)
        if len(there) != len(features):
            raise ValueError(f"X has {len(features)} samples, but y tells of {len(there)}.")
        weight = np.ones(len(features)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        if weight.shape != (len(features),) or not np.isfinite(weight).all() or (weight < 0).any():
            raise ValueError(f"sample_weight must be {len(features)} finite numbers, none of them negative.")
        counted = weight > 0
        features, there, weight = features[counted], there[counted], weight[counted]
        classes, there = classes[there.any(axis=0)], there[:, there.any(axis=0)]
        weighted = there * weight[:, np.newaxis]
        rows = features if (weight == 1).all() else features * np.sqrt(weight)[:, np.newaxis]
        return Sums(float(weight.sum()), weight @ features, classes, weighted.sum(axis=0), weighted.T @ features, rows)

    def _reset(self) -> None:
        super()._reset()
        self.count_ = 0.0
        self._total = np.zeros(0)

    def _open(self, dim: int) -> None:
        if not hasattr(self, "n_features_in_"):
            self._total = np.zeros(dim)
        super()._open(dim)


def least_clear(proba: ArrayLike) -> Floats:
    """Return the probabilities, there and not there, of the class that is least clear in each sample.

    `selection.margin` and `selection.order` take them as those of two classes, and so ask first for the sample in which
    some class is nearest to one half (binary minimum: Brinker, On active learning in multi-label classification, 2006).

    Parameters
    ----------
    proba : array-like of float, shape (n, k)
        The probability that each class is there.

    Returns
    -------
    numpy.ndarray of float64, shape (n, 2)

    Examples
    --------
    >>> least_clear([[0.75, 0.99], [0.0, 0.5]])
    array([[0.75, 0.25],
           [0.5 , 0.5 ]])
    """
    probabilities = np.asarray(proba, dtype=np.float64)
    if probabilities.ndim != 2 or probabilities.shape[1] == 0:
        raise ValueError("Probabilities must be a table of a row per sample and a column per class.")
    places = np.abs(probabilities - 0.5).argmin(axis=1)
    there = probabilities[np.arange(len(probabilities)), places]
    return np.stack([there, 1 - there], axis=1)


def agreement(proba: ArrayLike, present: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    """Return how probable each sample's classes were, and whether exactly they were the likelier ones.

    Parameters
    ----------
    proba : array-like of float, shape (n, k)
        The probability that each class is there.
    present : array-like of bool, shape (n, k)
        Whether it was.

    Returns
    -------
    numpy.ndarray of float64, shape (n,)
        Geometric mean over the classes of the probability given to what was the case, so that its -log is the log-loss
        of one class.
    numpy.ndarray of bool, shape (n,)

    Examples
    --------
    >>> agreement([[0.9, 0.4], [0.4, 0.4]], [[True, False], [True, False]])
    (array([0.73484692, 0.48989795]), array([ True, False]))
    """
    probabilities, there = np.asarray(proba, dtype=np.float64), np.asarray(present, dtype=bool)
    if probabilities.ndim != 2 or probabilities.shape != there.shape or there.shape[1] == 0:
        raise ValueError("There must be a probability, and whether it is there, for each class of each sample.")
    given = np.maximum(np.where(there, probabilities, 1 - probabilities), LEAST_PROBABILITY)
    right = cast("NDArray[np.bool_]", ((probabilities > 0.5) == there).all(axis=1))
    return cast(Floats, np.exp(np.log(given).mean(axis=1))), right


def _signal_share(size: Floats, squares: Floats, noise: float | Floats, fewer: Floats) -> Floats:
    """Return what part of each squared distance, between samples with a class and without, is no noise.

    As in `head.signal_share`, but what is believed of a class's distance is its own and that of all classes, the more
    its own the more samples it has (`BORROWED`).

    Parameters
    ----------
    size : numpy.ndarray of float64, shape (c,)
        Harmonic size of the two groups: the mean of the two is off by noise / size in squared distance.
    squares : numpy.ndarray of float64, shape (c,)
        Squared distances.
    noise : float
        Expected squared distance of one sample from the mean of its group.
    fewer : numpy.ndarray of float64, shape (c,)
        Samples in the smaller group.
    """
    weighted = size * squares
    own = np.maximum(weighted - noise, LEAST_SIGNAL * weighted) / size
    shared = max(weighted.sum() - len(size) * float(noise), LEAST_SIGNAL * weighted.sum()) / size.sum()
    trust = fewer / (fewer + BORROWED)
    signal = size * (trust * own + (1 - trust) * shared)
    return cast(Floats, signal / np.maximum(signal + noise, np.finfo(float).tiny))


def _temperature(variance: Floats, distance: Floats, count: float) -> Floats:
    """Return the temperature of each class; the formula and its reasons are those of `head._temperature`."""
    distance = np.maximum(distance, TOLERANCE)
    doubt = 1 + FEW_LABELS * 2 / count
    return cast(Floats, np.maximum(variance / distance + HEAVY_TAILS * doubt * distance, TOLERANCE))


def _as_indicators(y: Sequence[Collection[str]]) -> tuple[Labels, NDArray[np.bool_]]:
    """Return the classes named, sorted, and whether each is there in each sample, shape (n, c)."""
    for present in y:
        if isinstance(present, str) or not isinstance(present, Collection):
            raise ValueError(f"y must tell the classes of each sample as a list of names, not as {present!r}.")
    names = {name for present in y for name in present}
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError("y must name every class by a text that is not empty.")
    place_of = {name: place for place, name in enumerate(sorted(names))}
    there = np.zeros((len(y), len(names)), dtype=bool)
    for row, present in zip(there, y, strict=True):
        row[[place_of[name] for name in present]] = True
    return np.array(sorted(names), dtype=np.str_), there


def _as_names(classes: ArrayLike) -> Labels:
    names = _as_labels(classes, "classes")
    if names.dtype.kind != "U":
        raise ValueError("Classes must be named by texts.")
    return names
