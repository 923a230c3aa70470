"""Outcomes and studies written down as if they had come about, for tests that look at numbers alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backend.database import writing
from backend.outcomes import Outcome, add_outcomes
from backend.services import Services
from backend.studies import Studies, Study


def measure(services: Services, told: Sequence[tuple[str, str]], confidence: float = 0.5, start: float = 0.0) -> None:
    """Write down what was labelled and predicted, a minute apart, of project 1."""
    rows = [
        Outcome(
            project_id=1,
            annotation_id=number,
            task_id=number,
            version=number,
            position=number,
            label=label,
            predicted=predicted,
            probability=confidence if label == predicted else 0.1,
            confidence=confidence,
            covered=label == predicted,
            told_at=start + 60.0 * number,
        )
        for number, (label, predicted) in enumerate(told, start=1)
    ]
    with writing(services.engine) as connection:
        add_outcomes(connection, rows)


def find(services: Services, **findings: Any) -> None:
    """Write down a study of project 1 that found this."""
    Studies(services.engine).add(
        Study(
            project_id=1,
            number=1,
            position=1,
            encoder_id="an encoder",
            created_at=1000.0,
            seconds=1.0,
            calibration=None,
            reliability={},
            trust=0.0,
            findings=findings,
        )
    )
