"""What the service costs: webhooks, the way from label to served head, predictions, the pool, memory."""

from __future__ import annotations

import asyncio
import io
import json
import time
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
import mlflow.sklearn
import numpy as np
from PIL import Image
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from backend.events import parse_webhook
from backend.pool import Pool, score
from backend.predict import Champions
from backend.worker import ALGEBRA_THREADS
from benchmarks.stand import CLASSES, Stand
from benchmarks.table import Row, milliseconds

EVENTS_A_SECOND, SECONDS = 200, 10
LABELS_TIMED = 60
A_SECOND, IN_A_HURRY = 1.0, 0.2
"""Pause between two labels: of a quick person, and of five together."""
SEED_LABELS_TIMED = 3
BATCH = 64
POOL = 100_000
CONNECTIONS = 16


def webhooks(stand: Stand, number: int) -> list[Row]:
    """Post labels at a steady rate, whether or not the last were answered, and look that none is lost."""
    count = EVENTS_A_SECOND * SECONDS
    stand.add_project(number, count)
    bodies = [json.dumps(stand.label_event(number, task_id)).encode() for task_id in range(1, count + 1)]
    latencies, refused = asyncio.run(_post_steadily(stand.url, bodies))
    median, slow, slowest = milliseconds(latencies, 50, 99, 100)
    project = stand.services.projects.named(number)
    kept = len(stand.services.ledger.in_force(project.id))
    learned = _wait_until_learned(stand, project.id)
    return [
        Row(
            f"webhook answered, {EVENTS_A_SECOND} events a second for {SECONDS} s, p99",
            f"{slow:.1f} ms",
            "under 20 ms",
            f"median {median:.1f} ms, slowest {slowest:.1f} ms",
            slow < 20,
        ),
        Row(
            "of these, lost",
            f"{count - kept} of {count}",
            "none",
            f"{refused} refused; all learned {learned:.1f} s after the last",
            kept == count and refused == 0,
        ),
    ]


def label_to_served(stand: Stand, number: int, labels_before: int, pause: float = A_SECOND) -> list[float]:
    """Return seconds from posting a label to an answer of ``/predict`` by a head that has learned it.

    The next label is posted `pause` seconds later; what follows a version apart from it (the study, the scores, MLflow)
    is at work meanwhile.
    """
    services = stand.services
    project = services.projects.named(number)
    told = len(services.ledger.in_force(project.id))
    for task_id in range(told + 1, labels_before + 1):
        event = parse_webhook(stand.label_event(number, task_id))
        assert event is not None
        services.ledger.tell(event)
    seconds = []
    with stand.client() as client:
        services.jobs.ask("update", project.id)
        _wait_until_learned(stand, project.id)
        for task_id in range(labels_before + 1, labels_before + 1 + LABELS_TIMED):
            event_body, question = stand.label_event(number, task_id), stand.predict_body(number, task_id + 1)
            before = client.post("/predict", json=question).json()["model_version"]
            start = time.perf_counter()
            client.post("/webhook", json=event_body).raise_for_status()
            while client.post("/predict", json=question).json()["model_version"] == before:
                time.sleep(0.002)
            seconds.append(time.perf_counter() - start)
            time.sleep(pause)
    return seconds


def seeds_way(stand: Stand) -> list[float]:
    """Return seconds per label of what the seed project did: MLP `partial_fit`, then the model logged to MLflow."""
    rng = np.random.default_rng(0)
    head = MLPClassifier((256,))
    mlflow.set_tracking_uri(stand.services.settings.mlflow)
    mlflow.set_experiment("the seed's way")
    seconds = []
    for label in range(1 + SEED_LABELS_TIMED):
        start = time.perf_counter()
        head.partial_fit(rng.normal(size=(1, stand.services.encoder.dim)), [CLASSES[label]], classes=CLASSES)
        with mlflow.start_run():
            mlflow.sklearn.log_model(head, name="head", serialization_format="cloudpickle")
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def predict_cached(stand: Stand, number: int) -> list[float]:
    """Return seconds per ``/predict`` of one task whose features are cached."""
    seconds = []
    with stand.client() as client:
        for task_id in range(1, 201):
            body = stand.predict_body(number, task_id)
            start = time.perf_counter()
            client.post("/predict", json=body).raise_for_status()
            seconds.append(time.perf_counter() - start)
    return seconds


