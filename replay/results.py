"""What a replay measured: one trace per head, order and seed, and the tables that are made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from model.doubt import Doubt
from model.weights import Floats

Integers = NDArray[np.intp]

ROWS = (10, 20, 50, 100, 200, 500, 1000)
"""Labels at which the tables have a row."""

TARGET_LABELS = 400
"""Labels after which the baseline, a refit on labels asked at random, sets the accuracy to reach."""

REACHED_OVER = 5
"""Checkpoints whose mean accuracy must reach a target, so that one lucky moment doesn't."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """One head, learning labels one at a time in one order under one seed, as measured at c checkpoints.

    Attributes
    ----------
    head, order : str
    seed : int
    asked : numpy.ndarray of int, shape (n,)
        Places of the labelled samples, in the order in which they were asked.
    labels : numpy.ndarray of int, shape (c,)
        Labels learned at each checkpoint.
    classes_seen : numpy.ndarray of int, shape (c,)
        Classes with a label by then.
    accuracy, log_loss, calibration_error : numpy.ndarray of float64, shape (c,)
        On the held-out samples.
    coverage, set_size : numpy.ndarray of float64, shape (c,)
        How often a 90 % prediction set of a held-out sample holds its class, and how many classes it holds on average;
        NaN for heads without prediction sets.
    prequential, recent : numpy.ndarray of float64, shape (c,)
        Accuracy on all labels so far and on the newest ones, each predicted before it was learned; NaN for heads that
        are too slow to ask before each label.
    recall : numpy.ndarray of float64, shape (c, k)
        Accuracy by class.
    reliability : numpy.ndarray of float64, shape (c, b, 3)
        Held-out samples by the probability of their likeliest class, in b bins of equal width: how many, the sum of
        these probabilities, how many were right.
    confusion : numpy.ndarray of int, shape (k, k)
        Held-out samples by class (rows) and prediction (columns), after the last label.
    met : numpy.ndarray of int
        Columns of the classes with a label, in the order in which they were met.
    """

    head: str
    order: str
    seed: int
    asked: Integers
    labels: Integers
    classes_seen: Integers
    accuracy: Floats
    log_loss: Floats
    calibration_error: Floats
    coverage: Floats
    set_size: Floats
    prequential: Floats
    recent: Floats
    recall: Floats
    reliability: Floats
    confusion: Integers
    met: Integers

    def at(self, labels: int) -> int | None:
        """Return the checkpoint at so many labels, or None."""
        places = np.flatnonzero(self.labels == labels)
        return int(places[0]) if len(places) else None

    def to_json(self) -> str:
        """Return all of it as text."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return json.dumps(
            {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}
        )

    @classmethod
    def from_json(cls, text: str) -> Trace:
        """Read what `to_json` gave.

        Raises
        ------
        ValueError
            When it is something else.
        """
        try:
            values = json.loads(text)
            types = {"Integers": np.intp, "Floats": np.float64}
            arrays = {
                field.name: np.array(values[field.name], dtype=types[str(field.type)])
                for field in fields(cls)
                if str(field.type) in types
            }
            return cls(**(values | arrays))
        except (KeyError, TypeError) as error:
            raise ValueError(f"This is no trace: {error}") from error


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A measure over labels: mean and standard deviation over the seeds.

    Attributes
    ----------
    labels : numpy.ndarray of int, shape (c,)
    mean, spread : numpy.ndarray of float64, shape (c,)
        The spread is 0 with one seed.
    """

    labels: Integers
    mean: Floats
    spread: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Results:
    """All that a replay measured.

    Attributes
    ----------
    classes : tuple of str, length k
    heads, orders : tuple of str
    seeds : int
    labels : int
        Labels learned in each trace.
    to_learn_from, held_out : int
        Samples of each kind under one seed.
    copies : int
        Samples left out of learning because a held-out sample has the same features.
    traces : tuple of Trace
    doubts : tuple of model.doubt.Doubt
        Labels that the others speak against, of those that were asked in `shown_order` under the first seed; `index`
        and `look_alike` are places in all samples.
    """

    classes: tuple[str, ...]
    heads: tuple[str, ...]
    orders: tuple[str, ...]
    seeds: int
    labels: int
    to_learn_from: int
    held_out: int
    copies: int
    traces: tuple[Trace, ...]
    doubts: tuple[Doubt, ...]

    def of(self, head: str, order: str) -> list[Trace]:
        """Return the traces of a head in an order, by seed."""
        return sorted((t for t in self.traces if t.head == head and t.order == order), key=lambda trace: trace.seed)

    def curve(self, head: str, order: str, measure: Callable[[Trace], Floats]) -> Curve:
        """Return a measure of a head in an order at those checkpoints that all seeds have.

        Parameters
        ----------
        measure : callable
            Takes an array of shape (c,) from a trace: ``lambda trace: trace.accuracy``.
        """
        traces = self.of(head, order)
        if not traces:
            return Curve(np.zeros(0, np.intp), np.zeros(0), np.zeros(0))
        shared = set.intersection(*(set(trace.labels.tolist()) for trace in traces))
        labels = np.array(sorted(shared), dtype=np.intp)
        values = np.array([measure(trace)[np.isin(trace.labels, labels)] for trace in traces])
        spread = values.std(axis=0, ddof=1) if len(traces) > 1 else np.zeros(len(labels))
        return Curve(labels, values.mean(axis=0), spread)

    @property
    def shown_order(self) -> str:
        """The order whose results are shown where only one is: Tandem's own, if it was replayed."""
        return "ours" if "ours" in self.orders else self.orders[0]

    @property
    def rows(self) -> tuple[int, ...]:
        """Numbers of labels at which the tables have a row; the last is all labels."""
        return tuple(sorted({row for row in ROWS if row < self.labels} | {self.labels}))

    def labels_needed(self, head: str, order: str, target: float) -> int | None:
        """Return after how many labels the mean accuracy over seeds reaches a target; None when it never does.

        The mean is taken over five checkpoints in a row too, the last of which counts.
        """
        curve = self.curve(head, order, lambda trace: trace.accuracy)
        if len(curve.labels) < REACHED_OVER:
            return None
        smooth = np.convolve(curve.mean, np.full(REACHED_OVER, 1 / REACHED_OVER), "valid")
        reached = np.flatnonzero(smooth >= target)
        return int(curve.labels[reached[0] + REACHED_OVER - 1]) if len(reached) else None

    def target(self) -> float | None:
        """Return the mean accuracy of a refit on `TARGET_LABELS` labels asked at random, if it was measured."""
        curve = self.curve("logistic", "random", lambda trace: trace.accuracy)
        at = np.flatnonzero(curve.labels == TARGET_LABELS)
        return float(curve.mean[at[0]]) if len(at) else None
