"""What Tandem learns from how many labels: accuracy, calibration, prediction sets and labels needed, beside a refit.

    python -m benchmarks.learning FOLDER [FOLDER ...]

A folder holds a subfolder per class, or ``train`` and ``test`` with a subfolder per class each; see
`replay.folder.read_folder`. It takes some ten minutes a folder, so `make bench` leaves it out.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from threadpoolctl import threadpool_limits

from benchmarks.table import Row, show
from model.calibration import Calibration, prediction_sets
from model.encoder import load_encoder
from model.evaluation import accuracy, expected_calibration_error
from model.head import StreamingLDA
from model.neighbours import NeighbourGraph, PoolLessons, learn_from_pool, neighbour_graph
from model.weights import Floats, LinearWeights
from replay.features import encode
from replay.folder import read_folder
from replay.heads import COVERAGE, DRAWN, Names, Refit, Rows, calibrate_as_served
from replay.labelling import HELD_OUT, SEEDS
from replay.orders import Asker, Places, at_random, by_class, key_of

SIZES = (20, 50, 100, 200, 500, 1000)
CALIBRATED = 100
"""Labels from which on probabilities are held to a bar."""
FIRST, TARGET = 10, 400
"""Labels for which the cold start, and labels whose accuracy by a refit in random order, is to be reached by fewer."""
ASKED = 300
"""Labels that are asked at most to reach it."""
SHOWN, STUDIED = 5, 10
"""Labels from one order shown to the next, and from one study to the next: as many as are given in these seconds."""


@dataclass(frozen=True, eq=False)
class Images:
    """Images to learn from and to test on, by their features."""

    name: str
    X: Rows
    y: Names
    X_test: Rows
    y_test: Names


@dataclass(frozen=True)
class Served:
    """What would be served: weights, and what was found by leaving labels out."""

    weights: LinearWeights
    calibration: Calibration


@dataclass(frozen=True)
class Tested:
    """What was found on the test images: shares of them, the expected calibration error, and classes per set."""

    accuracy: float
    calibration_error: float
    coverage: float
    width: float


def main() -> None:
    """Measure on the folders named and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    arguments = parser.parse_args()
    cache = Path(os.environ.get("TANDEM_STATE") or ".tandem") / "cache"
    console = Console()
    for folder in arguments.folders:
        console.print(f"{folder} ...")
        show(measure(list(read(folder, cache, arguments.seeds))))


def read(folder: Path, cache: Path, seeds: int) -> Iterator[Images]:
    """Yield the folder's images under each seed, shuffled, and split where the folder does not say what to test on."""
    found = read_folder(folder)
    encoded = encode(found.images, load_encoder(), cache / "replay" / "features.sqlite")
    places = np.array(encoded.places)
    names = np.array(found.classes)[places]
    for seed in range(seeds):
        shuffled = np.random.default_rng(seed).permutation(len(names))
        if found.held_out is None:
            held_out = np.zeros(len(names), dtype=bool)
            for name in np.unique(names):
                members = shuffled[names[shuffled] == name]
                held_out[members[: max(1, round(HELD_OUT * len(members)))]] = True
        else:
            held_out = np.array(found.held_out)[places]
        learned = shuffled[~held_out[shuffled]]
        yield Images(
            folder.name, encoded.features[learned], names[learned], encoded.features[held_out], names[held_out]
        )


def measure(seeds: list[Images]) -> list[Row]:
    """Return every figure on one folder, the mean over the seeds."""
    with threadpool_limits(1):
        graphs = [neighbour_graph(images.X) for images in seeds]
        return [
            *_by_labels(seeds, graphs),
            *_asked(seeds, graphs),
        ]


def serve(classes: Names, images: Images, places: Places, graph: NeighbourGraph) -> Served:
    """Learn and study these labels as the service does."""
    features, labels = images.X[places], images.y[places]
    head = StreamingLDA().declare(classes).partial_fit(features, labels)
    calibration = study(head, images, places)
    return Served(learn_from_pool(graph, head, features, labels).add_to(head.weights(), len(places)), calibration)


