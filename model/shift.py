"""Shift: images that are no longer like those labelled, and predictions that are wrong more often than they admit.

Both are watched in the same way. Each new image, and each new label, is a bet against "nothing has changed", which on
average gains nothing as long as that is true. The logarithms of the gains are added up, never below zero (the CUSUM of
Page, Continuous Inspection Schemes, Biometrika 1954), and the alarm is raised when the sum reaches `ALARM`. Nothing has
to be kept but the record itself: an alarm is found anew by going through it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Literal, cast

import numpy as np
from numpy.typing import ArrayLike

from model.weights import Floats, as_features

ALARM = log(1000)
"""Sum of log-gains at which the alarm is raised. Where the bets are fair, at least exp of it, a thousand labels or
images, pass on average before a false alarm (Lorden, Procedures for Reacting to a Change in Distribution, Annals of
Mathematical Statistics 1971); in truth many more, because the sum overshoots."""

ODDS = 2.0
"""How many times greater the odds of an error are, if predictions have become worse: what the bets on errors are on.
Smaller changes are found later, and those below about the root of it never: a head is allowed to be a little off."""

GREATEST_CONFIDENCE = 0.95
"""No prediction is taken to be surer than this: where people label, one label in twenty is wrong without any shift."""

FOREIGN = 0.3
"""Exponent of the bets on foreign images: smaller bets more on the very farthest. 0.5 raised false alarms with 50
labels, of which the distances are known badly."""

LEAST_LABELS = 20
"""Labelled images below which nobody can say what is foreign to them."""

NEIGHBOURS = 5
"""Labelled images that an image is compared with."""

_LABELLED = 4000
_FAR = 0.95
_SAME = 1e-6


@dataclass(frozen=True)
class Alarm:
    """A shift that goes on.

    Attributes
    ----------
    kind : {"errors", "features"}
        What has shifted.
    since : int
        Where it most likely began: a place in the record, counted from 0.
    raised : int
        Place in the record at which the evidence was enough.
    evidence : mapping of str to float
        `count`, how many labels or images there are since then; `observed`, how many of them were wrongly predicted, or
        are more foreign to the labelled images than 95 % of these are to each other; `expected`, how many of them would
        be without a shift.
    sentence : str
        The same for people.
    """

    kind: Literal["errors", "features"]
    since: int
    raised: int
    evidence: Mapping[str, float]
    sentence: str


def rising_errors(confidence: ArrayLike, correct: ArrayLike) -> Alarm | None:
    """Tell whether predictions are wrong more often than their confidence admits, at the end of the record.

    Accuracy alone would tell nothing: it falls when hard tasks are asked on purpose, and rises while the head learns.
    But an unsure prediction that is wrong is as expected. So every error is held against the confidence of that very
    prediction (the risk-adjusted CUSUM of Steiner, Cook, Farewell and Treasure, Monitoring Surgical Performance Using
    Risk-Adjusted Cumulative Sum Charts, Biostatistics 2000). The alarm ends when the sum is back at zero.

    Parameters
    ----------
    confidence : array-like of float, shape (n,)
        Probability of the likeliest class before each label was learned, in the order of the labels.
    correct : array-like of bool, shape (n,)
        Whether the label was that class.

    Raises
    ------
    ValueError
        When the two are not of the same labels, or a confidence is no probability.

    Examples
    --------
    >>> alarm = rising_errors([0.9] * 60, [True] * 40 + [False] * 20)
    >>> alarm.since, alarm.raised
    (40, 51)
    >>> alarm.sentence
    'Of the 20 newest labels, 20 are not what was predicted, where 2.0 were to be expected of predictions so sure.'
    >>> rising_errors([0.9] * 60, [True] * 54 + [False] * 6) is None
    True
    """
    confidences, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct)
    if confidences.ndim != 1 or right.shape != confidences.shape:
        raise ValueError("There must be one confidence for each label, and whether it was right.")
    if not ((confidences >= 0) & (confidences <= 1 + 1e-9)).all():
        raise ValueError("Confidences lie between 0 and 1.")
    right = right.astype(bool)
    risk = 1 - np.minimum(confidences, GREATEST_CONFIDENCE)
    gains = np.where(right, 0.0, log(ODDS)) - np.log(1 + (ODDS - 1) * risk)
    found = _in_force(gains)
    if found is None:
        return None
    since, raised = found
    evidence = {
        "count": float(len(right) - since),
        "observed": float((~right[since:]).sum()),
        "expected": float((1 - confidences[since:]).sum()),
    }
    sentence = (
        f"Of the {evidence['count']:.0f} newest labels, {evidence['observed']:.0f} are not what was predicted, "
        f"where {evidence['expected']:.1f} were to be expected of predictions so sure."
    )
    return Alarm("errors", since, raised, evidence, sentence)


def drifting_features(labelled: ArrayLike, recent: ArrayLike) -> Alarm | None:
    """Tell whether the newest images are foreign to all labelled ones.

    An image is as foreign as it is farther (mean cosine distance) from its nearest labelled images than these are from
    theirs (simplified LOF: Schubert, Zimek and Kriegel, Local Outlier Detection Reconsidered, Data Mining and Knowledge
    Discovery 2014). So a class of which the images are less alike is not foreign for that. The rank of this number
    among those of the labelled images is a p-value, and small ones are bet on (conformal martingales: Volkhonskiy et
    al., Inductive Conformal Martingales for Change-Point Detection, COPA 2017). Only what is farther counts: neither
    labels chosen to be unlike each other nor images that come sorted by class should raise an alarm. The alarm ends by
    itself once images of the new kind are labelled.

    Parameters
    ----------
    labelled : array-like of float, shape (n, d)
        Features of the labelled images, each image once. Below 20 nothing is told.
    recent : array-like of float, shape (m, d)
        Features of the newest images without a label, in the order they came; some hundreds are enough.

    Raises
    ------
    ValueError
        When features are of different lengths or not finite.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> labelled, alike = random.normal([5, 0, 0], 1, (100, 3)), random.normal([5, 0, 0], 1, (100, 3))
    >>> drifting_features(labelled, alike) is None
    True
    >>> foreign = random.normal([0, 5, 0], 1, (20, 3))
    >>> drifting_features(labelled, np.concatenate([alike, foreign])).since in range(95, 101)
    True
    """
    known = _unit_rows(labelled, None)
    new = _unit_rows(recent, known.shape[1])
    if len(known) < LEAST_LABELS or not len(new):
        return None
    if len(known) > _LABELLED:
        known = known[np.random.default_rng(0).choice(len(known), _LABELLED, replace=False)]
    among = known @ known.T
    np.fill_diagonal(among, -np.inf)
    scale, usual = _foreignness(among)
    _, foreign = _foreignness(new @ known.T, scale)
    as_foreign = len(usual) - np.searchsorted(np.sort(usual), foreign, side="left")
    ranks = (as_foreign + 1) / (len(usual) + 1)
    found = _in_force(log(FOREIGN) + (FOREIGN - 1) * np.log(ranks))
    if found is None:
        return None
    since, raised = found
    count = len(new) - since
    far = int((foreign[since:] > np.quantile(usual, _FAR)).sum())
    evidence = {"count": float(count), "observed": float(far), "expected": count * (1 - _FAR)}
    sentence = (
        f"Of the {count} newest images, {far} are more foreign to the labelled ones than {_FAR:.0%} of these are to "
        f"each other, where {evidence['expected']:.1f} were to be expected."
    )
    return Alarm("features", since, raised, evidence, sentence)


def _in_force(gains: Floats) -> tuple[int, int] | None:
    """Return where the alarm that is in force at the end began and was raised, None when there is none.

    The sum is held at `ALARM`, so that a long shift does not take long to be over.
    """
    total, since = 0.0, 0
    raised: int | None = None
    for place, gain in enumerate(gains.tolist()):
        total = min(total + gain, ALARM)
        if total <= 0:
            total, since, raised = 0.0, place + 1, None
        elif total == ALARM and raised is None:
            raised = place
    return None if raised is None else (since, raised)


def _foreignness(similar: Floats, scale: Floats | None = None) -> tuple[Floats, Floats]:
    """Return each image's mean distance from its nearest labelled images, and the same divided by theirs.

    Parameters
    ----------
    similar : numpy.ndarray of float32, shape (m, n)
        Cosines to the labelled images.
    scale : numpy.ndarray of float32, shape (n,), optional
        The first of what this returns for the labelled images; without it, that is what these are.
    """
    nearest = np.argpartition(-similar, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
    # Copies of a labelled image are at no distance; what is as near is no more foreign than they.
    distances = np.maximum(1 - np.take_along_axis(similar, nearest, axis=1).mean(axis=1), _SAME)
    usual = distances if scale is None else scale
    return distances, distances / usual[nearest].mean(axis=1)


def _unit_rows(features: ArrayLike, dim: int | None) -> Floats:
    rows = as_features(features, dim, np.float32)
    return cast(Floats, rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
