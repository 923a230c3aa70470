"""Writes what can be taken along into files; see `backend.insight.export` for what it is."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.progress import track

from backend.insight.export import Labelled, NothingLearned, card_text, count_labels, labels_in_force, model_of

if TYPE_CHECKING:
    from rich.console import Console

    from backend.projects import Project
    from backend.services import Services


ENDINGS = (".csv", ".json")


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: how many labels into which files, the folder of the model, and why there is none."""

    labels: int
    files: tuple[str, ...]
    model: str | None
    problem: str | None


def export_to(services: Services, project: Project, out: Path, console: Console) -> Exported:
    """Write labels into a file, by the ending of its name, or labels and model into a folder.

    Raises
    ------
    OSError
        When `out` can't be written.
    """
    is_file = out.suffix.lower() in ENDINGS and not out.is_dir()
    files = [out] if is_file else [out / f"labels{ending}" for ending in ENDINGS]
    several = project.config is not None and project.config.multiple
    count = count_labels(services, project)
    written = 0
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        listed = track(
            labels_in_force(services, project), f"Writing {file.name}", total=count, console=console, transient=True
        )
        with _replacing(file) as opened:
            as_rows = file.suffix.lower() == ".csv"
            written = _write_csv(opened, listed, several) if as_rows else _write_json(opened, listed)
    model, problem = (None, None) if is_file else _write_model(services, project, out / "model")
    return Exported(written, tuple(map(str, files)), model, problem)


def _write_csv(file: TextIO, listed: Iterable[Labelled], several: bool) -> int:
    """Write a row for each label; where several classes can be chosen, their list is JSON in its field."""
    writer = csv.DictWriter(file, [field.name for field in fields(Labelled)])
    writer.writeheader()
    count = 0
    for each in listed:
        row = asdict(each)
        for name in ("labels", "predicted"):
            if row[name] is not None:
                row[name] = json.dumps(row[name], ensure_ascii=False) if several else row[name][0]
        writer.writerow(row)
        count += 1
    return count


def _write_json(file: TextIO, listed: Iterable[Labelled]) -> int:
    """Write a list of labels, one a line, so that the file is never whole in memory."""
    count = 0
    for each in listed:
        file.write(("," if count else "[") + "\n" + json.dumps(asdict(each), ensure_ascii=False))
        count += 1
    file.write("\n]\n" if count else "[]\n")
    return count


def _write_model(services: Services, project: Project, folder: Path) -> tuple[str | None, str | None]:
    """Write the weights and their card; return the folder, or why there is none."""
    try:
        weights, card = model_of(services, project)
    except NothingLearned as nothing:
        return None, str(nothing)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.npz").write_bytes(weights.to_bytes())
    (folder / "card.json").write_text(json.dumps(asdict(card), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card_text(card), encoding="utf-8")
    return str(folder), None


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """Give a file that takes the place of `path` when it is whole: what was there stays until then."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            yield file
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
