"""The stand: Tandem's own processes, a Redis-compatible server and MLflow, with projects whose features are cached.

The features are random vectors around one centre per class, of the default encoder's length, written into the cache as
if their images had been encoded. Label Studio is played by this process, which posts its recorded requests.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from pydantic import SecretStr

from backend.database import features, images, migrate, tasks, upsert, writing
from backend.events import ProjectFacts, ProjectTold
from backend.services import Services
from backend.settings import Settings
from backend.up import servers
from backend.up.run import tandem_programs
from backend.up.servers import Running, free_port

REPOSITORY = Path(__file__).resolve().parents[1]
PAYLOADS = REPOSITORY / "tests" / "payloads"
CONFIG = (REPOSITORY / "label_config.xml").read_text()
CLASSES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
CREATED = 1795246825
CHUNK = 5000
"""Rows written in one statement."""


def recorded(name: str) -> Any:
    """Return the body of a recorded request of Label Studio."""
    return json.loads((PAYLOADS / f"{name}.json").read_text())["json"]


@dataclass
class Stand:
    """The processes under measurement; see the module."""

    folder: Path
    services: Services
    processes: dict[str, Running]
    truth: dict[tuple[int, int], str] = field(default_factory=dict)
    _annotations: int = 0

    @property
    def url(self) -> str:
        """Address of the web process."""
        return self.services.settings.web_url

    def add_project(self, number: int, count: int) -> None:
        """Make a project of Label Studio known, with `count` tasks whose features are cached."""
        rng = np.random.default_rng(number)
        facts = ProjectFacts(number, CREATED, f"Benchmark {number}", CONFIG)
        project = self.services.ledger.tell(ProjectTold(facts)).project
        dim, encoder_id = self.services.encoder.dim, self.services.encoder.id
        centres = rng.normal(size=(len(CLASSES), dim))
        engine = self.services.engine
        for start in range(1, count + 1, CHUNK):
            ids = range(start, min(start + CHUNK, count + 1))
            classes = rng.integers(len(CLASSES), size=len(ids))
            vectors = (centres[classes] + 4 * rng.normal(size=(len(ids), dim))).astype("<f4")
            names = [f"{number:08x}{task_id:08x}".ljust(64, "0") for task_id in ids]
            with writing(engine) as connection:
                connection.execute(
                    upsert(engine, tasks),
                    [{"project_id": project.id, "id": i, "image": address(i), "told_at": 0.0} for i in ids],
                )
                connection.execute(
                    upsert(engine, images),
                    [
                        {"project_id": project.id, "address": address(i), "content_hash": name}
                        for i, name in zip(ids, names, strict=True)
                    ],
                )
                connection.execute(
                    upsert(engine, features),
                    [
                        {"encoder_id": encoder_id, "content_hash": name, "vector": vector.tobytes()}
                        for name, vector in zip(names, vectors, strict=True)
                    ],
                )
            self.truth.update({(number, i): CLASSES[label] for i, label in zip(ids, classes, strict=True)})

    def label_event(self, number: int, task_id: int) -> dict[str, Any]:
        """Return the webhook that Label Studio sends when a person labels a task."""
        self._annotations += 1
        body: dict[str, Any] = copy.deepcopy(recorded("webhook_annotation_created__0_POST_webhook_ANNOTATION_CREATED"))
        body["project"] |= {"id": number, "label_config": CONFIG}
        body["task"] |= {"id": task_id, "project": number, "data": {"image": address(task_id)}}
        body["annotation"] |= {"id": self._annotations, "task": task_id, "project": number}
        body["annotation"]["result"][0] |= {
            "from_name": "expression",
            "value": {"choices": [self.truth[number, task_id]]},
        }
        return body

    def predict_body(self, number: int, *task_ids: int) -> dict[str, Any]:
        """Return what Label Studio posts to ``/predict``."""
        return {
            "tasks": [{"id": each, "data": {"image": address(each)}} for each in task_ids],
            "project": f"{number}.{CREATED}",
            "label_config": CONFIG,
            "params": {},
        }

    def client(self) -> httpx.Client:
        """Return a connection to the web process that stays open, as Label Studio's does."""
        return httpx.Client(base_url=self.url, timeout=60)

    def memory(self) -> dict[str, float]:
        """Return the megabytes that each process holds, with its children."""
        held = {}
        for name, running in self.processes.items():
            if running.process is not None:
                family = [psutil.Process(running.process.pid)]
                family += family[0].children(recursive=True)
                held[name] = sum(process.memory_info().rss for process in family) / 1e6
        return held


def address(task_id: int) -> str:
    """Return the address of a task's image, as Label Studio gives uploads."""
    return f"/data/upload/1/{task_id:08x}-image.jpg"


@contextmanager
def stand(folder: Path, cache: Path, **settings: Any) -> Iterator[Stand]:
    """Start everything in `folder`; exported encoders are shared in `cache`."""
    cache.mkdir(parents=True, exist_ok=True)
    (folder / "cache").symlink_to(cache.resolve())
    redis = Running(servers.valkey(folder / "valkey"), folder / "valkey.log")
    mlflow = Running(servers.mlflow(folder / "mlflow", free_port()), folder / "mlflow.log")
    known = Settings(
        _env_file=None,
        state=folder,
        redis_url=redis.server.address,
        mlflow_tracking_uri=mlflow.server.address,
        label_studio_api_key=SecretStr("none is asked for"),
        web_port=free_port(),
        sync_interval=1e9,
        **settings,
    )
    migrate(known.database)
    processes = {"redis": redis, "mlflow": mlflow}
    processes |= {server.name: Running(server, folder / f"{server.name}.log") for server in tandem_programs(known)}
    started = []
    try:
        for running in processes.values():
            running.start()
            started.append(running)
        yield Stand(folder, Services(known), processes)
    finally:
        for running in reversed(started):
            running.stop()
