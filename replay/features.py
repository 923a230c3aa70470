"""The features of a folder's images, kept by encoder and content, so that what was interrupted goes on where it was."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.encoder import Encoder

Vector = NDArray[np.float32]

AT_A_TIME = 16
"""Images read, encoded and written down together: held in memory at a time, and lost at most when interrupted."""

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS features "
    "(encoder TEXT, content TEXT, vector BLOB NOT NULL, PRIMARY KEY (encoder, content)) WITHOUT ROWID"
)


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Features of the images that could be read.

    Attributes
    ----------
    places : tuple of int, length n
        Places of these images among those asked for.
    features : numpy.ndarray of float32, shape (n, d)
    unreadable : dict of int to str
        Why there are no features of the others, by place.
    fresh : int
        How many were encoded now, because their features were not kept.
    """

    places: tuple[int, ...]
    features: NDArray[np.float32]
    unreadable: dict[int, str]
    fresh: int


def encode(
    images: Sequence[Path], encoder: Encoder, database: Path, advance: Callable[[int], object] = lambda count: None
) -> Encoded:
    """Return the features of images: those kept in `database`, else encoded now and kept.

    Parameters
    ----------
    images : sequence of pathlib.Path, length m
    encoder : model.encoder.Encoder
    database : pathlib.Path
        An SQLite file, made when there is none. It can be deleted at any time.
    advance : callable
        Called with a number of images each time that so many more are done.

    Raises
    ------
    model.encoder.EncoderError
        When the encoder can't be loaded.
    """
    vectors: dict[int, Vector] = {}
    unreadable: dict[int, str] = {}
    fresh = 0
    database.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(database, timeout=60)) as connection, ThreadPoolExecutor() as readers:
        connection.execute(_SCHEMA)
        for start in range(0, len(images), AT_A_TIME):
            batch = images[start : start + AT_A_TIME]
            files = list(readers.map(_read, batch))
            contents = ["" if isinstance(file, str) else hashlib.sha256(file).hexdigest() for file in files]
            known = _kept(connection, encoder.id, contents)
            missing = {content: file for content, file in zip(contents, files, strict=True) if content not in known}
            encoded, problems = _encode({key: file for key, file in missing.items() if key}, encoder, readers)
            _keep(connection, encoder.id, encoded)
            known |= encoded
            fresh += len(encoded)
            for place, (content, file) in enumerate(zip(contents, files, strict=True), start):
                if content in known:
                    vectors[place] = known[content]
                else:
                    unreadable[place] = file if isinstance(file, str) else problems[content]
            advance(len(batch))
    features = np.array(list(vectors.values()), dtype=np.float32).reshape(len(vectors), encoder.dim)
    return Encoded(tuple(vectors), features, unreadable, fresh)


def _read(path: Path) -> bytes | str:
    """Return a file's bytes, or why they can't be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        return error.strerror or str(error)


def _encode(
    files: Mapping[str, bytes | str], encoder: Encoder, readers: ThreadPoolExecutor
) -> tuple[dict[str, Vector], dict[str, str]]:
    """Return vectors by content hash, and why there are none of the others."""
    vectors, problems = {}, {}
    pictures = dict(zip(files, readers.map(_decode, files.values()), strict=True))
    for content, picture in pictures.items():
        if isinstance(picture, str):
            problems[content] = picture
    sound = {content: picture for content, picture in pictures.items() if not isinstance(picture, str)}
    try:
        vectors = dict(zip(sound, encoder.encode(list(sound.values())), strict=True))
    except ValueError:
        # One of them has no pixels: find out which.
        for content, picture in sound.items():
            try:
                vectors[content] = encoder.encode([picture])[0]
            except ValueError as error:
                problems[content] = str(error)
    return vectors, problems


def _decode(data: bytes | str) -> Image.Image | str:
    """Return the picture in some bytes, or why there is none."""
    if isinstance(data, str):
        return data
    try:
        picture = Image.open(BytesIO(data))
        picture.load()
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them stumble over
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        return "not an image" if "cannot identify" in reason else reason
    return picture


def _kept(connection: sqlite3.Connection, encoder: str, contents: Sequence[str]) -> dict[str, Vector]:
    marks = ",".join("?" * len(contents))
    query = f"SELECT content, vector FROM features WHERE encoder = ? AND content IN ({marks})"  # noqa: S608
    rows = connection.execute(query, [encoder, *contents])
    return {content: np.frombuffer(vector, dtype="<f4") for content, vector in rows}


def _keep(connection: sqlite3.Connection, encoder: str, vectors: Mapping[str, Vector]) -> None:
    rows = [(encoder, content, vector.astype("<f4").tobytes()) for content, vector in vectors.items()]
    with connection:
        connection.executemany("INSERT OR REPLACE INTO features VALUES (?, ?, ?)", rows)
