"""The report: CSV files, pictures, a summary for machines, and one page for people that needs nothing beside it."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image, ImageOps

from model.weights import Floats
from replay import words
from replay.plots import Plot, draw, pooled_reliability
from replay.results import TARGET_LABELS, Results, Trace
from replay.words import percent, with_spread

THUMBNAIL = 128
"""Pixels of a thumbnail's longer side."""

DOUBTS_SHOWN = 30
"""Doubtful labels on the page; the CSV file has all."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the samples came from.

    Attributes
    ----------
    folder : pathlib.Path
    images : tuple of pathlib.Path
        The image of each sample.
    unreadable : dict of pathlib.Path to str
        Images that could not be read, and why.
    encoder : str
        The encoder's id.
    """

    folder: Path
    images: tuple[Path, ...]
    unreadable: dict[Path, str]
    encoder: str

    def name(self, place: int) -> str:
        """Return an image's path below the folder."""
        return self.images[place].relative_to(self.folder).as_posix()


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the page: the first cell of a row is its heading."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """An image of the page with what is to be said of it."""

    address: str
    alt: str
    text: Sequence[str]


@dataclass(frozen=True, slots=True)
class Section:
    """A heading of the page and what stands below it."""

    title: str
    text: Sequence[str] = ()
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()
    thumbnails: Sequence[Thumbnail] = ()
    items: Sequence[str] = ()


def write(results: Results, source: Source, out: Path) -> dict[str, Any]:
    """Write the report into the folder `out`, which is made when there is none, and return the summary for machines."""
    out.mkdir(parents=True, exist_ok=True)
    plots = draw(results)
    for plot in plots.values():
        (out / f"{plot.name}.png").write_bytes(plot.light)
    _write_csv_files(results, source, out)
    summary = summarise(results, source)
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    (out / "index.html").write_text(page(results, source, plots), encoding="utf-8")
    return summary


def summarise(results: Results, source: Source) -> dict[str, Any]:
    """Return what was measured as JSON can hold it."""
    measures: dict[str, Callable[[Trace], Floats]] = {
        "accuracy": lambda trace: trace.accuracy,
        "log_loss": lambda trace: trace.log_loss,
        "calibration_error": lambda trace: trace.calibration_error,
        "coverage": lambda trace: trace.coverage,
        "set_size": lambda trace: trace.set_size,
        "prequential_accuracy": lambda trace: trace.prequential,
    }
    table = []
    for order in results.orders:
        for head in results.heads:
            curves = {name: results.curve(head, order, measure) for name, measure in measures.items()}
            for row in results.rows:
                at = np.flatnonzero(curves["accuracy"].labels == row)
                if len(at):
                    values = {name: _number(curve.mean[at[0]]) for name, curve in curves.items()}
                    spreads = {f"{name}_spread": _number(curve.spread[at[0]]) for name, curve in curves.items()}
                    table.append({"order": order, "head": head, "labels": row} | values | spreads)
    target = results.target()
    return {
        "folder": str(source.folder),
        "encoder": source.encoder,
        "classes": list(results.classes),
        "images": len(source.images),
        "unreadable": len(source.unreadable),
        "to_learn_from": results.to_learn_from,
        "held_out": results.held_out,
        "copies_left_out": results.copies,
        "seeds": results.seeds,
        "labels": results.labels,
        "table": table,
        "target": {
            "accuracy": target,
            "labels": TARGET_LABELS,
            "labels_needed": None if target is None else results.labels_needed("ours", "ours", target),
        },
        "doubts": len(results.doubts),
    }


def page(results: Results, source: Source, plots: dict[str, Plot]) -> str:
    """Return the page."""
    loader = PackageLoader("replay", package_path="")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["png"] = lambda data: f"data:image/png;base64,{base64.b64encode(data).decode()}"
    sections = [
        _in_short(results),
        _accuracy(results, plots),
        _forgetting(results, plots),
        _calibration(results, plots),
        _sets(results, plots),
        _prequential(results, plots),
        _confusion(results, plots),
        _doubts(results, source),
        _unreadable(source),
        _how(results, source),
    ]
    return environment.get_template("page.html").render(
        name=source.folder.name,
        about=_about(results, source),
        sections=[section for section in sections if section is not None],
        date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )


def _about(results: Results, source: Source) -> str:
    return (
        f"{len(source.images):,} images of {len(results.classes)} classes, encoded by {source.encoder}. "
        f"{results.to_learn_from:,} to learn from, {results.held_out:,} held out; {results.labels:,} labels asked one "
        f"at a time, {results.seeds} {'seed' if results.seeds == 1 else 'seeds'}."
    )


def _in_short(results: Results) -> Section | None:
    order = results.shown_order
    if "ours" not in results.heads:
        return None
    items = []
    ours = _last(results, "ours", order, lambda trace: trace.accuracy)
    items.append(f"Tandem is right on {ours} % of the held-out images after {results.labels:,} labels.")
    for head in results.heads:
        if head != "ours":
            theirs = _last(results, head, "random" if "random" in results.orders else order, lambda t: t.accuracy)
            asked = words.ORDERS["random" if "random" in results.orders else order]
            items.append(f"The same number of labels {asked} brings the {words.HEADS[head]} to {theirs} %.")
    target = results.target()
    if target is not None and "ours" in results.orders:
        needed = results.labels_needed("ours", "ours", target)
        reached = f"reaches it with {needed}" if needed else f"does not reach it with {results.labels}"
        items.append(
            f"{TARGET_LABELS} labels asked at random bring a logistic regression refit to {percent(target)} %; "
            f"Tandem {reached}."
        )
    error = _last(results, "ours", order, lambda trace: trace.calibration_error)
    items.append(f"Its probabilities are {error} points off on average (expected calibration error).")
    if {"sorted", "random"} <= set(results.orders):
        items.append(
            f"Of the same labels in the worst order, class by class, it keeps "
            f"{_last(results, 'ours', 'sorted', lambda trace: trace.accuracy)} % against "
            f"{_last(results, 'ours', 'random', lambda trace: trace.accuracy)} % in random order."
        )
    return Section("In short", items=items)


def _accuracy(results: Results, plots: dict[str, Plot]) -> Section:
    shown = [plots[name] for name in ("orders", *(f"accuracy-{order}" for order in results.orders)) if name in plots]
    tables = [
        _table(results, order, lambda trace: trace.accuracy, f"Accuracy in percent, labels {words.ORDERS[order]}")
        for order in results.orders
    ]
    text = [
        "Share of the held-out images whose likeliest class is theirs; mean and standard deviation over the seeds. "
        "All heads learn the same labels in the same sequence. The band around a line is one standard deviation."
    ]
    return Section("Accuracy by labels", text, shown, tables)


def _forgetting(results: Results, plots: dict[str, Plot]) -> Section | None:
    if "forgetting" not in plots:
        return None
    text = [
        "The labels come sorted by class: all of the first class, then all of the next, none met again. A head that "
        "forgets loses the first classes while it learns the last ones."
    ]
    if "random" not in results.orders:
        return Section("Forgetting", text, [plots["forgetting"]])
    rows = []
    for name in results.heads:
        in_random, in_sorted = (_final(results, name, order) for order in ("random", "sorted"))
        lost = in_random - in_sorted
        spread = lost.std(ddof=1) if len(lost) > 1 else 0.0
        rows.append(
            [
                words.HEADS[name],
                percent(in_random.mean()),
                percent(in_sorted.mean()),
                with_spread(lost.mean(), float(spread), results.seeds),
            ]
        )
    head = ["head", "in random order", "sorted by class", "lost by the order"]
    table = Table(f"Accuracy in percent after the same {results.labels:,} labels", head, rows)
    return Section("Forgetting", text, [plots["forgetting"]], [table])


def _calibration(results: Results, plots: dict[str, Plot]) -> Section:
    tables = [
        _table(
            results,
            order,
            lambda trace: trace.calibration_error,
            f"Expected calibration error in percent (15 bins), labels {words.ORDERS[order]}",
        )
        for order in results.orders
    ]
    text = [
        "Of the images that are given 80 %, 80 % should be right. The expected calibration error is how far off that "
        "is, on average over the held-out images."
    ]
    shown = [plots[name] for name in ("reliability", "calibration") if name in plots]
    return Section("Do the probabilities mean what they say?", text, shown, tables)


def _sets(results: Results, plots: dict[str, Plot]) -> Section | None:
    if "sets" not in plots:
        return None
    rows = []
    for order in results.orders:
        coverage = results.curve("ours", order, lambda trace: trace.coverage)
        size = results.curve("ours", order, lambda trace: trace.set_size)
        for row in results.rows:
            at = np.flatnonzero(coverage.labels == row)
            if len(at):
                held = with_spread(coverage.mean[at[0]], coverage.spread[at[0]], results.seeds)
                rows.append([f"{row:,}", words.ORDERS[order], held, f"{size.mean[at[0]]:.2f}"])
    head = ["labels", "order", "sets that hold the class, %", "classes in a set"]
    text = ["Where one class is not sure enough, Tandem names several: sets that should hold the class 9 times in 10."]
    return Section("Prediction sets", text, [plots["sets"]], [Table("90 % prediction sets", head, rows)])


def _prequential(results: Results, plots: dict[str, Plot]) -> Section | None:
    shown = [plots[f"prequential-{order}"] for order in results.orders if f"prequential-{order}" in plots]
    text = [
        "Each label is predicted before it is learned, which needs no held-out images: it is what Tandem shows while "
        "you label. Asked at random, both agree. Tandem asks for what it is least sure of, so there its accuracy on "
        "new labels is lower than on the images as they come."
    ]
    return Section("Accuracy before learning", text, shown) if shown else None


def _confusion(results: Results, plots: dict[str, Plot]) -> Section | None:
    if "confusion" not in plots:
        return None
    order = results.shown_order
    counts = np.sum([trace.confusion for trace in results.of("ours", order)], axis=0)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    worst = np.argsort(shares, axis=None)[::-1][:5]
    items = [
        f"{results.classes[row]} taken for {results.classes[column]}: {percent(shares[row, column])} %"
        for row, column in (np.unravel_index(place, shares.shape) for place in worst)
        if shares[row, column] > 0
    ]
    text = [f"Held-out images after {results.labels:,} labels, over all seeds, in percent of their class."]
    return Section("What is taken for what", text, [plots["confusion"]], items=items)


def _doubts(results: Results, source: Source) -> Section | None:
    if not results.doubts:
        return None
    text = [
        f"Of the {results.labels:,} labels {words.ORDERS[results.shown_order]} under the first seed, "
        f"these {min(DOUBTS_SHOWN, len(results.doubts))} of {len(results.doubts)} look most as if the folder were "
        "wrong, the most doubtful first."
    ]
    thumbnails = [
        Thumbnail(
            _thumbnail(source.images[doubt.index]),
            f"An image labelled {doubt.given}",
            [source.name(doubt.index), f"labelled {doubt.given}, {doubt.reason}"],
        )
        for doubt in results.doubts[:DOUBTS_SHOWN]
    ]
    return Section("Labels worth a second look", text, thumbnails=thumbnails)


def _unreadable(source: Source) -> Section | None:
    if not source.unreadable:
        return None
    items = [f"{path.relative_to(source.folder).as_posix()}: {reason}" for path, reason in source.unreadable.items()]
    return Section("Images that could not be read", ["They were left out."], items=items)


def _how(results: Results, source: Source) -> Section:
    text = [
        "The held-out images take no part in the learning: they are not in the pool, are never asked, and nothing is "
        "tuned on them."
        + (f" {results.copies} images that are also held out were left out." if results.copies else ""),
        "Labels are learned one at a time, as a person gives them. Asked by Tandem: first what stands for the "
        "pool, then what its head is least sure of and unlike what waits already, with the head as it is after each "
        "label. Sorted by class: the same labels as at random, class after class.",
        "MLP and SGD are scikit-learn's, learning by partial_fit label by label; the logistic regression is fitted "
        "anew to all labels so far at each checkpoint.",
        "Beside this page: the pictures, curves.csv (all that was measured at each checkpoint, by seed), asked.csv "
        "(the sequences of labels), confusion.csv, reliability.csv, doubts.csv, unreadable.csv and summary.json.",
    ]
    return Section("How it was measured", text)


def _table(results: Results, order: str, measure: Callable[[Trace], Floats], caption: str) -> Table:
    curves = {head: results.curve(head, order, measure) for head in results.heads}
    rows = []
    for row in results.rows:
        cells = [f"{row:,}"]
        for curve in curves.values():
            at = np.flatnonzero(curve.labels == row)
            cells.append(with_spread(curve.mean[at[0]], curve.spread[at[0]], results.seeds) if len(at) else "–")
        rows.append(cells)
    return Table(caption, ["labels", *(words.HEADS[head] for head in results.heads)], rows)


def _final(results: Results, head: str, order: str) -> Floats:
    return np.array([trace.accuracy[-1] for trace in results.of(head, order)])


def _last(results: Results, head: str, order: str, measure: Callable[[Trace], Floats]) -> str:
    curve = results.curve(head, order, measure)
    return percent(float(curve.mean[-1]))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)


def _thumbnail(path: Path) -> str:
    """Return a small copy of an image as an address that holds all of it."""
    with Image.open(path) as image:
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        drawn = ImageOps.exif_transpose(image).convert("RGBA")
    small = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB")
    file = BytesIO()
    small.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _write_csv_files(results: Results, source: Source, out: Path) -> None:
    names = ("accuracy", "log_loss", "calibration_error", "coverage", "set_size", "prequential", "recent")
    recalls = [f"recall of {name}" for name in results.classes]
    _write_csv(
        out / "curves.csv",
        ["order", "head", "seed", "labels", "classes_seen", *names, *recalls],
        (
            [trace.order, trace.head, trace.seed, count, trace.classes_seen[at]]
            + [_cell(getattr(trace, name)[at]) for name in names]
            + [_cell(value) for value in trace.recall[at]]
            for trace in results.traces
            for at, count in enumerate(trace.labels)
        ),
    )
    sequences = {(trace.order, trace.seed): trace.asked for trace in results.traces}
    _write_csv(
        out / "asked.csv",
        ["order", "seed", "label", "image"],
        (
            [order, seed, number, source.name(place)]
            for (order, seed), asked in sequences.items()
            for number, place in enumerate(asked.tolist(), start=1)
        ),
    )
    _write_csv(
        out / "confusion.csv",
        ["order", "head", "seed", "class", *results.classes],
        (
            [trace.order, trace.head, trace.seed, name, *row]
            for trace in results.traces
            for name, row in zip(results.classes, trace.confusion.tolist(), strict=True)
        ),
    )
    _write_csv(
        out / "reliability.csv",
        ["order", "head", "labels", "bin_from", "images", "mean_probability", "right"],
        (
            [order, head, row, _cell(number / len(bins)), int(count), _cell(sure / count), _cell(right / count)]
            for order in results.orders
            for head in results.heads
            for row in results.rows
            for bins in [pooled_reliability(results, head, order, row)]
            for number, (count, sure, right) in enumerate(bins)
            if count
        ),
    )
    _write_csv(
        out / "doubts.csv",
        ["image", "label", "suggested", "evidence", "reason", "look_alike"],
        (
            [
                source.name(doubt.index),
                doubt.given,
                doubt.suggested,
                _cell(doubt.evidence),
                doubt.reason,
                "" if doubt.look_alike is None else source.name(doubt.look_alike),
            ]
            for doubt in results.doubts
        ),
    )
    unreadable = ([path.relative_to(source.folder).as_posix(), reason] for path, reason in source.unreadable.items())
    _write_csv(out / "unreadable.csv", ["image", "reason"], unreadable)


def _write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)


def _cell(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6g}"
