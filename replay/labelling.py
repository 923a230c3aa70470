"""The replay itself: every head learns the labels of every order one at a time, and is tested on what is held out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed, parallel_config
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

import model
from model.doubt import Doubt
from model.encoder import write_atomically
from model.evaluation import Prequential, accuracy, confusion, expected_calibration_error, log_loss, reliability
from model.weights import Floats, as_features
from replay.heads import HEADS, Head, Names, Ours, Rows, Sets, make_head
from replay.orders import ORDERS, Asker, Places, at_random, by_class, key_of
from replay.results import ROWS, TARGET_LABELS, Results, Trace

LABELS = 1000
"""Labels that are asked by default."""

SEEDS = 3

HELD_OUT = 0.25
"""Part of each class that is held out where nothing says which samples are."""

BETWEEN_ROWS = (30, 70, 150, 300, TARGET_LABELS, 700)
"""Checkpoints that make the curves smoother than the tables."""

STEP = 10
"""Labels between two checkpoints of our own head, which is cheap to ask: so that labels needed can be told exactly."""

BINS = 15
"""Bins of the reliability diagram, as of the expected calibration error."""

WINDOW = 100
"""Newest labels of the prequential accuracy that is drawn beside the held-out one."""

CODE = ("heads.py", "labelling.py", "orders.py", "results.py")
"""What a trace depends on here, besides all of `model`."""


@dataclass(frozen=True, slots=True)
class Job:
    """One trace to make."""

    head: str
    order: str
    seed: int


def run(
    X: ArrayLike,  # noqa: N803
    y: ArrayLike,
    held_out: ArrayLike | None = None,
    *,
    labels: int = LABELS,
    seeds: int = SEEDS,
    orders: Sequence[str] = ORDERS,
    heads: Sequence[str] = HEADS,
    kept: Path | None = None,
    processes: int = -1,
    begin: Callable[[int], object] = lambda count: None,
    advance: Callable[[], object] = lambda: None,
) -> Results:
    """Label samples one at a time, in each order, with each head, under each seed, and measure on held-out ones.

    The held-out samples take no part in the learning: they are not in the pool, not asked, and nothing is tuned on
    them. Samples with the same features as a held-out one are left out. Every head learns the same labels in the same
    sequence; that of the order "ours" is what Tandem's own head asks for.

    Parameters
    ----------
    X : array-like of float, shape (n, d)
        Features.
    y : array-like of str or int, shape (n,)
        Classes.
    held_out : array-like of bool, shape (n,), optional
        Which samples to test on. By default a quarter of each class, drawn anew under each seed.
    labels : int
        How many to ask for; all, if there are fewer.
    seeds : int
        The seeds are 0 to ``seeds - 1``.
    orders, heads : sequence of str
        Which of `ORDERS` and `HEADS`.
    kept : pathlib.Path, optional
        Folder in which traces are kept: a run that was interrupted, or is repeated with more seeds, makes only the
        missing ones. They count for this data and this very code only.
    processes : int
        How many to use; -1 for one per core.
    begin, advance : callable
        Called with the number of traces that will be made, and each time that one is done.

    Raises
    ------
    ValueError
        When an argument makes no sense, or a class has no sample to learn from or to test on.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> y = np.repeat(["cat", "dog"], 50)
    >>> X = random.normal(size=(100, 8)) + 3 * (y == "dog")[:, np.newaxis]
    >>> results = run(X, y, labels=20, seeds=1, heads=["ours"], processes=1)
    >>> results.curve("ours", "random", lambda trace: trace.accuracy).labels.tolist()
    [10, 20]
    """
    features, names = _checked(X, y)
    check_options(labels, seeds, orders, heads)
    splits = [_split(features, names, held_out, seed) for seed in range(seeds)]
    labels = min(labels, *(len(split.pool) for split in splits))
    store = _Kept(kept, features, names, splits[0].given) if kept else None

    first = [Job("ours", order, seed) for seed in range(seeds) for order in orders if "ours" in (*heads, order)]
    others = [Job(head, order, seed) for seed in range(seeds) for order in orders for head in heads if head != "ours"]
    begin(len(first) + len(others))
    traces: dict[Job, Trace] = {}

    def make(jobs: list[Job]) -> None:
        def inputs(job: Job) -> tuple[Any, ...]:
            lead = traces.get(Job("ours", job.order, job.seed))
            asked = lead.asked if lead is not None and job.head != "ours" else None
            return job, features, names, splits[job.seed], labels, asked

        missing = []
        for job in jobs:
            found = store.get(job, labels) if store else None
            if found is None:
                missing.append(job)
            else:
                traces[job] = found
                advance()
        for trace in _parallel([inputs(job) for job in missing], processes):
            job = Job(trace.head, trace.order, trace.seed)
            traces[job] = trace
            if store:
                store.put(job, labels, trace)
            advance()

    make(first)
    make(others)
    shown = "ours" if "ours" in orders else orders[0]
    return Results(
        classes=tuple(np.unique(names).tolist()),
        heads=tuple(heads),
        orders=tuple(orders),
        seeds=seeds,
        labels=labels,
        to_learn_from=min(len(split.pool) for split in splits),
        held_out=min(len(split.test) for split in splits),
        copies=max(split.copies for split in splits),
        traces=tuple(trace for job, trace in traces.items() if job.head in heads),
        doubts=_doubts(features, names, next(trace.asked for job, trace in traces.items() if job.order == shown)),
    )


def check_options(labels: int, seeds: int, orders: Sequence[str], heads: Sequence[str]) -> None:
    """Raise `ValueError` when `run` would refuse these, whatever the data."""
    for what, chosen, known in (("order", orders, ORDERS), ("head", heads, HEADS)):
        unknown = [repr(name) for name in chosen if name not in known]
        if unknown:
            raise ValueError(f"There is no {what} {', '.join(unknown)}; there are {', '.join(known)}.")
        if not chosen or len(set(chosen)) < len(chosen):
            raise ValueError(f"Name each {what} once, at least one of {', '.join(known)}.")
    if labels < 1 or seeds < 1:
        raise ValueError("A replay needs at least one label and one seed.")


@dataclass(frozen=True, slots=True, eq=False)
class _Split:
    """Places of the samples to learn from and to test on; `given` is None where the split was drawn."""

    pool: Places
    test: Places
    copies: int
    given: NDArray[np.bool_] | None


def _split(features: Rows, names: Names, held_out: ArrayLike | None, seed: int) -> _Split:
    given = None if held_out is None else np.asarray(held_out)
    if given is not None and (given.dtype != bool or given.shape != names.shape):
        raise ValueError(f"held_out must be {len(names)} times true or false.")
    test = np.flatnonzero(_drawn(names, seed) if given is None else given)
    pool = np.setdiff1d(np.arange(len(names)), test)
    tested = {features[place].tobytes() for place in test}
    copy = np.array([features[place].tobytes() in tested for place in pool], dtype=bool)
    pool = pool[~copy]
    missing = set(names.tolist()) - set(names[pool].tolist())
    if missing:
        raise ValueError(f"There is no sample of the class {sorted(missing)[0]} to learn from.")
    if not len(test):
        raise ValueError("No sample is held out to test on.")
    return _Split(pool, test, int(copy.sum()), given)


def _drawn(names: Names, seed: int) -> NDArray[np.bool_]:
    random = np.random.default_rng([seed, 2])
    chosen = np.zeros(len(names), dtype=bool)
    for name in np.unique(names):
        members = random.permutation(np.flatnonzero(names == name))
        chosen[members[: max(1, round(HELD_OUT * len(members)))]] = True
    return chosen


def _parallel(tasks: list[tuple[Any, ...]], processes: int) -> Iterator[Trace]:
    """Make traces side by side, in any order; joblib lets the processes share the features."""
    with parallel_config("loky", n_jobs=processes):
        yield from Parallel(return_as="generator_unordered")(delayed(_trace)(*task) for task in tasks)


def _trace(job: Job, features: Rows, names: Names, split: _Split, labels: int, asked: Places | None) -> Trace:
    """Let one head learn one sequence of labels: `asked`, or by default what its order says."""
    head = make_head(job.head, np.unique(names), features[split.pool], job.seed)
    checkpoints = {*ROWS, *BETWEEN_ROWS, labels}
    between = set(range(STEP, labels, STEP)) if job.head == "ours" else set()
    sequence: Iterable[int]
    if asked is not None:
        sequence = asked.tolist()
    elif job.order == "random":
        sequence = at_random(split.pool, labels, job.seed).tolist()
    elif job.order == "sorted":
        sequence = by_class(split.pool, names, labels, job.seed).tolist()
    else:
        sequence = _asked_by(head, features, split.pool, labels, job.seed)
    if job.order == "sorted":
        sequence = list(sequence)
        checkpoints |= {at for at in range(1, labels) if names[sequence[at]] != names[sequence[at - 1]]}
    with threadpool_limits(1):
        return _learn(job, head, sequence, checkpoints, between, features, names, split.test)


def _asked_by(head: Head, features: Rows, pool: Places, labels: int, seed: int) -> Iterator[int]:
    """Yield places one by one: each depends on what the head has learned when it is asked for."""
    if not isinstance(head, Ours):
        raise TypeError("Only Tandem's own head asks.")
    asker = Asker(features[pool], [key_of(place) for place in pool.tolist()], seed)
    for count in range(labels):
        yield from pool[asker.ask(head.weights() if count else None)].tolist()


def _learn(
    job: Job,
    head: Head,
    sequence: Iterable[int],
    checkpoints: set[int],
    between: set[int],
    features: Rows,
    names: Names,
    test: Places,
) -> Trace:
    columns = np.unique(names, return_inverse=True)[1]
    prequential = Prequential(WINDOW)
    asked: list[int] = []
    measured: list[dict[str, Any]] = []
    proba = np.zeros((0, 0))
    for place in sequence:
        sample, column = features[place], columns[place]
        if head.each_label:
            before = head.predict_proba(sample[np.newaxis])[0]
            prequential.add(float(before[column]), bool(before.argmax() == column))
        head.learn(sample, str(names[place]), key_of(place))
        asked.append(place)
        if len(asked) in checkpoints:
            head.study()
        if len(asked) in checkpoints | between:
            proba = head.predict_proba(features[test])
            measured.append(
                {
                    "labels": len(asked),
                    "classes_seen": len(np.unique(columns[asked])),
                    "prequential": prequential.accuracy,
                    "recent": prequential.recent_accuracy,
                    **_measure(proba, head.prediction_sets(proba), columns[test]),
                }
            )
    arrays = {name: np.array([each[name] for each in measured]) for name in measured[0]}
    return Trace(
        job.head,
        job.order,
        job.seed,
        asked=np.array(asked, dtype=np.intp),
        confusion=confusion(proba, columns[test]),
        met=np.array(list(dict.fromkeys(columns[asked].tolist())), dtype=np.intp),
        **arrays,
    )


def _measure(proba: Floats, sets: Sets | None, columns: Places) -> dict[str, Any]:
    """Return what a checkpoint tells of held-out samples."""
    counts = confusion(proba, columns)
    points = reliability(proba, columns, BINS)
    confidence, correct = (np.nan_to_num(part) * points.count for part in (points.confidence, points.accuracy))
    tested = np.where(counts.any(axis=1), counts.sum(axis=1), np.nan)
    return {
        "accuracy": accuracy(proba, columns),
        "log_loss": log_loss(proba, columns),
        "calibration_error": expected_calibration_error(proba, columns, BINS),
        "coverage": np.nan if sets is None else float(sets[np.arange(len(sets)), columns].mean()),
        "set_size": np.nan if sets is None else float(sets.sum(axis=1).mean()),
        "recall": np.diagonal(counts) / tested,
        "reliability": np.stack([points.count, confidence, correct], axis=1),
    }


def _doubts(features: Rows, names: Names, asked: Places) -> tuple[Doubt, ...]:
    """Return which of these labels the others speak against."""
    head = Ours(np.unique(names), features[asked])
    with threadpool_limits(1):
        for place in asked:
            head.learn(features[place], str(names[place]), key_of(place))
        head.study()
        found = head.doubts()
    places = asked.tolist()
    return tuple(
        replace(
            doubt,
            index=places[doubt.index],
            look_alike=None if doubt.look_alike is None else places[doubt.look_alike],
        )
        for doubt in found
    )


class _Kept:
    """Traces in a folder, named by all that they depend on: the data, the options, and the code that made them."""

    def __init__(self, folder: Path, features: Rows, names: Names, given: NDArray[np.bool_] | None) -> None:
        self._folder = folder
        digest = hashlib.sha256(np.ascontiguousarray(features).tobytes())
        digest.update("\n".join(names.tolist()).encode())
        digest.update(b"" if given is None else given.tobytes())
        learner = sorted(Path(str(model.__file__)).parent.glob("*.py"))
        for path in (*learner, *(Path(__file__).with_name(name) for name in CODE)):
            digest.update(path.read_bytes())
        self._data = digest.hexdigest()[:24]

    def _path(self, job: Job, labels: int) -> Path:
        return self._folder / self._data / f"{job.order}-{job.head}-{labels}-{job.seed}.json"

    def get(self, job: Job, labels: int) -> Trace | None:
        try:
            return Trace.from_json(self._path(job, labels).read_text())
        except (OSError, ValueError):
            return None

    def put(self, job: Job, labels: int, trace: Trace) -> None:
        write_atomically(self._path(job, labels), lambda draft: draft.write_text(trace.to_json()))


def _checked(X: ArrayLike, y: ArrayLike) -> tuple[Rows, Names]:  # noqa: N803
    dtype = np.float32 if isinstance(X, np.ndarray) and X.dtype in (np.float16, np.float32) else np.float64
    features = as_features(X, None, dtype)
    names = np.asarray(y).astype(np.str_)
    if names.shape != (len(features),):
        raise ValueError(f"X has {len(features)} samples, but y has the shape {names.shape}.")
    if len(np.unique(names)) < 2:
        raise ValueError("A replay needs two classes or more.")
    return features, names