def predict_uncached(stand: Stand, number: int, files: Path) -> tuple[float, float]:
    """Return images per second of ``/predict`` on new images, and of the encoder alone on the same, decoded before."""
    rng = np.random.default_rng(0)
    rates, own = [], []
    encoder = stand.services.encoder
    encoder.warm()
    with stand.client() as client:
        for turn in range(6):
            pictures, tasks = [], []
            for place in range(BATCH):
                coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
                name = f"{turn}-{place}.jpg"
                coarse.resize((320, 240), Image.Resampling.BICUBIC).save(files / name, quality=90)
                with Image.open(io.BytesIO((files / name).read_bytes())) as picture:
                    pictures.append(picture.convert("RGB"))
                image = f"/data/local-files/?d={name}"
                tasks.append({"id": 10_000_000 + turn * BATCH + place, "data": {"image": image}})
            start = time.perf_counter()
            encoder.encode(pictures)
            own.append(BATCH / (time.perf_counter() - start))
            body = stand.predict_body(number) | {"tasks": tasks}
            start = time.perf_counter()
            results = client.post("/predict", json=body).raise_for_status().json()["results"]
            rates.append(BATCH / (time.perf_counter() - start))
            assert all(result["result"] for result in results)
    # The first turn wakes both up.
    return float(np.median(rates[1:])), float(np.median(own[1:]))


def score_pool(stand: Stand, number: int) -> list[float]:
    """Return seconds to score and order a pool of 100,000 that is in memory, as the chores worker does."""
    rng = np.random.default_rng(0)
    config = stand.services.projects.named(number).config
    assert config is not None
    pool = Pool()
    for first in range(0, POOL, 10_000):
        vectors = rng.normal(size=(10_000, stand.services.encoder.dim)).astype(np.float32)
        pool.add({str(place): vector for place, vector in enumerate(vectors, start=first)})
    _, weights, novelty = Champions().of(stand.services, stand.services.projects.named(number).id)
    assert weights is not None
    assert novelty is not None
    places = pool.places(str(place) for place in range(POOL))
    foreign, taken = novelty.score(pool.rows[places]), pool.rows[:1]
    seconds = []
    with threadpool_limits(ALGEBRA_THREADS):
        for _ in range(5):
            start = time.perf_counter()
            score(config, weights, pool.rows, places, foreign, taken)
            seconds.append(time.perf_counter() - start)
    return seconds


def _wait_until_learned(stand: Stand, project_id: int) -> float:
    start = time.perf_counter()
    while True:
        newest = stand.services.versions.newest(project_id)
        if newest is not None and newest.position == stand.services.ledger.position(project_id):
            return time.perf_counter() - start
        if time.perf_counter() - start > 120:
            raise TimeoutError("the learner did not catch up in two minutes")
        time.sleep(0.05)


async def _post_steadily(url: str, bodies: list[bytes]) -> tuple[list[float], int]:
    """Post each body at its time on connections that stay open; return seconds from that time to the answer."""
    address = urlsplit(url)
    free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(await asyncio.open_connection(address.hostname, address.port))
    latencies: list[float] = []
    refused = 0
    begin = time.perf_counter() + 0.1

    async def post(body: bytes, at: float) -> None:
        nonlocal refused
        await asyncio.sleep(at - time.perf_counter())
        connection = await free.get()
        reader, writer = connection
        writer.write(
            b"POST /webhook HTTP/1.1\r\nHost: tandem\r\nContent-Type: application/json\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        latencies.append(time.perf_counter() - at)
        refused += b" 200 " not in head.split(b"\r\n")[0]
        free.put_nowait(connection)

    await asyncio.gather(*(post(body, begin + place / EVENTS_A_SECOND) for place, body in enumerate(bodies)))
    return latencies, refused
