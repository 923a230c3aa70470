"""What was measured, as a table: the figure, the bar it is held to, and what it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One figure; `met` tells whether it reaches the bar, None where there is none."""

    what: str
    figure: str
    bar: str = ""
    baseline: str = ""
    met: bool | None = None


def show(rows: Sequence[Row]) -> None:
    """Print the rows as a table that stays readable in a log."""
    table = Table("what", "measured", "bar", "met", "beside it, in the same run")
    for row in rows:
        met = "" if row.met is None else "yes" if row.met else "NO"
        table.add_row(row.what, row.figure, row.bar, met, row.baseline)
    Console(width=150).print(table)


def milliseconds(seconds: Sequence[float], *percentiles: float) -> list[float]:
    """Return percentiles in milliseconds.

    Examples
    --------
    >>> milliseconds([0.001, 0.002, 0.003], 50)
    [2.0]
    """
    return [float(value) * 1000 for value in np.percentile(seconds, percentiles)]
