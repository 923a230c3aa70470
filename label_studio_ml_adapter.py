"""Tandem's learner as a class for the official label-studio-ml server, for people who run that and no service of ours.

    pip install "tandem[label-studio-ml]"        # in an environment of its own
    label-studio-ml init my_backend --script label_studio_ml_adapter.py:Tandem
    export LABEL_STUDIO_URL=http://localhost:8080 LABEL_STUDIO_API_KEY=... MODEL_DIR=my_state
    label-studio-ml start my_backend

It fits both lines of that server: release 1.0.9 of PyPI, which runs each `fit` in a process of its own, and 2.x of
GitHub, which makes an object per request. So an object holds nothing: `fit` writes the label into a file, and whoever
predicts next learns what the file holds. Knows `model/` and label_studio_ml; knows nothing of `backend/`.

What it can not mend: 1.0.9 keeps one configuration for all projects, so give it one project, and it drops events while
its Redis queue is busy, so run it without; 2.x never hears of deletions, since Label Studio sends them under a name
that its server does not let through.

Environment
-----------
``MODEL_DIR``
    Folder of the file ``tandem.sqlite3`` and of exported encoders, by default the current one.
``LABEL_STUDIO_URL``, ``LABEL_STUDIO_API_KEY``
    Where uploads are read, and a legacy token to read them with. 1.0.9 is told both by Label Studio as well.
``TANDEM_ENCODER``
    Name of the timm backbone.
``TANDEM_IMAGE_HOSTS``
    Other hosts that images may be read from, as a JSON list.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import sqlite3
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from label_studio_ml.model import LabelStudioMLBase
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from http.client import HTTPMessage

    from model.encoder import Encoder
    from model.head import StreamingLDA
    from model.weights import Weights

Vector = NDArray[np.float32]
Json = dict[str, Any]

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
IMAGE_BYTES = 50 << 20
IMAGE_SECONDS = 10.0
# Images encoded at a time: bounds what is in memory when a whole project is predicted in one request.
BATCH = 32
LABEL_STUDIO_IMAGES = ("/data/upload/", "/data/local-files/", "/storage-data/uploaded/")
CLOUDS = ("s3://", "gs://", "azure-blob://")

SCHEMA = """
CREATE TABLE IF NOT EXISTS annotation (
    project INTEGER, id INTEGER, task INTEGER, address TEXT, label TEXT, updated_at TEXT, deleted INTEGER,
    PRIMARY KEY (project, id)
);
CREATE TABLE IF NOT EXISTS feature (encoder TEXT, address TEXT, vector BLOB, PRIMARY KEY (encoder, address));
CREATE TABLE IF NOT EXISTS version (project INTEGER PRIMARY KEY, number INTEGER NOT NULL);
"""

log = logging.getLogger(__name__)


class Tandem(LabelStudioMLBase):  # type: ignore[misc]
    """Learns the class of images from each annotation.

    The labelling configuration needs one Choices tag on an Image. Annotations with more than one choice, skipped ones
    and copies of predictions teach nothing.
    """

    # 1.0.9 fits for these. 2.x has a list of its own in its server: of deletions it lets through only the name that
    # Label Studio has never sent.
    TRAIN_EVENTS = (
        "ANNOTATION_CREATED",
        "ANNOTATION_UPDATED",
        "ANNOTATION_DELETED",
        "ANNOTATIONS_DELETED",
        "TASKS_DELETED",
    )

    def setup(self) -> None:
        """Name the version: 2.x asks for it with each new object. (1.0.9 names versions after its own jobs.)"""
        number = Memory.here().version(int(self.project_id)) if self.project_id.isdigit() else 0
        self.set("model_version", f"tandem-{number}")

    def predict(self, tasks: Sequence[Json], context: Json | None = None, **_: Any) -> list[Json]:
        """Return a prediction for each task; an empty one, which Label Studio asks for again, where there is none."""
        control = _control(self.parsed_label_config)
        if control is None or not tasks:
            return [{} for _ in tasks]
        memory, encoder, project = Memory.here(), _encoder(), int(tasks[0]["project"])
        addresses = [control.address(task) for task in tasks]
        wanted = {address: int(task["id"]) for address, task in zip(addresses, tasks, strict=True) if address}
        # Labels whose image nobody has asked about yet; a few at a time, since somebody waits.
        wanted |= memory.unseen(project, encoder.id, BATCH)
        self._encode(memory, encoder, wanted)
        weights = _learn(memory, encoder.id, project, control.labels)
        vectors = memory.vectors(encoder.id, [address for address in addresses if address])
        return [_prediction(control, weights, vectors.get(address)) for address in addresses]

    def fit(self, *given: Any, event: str = "", data: Json | None = None, **_: Any) -> Json:
        """Note what an event says. 1.0.9 calls ``fit((), event=..., data=...)``, 2.x ``fit(event, data)``.

        A repeated event, or an older one that comes late, changes nothing.
        """
        if not event:
            event, data = given
        data = data or {}
        memory, project = Memory.here(), int((data.get("project") or {}).get("id", 0))
        if event in ("ANNOTATION_CREATED", "ANNOTATION_UPDATED"):
            control = _control(self.parsed_label_config)
            if control is not None:
                annotation, task = data["annotation"], data["task"]
                label = control.label(annotation)
                memory.note(
                    project, annotation["id"], task["id"], control.address(task), label, annotation["updated_at"]
                )
        elif event in ("ANNOTATIONS_DELETED", "ANNOTATION_DELETED"):
            gone = data.get("annotations") or [data["annotation"]]
            memory.delete(project, [each["id"] for each in gone])
        elif event == "TASKS_DELETED":
            memory.delete_tasks(project, [each["id"] for each in data["tasks"]])
        return {"version": memory.version(project)}

    def _encode(self, memory: Memory, encoder: Encoder, wanted: dict[str, int]) -> None:
        known = memory.vectors(encoder.id, list(wanted))
        missing = [(address, task) for address, task in wanted.items() if address not in known]
        url = os.environ.get("LABEL_STUDIO_URL") or str(getattr(self, "hostname", ""))
        key = os.environ.get("LABEL_STUDIO_API_KEY") or str(getattr(self, "access_token", ""))
        with ThreadPoolExecutor(8) as readers:
            for at in range(0, len(missing), BATCH):
                batch = missing[at : at + BATCH]
                images = readers.map(partial(_image_or_none, url, key), batch)
                read = [(address, image) for (address, _), image in zip(batch, images, strict=True) if image]
                if read:
                    memory.keep(
                        encoder.id, [address for address, _ in read], encoder.encode([image for _, image in read])
                    )


@dataclass(frozen=True)
class Control:
    """The Choices tag that is learned, and where its image stands in a task."""

    from_name: str
    to_name: str
    key: str
    labels: tuple[str, ...]

    def address(self, task: Json) -> str:
        """Return the address of a task's image, or an empty string."""
        value = task["data"].get(self.key) or task["data"].get("$undefined$")
        return value if isinstance(value, str) else ""

    def label(self, annotation: Json) -> str | None:
        """Return the one choice that an annotation makes, if it makes one."""
        if annotation.get("was_cancelled"):
            return None
        chosen = [
            choice
            for region in annotation.get("result") or []
            if region.get("from_name") == self.from_name
            for choice in region["value"].get("choices", [])
        ]
        return chosen[0] if len(chosen) == 1 else None


