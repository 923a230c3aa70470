"""What a head would say of samples it has learned had it not learned them: in closed form, from the same sums."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg.blas import dsymm

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
from model.weights import Floats, as_features, signed_root, softmax

_QUANTILES = 200
_CHUNK = 2_000_000


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
    left_out = LeftOut(head, X, y, sample_weight, groups)
    scores, counts = left_out.scores((head.shrinkage,))
    return left_out.probabilities(scores[0], counts, head.weights().temperature)


class LeftOut:
    """Learned samples, and the head's sums in the basis in which leaving one out is cheap.

    Equal samples of one class are one *atom*; the atoms of one group are left out together. Arrays have a row per atom,
    a, or per sample that is left out, n, and a column per labelled class, c, or per class of the head, k.

    Parameters
    ----------
    head, X, y, sample_weight, groups
        As in `leave_one_out`.
    limit : int, optional
        How many samples to leave out at most, give or take a group: of more, as many are drawn; by default all.
    standing : numpy.ndarray of bool, optional
        Which samples stand for all images; by default all.

    Attributes
    ----------
    count : int
        Groups that are left out.
    standing : numpy.ndarray of bool, shape (n,)
        Which of the samples left out stand for all images.

    Raises
    ------
    ValueError
        When an argument is of another shape, or these samples can't have been learned.
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

    def __init__(self, left_out: LeftOut, members: NDArray[np.intp]) -> None:
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
