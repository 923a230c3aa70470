"""The pictures of a replay, each in light and dark colours and with words for who can't see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal, cast

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, NullFormatter

from model.weights import Floats
from replay import words
from replay.results import Results, Trace

Theme = Literal["light", "dark"]

SIZE = (6.4, 4.0)
"""Inches; at 150 dots an inch sharp on a phone."""

# Okabe and Ito's colours (Color Universal Design, 2008), told apart by the colour-blind; lines differ in marks too.
COLOURS = {
    "light": {"blue": "#0072B2", "orange": "#D55E00", "green": "#007A5A", "purple": "#B0568C", "ink": "#1b1f24"},
    "dark": {"blue": "#56B4E9", "orange": "#F0954A", "green": "#2CC397", "purple": "#DE9AC3", "ink": "#e6e9ee"},
}
PAPER = {"light": "#ffffff", "dark": "#171a1f"}
GRID = {"light": "#d9dde3", "dark": "#363c45"}
LINES = {
    "ours": ("blue", "o", "-"),
    "mlp": ("orange", "s", "--"),
    "sgd": ("purple", "^", ":"),
    "logistic": ("green", "D", "-."),
    "random": ("orange", "s", "--"),
    "sorted": ("purple", "^", ":"),
}


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture.

    Attributes
    ----------
    name : str
        Of its file, without a suffix.
    title : str
    alt : str
        What it shows, in words.
    light, dark : bytes
        PNG files.
    """

    name: str
    title: str
    alt: str
    light: bytes
    dark: bytes


def draw(results: Results) -> dict[str, Plot]:
    """Return all pictures that these results have something to show in, by name."""
    plots: dict[str, Plot | None] = {}
    for order in results.orders:
        plots[f"accuracy-{order}"] = _by_head(results, order, "accuracy", lambda trace: trace.accuracy, "accuracy")
    if "ours" in results.heads:
        plots["orders"] = _orders(results)
        for order in results.orders:
            if order != "sorted":
                plots[f"prequential-{order}"] = _prequential(results, order)
        shown = results.shown_order
        plots["reliability"] = _reliability(results, shown)
        plots["confusion"] = _confusion(results, shown)
        plots["sets"] = _sets(results, shown)
    order = results.shown_order
    plots["calibration"] = _by_head(
        results, order, "calibration", lambda trace: trace.calibration_error, "expected calibration error"
    )
    if "sorted" in results.orders:
        plots["forgetting"] = _forgetting(results)
    return {name: plot for name, plot in plots.items() if plot is not None}


def pooled_reliability(results: Results, head: str, order: str, labels: int) -> Floats:
    """Return the bins of all seeds added up, shape (b, 3); see `Trace.reliability`."""
    checkpoints = [(trace, trace.at(labels)) for trace in results.of(head, order)]
    found: Floats = np.sum([trace.reliability[at] for trace, at in checkpoints if at is not None], axis=0)
    return found