@dataclass
class Learned:
    """A head, and the annotations that are in it: (address, label) by id."""

    head: StreamingLDA
    labels: dict[int, tuple[str, str]] = field(default_factory=dict)


class Memory:
    """Labels by annotation and features by image, in one SQLite file that any number of processes share."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._transaction() as database:
            for statement in filter(str.strip, SCHEMA.split(";")):
                database.execute(statement)

    @classmethod
    def here(cls) -> Memory:
        """Return the memory in ``MODEL_DIR``."""
        return cls(_folder() / "tandem.sqlite3")

    def version(self, project: int) -> int:
        """Return how many changes a project's labels have seen."""
        with self._transaction() as database:
            return _version(database, project)

    def note(self, project: int, id: int, task: int, address: str, label: str | None, updated_at: str) -> None:
        """Let an annotation say a label, or nothing; unless it is deleted or has said something newer."""
        with self._transaction() as database:
            row = database.execute(
                "SELECT address, label, updated_at, deleted FROM annotation WHERE project = ? AND id = ?", (project, id)
            ).fetchone()
            if row and (row[3] or row[2] > updated_at):
                return
            database.execute(
                "INSERT OR REPLACE INTO annotation VALUES (?, ?, ?, ?, ?, ?, 0)",
                (project, id, task, address, label, updated_at),
            )
            before = (row[0], row[1]) if row and row[1] is not None else None
            if before != ((address, label) if label is not None else None):
                _count(database, project)

    def delete(self, project: int, ids: Iterable[int]) -> None:
        """Take annotations back for good, also those of which nothing was heard yet: events overtake each other."""
        with self._transaction() as database:
            for id in ids:
                taught = database.execute(
                    "SELECT label FROM annotation WHERE project = ? AND id = ? AND NOT deleted", (project, id)
                ).fetchone()
                database.execute(
                    "INSERT OR REPLACE INTO annotation VALUES (?, ?, NULL, NULL, NULL, '', 1)", (project, id)
                )
                if taught and taught[0] is not None:
                    _count(database, project)

    def delete_tasks(self, project: int, tasks: Iterable[int]) -> None:
        """Take the annotations of tasks back."""
        with self._transaction() as database:
            ids = [
                id
                for task in tasks
                for (id,) in database.execute(
                    "SELECT id FROM annotation WHERE project = ? AND task = ? AND NOT deleted", (project, task)
                )
            ]
        self.delete(project, ids)

    def labels(self, project: int, encoder: str) -> dict[int, tuple[str, str]]:
        """Return address and label of each annotation in force whose image has features."""
        with self._transaction() as database:
            rows = database.execute(
                "SELECT id, address, label FROM annotation JOIN feature USING (address)"
                " WHERE project = ? AND encoder = ? AND label IS NOT NULL",
                (project, encoder),
            )
            return {id: (address, label) for id, address, label in rows}

    def unseen(self, project: int, encoder: str, limit: int) -> dict[str, int]:
        """Return address and task of labelled images without features, the newest first."""
        with self._transaction() as database:
            rows = database.execute(
                "SELECT address, task FROM annotation WHERE project = ? AND label IS NOT NULL AND address <> ''"
                " AND NOT EXISTS (SELECT 1 FROM feature WHERE encoder = ? AND feature.address = annotation.address)"
                " ORDER BY updated_at DESC LIMIT ?",
                (project, encoder, limit),
            )
            return dict(rows)

    def vectors(self, encoder: str, addresses: Sequence[str]) -> dict[str, Vector]:
        """Return the features of those images that have some, by address."""
        found = {}
        with self._transaction() as database:
            for address in addresses:
                row = database.execute(
                    "SELECT vector FROM feature WHERE encoder = ? AND address = ?", (encoder, address)
                ).fetchone()
                if row:
                    found[address] = np.frombuffer(row[0], np.float32)
        return found

    def keep(self, encoder: str, addresses: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Keep the features of images."""
        rows = [(encoder, address, vector.tobytes()) for address, vector in zip(addresses, vectors, strict=True)]
        with self._transaction() as database:
            database.executemany("INSERT OR REPLACE INTO feature VALUES (?, ?, ?)", rows)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        finally:
            connection.close()


_lock = threading.RLock()
_encoders: dict[str, Encoder] = {}
_learned: dict[tuple[Path, str, int], Learned] = {}


def _learn(memory: Memory, encoder: str, project: int, classes: Sequence[str]) -> Weights | None:
    """Make what this process has learned equal to what the memory holds; return the weights, None without labels."""
    # Here and below: 1.0.9 starts a process for each event, which only writes a row and should not wait for these.
    from model.head import StreamingLDA

    with _lock:
        key = (memory.path.resolve(), encoder, project)
        learned = _learned.setdefault(key, Learned(StreamingLDA()))
        now = memory.labels(project, encoder)
        gone = {id: said for id, said in learned.labels.items() if now.get(id) != said}
        come = {id: said for id, said in now.items() if learned.labels.get(id) != said}
        try:
            for change, said in ((learned.head.forget, gone), (learned.head.partial_fit, come)):
                if said:
                    vectors = memory.vectors(encoder, [address for address, _ in said.values()])
                    change(
                        np.stack([vectors[address] for address, _ in said.values()]), [it for _, it in said.values()]
                    )
            learned.labels = now
            return learned.head.weights(classes or None) if now else None
        except BaseException:
            # Half of a change may be in it; it is made anew when next needed.
            del _learned[key]
            raise


def _prediction(control: Control, weights: Weights | None, vector: Vector | None) -> Json:
    if weights is None or vector is None:
        return {}
    probabilities = weights.predict_proba(vector[None])[0]
    best = int(probabilities.argmax())
    region = {
        "from_name": control.from_name,
        "to_name": control.to_name,
        "type": "choices",
        "value": {"choices": [str(weights.classes[best])]},
    }
    return {"result": [region], "score": float(probabilities[best])}


def _control(parsed_label_config: Json) -> Control | None:
    for name, tag in parsed_label_config.items():
        if tag["type"] == "Choices":
            for to_name, source in zip(tag["to_name"], tag["inputs"], strict=False):
                if source["type"] == "Image":
                    return Control(name, to_name, source["value"], tuple(tag["labels"]))
    log.error("Tandem needs a labelling configuration with one Choices tag on an Image.")
    return None


def _encoder() -> Encoder:
    from model.encoder import DEFAULT, load_encoder

    name = os.environ.get("TANDEM_ENCODER") or DEFAULT
    with _lock:
        if name not in _encoders:
            _encoders[name] = load_encoder(name, cache=_folder() / "cache")
        return _encoders[name]


def _folder() -> Path:
    return Path(os.environ.get("MODEL_DIR") or ".")


def _version(database: sqlite3.Connection, project: int) -> int:
    row = database.execute("SELECT number FROM version WHERE project = ?", (project,)).fetchone()
    return int(row[0]) if row else 0


def _count(database: sqlite3.Connection, project: int) -> None:
    database.execute("INSERT OR REPLACE INTO version VALUES (?, ?)", (project, _version(database, project) + 1))


def _image_or_none(url: str, key: str, wanted: tuple[str, int]) -> Image.Image | None:
    address, task = wanted
    try:
        image = Image.open(BytesIO(_read(address, task, url, key)), formats=IMAGE_FORMATS)
        image.load()
    except Exception as error:  # whatever is wrong with one image, the other tasks get their predictions
        log.warning("Task %d: its image can not be read: %s", task, error)
        return None
    return image


def _read(address: str, task: int, url: str, key: str) -> bytes:
    """Return the bytes behind an address. Credentials go to Label Studio's image addresses and not across redirects."""
    url = url.rstrip("/")
    if address.startswith(CLOUDS):
        uri = urllib.parse.quote(base64.urlsafe_b64encode(address.encode()))
        address = f"{url}/tasks/{task}/resolve/?fileuri={uri}"
        private = True
    else:
        path = address.removeprefix(url)
        private = path.startswith(LABEL_STUDIO_IMAGES) and ".." not in urllib.parse.unquote(path).split("/")
        host = urllib.parse.urlsplit(address).hostname
        if not private and host not in json.loads(os.environ.get("TANDEM_IMAGE_HOSTS") or "[]"):
            raise ValueError(f"images are not read from {host or address!r}; TANDEM_IMAGE_HOSTS can allow a host")
        address = urllib.parse.quote(url + path if private else address, safe=":/?&=%+,;@~")
    if not address.startswith(("http://", "https://")):
        raise ValueError(f"{address!r} is no web address; LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY may be missing")
    request = urllib.request.Request(address)  # noqa: S310 - its scheme was just checked
    if private:
        request.add_unredirected_header("Authorization", f"Token {key}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _StorageRedirect())
    deadline, body = time.monotonic() + IMAGE_SECONDS, bytearray()
    with opener.open(request, timeout=IMAGE_SECONDS) as response:
        while chunk := response.read1(1 << 16):
            body += chunk
            if len(body) > IMAGE_BYTES:
                raise ValueError(f"it is larger than {IMAGE_BYTES} bytes")
            if time.monotonic() > deadline:
                raise TimeoutError(f"it takes longer than {IMAGE_SECONDS} s")
    return bytes(body)


class _StorageRedirect(urllib.request.HTTPRedirectHandler):
    """Follows one redirect, and only of Label Studio, whose storages redirect to their clouds."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if "Authorization" not in req.unredirected_hdrs or not newurl.startswith(("http://", "https://")):
            return None
        return super().redirect_request(req, fp, code, msg, headers, newurl)
