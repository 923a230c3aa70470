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
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from model.head import StreamingLDA
from model.left_out import LeftOut
from model.uncertainty import margin
from model.weights import Floats

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
        As in `model.left_out.leave_one_out`.
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
    left_out = LeftOut(head, X, y, sample_weight, groups, SAMPLES, standing)
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
