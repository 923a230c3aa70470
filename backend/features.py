"""The feature cache: an image's vector, by encoder and by content hash. All of it can be made again.

An address is read once per encoder; from then on it stands for the bytes it gave. Images that can't be read are
remembered with the reason and tried again later, more and more rarely.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from PIL.Image import Image

from backend.database import features, images, reading, upsert, writing
from backend.images import ImageSource, ImageUnreadable, content_hash, decode
from model.encoder import Encoder

log = logging.getLogger(__name__)

Vector = npt.NDArray[np.float32]
IN_CHUNK = 400
"""Addresses in one ``IN (...)``: under every database's limit on parameters."""
FIRST_BATCH, READ_BATCH = 8, 32
"""Images encoded together: the first are waited for while nothing is encoded, so they are few."""
WRITE_BATCH = 256
"""Images written down together."""
FIRST_REST, LONGEST_REST = 5.0, 600.0
"""Seconds until an image that could not be read is tried again: doubled with each attempt, up to the longest."""


@dataclass(frozen=True, slots=True)
class Found:
    """Vectors and content hashes by image address, and why the other images have none.

    `encoded` counts those that had to be fetched and encoded.
    """

    vectors: dict[str, Vector] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, ImageUnreadable] = field(default_factory=dict)
    encoded: int = 0

    def add(self, other: Found) -> None:
        """Take in what `other` found."""
        self.vectors.update(other.vectors)
        self.hashes.update(other.hashes)
        self.unreadable.update(other.unreadable)


@dataclass(frozen=True, slots=True)
class _Read:
    """What became of one address: its picture and then its vector, or why there is none."""

    address: str
    content_hash: str = ""
    picture: Image | None = None
    vector: Vector | None = None
    problem: ImageUnreadable | None = None


