"""What the unlabelled pool adds to few labels: images alike mostly are of one class, so a label speaks for others too.

A sample of the pool becomes a graph of nearest neighbours, labels spread along it (Zhou, Bousquet, Lal, Weston and
Scholkopf, Learning with Local and Global Consistency, NIPS 2003), and the head learns the classes that images got so,
too. What serves stays one linear map, so images that are not in the pool profit as well. It helps where neighbours
share their class, which is tried out on the labels themselves: on faces, where they don't, the pool keeps silent.
"""

from __future__ import annotations

import copy
import io
import math
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray
from scipy.linalg.blas import dsymm

from model.head import Moments, StreamingLDA
from model.weights import Floats, LinearWeights, as_features, read_arrays, softmax

NEIGHBOURS = 20
"""Nearest neighbours of each image. More reach farther, fewer share a class more often."""

SAMPLE = 5000
"""Images of the pool in the graph. More cost time squared: 5,000 take some 3 s on one core."""

TAUGHT = 1000
"""Images of the graph that the head learns; they stand for all the others."""

POOL_WEIGHT = 500.0
"""Labels that all images taught weigh as much as, were each of them sure of its class; mostly half are. Under 250, the
head takes their average for that of a few samples and flattens out; 1,000 was no more accurate, and too sure."""

MOST_LABELS = 500
"""Labels beyond which the pool adds nothing worth its time."""

TRIED = 100
"""Labels on which it is tried whether neighbours share their class."""

STALE = 1.5
"""How many times as many labels make the pool's lessons too old. From 40 to 60 labels they were worth as much as fresh
ones, from 10 to 60 they cost 2 to 4 points of accuracy."""

_SPREAD = 0.8
_STEPS = 12
_PRIOR_TRIED, _PRIOR_RIGHT = 5, 3

_DRAWN = 500
_WIDEST, _BISECTIONS = 2.0, 10

Singles = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class NeighbourGraph:
    """A sample of images, joined to those they are most like.

    Attributes
    ----------
    features : numpy.ndarray of float32, shape (n, d)
        In random order, so that any number of the first are a sample too.
    links : scipy.sparse.csr_array of float32, shape (n, n)
        How alike two neighbours are, divided by the root of how alike each is to all its neighbours.
    """

    features: Singles
    links: Any

    def near(self, X: ArrayLike) -> Any:  # noqa: N803
        """Return a sparse matrix, shape (m, n): each row's nearest neighbours in the graph, itself if it is there.

        Their cosines, or 0 where they are negative, as shares that sum to 1.
        """
        rows = _unit_rows(_singles(X, self.features.shape[1]))
        places, cosines = _nearest(rows, _unit_rows(self.features), min(NEIGHBOURS, len(self.features)))
        cosines /= np.maximum(cosines.sum(axis=1, keepdims=True), 1e-12)
        return _sparse(places, cosines, len(self.features))

    def spread(self, amounts: Singles) -> Singles:
        """Let amounts, shape (n, c), walk along the links; those that walked far count less."""
        walked, total = amounts, amounts.copy()
        for _ in range(_STEPS):
            walked = _SPREAD * (self.links @ walked)
            total += walked
        return total


