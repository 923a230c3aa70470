"""Which labels to look at again: those that all other labels speak against.

A label never vouches for itself: the evidence is what the head says when the sample, and every copy of it, is left out.
Whether neighbours say the same was measured and adds nothing to it; what does is another label on the same picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.weights import Floats, as_features

ALIKE = 1 / 3
"""Images look the same within this part of the median distance from an image to its nearest. Measured on scenes and
faces: cropping by 4 %, mirroring or brightening moves most images by less, a JPEG of quality 75 by about as much. As
near to another are 4 of 1,800 scenes, 10 of 4,000 clothes, none of 1,200 digits, 8 % of FER2013 (it repeats itself)."""

MISTAKES = 0.05
"""Share of labels that are taken to be wrong, when two labels of one picture contradict each other."""

CLEAR = float(np.log(20))
"""Evidence from which a label is called unlike its class; below, the classes overlap."""

_DIMENSIONS = 64
_FITTED_ON = 1000
_ROWS_AT_A_TIME = 250
_FEW = 0.02
"""Share of all pairs that are near by the projection up to which each is looked at by itself."""
_SAME = 1e-6


@dataclass(frozen=True)
class Doubt:
    """A label worth a second look.

    Attributes
    ----------
    index : int
        The sample's row.
    given, suggested : str or int
        The label in force, and what speaks against it.
    evidence : float
        Log-odds of the suggested class against the given one, in nats: 3 is 20 to 1.
    reason : str
        The same in words.
    look_alike : int or None
        Row of the sample that shows the same and is labelled as suggested, if there is one.
    """

    index: int
    given: Any
    suggested: Any
    evidence: float
    reason: str
    look_alike: int | None


def look_alikes(X: ArrayLike) -> NDArray[np.intp]:  # noqa: N803
    """Group samples that show the same: equal ones, and those that hardly differ.

    Near is a cosine distance within `ALIKE` of the median distance from a sample to its nearest other one, so it is
    small where all images are alike. 10,000 samples of 1280 features take some 1.5 s on one core, 2.5 s where no
    projection tells them apart.

    Parameters
    ----------
    X : array-like of float, shape (n, d)
        Features.

    Returns
    -------
    numpy.ndarray of int, shape (n,)
        The group of each sample; to be given to `model.left_out.leave_one_out`, and to `doubts`.

    Raises
    ------
    ValueError
        When `X` is not a table of finite numbers.

    Examples
    --------
    >>> look_alikes([[1.0, 0.0], [0.0, 1.0], [0.7, 0.7], [1.0, 0.0]])
    array([0, 1, 2, 0])
    """
    rows = as_features(X, None, np.float32)
    if not len(rows):
        return np.zeros(0, dtype=np.intp)
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return _leaders(unit)


def doubts(
    proba: ArrayLike,
    y: ArrayLike,
    classes: ArrayLike,
    groups: ArrayLike | None = None,
    tasks: ArrayLike | None = None,
) -> list[Doubt]:
    """List the labels that another class is likelier than, the clearest first.

    The evidence is the log-odds of the likeliest other class against the given one. Where the classes overlap, it is
    small, so that ambiguous images come after clear mistakes. A sample of the same group with another label adds the
    log-odds that it is right, if `MISTAKES` of all labels are wrong; samples of the group with the same label add
    nothing, since one mistake is easily made twice. Of two labels that contradict each other only the weaker is listed.

    A class that no other group was labelled with can't be found in the others, so it takes a look-alike to doubt it.

    Parameters
    ----------
    proba : array-like of float, shape (n, k)
        Probabilities of labelled samples, each left out along with its group: `model.left_out.leave_one_out`.
    y : array-like of str or int, shape (n,)
        The labels in force.
    classes : array-like of str or int, shape (k,)
        The columns of `proba`.
    groups : array-like of int, shape (n,), optional
        From `look_alikes`; without it, each sample is by itself.
    tasks : array-like of str or int, shape (n,), optional
        The task of each sample, where several people label one: only the words are different.

    Returns
    -------
    list of Doubt

    Raises
    ------
    ValueError
        When the arguments don't fit together.

    Examples
    --------
    >>> left_out = [[0.02, 0.98], [0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.1, 0.9]]
    >>> for doubt in doubts(left_out, ["cat", "cat", "cat", "dog", "dog"], ["cat", "dog"]):
    ...     print(doubt.index, doubt.reason)
    0 looks like dog
    2 could as well be dog
    """
    probabilities, names = np.asarray(proba, dtype=np.float64), np.asarray(classes)
    labels = np.asarray(y)
    count, k = len(labels), len(names)
    if labels.ndim != 1 or probabilities.shape != (count, k):
        raise ValueError(f"There are {count} labels of {k} classes, but probabilities of shape {probabilities.shape}.")
    column = {name: place for place, name in enumerate(names.tolist())}
    unknown = [label for label in labels.tolist() if label not in column]
    if unknown:
        raise ValueError(f"The label {unknown[0]!r} is not among the classes.")
    group_of = np.arange(count) if groups is None else np.asarray(groups)
    task_of = np.arange(count) if tasks is None else np.asarray(tasks)
    if group_of.shape != (count,) or task_of.shape != (count,):
        raise ValueError(f"There are {count} labels, so there must be as many groups and tasks.")
    if count == 0 or k < 2:
        return []
    given = np.array([column[label] for label in labels.tolist()])
    members = np.unique(group_of, return_inverse=True)[1]
    evidence = _log_odds(probabilities, given, members)
    contradicting = _contradicting(given, members, k)
    evidence[contradicting] += np.log((1 - MISTAKES) / (MISTAKES / (k - 1)))
    suggested = evidence.argmax(axis=1)
    strength = evidence[np.arange(count), suggested]
    found: list[Doubt] = []
    settled: set[tuple[int, int, int]] = set()
    by_group = {(int(m), int(g)): row for row, (m, g) in reversed(list(enumerate(zip(members, given, strict=True))))}
    for row in np.argsort(-strength, kind="stable").tolist():
        one, other, group = int(given[row]), int(suggested[row]), int(members[row])
        if strength[row] <= 0 or (group, other, one) in settled:
            continue
        twin = by_group[group, other] if contradicting[row, other] else None
        if twin is not None:
            settled.add((group, one, other))
        name = names[other].item()
        words = _reason(name, strength[row], twin is not None, twin is not None and task_of[twin] == task_of[row])
        found.append(Doubt(row, names[one].item(), name, float(strength[row]), words, twin))
    return found


def _log_odds(probabilities: Floats, given: NDArray[np.intp], members: NDArray[np.intp]) -> Floats:
    """Return the log-odds of each class against the given one; minus infinity for the given one itself."""
    rows = np.arange(len(given))
    logs = np.log(np.maximum(probabilities, 1e-12))
    odds = logs - logs[rows, given][:, np.newaxis]
    spread = np.unique(np.stack([given, members]), axis=1)[0]
    # Left out, a class of one group has no probability to speak of: that is no evidence.
    odds[np.bincount(spread)[given] < 2] = 0.0
    odds[rows, given] = -np.inf
    return cast(Floats, odds)


def _contradicting(given: NDArray[np.intp], members: NDArray[np.intp], k: int) -> NDArray[np.bool_]:
    """Say which other labels each sample's group has, shape (n, k)."""
    there = np.zeros((members.max() + 1, k), dtype=bool)
    there[members, given] = True
    others = there[members]
    others[np.arange(len(given)), given] = False
    return others