def study(head: StreamingLDA, images: Images, places: Places) -> Calibration:
    """Calibrate a head that has learned the images at these places, in the order in which they were labelled."""
    left = np.setdiff1d(np.arange(len(images.X)), places)
    drawn = images.X[np.random.default_rng(0).permutation(left)[:DRAWN]]
    keys = [key_of(place) for place in places.tolist()]
    return calibrate_as_served(head, images.X[places], images.y[places], keys, drawn)


def test(proba: Floats, columns: Places, calibration: Calibration) -> Tested:
    """Return how good probabilities of the test images are, whose classes are `columns`."""
    sets = prediction_sets(proba, calibration.threshold(COVERAGE))
    return Tested(
        accuracy(proba, columns),
        expected_calibration_error(proba, columns),
        float(sets[np.arange(len(sets)), columns].mean()),
        float(sets.sum(axis=1).mean()),
    )


def _by_labels(seeds: list[Images], graphs: list[NeighbourGraph]) -> list[Row]:
    """Learn labels in random order."""
    rows, leads = [], []
    for size in (each for each in SIZES if each <= min(len(images.X) for images in seeds)):
        found = []
        for seed, (images, graph) in enumerate(zip(seeds, graphs, strict=True)):
            classes = np.unique(images.y)
            columns = np.searchsorted(classes, images.y_test)
            places = at_random(np.arange(len(images.X)), size, seed)
            served = serve(classes, images, places, graph)
            proba = served.weights.predict_proba(images.X_test)
            tested = test(proba, columns, served.calibration)
            places = by_class(np.arange(len(images.X)), images.y, size, seed)
            by_classes = serve(classes, images, places, graph).weights.predict_proba(images.X_test)
            found.append(
                (
                    tested.accuracy,
                    refit_accuracy(images, places),
                    tested.calibration_error,
                    _least_error(proba),
                    expected_calibration_error(by_classes, columns),
                    tested.coverage,
                    tested.width,
                )
            )
        ours, refit, error, least, sorted_error, coverage, width = np.mean(found, axis=0)
        leads.append(ours - refit)
        name = seeds[0].name
        rows.append(
            Row(
                f"{name}: accuracy with {size} labels",
                f"{ours:.1%}",
                "0.5 under refit at most",
                f"{refit:.1%} refit: {100 * (ours - refit):+.1f}",
                bool(ours >= refit - 0.005),
            )
        )
        if size >= CALIBRATED:
            rows += [
                Row("  calibration error", f"{error:.3f}", "under .03 (faces .05)", f"{least:.3f} if it were perfect"),
                Row("  the same, labels sorted by class", f"{sorted_error:.3f}", "no worse"),
                Row(
                    "  coverage of 90 % sets",
                    f"{coverage:.3f}",
                    ".88 to .92",
                    f"{width:.2f} classes named",
                    bool(0.88 <= coverage <= 0.92),
                ),
            ]
    lead = float(np.mean(leads))
    rows.append(Row("mean lead over the refit", f"{100 * lead:+.1f}", "above 0", met=lead > 0))
    return rows


