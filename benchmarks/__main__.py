"""`make bench`: every figure with its bar and its baseline, measured now on this machine, as one table."""

from __future__ import annotations

import logging
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path

from rich.console import Console

from benchmarks import pages, service
from benchmarks.label_studio import sink
from benchmarks.stand import stand
from benchmarks.table import Row, milliseconds, show

LEARNING, WEBHOOKS, POOL = 1, 2, 3
"""Label Studio's ids of the projects that are measured on."""


def main() -> None:
    """Measure everything and print the table."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    console = Console()
    cache = Path(os.environ.get("TANDEM_STATE") or ".tandem") / "cache"
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as name, sink() as label_studio:
        folder, files = Path(name), Path(name) / "files"
        files.mkdir()
        with stand(folder, cache, label_studio_files=files, label_studio_url=label_studio.url) as bench:
            console.print("Webhooks ...")
            rows += service.webhooks(bench, WEBHOOKS)

            console.print("From label to served head, at 100 and at 10,000 labels ...")
            bench.add_project(LEARNING, 11_000)
            few = service.label_to_served(bench, LEARNING, 100)
            hurried = service.label_to_served(bench, LEARNING, 200, service.IN_A_HURRY)
            seed = service.seeds_way(bench)
            many = service.label_to_served(bench, LEARNING, 10_000)
            median, slow = milliseconds(few, 50, 95)
            theirs = statistics.median(seed) * 1000
            rows += [
                Row(
                    "label to served version, at 100 labels, median", f"{median:.0f} ms", "under 60 ms", met=median < 60
                ),
                Row("the same, p95", f"{slow:.0f} ms", "under 150 ms", met=slow < 150),
                Row("the same, five labels a second, median", "{:.0f} ms".format(*milliseconds(hurried, 50))),
                Row(
                    "times faster than MLP partial_fit + log_model",
                    f"{theirs / median:.0f}",
                    "at least 15",
                    f"{theirs:.0f} ms a label",
                    theirs / median >= 15,
                ),
            ]
            large, large_slow = milliseconds(many, 50, 95)
            rows.append(
                Row(
                    "the same at 10,000 labels, over that at 100",
                    f"{large / median:.2f}",
                    "not over 1.3",
                    f"median {large:.0f} ms, p95 {large_slow:.0f} ms",
                    large / median <= 1.3,
                )
            )

            console.print("Predictions ...")
            (one,) = milliseconds(service.predict_cached(bench, LEARNING), 50)
            rows.append(
                Row("/predict, one task, features cached, median", f"{one:.1f} ms", "under 10 ms", met=one < 10)
            )
            rate, own = service.predict_uncached(bench, LEARNING, files)
            rows.append(
                Row(
                    f"/predict, {service.BATCH} new images, of the encoder's own rate",
                    f"{rate / own:.0%}",
                    "at least 85 %",
                    f"{rate:.0f} of {own:.0f} images a second",
                    rate / own >= 0.85,
                )
            )

            console.print("A pool of 100,000 ...")
            seconds = statistics.median(service.score_pool(bench, LEARNING))
            rows.append(Row("scoring 100,000 cached features", f"{seconds:.2f} s", "under 0.5 s", met=seconds < 0.5))
            bench.add_project(POOL, service.POOL)
            taken = label_studio.taken
            bench.services.jobs.ask("show", bench.services.projects.named(POOL).id)
            while label_studio.taken == taken:
                time.sleep(0.1)
            taken = label_studio.taken
            busy = service.label_to_served(bench, LEARNING, 10_000 + service.LABELS_TIMED)
            (while_pushing,) = milliseconds(busy, 50)
            rows.append(
                Row(
                    "label to served while that pool is pushed, median",
                    f"{while_pushing:.0f} ms",
                    baseline=f"{large:.0f} ms while nothing is; {label_studio.taken - taken} predictions went out",
                )
            )
            memory = bench.memory()
            workers = memory["learn"] + memory["chores"]
            rows.append(
                Row(
                    "memory of both worker processes, that pool loaded",
                    f"{workers / 1000:.2f} GB",
                    "under 1.2 GB",
                    ", ".join(f"{name} {held:.0f} MB" for name, held in memory.items()),
                    workers < 1200,
                )
            )

            console.print("Pages of that project ...")
            pages.add_labels(bench, POOL)
            rows += pages.load(bench, POOL)
    show(rows)


if __name__ == "__main__":
    main()
