"""The labelled images of a project in memory, brought up to date with the ledger whenever they are looked at.

What they look like is compared in one matrix product, so whoever asks twice waits once for the database.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from backend.ledger import Label
from backend.services import Services
from backend.update import weights_of
from backend.versions import Version
from model.uncertainty import power_normalised
from model.weights import Weights

MOST_IMAGES = 20_000
"""Labelled images of a project that are held: the last labelled ones, 50 MB of them at 1,280 features."""
MOST_PROJECTS = 3
"""Projects whose images are held at a time."""
MOST_VERSIONS = 6
"""Versions of a project whose weights are held, once they were asked for."""
CHUNK = 2048
"""Images compared at a time."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A task somebody labelled: its labels in force, in the order they were told, and where its image is in memory."""

    task: int
    labels: tuple[Label, ...]
    place: int

    @property
    def names(self) -> tuple[str, ...]:
        """What people called it, each answer once; several classes of one answer are joined."""
        return tuple(dict.fromkeys(" + ".join(label.names) or "none" for label in self.labels))


@dataclass(frozen=True, slots=True)
class Images:
    """The labelled images as they were at one moment: the oldest label first; `rows` are their features."""

    labelled: list[Labelled]
    rows: npt.NDArray[np.float16]

    def likeness(self, vector: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return the cosine between the power-normalised features of an image and of each of these, shape (n,)."""
        wanted = power_normalised(vector[None])[0]
        parts = [power_normalised(part.astype(np.float32)) @ wanted for part in self._parts()]
        return np.concatenate([np.empty(0), *parts])

    def probabilities(self, weights: Weights) -> npt.NDArray[np.float64]:
        """Return what weights say of each, shape (n, k)."""
        parts = [weights.predict_proba(part) for part in self._parts()]
        return np.concatenate([np.empty((0, len(weights.classes))), *parts])

    def _parts(self) -> Iterator[npt.NDArray[np.float16]]:
        places = np.array([each.place for each in self.labelled], dtype=np.intp)
        return (self.rows[places[start : start + CHUNK]] for start in range(0, len(places), CHUNK))


@dataclass(slots=True)
class Gallery:
    """The labelled images of one project: `rows` holds their features as float16; `row_of` finds them by address."""

    project_id: int
    encoder_id: str
    position: int = -1
    labels: dict[int, Label] = field(default_factory=dict)
    row_of: dict[str, int] = field(default_factory=dict)
    rows: npt.NDArray[np.float16] = field(default_factory=lambda: np.empty((0, 0), np.float16))
    _weights: OrderedDict[int, tuple[float, Weights | None]] = field(default_factory=OrderedDict)
    _following: threading.Lock = field(default_factory=threading.Lock)
    _learning: threading.Lock = field(default_factory=threading.Lock)

    def images(self, services: Services) -> Images:
        """Return the tasks with a label in force whose image was read."""
        with self._following:
            self._follow(services)
            theirs: dict[int, list[Label]] = {}
            for label in self.labels.values():
                theirs.setdefault(label.task_id, []).append(label)
            labelled = [
                Labelled(task, tuple(labels), self.row_of[labels[-1].image or ""])
                for task, labels in theirs.items()
                if (labels[-1].image or "") in self.row_of
            ]
            return Images(labelled, self.rows)

    def weights(self, services: Services, version: Version) -> Weights | None:
        """Return the weights of a version; those that were pruned are learned again once, and held."""
        with self._learning:
            held = self._weights.get(version.number)
            if held is None or held[0] != version.created_at:
                held = self._weights[version.number] = (version.created_at, weights_of(services, version))
            self._weights.move_to_end(version.number)
            while len(self._weights) > MOST_VERSIONS:
                self._weights.popitem(last=False)
            return held[1]

    def _follow(self, services: Services) -> None:
        """Take in what the ledger says since the last time."""
        position = services.ledger.position(self.project_id)
        if self.position < 0:
            self.labels = services.ledger.in_force(self.project_id)
        elif position != self.position:
            changes = services.ledger.since(self.project_id, self.position)
            position = changes.position
            for annotation, label in changes.labels.items():
                self.labels.pop(annotation, None)
                if label is not None:
                    self.labels[annotation] = label
        self.position = position
        for annotation in list(self.labels)[: max(len(self.labels) - MOST_IMAGES, 0)]:
            del self.labels[annotation]
        addresses = {label.image for label in self.labels.values() if label.image is not None}
        missing = [address for address in addresses if address not in self.row_of]
        if len(self.row_of) + len(missing) > max(2 * len(addresses), CHUNK):
            # Half of what is held belongs to labels that are gone.
            self._keep(addresses)
        self._add(services.features.cached(self.project_id, missing).vectors)

    def _keep(self, addresses: set[str]) -> None:
        kept = [address for address in self.row_of if address in addresses]
        self.rows = self.rows[[self.row_of[address] for address in kept]]
        self.row_of = {address: row for row, address in enumerate(kept)}

    def _add(self, vectors: dict[str, npt.NDArray[np.float32]]) -> None:
        if not vectors:
            return
        used, dim = len(self.row_of), len(next(iter(vectors.values())))
        if used + len(vectors) > len(self.rows):
            grown = np.empty((max(used + len(vectors), used * 3 // 2), dim), np.float16)
            if used:
                grown[:used] = self.rows[:used]
            self.rows = grown
        for row, (address, vector) in enumerate(vectors.items(), start=used):
            self.rows[row] = vector
            self.row_of[address] = row


class Galleries:
    """The galleries this process holds, by project; the one not looked at for longest goes first."""

    def __init__(self) -> None:
        self._held: OrderedDict[int, Gallery] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, services: Services, project_id: int) -> Gallery:
        """Return the project's gallery; an empty one when the encoder is another by now."""
        encoder_id = services.encoder.id
        with self._lock:
            gallery = self._held.get(project_id)
            if gallery is None or gallery.encoder_id != encoder_id:
                gallery = self._held[project_id] = Gallery(project_id, encoder_id)
            self._held.move_to_end(project_id)
            while len(self._held) > MOST_PROJECTS:
                self._held.popitem(last=False)
            return gallery


def names_of(label: str | None, multiple: bool | None) -> tuple[str, ...] | None:
    """Return the classes of a label as its columns in SQL hold it, None for no label.

    Examples
    --------
    >>> names_of("sad", False), names_of('["angry", "sad"]', True), names_of(None, None)
    (('sad',), ('angry', 'sad'), None)
    """
    if label is None:
        return None
    return tuple(json.loads(label)) if multiple else (label,)
