"""What can be taken along: the labels in force with what was predicted of them, and the model that serves with a card.

Nothing of it needs Tandem again: the labels are plain rows, and the weights are used with `model/` alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from backend.database import annotation_table, outcomes, reading
from backend.insight.overview import Overview, overview
from backend.projects import Project
from backend.services import Services
from backend.update import weights_of
from backend.versions import version_name
from model.weights import Weights


@dataclass(frozen=True, slots=True)
class Labelled:
    """A label in force, and what was predicted of its image.

    Attributes
    ----------
    annotation, task, image
        Label Studio's ids, and the image's address as the task has it.
    labels
        The class chosen; where several can be, those that were, perhaps none.
    person
        Label Studio's id of who labelled it; None where Label Studio did not say.
    labelled_at
        When it was last changed, in ISO 8601, by Label Studio's clock.
    seconds
        How long it took, as Label Studio measured; None where it did not.
    ground_truth
        Whether it was marked so in Label Studio.
    seen
        The version whose prediction stood in the task when it was opened; None where none did.
    predicted_by, predicted, probability, confidence
        The version that was newest before this image was learned, what it took it for, and how probable it held the
        label and what it predicted. None where nothing was learned yet, or the picture was known already; the first
        probability also where the label was corrected later.
    """

    annotation: int
    task: int
    image: str | None
    labels: tuple[str, ...]
    person: int | None
    labelled_at: str
    seconds: float | None
    ground_truth: bool
    seen: str | None
    predicted_by: str | None
    predicted: tuple[str, ...] | None
    probability: float | None
    confidence: float | None


@dataclass(frozen=True, slots=True)
class Card:
    """What one must know of exported weights to use them rightly.

    Attributes
    ----------
    project, title, version, learned_at
        Where they come from; the time in ISO 8601.
    classes
        In the order of the columns of `predict_proba`.
    several
        Whether an image can have several classes: probabilities then are each class's own, and do not sum to 1.
    encoder, backbone, dim
        Id of the encoder that gave the features, the name of its backbone in timm, and how long they are.
    head
        The kind of head.
    labels
        How many labels it learned of each class.
    measured, accuracy, low, high
        Of how many images it was predicted what they show before their label was learned, how often rightly, and
        between what that lies nineteen times of twenty; None where nothing was measured. These images were chosen for
        being unclear, so on images as they come it is usually better.
    """

    project: int
    title: str
    version: str
    learned_at: str
    classes: tuple[str, ...]
    several: bool
    encoder: str
    backbone: str
    dim: int
    head: str
    labels: dict[str, int]
    measured: int
    accuracy: float | None
    low: float | None
    high: float | None


class NothingLearned(LookupError):  # noqa: N818 - reads as what it says
    """Raised when a model is asked for before anything was learned."""


def count_labels(services: Services, project: Project) -> int:
    """Return how many labels are in force."""
    query = sa.select(sa.func.count()).where(
        annotation_table.c.project_id == project.id, annotation_table.c.label.is_not(None)
    )
    with reading(services.engine) as connection:
        return connection.scalar(query) or 0


def labels_in_force(services: Services, project: Project) -> Iterator[Labelled]:
    """Yield the labels in force in the order in which they were told."""
    told, said = annotation_table.c, outcomes.c
    joined = annotation_table.outerjoin(
        outcomes, (said.project_id == told.project_id) & (said.annotation_id == told.id)
    )
    measured = said.label.label("measured")
    query = (
        sa.select(annotation_table, said.version, said.predicted, said.probability, said.confidence, measured)
        .select_from(joined)
        .where(told.project_id == project.id, told.label.is_not(None))
        .order_by(told.position, told.id)
    )
    with reading(services.engine) as connection:
        for row in connection.execution_options(yield_per=1000).execute(query):
            labels = _names(row.label, row.multiple)
            as_measured = row.measured is not None and set(_names(row.measured, row.multiple)) == set(labels)
            yield Labelled(
                annotation=row.id,
                task=row.task_id,
                image=row.image,
                labels=labels,
                person=row.completed_by,
                labelled_at=_iso(row.updated_at),
                seconds=row.lead_time,
                ground_truth=row.ground_truth,
                seen=row.prediction_version,
                predicted_by=version_name(row.version) if row.version is not None else None,
                predicted=_names(row.predicted, row.multiple) if row.predicted is not None else None,
                probability=row.probability if as_measured else None,
                confidence=row.confidence,
            )


def model_of(services: Services, project: Project) -> tuple[Weights, Card]:
    """Return the weights that serve, and their card.

    Raises
    ------
    NothingLearned
        When there are none yet.
    """
    version = services.versions.champion(project.id)
    weights = weights_of(services, version) if version else None
    if version is None or weights is None:
        raise NothingLearned(
            f"Nothing was learned yet of project {project.label_studio_id}: label some images, and export again."
        )
    known: Overview = overview(services, project)
    rate = known.measured.all if known.measured else None
    return weights, Card(
        project=project.label_studio_id,
        title=project.title,
        version=version.name,
        learned_at=_iso(version.created_at),
        classes=tuple(str(name) for name in weights.classes),
        several=known.several,
        encoder=version.encoder_id,
        backbone=services.settings.encoder,
        dim=weights.dim,
        head=version.head,
        labels=dict(version.metrics["labels"]),
        measured=rate.count if rate else 0,
        accuracy=rate.share if rate else None,
        low=rate.low if rate and rate.count else None,
        high=rate.high if rate and rate.count else None,
    )


def card_text(card: Card) -> str:
    """Return the card as people read it, in Markdown."""
    counts = "\n".join(f"| {name} | {card.labels.get(name, 0)} |" for name in card.classes)
    measured = (
        f"Of {card.measured} images it was predicted what they show before their label was learned: rightly "
        f"{card.accuracy:.1%} of the time (between {card.low:.1%} and {card.high:.1%}, nineteen times of twenty). Most "
        "of them were asked for being unclear, so on images as they come it is usually better."
        if card.accuracy is not None
        else "Nothing was measured yet."
    )
    sums = "Each probability is a class's own; they do not sum to 1." if card.several else "Probabilities sum to 1."
    return f"""# {card.title}: {card.version}

Learned by Tandem from project {card.project} of Label Studio, {card.learned_at}.

| class | labels |
|---|---|
{counts}

{measured}

It knows nothing but these classes: an image of something else gets one of them too, and perhaps a high probability.
{sums}

## Use
`pip install tandem`, which brings the package `model`; no server is needed. The encoder must be
`{card.encoder}`, whose backbone is `{card.backbone}`.

```python
from pathlib import Path

from PIL import Image

from model.encoder import load_encoder
from model.weights import Weights

weights = Weights.from_bytes(Path("weights.npz").read_bytes())
encoder = load_encoder("{card.backbone}")
assert encoder.id == "{card.encoder}"
(probabilities,) = weights.predict_proba(encoder.encode([Image.open("image.jpg")]))
print(dict(zip(weights.classes.tolist(), probabilities.tolist())))
```
"""


def _names(label: str, multiple: bool) -> tuple[str, ...]:
    return tuple(json.loads(label)) if multiple else (label,)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