def _asked(seeds: list[Images], graphs: list[NeighbourGraph]) -> list[Row]:
    """Ask for labels as the service does, and as it would without the pool; of fewer images nothing can be told."""
    if min(len(images.X) for images in seeds) < TARGET:
        return []
    refits: dict[int, list[float]] = {FIRST: [], TARGET: []}
    for seed, images in enumerate(seeds):
        for size, found in refits.items():
            found.append(refit_accuracy(images, at_random(np.arange(len(images.X)), size, seed)))
    first, target = (float(np.mean(refits[size])) for size in (FIRST, TARGET))
    helped: list[NeighbourGraph | None] = [*graphs]
    alone: list[NeighbourGraph | None] = [None] * len(seeds)
    rows = []
    for after, kind in (("", helped), (", without the pool's help", alone)):
        curves = [curve(images, graph, seed) for seed, (images, graph) in enumerate(zip(seeds, kind, strict=True))]
        accuracies = {size: float(np.mean([one[size].accuracy for one in curves])) for size in curves[0]}
        gain = accuracies[FIRST] - first
        # The mean of two in a row: one lucky label is no accuracy reached.
        needed = [size for size in accuracies if (accuracies[size] + accuracies.get(size + SHOWN, 0)) / 2 >= target]
        told = ", ".join(f"{accuracies[size]:.1%} at {size}" for size in (20, 50, 100, 150, 200, 300))
        rows += [
            Row(
                f"accuracy with {FIRST} labels asked{after}",
                f"{accuracies[FIRST]:.1%}",
                "+20 over refit",
                f"{first:.1%} refit on random labels: {100 * gain:+.1f}",
                gain >= 0.2,
            ),
            Row(
                f"labels for a refit's accuracy at {TARGET}{after}",
                str(needed[0]) if needed else f"over {ASKED}",
                "150",
                f"{target:.1%}; {told}",
                bool(needed) and needed[0] <= 150,
            ),
        ]
        if kind is helped:
            for size in range(CALIBRATED, ASKED + 1, CALIBRATED):
                error, coverage, width = np.mean(
                    [(one[size].calibration_error, one[size].coverage, one[size].width) for one in curves], axis=0
                )
                rows += [
                    Row(f"calibration error with {size} labels asked", f"{error:.3f}", "under .03 (faces .05)"),
                    Row("  coverage of 90 % sets, of all images", f"{coverage:.3f}", "", f"{width:.2f} classes named"),
                ]
    return rows


def curve(images: Images, graph: NeighbourGraph | None, seed: int) -> dict[int, Tested]:
    """Return what was learned by labels asked, as often as the order is shown anew.

    Every label is learned at once; what takes longer, the calibration and the pool's lessons, follows every tenth.
    """
    classes = np.unique(images.y)
    columns = np.searchsorted(classes, images.y_test)
    head, lessons, calibration = StreamingLDA().declare(classes), PoolLessons(), Calibration()
    asker = Asker(images.X, [key_of(place) for place in range(len(images.X))], seed)
    asked = np.zeros(0, dtype=np.intp)
    found = {}
    for count in range(SHOWN, ASKED + 1, SHOWN):
        weights = lessons.add_to(head.weights(), len(asked)) if len(asked) else None
        fresh = asker.ask(weights, SHOWN)
        asked = np.concatenate([asked, fresh])
        head.partial_fit(images.X[fresh], images.y[fresh])
        if count % STUDIED == 0:
            calibration = study(head, images, asked)
            if graph is not None:
                lessons = learn_from_pool(graph, head, images.X[asked], images.y[asked])
        proba = lessons.add_to(head.weights(), count).predict_proba(images.X_test)
        found[count] = test(proba, columns, calibration)
    return found


def refit_accuracy(images: Images, places: Places) -> float:
    """Return the accuracy of a logistic regression fitted to these labels."""
    refit = Refit(np.unique(images.y))
    for place in places:
        refit.learn(images.X[place], str(images.y[place]), key_of(place))
    return accuracy(refit.predict_proba(images.X_test), np.searchsorted(np.unique(images.y), images.y_test))


def _least_error(proba: Floats) -> float:
    """Return the calibration error these probabilities would show on as many images if they were perfect."""
    random = np.random.default_rng(0)
    cumulated = proba.cumsum(axis=1)
    drawn = [
        np.minimum((random.random((len(proba), 1)) > cumulated).sum(axis=1), proba.shape[1] - 1) for _ in range(20)
    ]
    return float(np.mean([expected_calibration_error(proba, columns) for columns in drawn]))


if __name__ == "__main__":
    main()
