"""Probabilities that mean what they say: what the labels in force tell about the head that learned them.

Each labelled sample is predicted by the head as it would be without that sample, in closed form from the same sums.
From these predictions come how strongly the head shrinks, how sure it is, and how many classes it has to name to be
right as often as is asked for. It takes seconds at most, and is done apart from learning.

Labels that were asked for being unclear tell how to classify, but not how sure the head may be of all other images: see
`calibrate`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg.blas import dsymm
from scipy.optimize import minimize_scalar

from model.evaluation import LEAST_PROBABILITY
from model.head import (
    PROBES,
    TOLERANCE,
    UNSEEN,
    StreamingLDA,
    log_prior,
    noise_of,
    prior_of,
    probes,
    signal_share,
)
from model.uncertainty import margin
from model.weights import Floats, as_features, signed_root, softmax

SHRINKAGES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Among these the shrinkage is chosen; neighbours differ by little."""

SHRINKAGE_DEVIATION = math.log(2)
"""Standard deviation of the logarithm of the best shrinkage around the head's own default, before any label."""

HEAT_DEVIATION = 0.35
"""Standard deviation of the logarithm of the best temperature around what the sums give, before any label. Measured
were 0.25, on scenes, clothes, digits and faces, labelled at random and in Tandem's own order; being less sure of it
made calibration errors in that order smaller by up to .009, those on faces larger by .002 at most."""

UNCLEAR = 0.55, 0.65
"""Probability that an image of the pool is clearer than a label: up to the first, labels may well have been drawn at
random (20 to 1,000 that were: .46 to .53); from the second on they were chosen for being unclear (Tandem's own order:
.59 to .71 on faces, .81 to .99 elsewhere)."""

AS_MANY = 10.0
"""Labels that those chosen for being unclear count as, of how sure the head may be, however many they are. With none,
the calibration error on scenes was .005 lower, elsewhere no different, and higher where the default is far off."""

SAMPLES = 2000
"""Labelled samples that are left out in turn; of more, as many are drawn. 2,000 tell a coverage to within 0.7 %."""

_QUANTILES = 200
_CHUNK = 2_000_000


@dataclass(frozen=True)
class Calibration:
    """What was found by leaving samples out: parameters of the head, and how far its predictions miss.

    A head with the same labels and the same calibration serves the same weights.

    Attributes
    ----------
    shrinkage, heat : float
        Parameters of `StreamingLDA`.
    count : int
        Samples that were left out; 0 before there is anything to go by.
    scores : tuple of float
        Quantiles of one minus the probability that was given to the true class, at equal steps up to the greatest.

    Examples
    --------
    >>> Calibration(count=4, scores=(0.1, 0.2, 0.4, 0.8)).threshold(0.6)
    0.4
    >>> Calibration.from_dict(Calibration().to_dict()) == Calibration()
    True
    """

    shrinkage: float = StreamingLDA().shrinkage
    heat: float = StreamingLDA().heat
    count: int = 0
    scores: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        numbers = (self.shrinkage, self.heat, *self.scores)
        if not all(isinstance(number, float) and math.isfinite(number) for number in numbers):
            raise ValueError("A calibration holds finite numbers only.")
        if self.shrinkage < 0 or self.heat <= 0:
            raise ValueError("A calibration's shrinkage can't be negative, and its heat must be positive.")
        if isinstance(self.count, bool) or not isinstance(self.count, int) or not len(self.scores) <= self.count:
            raise ValueError("A calibration can't hold more scores than samples.")
        if bool(self.count) != bool(self.scores) or list(self.scores) != sorted(self.scores):
            raise ValueError(
                "A calibration's scores must be in ascending order, and there must be some if samples are."
            )
        if self.scores and not 0 <= self.scores[0] <= self.scores[-1] <= 1:
            raise ValueError("A calibration's scores must lie between 0 and 1.")

    def apply_to(self, head: StreamingLDA) -> StreamingLDA:
        """Give the head the parameters found, and return it; what it learned stays as it is."""
        return cast(StreamingLDA, head.set_params(shrinkage=self.shrinkage, heat=self.heat))

    def threshold(self, coverage: float) -> float:
        """Return what `prediction_sets` needs so that new samples' true classes are in their sets this often.

        Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005. As long as there are too few samples
        to say it of, it is 1: any class may be the true one.

        Parameters
        ----------
        coverage : float
            From 0, the likeliest class alone, to 1, all classes.
        """
        level = (self.count + 1) / self.count * coverage if self.count else math.inf
        if level > 1:
            return 1.0
        levels = np.arange(1, len(self.scores) + 1) / len(self.scores)
        return float(np.interp(level, levels, self.scores)) if level > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it."""
        return {**asdict(self), "scores": list(self.scores)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Read what `to_dict` gave.

        Raises
        ------
        ValueError
            When it is something else.
        """
        try:
            scores = tuple(float(score) for score in values["scores"])
            return cls(float(values["shrinkage"]), float(values["heat"]), values["count"], scores)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"This is no calibration: {error}.") from error


