"""How long the pages take, where a project is large: 100,000 tasks, and 10,000 labels that were measured."""

from __future__ import annotations

import random
import time

from backend.database import annotation_table, writing
from backend.outcomes import Outcome, add_outcomes
from benchmarks.stand import CLASSES, Stand, address
from benchmarks.table import Row, milliseconds

LABELS, TIMES = 10_000, 5
PAGES = ("overview", "queue", "doubts", "versions", "try")


def add_labels(stand: Stand, number: int) -> None:
    """Write labels and their outcomes down as if they had been learned one by one; nothing learns from them."""
    project_id = stand.services.projects.named(number).id
    draw = random.Random(0)
    labels, outcomes = [], []
    for task in range(1, LABELS + 1):
        label = stand.truth[number, task]
        predicted = label if draw.random() < 0.8 else draw.choice(CLASSES)
        annotation = 10**9 + task
        labels.append(
            {
                "project_id": project_id,
                "id": annotation,
                "task_id": task,
                "image": address(task),
                "label": label,
                "standing": "in force",
                "updated_at": float(task),
                "told_at": float(task),
                "completed_by": 1,
                "lead_time": draw.lognormvariate(1, 0.5),
                "ground_truth": False,
                "prediction_version": f"tandem-v{task - 1}",
                "position": 0,
            }
        )
        outcomes.append(
            Outcome(
                project_id, annotation, task, 1, task, label, predicted, 0.5, draw.uniform(0.3, 1.0), True, 60.0 * task
            )
        )
    with writing(stand.services.engine) as connection:
        connection.execute(annotation_table.insert(), labels)
        add_outcomes(connection, outcomes)


def load(stand: Stand, number: int) -> list[Row]:
    """Return how long each page takes from request to last byte; the first time, when nothing is at hand yet, too."""
    rows = []
    with stand.client() as client:
        for path in [*(f"/ui/projects/{number}/{name}" for name in PAGES), "/ui/health"]:
            seconds = []
            for _ in range(TIMES):
                start = time.perf_counter()
                client.get(path).raise_for_status()
                seconds.append(time.perf_counter() - start)
            median, slow = milliseconds(seconds, 50, 95)
            first = seconds[0]
            rows.append(
                Row(
                    f"{path.rsplit('/', 1)[1]}, a page, with 100,000 tasks and 10,000 labels",
                    f"{median:.0f} ms",
                    "the first time under 1 s",
                    f"p95 {slow:.0f} ms, the first time {first * 1000:.0f} ms",
                    first < 1,
                )
            )
    return rows
