"""What the images without a label teach, as a study keeps it: which images, as what, and how far that is believed.

The images are named by their content, so what was served with them can be made again while their features are kept.
"""

from __future__ import annotations

import io

import numpy as np

from backend.services import Services
from backend.studies import Study
from model.head import StreamingLDA
from model.neighbours import PoolLessons


def to_bytes(lessons: PoolLessons, digests: list[str]) -> bytes | None:
    """Return what a study keeps of lessons, None when they teach nothing.

    Parameters
    ----------
    lessons
        From a graph of images.
    digests
        Content hash of each image the graph was made of.
    """
    if lessons.trust == 0:
        return None
    classes, columns = np.unique(lessons.labels, return_inverse=True)
    file = io.BytesIO()
    np.savez_compressed(
        file,
        digests=np.frombuffer(bytes.fromhex("".join(digests[place] for place in lessons.places)), np.uint8),
        classes=classes.astype(str),
        columns=columns.astype(np.uint16),
        sample_weight=lessons.sample_weight,
    )
    return file.getvalue()


def pool_lessons(services: Services, study: Study | None, classes: tuple[str, ...], encoder_id: str) -> PoolLessons:
    """Return what the unlabelled images of a study teach; nothing for another encoder, nor of a class that is gone."""
    if study is None or study.trust == 0 or study.encoder_id != encoder_id:
        return PoolLessons()
    data = services.studies.pool(study.project_id, study.number)
    if data is None:
        return PoolLessons()
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        hexadecimal, columns = file["digests"].tobytes().hex(), file["columns"]
        labels, weight = file["classes"][columns], file["sample_weight"]
    digests = [hexadecimal[start : start + 64] for start in range(0, len(hexadecimal), 64)]
    vectors = services.features.by_hash(digests)
    there = np.array([digest in vectors for digest in digests]) & np.isin(labels, classes)
    if not there.any():
        return PoolLessons()
    rows = np.stack([vectors[digest] for digest, known in zip(digests, there, strict=True) if known])
    head = StreamingLDA().partial_fit(rows, labels[there], sample_weight=weight[there])
    return PoolLessons(np.flatnonzero(there), labels[there], weight[there], head, study.trust)