def _reason(suggested: object, evidence: float, contradicted: bool, same_task: bool) -> str:
    if same_task:
        return f"somebody else labelled it {suggested}"
    if contradicted:
        return f"looks the same as one labelled {suggested}"
    return f"looks like {suggested}" if evidence >= CLEAR else f"could as well be {suggested}"


def _leaders(unit: NDArray[np.float32]) -> NDArray[np.intp]:
    """Group rows of length one: the first free row takes all free rows near it, and so on; return a number for each.

    Chains of near rows would make one group of a whole film.
    """
    radius = max(ALIKE * _median_nearest(unit), _SAME)
    # A projection only brings rows nearer together: no pair is lost, and few are left to look at in full.
    drawn = np.random.default_rng(0).choice(len(unit), min(_FITTED_ON, len(unit)), replace=False)
    directions = np.linalg.svd(unit[drawn] - unit[drawn].mean(axis=0), full_matrices=False)[2][:_DIMENSIONS]
    small = unit @ directions.T
    squares = (small**2).sum(axis=1)
    groups, free = np.arange(len(unit)), np.ones(len(unit), dtype=bool)
    for start in range(0, len(unit), _ROWS_AT_A_TIME):
        part = np.arange(start, min(start + _ROWS_AT_A_TIME, len(unit)))
        part, rest = part[free[part]], start + np.flatnonzero(free[start:])
        if not len(part):
            continue
        near = squares[part, np.newaxis] + squares[rest] - 2 * small[part] @ small[rest].T <= 2 * radius + _SAME
        told_apart = near.mean() < _FEW
        if not told_apart:  # looking at all pairs in full is sooner than at many one by one
            near &= 1 - unit[part] @ unit[rest].T <= radius
        for row, candidates in zip(part, near, strict=True):
            if not free[row]:
                continue
            free[row] = False
            others = rest[candidates & free[rest]]
            if told_apart:
                others = others[1 - unit[others] @ unit[row] <= radius]
            groups[others], free[others] = row, False
    return np.unique(groups, return_inverse=True)[1]


def _median_nearest(unit: NDArray[np.float32]) -> float:
    """Median cosine distance from a row to the nearest that is not equal to it; of at most 500 rows."""
    drawn = np.random.default_rng(0).choice(len(unit), min(500, len(unit)), replace=False)
    distances = 1 - unit[drawn] @ unit.T
    distances[distances <= _SAME] = np.inf
    nearest = distances.min(axis=1)
    nearest = nearest[np.isfinite(nearest)]
    return float(np.median(nearest)) if len(nearest) else 0.0
