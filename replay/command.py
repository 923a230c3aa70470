"""What `tandem replay FOLDER` does: encode a folder, replay it, and write the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from model.encoder import Encoder
from replay import report
from replay.features import encode
from replay.folder import check_enough, read_folder
from replay.heads import HEADS
from replay.labelling import LABELS, SEEDS, check_options, run
from replay.orders import ORDERS


def replay_folder(
    folder: Path,
    out: Path,
    encoder: Encoder,
    cache: Path,
    *,
    labels: int = LABELS,
    seeds: int = SEEDS,
    orders: Sequence[str] = ORDERS,
    heads: Sequence[str] = HEADS,
    console: Console | None = None,
) -> dict[str, Any]:
    """Replay a folder of class subfolders, write the report into `out`, and return its summary.

    Parameters
    ----------
    folder : pathlib.Path
        See `replay.folder.read_folder`.
    out : pathlib.Path
        Folder of the report.
    encoder : model.encoder.Encoder
    cache : pathlib.Path
        Folder in which features and traces are kept, so that an interrupted replay goes on where it was.
    labels, seeds, orders, heads
        See `replay.run`.
    console : rich.console.Console, optional
        Where progress is shown.

    Raises
    ------
    replay.folder.UnusableFolder
        When the folder can't be replayed.
    model.encoder.EncoderError
        When the encoder can't be loaded.
    ValueError
        When an option makes no sense.
    """
    check_options(labels, seeds, orders, heads)
    found = read_folder(folder)
    console = console or Console(quiet=True)
    with _progress(console) as progress:
        task = progress.add_task("Features", total=len(found.images))
        encoded = encode(
            found.images, encoder, cache / "replay" / "features.sqlite", lambda count: progress.advance(task, count)
        )
    unreadable = {found.images[place]: reason for place, reason in encoded.unreadable.items()}
    for path, reason in unreadable.items():
        console.print(f"Left out: {path} ({reason})", highlight=False, markup=False)
    classes = tuple(found.classes[place] for place in encoded.places)
    held_out = None if found.held_out is None else tuple(found.held_out[place] for place in encoded.places)
    check_enough(folder, classes, held_out)
    with _progress(console) as progress:
        task = progress.add_task("Labelling", total=None)
        results = run(
            encoded.features,
            classes,
            held_out,
            labels=labels,
            seeds=seeds,
            orders=orders,
            heads=heads,
            kept=cache / "replay" / "traces",
            begin=lambda total: progress.update(task, total=total),
            advance=lambda: progress.advance(task),
        )
    images = tuple(found.images[place] for place in encoded.places)
    return report.write(results, report.Source(folder, images, unreadable, encoder.id), out)


@contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield progress