def _render(
    name: str, title: str, alt: str, paint: Callable[[Axes, Theme], None], size: tuple[float, float] = SIZE
) -> Plot:
    files = {}
    themes: tuple[Theme, ...] = ("light", "dark")
    for theme in themes:
        ink = COLOURS[theme]["ink"]
        colours = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), ink)
        style: dict[str, Any] = {
            **colours,
            "figure.facecolor": PAPER[theme],
            "savefig.facecolor": PAPER[theme],
            "axes.facecolor": PAPER[theme],
            "legend.facecolor": PAPER[theme],
            "legend.edgecolor": GRID[theme],
            "grid.color": GRID[theme],
            "font.size": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
        with rc_context(cast("Any", style)):
            canvas = Canvas(figsize=size, dpi=150, layout="constrained")
            FigureCanvasAgg(canvas)
            paint(canvas.add_subplot(), theme)
            file = BytesIO()
            canvas.savefig(file, format="png", metadata={"Software": None})
            files[theme] = file.getvalue()
    return Plot(name, title, alt, files["light"], files["dark"])


def _line(axes: Axes, theme: Theme, key: str, label: str, curve: Any, scale: float = 100) -> None:
    colour, marker, dashes = LINES[key]
    kept = np.isfinite(curve.mean)
    labels, mean, spread = curve.labels[kept], scale * curve.mean[kept], scale * curve.spread[kept]
    if not len(labels):
        return
    every = max(1, len(labels) // 12)
    tone = COLOURS[theme][colour]
    axes.plot(
        labels, mean, dashes, color=tone, marker=marker, markevery=every, markersize=4.5, linewidth=1.8, label=label
    )
    axes.fill_between(labels, mean - spread, mean + spread, color=tone, alpha=0.16, linewidth=0)


def _labels_axis(axes: Axes, results: Results) -> None:
    axes.set_xscale("log")
    axes.set_xticks(results.rows)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("labels")
    axes.grid(visible=True, linewidth=0.7)


def _told(results: Results, pairs: list[tuple[str, Any]]) -> str:
    """Say the first and the last value of curves."""
    said = []
    for label, curve in pairs:
        kept = np.isfinite(curve.mean)
        if kept.any():
            labels, mean = curve.labels[kept], curve.mean[kept]
            said.append(
                f"{label}: {words.percent(mean[0])} after {labels[0]}, {words.percent(mean[-1])} after {labels[-1]}"
            )
    return "; ".join(said) + "."


def _by_head(results: Results, order: str, name: str, measure: Callable[[Trace], Floats], what: str) -> Plot:
    pairs = [(words.HEADS[head], results.curve(head, order, measure)) for head in results.heads]

    def paint(axes: Axes, theme: Theme) -> None:
        for head, (label, curve) in zip(results.heads, pairs, strict=True):
            _line(axes, theme, head, label, curve)
        _labels_axis(axes, results)
        axes.set_ylabel(f"{what} (%)")
        axes.set_ylim(bottom=0)
        axes.legend()

    title = f"{what[0].upper()}{what[1:]}, labels {words.ORDERS[order]}"
    return _render(f"{name}-{order}", title, f"{title}. {_told(results, pairs)}", paint)


def _orders(results: Results) -> Plot:
    pairs = [
        (words.ORDERS[order], results.curve("ours", order, lambda trace: trace.accuracy)) for order in results.orders
    ]

    def paint(axes: Axes, theme: Theme) -> None:
        for order, (label, curve) in zip(results.orders, pairs, strict=True):
            _line(axes, theme, order, label, curve)
        _labels_axis(axes, results)
        axes.set_ylabel("accuracy (%)")
        axes.set_ylim(bottom=0)
        axes.legend(title="labels")

    title = "Accuracy of Tandem by the order of the labels"
    return _render("orders", title, f"{title}. {_told(results, pairs)}", paint)


def _prequential(results: Results, order: str) -> Plot:
    held_out = results.curve("ours", order, lambda trace: trace.accuracy)
    recent = results.curve("ours", order, lambda trace: trace.recent)
    pairs = [("on held-out images", held_out), ("on the newest 100 labels, before learning them", recent)]

    def paint(axes: Axes, theme: Theme) -> None:
        for key, (label, curve) in zip(("ours", "random"), pairs, strict=True):
            _line(axes, theme, key, label, curve)
        _labels_axis(axes, results)
        axes.set_ylabel("accuracy (%)")
        axes.set_ylim(bottom=0)
        axes.legend(loc="lower right")

    title = f"Accuracy of Tandem before learning, labels {words.ORDERS[order]}"
    return _render(f"prequential-{order}", title, f"{title}. {_told(results, pairs)}", paint)


def _reliability(results: Results, order: str) -> Plot:
    lines = [(head, pooled_reliability(results, head, order, results.labels)) for head in results.heads]

    def paint(axes: Axes, theme: Theme) -> None:
        axes.plot([0, 100], [0, 100], color=GRID[theme], linewidth=1.5, label="as sure as right")
        for head, bins in lines:
            colour, marker, dashes = LINES[head]
            # Bins of a handful of images are noise.
            full = bins[:, 0] >= max(0.01 * bins[:, 0].sum(), 5)
            sure, right = bins[full, 1] / bins[full, 0], bins[full, 2] / bins[full, 0]
            tone = COLOURS[theme][colour]
            axes.plot(100 * sure, 100 * right, dashes, color=tone, marker=marker, label=words.HEADS[head])
        axes.set_xlabel("probability of the likeliest class (%)")
        axes.set_ylabel("right (%)")
        axes.grid(visible=True, linewidth=0.7)
        axes.legend()

    gaps = "; ".join(f"{words.HEADS[head]}: {words.percent(_gap(bins))} points off on average" for head, bins in lines)
    title = f"How often it was right against how sure it was, after {results.labels:,} labels {words.ORDERS[order]}"
    return _render("reliability", title, f"{title}. {gaps}.", paint)


def _gap(bins: Floats) -> float:
    return float(np.abs(bins[:, 1] - bins[:, 2]).sum() / bins[:, 0].sum())


def _confusion(results: Results, order: str) -> Plot:
    counts = np.sum([trace.confusion for trace in results.of("ours", order)], axis=0)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = results.classes
    side = max(4.0, 0.62 * len(classes) + 1.6)

    def paint(axes: Axes, theme: Theme) -> None:
        axes.imshow(shares, cmap="Blues" if theme == "light" else "Blues_r", vmin=0, vmax=1)
        if len(classes) <= 20:
            for row, column in np.ndindex(shares.shape):
                strong = shares[row, column] > 0.5
                tone = "#ffffff" if strong == (theme == "light") else "#1b1f24"
                axes.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", color=tone, size=9)
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
        axes.set_yticks(range(len(classes)), classes)
        axes.set_xlabel("predicted")
        axes.set_ylabel("class")
        axes.spines[:].set_visible(False)

    said = ", ".join(f"{name} {words.percent(shares[at, at])}" for at, name in enumerate(classes))
    title = f"Confusion matrix of Tandem after {results.labels:,} labels, in percent of each class"
    return _render("confusion", title, f"{title}. Right: {said}.", paint, (side, side * 0.88))


def _sets(results: Results, order: str) -> Plot | None:
    coverage = results.curve("ours", order, lambda trace: trace.coverage)
    size = results.curve("ours", order, lambda trace: trace.set_size)
    if not np.isfinite(coverage.mean).any():
        return None

    def paint(axes: Axes, theme: Theme) -> None:
        axes.axhline(90, color=GRID[theme], linewidth=1.5)
        _line(axes, theme, "ours", "holds the class (%)", coverage)
        _labels_axis(axes, results)
        axes.set_ylabel("holds the class (%)", color=COLOURS[theme]["blue"])
        axes.set_ylim(0, 100)
        other = axes.twinx()
        _line(other, theme, "random", "classes in it", size, scale=1)
        other.set_ylabel("classes in it", color=COLOURS[theme]["orange"])
        other.set_ylim(0, len(results.classes))

    sized = f"Mean size from {size.mean[0]:.1f} to {size.mean[-1]:.1f} classes."
    title = f"90 % prediction sets, labels {words.ORDERS[order]}"
    return _render("sets", title, f"{title}. {_told(results, [('Coverage', coverage)])} {sized}", paint)


def _forgetting(results: Results) -> Plot:
    pairs = []
    for head in results.heads:
        traces = results.of(head, "sorted")
        count = len(results.classes)
        # After the last label of each class: accuracy on the images of the classes that were met by then.
        known = [[_accuracy_on_seen(trace, seen) for seen in range(1, count + 1)] for trace in traces]
        pairs.append((words.HEADS[head], np.array(known)))

    def paint(axes: Axes, theme: Theme) -> None:
        for head, (label, known) in zip(results.heads, pairs, strict=True):
            colour, marker, dashes = LINES[head]
            at = np.arange(1, known.shape[1] + 1)
            mean, tone = 100 * known.mean(axis=0), COLOURS[theme][colour]
            axes.plot(at, mean, dashes, color=tone, marker=marker, label=label)
        axes.plot(at, 100 / at, color=GRID[theme], linewidth=1.5, label="chance")
        axes.set_xticks(at)
        axes.set_xlabel("classes met, one after the other")
        axes.set_ylabel("accuracy on the classes met (%)")
        axes.set_ylim(0, 102)
        axes.grid(visible=True, linewidth=0.7)
        axes.legend()

    said = "; ".join(f"{label}: {words.percent(known.mean(axis=0)[-1])} after the last" for label, known in pairs)
    title = "Accuracy on the classes met so far, labels sorted by class"
    return _render("forgetting", title, f"{title}. {said}.", paint)


def _accuracy_on_seen(trace: Trace, seen: int) -> float:
    """Accuracy, each class counted the same, on the classes with a label by the last checkpoint with `seen` of them."""
    at = int(np.flatnonzero(trace.classes_seen <= seen)[-1])
    met = trace.met[: int(trace.classes_seen[at])]
    return float(np.nanmean(trace.recall[at, met]))