@dataclass(frozen=True, eq=False)
class PoolLessons:
    """What the pool adds to the weights of a head; still of use when a few more labels came.

    Attributes
    ----------
    classes : numpy.ndarray, shape (k,)
        Those that had labels then, sorted.
    coef, intercept : numpy.ndarray of float64, shape (k, d) and (k,)
        What is added to the logits of these classes, linear in the signed roots of the features.
    labels : int
        How many labels it was made with.
    trust : float
        How far neighbours can be trusted to share their class, from 0 to 1: Cohen's kappa of finding the class of a
        label from the other labels alone, as if five had been tried before and three found.
    """

    classes: NDArray[Any] = field(default_factory=lambda: np.zeros(0, dtype=str))
    coef: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    intercept: Floats = field(default_factory=lambda: np.zeros(0))
    labels: int = 0
    trust: float = 0.0

    def add_to(self, weights: LinearWeights, labels: int) -> LinearWeights:
        """Return what serves of a head's weights.

        They stay as they are when another class has got its first label, or lost its last, or when there are half as
        many labels again as the pool knew: then it holds the head back.

        Parameters
        ----------
        weights : LinearWeights
            Of a head with the classes and the encoder that the pool's lessons were made with; others may be reserved.
        labels : int
            How many labels the head has learned.

        Examples
        --------
        >>> random = np.random.default_rng(1)
        >>> X = np.concatenate([random.normal([3, 0, 0], 1, (50, 3)), random.normal([0, 3, 0], 1, (50, 3))])
        >>> y = np.repeat(["cat", "dog"], 50)
        >>> head = StreamingLDA().partial_fit(X[[0, 50]], y[[0, 50]])
        >>> weights = learn_from_pool(neighbour_graph(X), head, X[[0, 50]], y[[0, 50]]).add_to(head.weights(), 2)
        >>> float((head.predict(X) == y).mean()), float((weights.predict(X) == y).mean())
        (0.81, 0.97)
        """
        known = np.flatnonzero(weights.reserved == 0)
        order = known[np.argsort(weights.classes[known])]
        same = np.array_equal(weights.classes[order], self.classes) and self.coef.shape[1] == weights.dim
        if self.trust == 0 or not same or not self.labels / STALE <= labels <= self.labels * STALE:
            return weights
        coef, intercept = weights.coef / weights.temperature, weights.intercept / weights.temperature
        coef[order] += self.coef
        intercept[order] += self.intercept
        return replace(weights, coef=coef, intercept=intercept, temperature=1.0)

    def to_bytes(self) -> bytes:
        """Return it as the bytes of an uncompressed npz file, some 5 kB per class at d = 1280."""
        file = io.BytesIO()
        arrays = {"classes": self.classes, "coef": self.coef.astype(np.float32), "intercept": self.intercept}
        np.savez(file, allow_pickle=False, **arrays, labels=np.array(self.labels), trust=np.array(self.trust))
        return file.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> PoolLessons:
        """Read what `to_bytes` gave; nothing in it is executed.

        Raises
        ------
        ValueError
            When it is something else.
        """
        arrays = read_arrays(data, "no saved lessons of a pool")
        try:
            coef, intercept = arrays["coef"].astype(np.float64), arrays["intercept"].astype(np.float64)
            lessons = PoolLessons(arrays["classes"], coef, intercept, int(arrays["labels"]), float(arrays["trust"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"These bytes are no saved lessons of a pool: {error}") from error
        fits = coef.ndim == 2 and lessons.classes.shape == intercept.shape == coef.shape[:1]
        if not fits or not np.isfinite(coef).all() or not np.isfinite(intercept).all() or not 0 <= lessons.trust <= 1:
            raise ValueError("These bytes are no saved lessons of a pool: their numbers don't fit each other.")
        return lessons


def neighbour_graph(X: ArrayLike, random_state: int = 0) -> NeighbourGraph:  # noqa: N803
    """Join images to those they are most like by the cosine of their features.

    Parameters
    ----------
    X : array-like of float, shape (n, d)
        Features of all images of the project, labelled or not; any float type. Of more than 5,000, as many are drawn.
    random_state : int
        Seed of the draw.

    Raises
    ------
    ValueError
        When `X` is no table, or holds values that are not finite.
    """
    rows = X if isinstance(X, np.ndarray) else np.asarray(X, dtype=np.float64)
    drawn = np.random.default_rng(random_state).permutation(len(rows))[:SAMPLE]
    features = _singles(rows[drawn], None)
    count = min(NEIGHBOURS, len(features) - 1)
    if count < 1:
        return NeighbourGraph(features, scipy.sparse.csr_array((len(features),) * 2, dtype=np.float32))
    unit = _unit_rows(features)
    links = _sparse(*_nearest(unit, unit, count, skip_itself=True), len(features))
    links = links.maximum(links.T)
    degrees = np.asarray(links.sum(axis=1)).ravel()
    scale = scipy.sparse.diags_array(1 / np.sqrt(np.maximum(degrees, 1e-12)), dtype=np.float32)
    return NeighbourGraph(features, scipy.sparse.csr_array(scale @ links @ scale))


def learn_from_pool(
    graph: NeighbourGraph,
    head: StreamingLDA,
    X: ArrayLike,  # noqa: N803
    y: ArrayLike,
    sample_weight: ArrayLike | None = None,
) -> PoolLessons:
    """Return what the pool adds to a head: the head that learned from the pool, too, serves half.

    What serves then is the geometric mean of the probabilities of both heads, at full trust; at none, the head alone.
    So the weights stay linear. Of what the mean is surer than the head alone, half is taken back.

    Parameters
    ----------
    graph : NeighbourGraph
    head : StreamingLDA
        It has learned the labels, and stays as it is; its calibration is used for both.
    X : array-like of float, shape (n, d)
        Features of the labelled images, in the graph or not.
    y : array-like of str or int, shape (n,)
        Their classes.
    sample_weight : array-like of float, shape (n,), optional
        How much each label counts; 1 by default.

    Returns
    -------
    PoolLessons
        Nothing at all with labels of one class or none, or with more than 500.

    Raises
    ------
    ValueError
        When an argument is of another shape, or holds values that are not finite.

    Notes
    -----
    An image gets the class whose labels reach it most, after each class's labels were scaled to reach as much of the
    pool as the class has labels (class mass normalization of Zhu, Ghahramani and Lafferty, Semi-Supervised Learning
    Using Gaussian Fields and Harmonic Functions, ICML 2003). It weighs as much as that class is ahead of the next.
    With 5,000 images in the graph and 200 labels, this takes half a second on one core.
    """
    rows = _singles(X, graph.features.shape[1])
    labels = np.asarray(y)
    weights = np.ones(len(rows)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    if labels.shape != (len(rows),) or weights.shape != (len(rows),) or not (weights >= 0).all():
        raise ValueError(f"There are {len(rows)} labelled images; give each a class and a weight that is not below 0.")
    rows, labels, weights = rows[weights > 0], labels[weights > 0], weights[weights > 0]
    classes, columns = np.unique(labels, return_inverse=True)
    if len(classes) < 2 or len(rows) > MOST_LABELS or not len(graph.features):
        return PoolLessons()
    shares = np.zeros((len(rows), len(classes)), dtype=np.float32)
    shares[np.arange(len(rows)), columns] = weights
    near = graph.near(rows)
    reach = graph.spread(near.T @ shares)
    likely = _likeliness(reach[:TAUGHT], reach.sum(axis=0), shares.sum(axis=0))
    ranked = np.sort(likely, axis=1)
    lead = (ranked[:, -1] - ranked[:, -2]).astype(np.float64) * (POOL_WEIGHT / len(likely))
    reached = classes[likely.argmax(axis=1)]
    pool = StreamingLDA().partial_fit(graph.features[:TAUGHT], reached, sample_weight=lead)
    trust = _trust(graph, near, shares, reach)
    if trust == 0:
        return PoolLessons()
    alone, helped = head.weights(classes), copy.deepcopy(head).merge(pool).weights(classes)
    own, other = (1 - trust / 2) / alone.temperature, trust / 2 / helped.temperature
    mean = replace(
        alone,
        coef=own * alone.coef + other * helped.coef,
        intercept=own * alone.intercept + other * helped.intercept,
        temperature=1.0,
    )
    temperature = _temperature(pool.moments(), alone, mean)
    return PoolLessons(
        classes,
        mean.coef / temperature - alone.coef / alone.temperature,
        mean.intercept / temperature - alone.intercept / alone.temperature,
        len(rows),
        trust,
    )


def _temperature(pool: Moments, alone: LinearWeights, mean: LinearWeights) -> float:
    """Return the temperature at which `mean` is half as much surer of the pool than `alone` as it would be.

    The images that taught it agree with what they taught, so it is too sure of the others. How sure `alone` may be
    was tried out on the labels; that the mean is right more often is why not all is taken back.
    """
    before, after = _logits(pool, alone), _logits(pool, mean)
    target = (_sureness(before, 1.0) + _sureness(after, 1.0)) / 2
    low, high = -_WIDEST, _WIDEST
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if _sureness(after, math.exp(middle)) < target else (middle, high)
    return math.exp((low + high) / 2)


def _logits(pool: Moments, weights: LinearWeights) -> Floats:
    """Return logits, shape (s, k), of the pool as its sums have it: a Gaussian for each class, one covariance."""
    coef, intercept = weights.coef / weights.temperature, weights.intercept / weights.temperature
    covariance = coef @ dsymm(1.0, pool.within, coef.T, lower=1) / pool.counts.sum()
    spectrum, basis = np.linalg.eigh(covariance)
    normal = np.random.default_rng(0).normal(size=(_DRAWN, len(coef)))
    drawn = normal * np.sqrt(np.maximum(spectrum, 0)) @ basis.T
    of_class = np.random.default_rng(0).choice(len(pool.counts), _DRAWN, p=pool.counts / pool.counts.sum())
    return cast(Floats, drawn + (pool.means @ coef.T + intercept)[of_class])


def _trust(graph: NeighbourGraph, near: Any, shares: Singles, reach: Singles) -> float:
    """Return how much better than by chance the class of a label is found from the other labels; 0 for no better."""
    tried = np.random.default_rng(0).permutation(len(shares))[:TRIED]
    own = graph.spread(near[tried].T.toarray())
    at_own = near[tried].multiply(own.T).sum(axis=1)[:, np.newaxis]
    mass = shares[tried] * own.sum(axis=0)[:, np.newaxis]
    left = shares.sum(axis=0) - shares[tried]
    true = shares[tried].argmax(axis=1)
    found = _likeliness(near[tried] @ reach - shares[tried] * at_own, reach.sum(axis=0) - mass, left)
    # A label that is its class's only one can't be found from the others.
    fair = left[np.arange(len(tried)), true] > 0
    true, guess = true[fair], found[fair].argmax(axis=1)
    classes = shares.shape[1]
    prior = np.full(classes, _PRIOR_TRIED / classes)
    count = len(true) + _PRIOR_TRIED
    chance = float((np.bincount(true, minlength=classes) + prior) @ (np.bincount(guess, minlength=classes) + prior))
    chance /= count**2
    right = (int((true == guess).sum()) + _PRIOR_RIGHT) / count
    return max(0.0, (right - chance) / (1 - chance))


def _sureness(logits: Floats, temperature: float) -> float:
    """Return the mean probability of the likeliest class."""
    return float(softmax(logits / temperature).max(axis=1).mean())


def _likeliness(reach: Singles, mass: Singles, counts: Singles) -> Singles:
    """Turn how much of each class reaches images to shares, shape (n, c); equal ones where nothing does."""
    scaled = np.maximum(reach, 0) * np.where(mass > 1e-9, (counts + 1) / np.maximum(mass, 1e-9), 0)
    total = scaled.sum(axis=1, keepdims=True)
    return cast(Singles, np.where(total > 0, scaled / np.maximum(total, 1e-30), 1 / reach.shape[1]))


def _nearest(rows: Singles, others: Singles, count: int, skip_itself: bool = False) -> tuple[NDArray[np.intp], Singles]:
    """Return each row's nearest others and the cosines, both of shape (n, count), for features of length one."""
    places = np.empty((len(rows), count), dtype=np.intp)
    cosines = np.empty((len(rows), count), dtype=np.float32)
    for start in range(0, len(rows), 500):
        chunk = rows[start : start + 500] @ others.T
        if skip_itself:
            chunk[np.arange(len(chunk)), np.arange(start, start + len(chunk))] = -2
        found = np.argpartition(-chunk, count - 1, axis=1)[:, :count]
        places[start : start + 500] = found
        cosines[start : start + 500] = np.take_along_axis(chunk, found, axis=1)
    return places, np.maximum(cosines, 0)


def _sparse(places: NDArray[np.intp], values: Singles, width: int) -> Any:
    starts = np.arange(0, places.size + 1, places.shape[1])
    return scipy.sparse.csr_array((values.ravel(), places.ravel(), starts), shape=(len(places), width))


def _singles(X: ArrayLike, dim: int | None) -> Singles:  # noqa: N803
    return cast(Singles, as_features(X, dim, np.float32))


def _unit_rows(rows: Singles) -> Singles:
    return cast(Singles, rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