@dataclass(frozen=True)
class AdaptiveCoverage:
    """Ask for more coverage after misses and for less after hits, so that it holds in the long run under any shift.

    Gibbs and Candes, Adaptive Conformal Inference Under Distribution Shift, NeurIPS 2021, equation 2.

    Attributes
    ----------
    target : float
        Share of samples whose true class shall be in their sets.
    level : float, optional
        The coverage to ask of `Calibration.threshold` now, from 0 to 1; the target, to begin with. Beyond them nothing
        would change but the time to come back: sets can't be smaller than the likeliest class, nor larger than all.
    step : float
        How far one sample moves it.

    Examples
    --------
    >>> AdaptiveCoverage(target=0.9).update(covered=False)
    AdaptiveCoverage(target=0.9, level=0.918, step=0.02)
    """

    target: float = 0.9
    level: float | None = None
    step: float = 0.02

    def __post_init__(self) -> None:
        if self.level is None:
            object.__setattr__(self, "level", self.target)
        if not all(isinstance(number, float) for number in (self.target, self.level, self.step)):
            raise ValueError("The target, level and step of an adaptive coverage must be numbers.")
        if not 0 < self.target < 1 or not 0 < self.step < 1 or not 0 <= cast(float, self.level) <= 1:
            raise ValueError("The target, level and step of an adaptive coverage lie between 0 and 1.")

    def update(self, covered: bool) -> AdaptiveCoverage:
        """Return what follows a new label.

        Parameters
        ----------
        covered : bool
            Whether the label's class was in the set that was predicted before it was known.
        """
        level = cast(float, self.level) + self.step * (self.target - bool(covered))
        return AdaptiveCoverage(self.target, min(max(level, 0.0), 1.0), self.step)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AdaptiveCoverage:
        """Go on from what `to_dict` gave.

        Raises
        ------
        ValueError
            When it is something else.
        """
        try:
            return cls(float(values["target"]), float(values["level"]), float(values["step"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"This is no adaptive coverage: {error}.") from error


def prediction_sets(proba: ArrayLike, threshold: float) -> NDArray[np.bool_]:
    """Name all classes that may be the true one, the likeliest always among them.

    Sets of classes above a fixed probability are the smallest on average that cover as much (Sadinle, Lei and
    Wasserman, Least Ambiguous Set-Valued Classifiers with Bounded Error Levels, Journal of the American Statistical
    Association, 2019).

    Parameters
    ----------
    proba : array-like of float, shape (n, k)
        Probabilities.
    threshold : float
        From `Calibration.threshold`: the classes whose probability is at least one minus it are named.

    Returns
    -------
    numpy.ndarray of bool, shape (n, k)
        No row is empty, so a head that is right more often than was asked covers more than was asked.

    Examples
    --------
    >>> prediction_sets([[0.6, 0.3, 0.1], [0.4, 0.35, 0.25]], threshold=0.7)
    array([[ True,  True, False],
           [ True,  True, False]])
    """
    probabilities = np.asarray(proba, dtype=np.float64)
    if probabilities.ndim != 2 or probabilities.shape[1] == 0:
        raise ValueError("Probabilities must be a table of a row per sample and a column per class.")
    sets = probabilities >= 1 - threshold - 1e-12
    sets[np.arange(len(sets)), probabilities.argmax(axis=1)] = True
    return sets


def leave_one_out(
    head: StreamingLDA,
    X: ArrayLike,  # noqa: N803
    y: ArrayLike,
    sample_weight: ArrayLike | None = None,
    groups: ArrayLike | None = None,
) -> Floats:
    """Return the probabilities that the head would give to learned samples had it not learned them.

    The same as learning all others anew, at the head's own temperature: the covariance, its shrinkage, the class means
    and the class counts are those without the sample. A class with no other sample counts as never labelled.

    Parameters
    ----------
    head : StreamingLDA
        It must have learned these samples, and may have learned more.
    X : array-like of float, shape (n, d)
        Features.
    y : array-like of str or int, shape (n,)
        The classes they were learned with.
    sample_weight : array-like of float, shape (n,), optional
        The weights they were learned with; 1 by default.
    groups : array-like of str or int, shape (n,), optional
        Samples of one group are left out together; by default those of equal features, as copies of a picture are.

    Returns
    -------
    numpy.ndarray of float64, shape (n, k)
        Columns as in ``head.classes_``.

    Raises
    ------
    ValueError
        When an argument is of another shape, or these samples can't have been learned.
    sklearn.exceptions.NotFittedError
        When nothing was learned yet.

    Notes
    -----
    Leaving a sample out takes a matrix of rank one from the scatter, so in the basis of the scatter's eigenvectors it
    costs the sample's products with the class means (Sherman and Morrison; Woodbury for several samples). At d = 1280
    on one core, the basis takes up to 0.5 s and 1,000 samples 0.2 s.

    Examples
    --------
    >>> X, y = [[0.0, 1.0], [0.1, 1.0], [0.2, 0.9], [1.0, 0.0]], ["cat", "cat", "cat", "dog"]
    >>> head = StreamingLDA().partial_fit(X, y)
    >>> leave_one_out(head, X, y)[3].round(2)
    array([0.8, 0.2])
    """
    left_out = _LeftOut(head, X, y, sample_weight, groups)
    scores, counts = left_out.scores((head.shrinkage,))
    return left_out.probabilities(scores[0], counts, head.weights().temperature)


def calibrate(
    head: StreamingLDA,
    X: ArrayLike,  # noqa: N803
    y: ArrayLike,
    sample_weight: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    representative: ArrayLike | None = None,
    pool: ArrayLike | None = None,
) -> Calibration:
    """Choose the shrinkage and the temperature by leaving samples out, and see how far the predictions miss then.

    Both are the most probable ones given the log-loss of the samples left out and a prior: with few labels they stay
    near what the head has by default, with many they follow the labels. The head stays as it is.

    How sure the head may be is told by samples that stand for all images. Those asked for being unclear don't.
    Of 200 Intel scenes labelled in Tandem's own order, the head, without them, is sure of some by 90 % or more, and of
    these 79 % are what it says; of other images that it is as sure of, 98 %. Weighting them by how clear they are now
    does not mend that: what counts is how unclear they were when they were asked. So such labels count as ten, or in
    full as far as they are no less clear than the pool, as labels that came in any other order are.

    How far the predictions miss is told by all samples: sets of classes are for people, who read them on the images
    that are asked. By representative ones alone, sets held the class of .69 to .87 of the next Intel scenes and pieces
    of Fashion-MNIST asked instead of .9; so they are wider than other images would need.

    Parameters
    ----------
    head : StreamingLDA
        It must have learned exactly these samples. It may have learned nothing.
    X, y, sample_weight, groups
        As in `leave_one_out`.
    representative : array-like of bool, shape (n,), optional
        Which samples were asked whatever the head thought of them: `model.selection.asked_regardless`. By default all.
    pool : array-like of float, shape (m, d), optional
        Features of images without a label, or of any of them that were drawn at random; without any, all samples count.

    Raises
    ------
    ValueError
        When an argument is of another shape, or these samples can't have been learned.

    Notes
    -----
    Labels may come in any order: no sample is newer than another here. 10,000 labels of 1280 features take some 2 s on
    one core.
    """
    if not hasattr(head, "n_features_in_"):
        return Calibration()
    everything = np.asarray(y).shape
    standing = np.ones(everything, dtype=bool) if representative is None else np.asarray(representative)
    if standing.shape != everything or standing.dtype != bool:
        raise ValueError(f"There are {len(np.asarray(y))} samples; say of each whether it is representative.")
    left_out = _LeftOut(head, X, y, sample_weight, groups, SAMPLES, standing)
    scores, counts = left_out.scores(SHRINKAGES)
    plain = [copy.copy(head).set_params(shrinkage=shrinkage, heat=1.0).weights() for shrinkage in SHRINKAGES]

    def proba(place: int, heat: float) -> Floats:
        return left_out.probabilities(scores[place], counts, plain[place].temperature * heat)

    def fit(place: int, shares: Floats) -> tuple[float, float]:
        """Return how improbable a shrinkage is at its best heat, and that heat, if samples count by `shares`."""

        def surprise(log_heat: float) -> float:
            prior = 0.5 * (log_heat / HEAT_DEVIATION) ** 2
            return left_out.surprise(proba(place, math.exp(log_heat)), shares) + prior

        best = minimize_scalar(surprise, bounds=(-3, 3), method="bounded", options={"xatol": 0.01})
        prior = 0.5 * (math.log(SHRINKAGES[place] / Calibration.shrinkage) / SHRINKAGE_DEVIATION) ** 2
        return best.fun + prior, math.exp(best.x)

    # Which shrinkage classifies best is best told by all samples, the unclear ones foremost.
    evenly, others = np.ones(len(left_out.standing)), ~left_out.standing
    _, heat, place = min((*fit(place, evenly), place) for place in range(len(SHRINKAGES)))
    if others.any() and pool is not None and len(np.asarray(pool)):
        default = SHRINKAGES.index(Calibration.shrinkage)
        margins = margin(proba(default, 1.0))[others]
        countable = _countable(margins, margin(plain[default].predict_proba(pool)))
        _, heat = fit(place, np.where(others, max(countable, min(AS_MANY / others.sum(), 1.0)), 1.0))
    return Calibration(SHRINKAGES[place], heat, left_out.count, left_out.quantiles(proba(place, heat)))


def _countable(margins: Floats, pool: Floats) -> float:
    """Return how far labels of these margins count beside a pool of those: from 0, chosen for being unclear, to 1.

    It is told by the least that may be true, two standard errors lower than it looks: few labels are often unclear by
    chance. Under the pool's own distribution the share of it that is clearer is uniform, of variance 1 / 12.
    """
    ranks = np.searchsorted(rising := np.sort(pool), margins, "left") + np.searchsorted(rising, margins, "right")
    clearer = 1 - float(ranks.mean()) / (2 * len(pool)) - 2 / math.sqrt(12 * len(margins))
    random, chosen = UNCLEAR
    return min(max((chosen - clearer) / (chosen - random), 0.0), 1.0)


class _LeftOut:
    """Learned samples, and the head's sums in the basis in which leaving one out is cheap.

    Equal samples of one class are one *atom*; the atoms of one group are left out together.
    """

    def __init__(
        self,
        head: StreamingLDA,
        X: ArrayLike,  # noqa: N803
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        groups: ArrayLike | None,
        limit: int | None = None,
        standing: NDArray[np.bool_] | None = None,
    ) -> None:
        known = head.moments()
        features, labels = as_features(X, head.n_features_in_), np.asarray(y)
        weight = np.ones(len(features)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        if labels.shape != (len(features),) or weight.shape != labels.shape:
            raise ValueError(f"There must be a class and a weight for each of the {len(features)} samples.")
        if not np.isfinite(weight).all() or (weight < 0).any():
            raise ValueError("The weights of samples must be finite, and none of them negative.")
        if not np.isin(labels, known.classes).all():
            raise ValueError("Some of these samples have a class that was never learned.")
        columns = np.searchsorted(known.classes, labels)
        if (np.bincount(columns, weight, len(known.counts)) > known.counts + TOLERANCE * (1 + known.counts)).any():
            raise ValueError("There are more of these samples than were learned.")

        content = _numbered([row.tobytes() for row in features])
        group = content if groups is None else _numbered(np.asarray(groups).tolist())
        if len(group) != len(features):
            raise ValueError(f"There must be a group for each of the {len(features)} samples.")
        self.standing = np.ones(len(features), dtype=bool) if standing is None else standing
        if limit is not None:
            kept = _drawn(group, limit)
            features, weight, self.standing = features[kept], weight[kept], self.standing[kept]
            columns, content, group = columns[kept], content[kept], group[kept]
        atoms, first, self._atom_of = np.unique(
            np.stack([group, content, columns], axis=1), axis=0, return_index=True, return_inverse=True
        )
        self._atom_of = self._atom_of.reshape(-1)
        self._group, self._columns = atoms[:, 0], atoms[:, 2]
        self._weight = np.bincount(self._atom_of, weight, len(atoms))

        self.count = len(np.unique(self._group[self._weight > 0]))

        self._known, self._shape = known, (head.n_features_in_, len(head.classes_))
        self._places = np.searchsorted(head.classes_, known.classes)
        self._within_trace = float(np.trace(known.within))
        rows = signed_root(features[first])
        self._lengths = np.einsum("ij,ij->i", rows, rows)
        rows -= known.centre
        self._spectrum, basis = _eigenbasis(known.within, rows)
        self._rows, self._means = rows @ basis, (known.means - known.centre) @ basis
        signs = probes(head.n_features_in_)
        self._probes = signs.T @ basis
        if len(self._spectrum) < head.n_features_in_:
            # All that lies outside of the basis has no scatter, and of it only lengths matter: it is one more axis.
            beyond = np.sqrt(np.maximum((signs**2).sum(axis=0) - (self._probes**2).sum(axis=1), 0.0))
            self._probes = np.column_stack([self._probes, beyond])
            self._spectrum = np.append(self._spectrum, 0.0)
            self._rows, self._means = (np.pad(array, ((0, 0), (0, 1))) for array in (self._rows, self._means))

    def scores(self, shrinkages: Sequence[float]) -> tuple[Floats, Floats]:
        """Return the logits before temperature and prior, shape (s, a, c), and the class counts left, shape (a, c)."""
        scores = np.empty((len(shrinkages), len(self._rows), len(self._known.counts)))
        counts = np.empty(scores.shape[1:])
        for members in self._folds():
            fold = _Fold(self, members)
            counts[members] = fold.counts[:, np.newaxis]
            for place, shrinkage in enumerate(shrinkages):
                scores[place, members] = fold.scores(shrinkage)
        return scores, counts

    def probabilities(self, scores: Floats, counts: Floats, temperature: float) -> Floats:
        """Turn scores, shape (a, c), to probabilities of all classes, one row for each sample given."""
        count, classes = counts.sum(axis=1), self._shape[1]
        something = count > 0
        probabilities = np.full((len(scores), classes), 1 / classes)
        share = UNSEEN / (count[something] + UNSEEN * classes)
        logits = np.where(counts > 0, scores / temperature, -np.inf)[something] + log_prior(counts[something])
        labelled = np.zeros((int(something.sum()), classes), dtype=bool)
        labelled[:, self._places] = counts[something] > 0
        given = np.zeros(labelled.shape)
        given[:, self._places] = softmax(logits)
        reserved = share * (~labelled).sum(axis=1)
        probabilities[something] = np.where(labelled, given * (1 - reserved)[:, np.newaxis], share[:, np.newaxis])
        return probabilities[self._atom_of]

    def surprise(self, probabilities: Floats, shares: Floats) -> float:
        """Return the log-loss, summed over samples by their weights and by how far they count, shape (n,)."""
        losses = -np.log(np.maximum(self._given(probabilities), LEAST_PROBABILITY))
        return float((self._weights() * shares * losses).sum())

    def quantiles(self, probabilities: Floats) -> tuple[float, ...]:
        """Return quantiles of one minus the probability of the true class, at equal steps."""
        scores, weight = np.clip(1 - self._given(probabilities), 0, 1), self._weights()
        order = np.argsort(scores)
        cumulated = np.cumsum(weight[order])
        steps = min(self.count, _QUANTILES)
        levels = np.arange(1, steps + 1) / steps * cumulated[-1]
        places = np.minimum(np.searchsorted(cumulated, levels * (1 - 1e-12)), len(order) - 1)
        return tuple(scores[order][places].tolist())

    def _given(self, probabilities: Floats) -> Floats:
        return probabilities[np.arange(len(probabilities)), self._places[self._columns[self._atom_of]]]

    def _weights(self) -> Floats:
        copies = np.bincount(self._atom_of)
        return (self._weight / copies)[self._atom_of]

    def _folds(self) -> Iterator[NDArray[np.intp]]:
        """Yield the atoms of groups of equal size, shape (g, m), as many at a time as are fit to be held."""
        order = np.argsort(self._group, kind="stable")
        starts = np.flatnonzero(np.diff(self._group[order], prepend=-1))
        sizes = np.diff(starts, append=len(order))
        for size in np.unique(sizes):
            places = order[starts[sizes == size][:, np.newaxis] + np.arange(size)]
            step = max(_CHUNK // (int(size) * self._shape[0]), 1)
            for start in range(0, len(places), step):
                yield places[start : start + step]


class _Fold:
    """Groups that are each left out: g of them, of m atoms each; arrays are of these shapes, (g, m, ...).

    All is in the eigenbasis of the scatter, with the grand mean of all samples as its origin. Without a group, the
    scatter is smaller by ``lost.T @ lost``.
    """

    def __init__(self, left_out: _LeftOut, members: NDArray[np.intp]) -> None:
        self._all, self._columns = left_out, left_out._columns[members]
        self._rows, weight = left_out._rows[members], left_out._weight[members]
        known, classes = left_out._known, len(left_out._known.counts)
        taken = (weight[..., np.newaxis] * (self._columns[..., np.newaxis] == np.arange(classes))).sum(axis=1)
        self.counts = known.counts - taken
        self.counts[self.counts <= TOLERANCE * (1 + known.counts)] = 0.0
        self._count = self.counts.sum(axis=1)
        weighted = weight[..., np.newaxis] * self._rows
        self._centre = -weighted.sum(axis=1) / np.maximum(self._count, TOLERANCE)[:, np.newaxis]

        self._means: dict[int, tuple[NDArray[np.intp], Floats]] = {}
        for column in np.unique(self._columns).tolist():
            inside = self._columns == column
            folds = np.flatnonzero(inside.any(axis=1) & (self.counts[:, column] > 0))
            gone = np.einsum("gm,gmd->gd", inside[folds], weighted[folds])
            sums = known.counts[column] * left_out._means[column] - gone
            self._means[column] = folds, sums / self.counts[folds, column][:, np.newaxis]

        roots = np.sqrt(weight)
        own = np.take_along_axis(self.counts, self._columns, axis=1)
        alike = (self._columns[:, :, np.newaxis] == self._columns[:, np.newaxis, :]) & (own > 0)[..., np.newaxis]
        products = roots[:, :, np.newaxis] * roots[:, np.newaxis, :]
        # What a class mean moves by when the group leaves is added to the distances from it.
        moved = np.where(alike, products / np.maximum(own, TOLERANCE)[..., np.newaxis], 0.0)
        factor = np.linalg.cholesky(np.eye(weight.shape[1]) + moved)
        distances = roots[..., np.newaxis] * (self._rows - left_out._means[self._columns])
        self._lost = factor.swapaxes(1, 2) @ distances

        self._trace = np.maximum(left_out._within_trace - (self._lost**2).sum(axis=(1, 2)), 0.0)
        self._around = known.around - np.einsum("gmd,gmd->g", weighted, self._rows)
        self._around -= self._count * (self._centre**2).sum(axis=1)
        self._squares = known.squares - (weight * left_out._lengths[members]).sum(axis=1)

    def scores(self, shrinkage: float) -> Floats:
        left_out, dim = self._all, self._all._shape[0]
        prior = prior_of(
            shrinkage,
            dim,
            self._trace,
            self._around,
            np.maximum(self._squares, 0.0),
            np.maximum(self._count, TOLERANCE),
            (self.counts > 0).sum(axis=1),
        )
        scale = 1 / (np.maximum(left_out._spectrum, 0.0) + prior.ridge[:, np.newaxis])
        lost = self._lost * scale[:, np.newaxis]
        size = lost.shape[1]
        inner = np.linalg.inv(np.eye(size) - lost @ self._lost.swapaxes(1, 2))

        def solved(vectors: Floats, folds: NDArray[np.intp] | slice = slice(None)) -> Floats:
            """Multiply vectors, shape (g, p, d), with the inverse of the scatter and ridge without the group."""
            back = vectors @ lost[folds].swapaxes(1, 2) @ inner[folds] @ lost[folds]
            return cast(Floats, vectors * scale[folds][:, np.newaxis] + back)

        def form(vectors: Floats) -> Floats:
            """Return the squared lengths of rows, shape (p, d), under the same inverse, shape (g, p)."""
            through = lost @ vectors.T
            return cast(Floats, scale @ (vectors**2).T + (through * (inner @ through)).sum(axis=1))

        rows = self._rows - self._centre[:, np.newaxis]
        solved_rows = solved(rows)
        centre = self._centre[:, np.newaxis]
        solved_centre = solved(centre)
        products = solved_rows @ left_out._means.T - (solved_rows * centre).sum(axis=2)[..., np.newaxis]
        squares = form(left_out._means) - 2 * (solved_centre @ left_out._means.T)[:, 0]
        squares += (solved_centre * centre).sum(axis=2)
        for column, (folds, means) in self._means.items():
            offsets = (means - self._centre[folds])[:, np.newaxis]
            solved_offsets = solved(offsets, folds)
            products[folds, :, column] = (rows[folds] * solved_offsets).sum(axis=2)
            squares[folds, column] = (offsets * solved_offsets).sum(axis=2)[:, 0]

        spread = prior.spread[:, np.newaxis]
        squares = np.maximum(squares, 0.0) * spread
        inverse_trace = prior.spread * form(left_out._probes).sum(axis=1) / PROBES
        noise, _ = noise_of(prior, dim, inverse_trace)
        share = signal_share(self.counts, squares, noise)
        offset = 0.5 * squares * share**2
        return cast(Floats, products * (spread * share)[:, np.newaxis] - offset[:, np.newaxis])


def _eigenbasis(within: Floats, rows: Floats) -> tuple[Floats, Floats]:
    """Return the eigenvalues and eigenvectors (columns) of the scatter, of its part that is not 0 where that is small.

    Parameters
    ----------
    within : numpy.ndarray of float64, shape (d, d)
        The scatter; only its lower triangle is read.
    rows : numpy.ndarray of float64, shape (a, d)
        Samples; if they are all that the scatter is made of, it is 0 across them.
    """
    if 2 * len(rows) <= len(within):
        across = np.linalg.qr(rows.T)[0]
        part = across.T @ dsymm(1.0, within, across, lower=1)
        if np.trace(part) >= (1 - 1e-12) * np.trace(within):
            spectrum, basis = np.linalg.eigh(part)
            return spectrum, across @ basis
    spectrum, basis = np.linalg.eigh(within, UPLO="L")
    return spectrum, basis


def _numbered(values: Sequence[Any]) -> NDArray[np.intp]:
    """Give equal values the same number, in order of appearance."""
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.intp)


def _drawn(group: NDArray[np.intp], limit: int) -> NDArray[np.bool_]:
    """Choose whole groups at random, always the same, until their samples reach the limit."""
    if len(group) <= limit:
        return np.ones(len(group), dtype=bool)
    sizes = np.bincount(group)
    order = np.random.default_rng(0).permutation(len(sizes))
    chosen = order[: int(np.searchsorted(np.cumsum(sizes[order]), limit)) + 1]
    return np.isin(group, chosen)