class Features:
    """Vectors of images: from the cache, else fetched and encoded.

    Parameters
    ----------
    engine
        Database of the cache.
    source
        Reads the bytes behind an address.
    encoder
        Gives the encoder; called only when it is needed, since loading it takes seconds.
    max_pixels, downloads
        See the settings `image_max_pixels` and `image_downloads`.
    """

    def __init__(
        self,
        engine: sa.Engine,
        source: ImageSource,
        encoder: Callable[[], Encoder],
        *,
        max_pixels: int,
        downloads: int,
    ) -> None:
        self.engine, self.source, self.encoder = engine, source, encoder
        self.max_pixels = max_pixels
        self._readers = ThreadPoolExecutor(downloads, thread_name_prefix="image")

    def close(self) -> None:
        """Stop fetching."""
        self._readers.shutdown(cancel_futures=True)

    def cached(self, project_id: int, addresses: Sequence[str]) -> Found:
        """Return what is there already; each vector has shape (d,)."""
        found = Found()
        joined = images.join(features, features.c.content_hash == images.c.content_hash)
        query = (
            sa.select(images.c.address, images.c.content_hash, features.c.vector)
            .select_from(joined)
            .where(images.c.project_id == project_id, features.c.encoder_id == self.encoder().id)
        )
        with reading(self.engine) as connection:
            for start in range(0, len(addresses), IN_CHUNK):
                chunk = images.c.address.in_(addresses[start : start + IN_CHUNK])
                for address, digest, vector in connection.execute(query.where(chunk)):
                    found.vectors[address] = np.frombuffer(vector, dtype="<f4")
                    found.hashes[address] = digest
        return found

    def by_hash(self, hashes: Sequence[str]) -> dict[str, Vector]:
        """Return the vectors of images known by their content hash."""
        query = sa.select(features.c.content_hash, features.c.vector).where(features.c.encoder_id == self.encoder().id)
        vectors = {}
        with reading(self.engine) as connection:
            for start in range(0, len(hashes), IN_CHUNK):
                chunk = features.c.content_hash.in_(hashes[start : start + IN_CHUNK])
                for digest, vector in connection.execute(query.where(chunk)):
                    vectors[digest] = np.frombuffer(vector, dtype="<f4")
        return vectors

    def find(self, project_id: int, wanted: Sequence[tuple[str, int]], limit: int | None = None) -> Found:
        """Return the vectors of images: cached, else fetched and encoded, `limit` of them at most.

        Parameters
        ----------
        project_id
            Our id of the project.
        wanted
            Pairs of image address and the id of a task that has it.
        limit
            Fetch no more than so many; the rest is then neither among the vectors nor among the unreadable.
        """
        task_of = dict(wanted)
        found = self.cached(project_id, list(task_of))
        missing = [address for address in task_of if address not in found.vectors]
        if not missing:
            return found
        found.unreadable.update(self._resting(project_id, missing))
        due = [address for address in missing if address not in found.unreadable][:limit]
        encoded = 0
        for reads in _joined(self._encode(batch) for batch in self._read(due, task_of)):
            self._write(project_id, reads)
            for read in reads:
                if read.problem is not None:
                    found.unreadable[read.address] = read.problem
                elif read.vector is not None:
                    found.vectors[read.address], found.hashes[read.address] = read.vector, read.content_hash
                    encoded += 1
        return replace(found, encoded=encoded)

    def _read(self, addresses: Sequence[str], task_of: dict[str, int]) -> Iterator[list[_Read]]:
        """Yield what was read in batches; while one is encoded, the next is fetched and decoded, and no more."""
        starts = [0, *range(FIRST_BATCH, len(addresses), READ_BATCH)]
        batches = [addresses[start:end] for start, end in zip(starts, [*starts[1:], len(addresses)], strict=True)]
        ahead = [self._submit(batch, task_of) for batch in batches[:1]]
        for following in [*batches[1:], []]:
            ahead.append(self._submit(following, task_of))
            yield [future.result() for future in ahead.pop(0)]

    def _submit(self, addresses: Sequence[str], task_of: dict[str, int]) -> list[Future[_Read]]:
        return [self._readers.submit(self._read_one, address, task_of[address]) for address in addresses]

    def _read_one(self, address: str, task_id: int) -> _Read:
        try:
            data = self.source.read(address, task_id)
            return _Read(address, content_hash(data), decode(data, self.max_pixels))
        except ImageUnreadable as problem:
            log.warning("Task %d: the image %s can't be read: %s", task_id, address, problem)
            return _Read(address, problem=problem)

    def _encode(self, reads: list[_Read]) -> list[_Read]:
        """Put vectors in the place of pictures."""
        pictures = [read.picture for read in reads if read.picture is not None]
        vectors = iter(self.encoder().encode(pictures))
        return [replace(read, picture=None, vector=next(vectors)) if read.picture else read for read in reads]

    def _write(self, project_id: int, reads: list[_Read]) -> None:
        """Write down what became of some addresses."""
        now = time.time()
        rows = [
            {
                "project_id": project_id,
                "address": read.address,
                "content_hash": read.content_hash or None,
                "reason": read.problem.reason if read.problem else None,
                "temporary": read.problem.temporary if read.problem else False,
                "attempts": 1 if read.problem else 0,
                "tried_at": now,
            }
            for read in reads
        ]
        vectors = [
            {"encoder_id": self.encoder().id, "content_hash": read.content_hash, "vector": _as_bytes(read.vector)}
            for read in reads
            if read.vector is not None
        ]
        told = upsert(self.engine, images)
        changed = {
            "content_hash": sa.func.coalesce(told.excluded.content_hash, images.c.content_hash),
            "reason": told.excluded.reason,
            "temporary": told.excluded.temporary,
            "attempts": images.c.attempts + told.excluded.attempts,
            "tried_at": told.excluded.tried_at,
        }
        known = [images.c.project_id, images.c.address]
        with writing(self.engine) as connection:
            connection.execute(told.on_conflict_do_update(index_elements=known, set_=changed), rows)
            if vectors:
                connection.execute(upsert(self.engine, features).on_conflict_do_nothing(), vectors)

    def _resting(self, project_id: int, addresses: Sequence[str]) -> dict[str, ImageUnreadable]:
        """Return the images that could not be read lately, and why: not to be tried again yet."""
        resting = {}
        now = time.time()
        query = sa.select(images).where(images.c.project_id == project_id, images.c.reason.is_not(None))
        with reading(self.engine) as connection:
            for start in range(0, len(addresses), IN_CHUNK):
                chunk = images.c.address.in_(addresses[start : start + IN_CHUNK])
                for row in connection.execute(query.where(chunk)):
                    rest = min(FIRST_REST * 2 ** min(row.attempts - 1, 10), LONGEST_REST)
                    if now - row.tried_at < rest:
                        resting[row.address] = ImageUnreadable(
                            row.reason,
                            "It could not be read a moment ago; it is tried again later.",
                            temporary=row.temporary,
                        )
        return resting

    def unreadable(self, project_id: int) -> dict[str, int]:
        """Return how many images of a project can't be read, by reason."""
        query = sa.select(images.c.reason, sa.func.count()).where(
            images.c.project_id == project_id, images.c.reason.is_not(None)
        )
        with reading(self.engine) as connection:
            return {row[0]: row[1] for row in connection.execute(query.group_by(images.c.reason))}


def _joined(batches: Iterable[list[_Read]]) -> Iterator[list[_Read]]:
    """Yield batches joined to such as are written down together."""
    together: list[_Read] = []
    for batch in batches:
        together += batch
        if len(together) >= WRITE_BATCH:
            yield together
            together = []
    if together:
        yield together


def _as_bytes(vector: Vector) -> bytes:
    """Return a vector as the database keeps it."""
    return np.ascontiguousarray(vector, dtype="<f4").tobytes()
