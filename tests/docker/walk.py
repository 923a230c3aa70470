"""Walk the loop through running containers as a person does: connect, upload, label, and see what was learned.

``walk.py COMPOSE...``: the command that reaches the containers, such as ``docker compose -f docker/compose.yml``. Ports
and secrets are those of ``docker/.env.example``, from the environment. `run.sh` beside this file calls it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import boto3
import httpx

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = REPOSITORY / "demo" / "expressions"
CLASSES = ("angry", "happy", "neutral", "sad", "surprise")
PER_CLASS = 2
LABELS = 5
PATIENCE = 120.0

T = TypeVar("T")


def main(compose: list[str]) -> None:
    """Walk, and tell each step that was seen to work.

    Raises
    ------
    AssertionError
        When something else was seen.
    TimeoutError
        When it was not seen in time.
    """
    label_studio = service(
        "LABEL_STUDIO_PORT", headers={"Authorization": f"Token {os.environ['LABEL_STUDIO_API_KEY']}"}
    )
    web = service("WEB_PORT", auth=("anyone", os.environ["TANDEM_SECRET"]))
    mlflow = service("MLFLOW_PORT")

    body = {"title": "Containers", "label_config": (REPOSITORY / "label_config.xml").read_text()}
    project = answer(label_studio.post("/api/projects", json=body))["id"]
    connected = subprocess.run(
        [*compose, "exec", "-T", "web", "tandem", "connect", "--project", str(project)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    say(connected.stdout.strip())
    assert reached(compose, "web.tandem.internal", 9090)
    assert not reached(compose, "redis", 6379), "Label Studio reaches Redis"
    say("Label Studio reaches Tandem, and not Redis")

    images = [path for name in CLASSES for path in sorted((DEMO / name).glob("*.png"))[:PER_CLASS]]
    with ExitStack() as stack:
        files = [(f"file{place}", stack.enter_context(path.open("rb"))) for place, path in enumerate(images)]
        answer(label_studio.post(f"/api/projects/{project}/import", files=files))
    cold = wait_for("cold start", lambda: shown(label_studio, project, lambda version: version == 0))
    scores = wait_for("scores", lambda: scores_of_all(label_studio, project, len(images)))
    say(f"{len(images)} images uploaded; Label Studio shows {cold} with scores {scores}")

    for _ in range(LABELS):
        task = answer(label_studio.get(f"/api/projects/{project}/next"))
        value = {"choices": [label_of(task, images)]}
        region = {"from_name": "expression", "to_name": "image", "type": "choices", "value": value}
        answer(label_studio.post(f"/api/tasks/{task['id']}/annotations/", json={"result": [region], "lead_time": 2.0}))
    learned = wait_for("a learned version", lambda: shown(label_studio, project, lambda version: version > 0))
    say(f"{LABELS} labelled; Label Studio shows {learned}, Tandem lists {answer(web.get('/versions'))['versions']}")

    model, run = wait_for("the champion in MLflow", lambda: champion(mlflow, f"tandem-project-{project}-"))
    say(
        f"MLflow's champion of {model['name']} is version {model['aliases'][0]['version']}, run {run['info']['run_id']}"
    )
    kept = sorted(objects(f"artifacts/{run['info']['experiment_id']}/{run['info']['run_id']}/"))
    assert kept, f"nothing of run {run['info']['run_id']} is in the bucket mlflow"
    say(f"SeaweedFS keeps {', '.join(kept)}")


def say(step: str) -> None:
    """Print a step that worked."""
    print(f"* {step}", flush=True)


def service(port: str, **options: Any) -> httpx.Client:
    """Return a client of the service whose port this variable names."""
    return httpx.Client(base_url=f"http://127.0.0.1:{os.environ[port]}", timeout=30, trust_env=False, **options)


def answer(response: httpx.Response) -> Any:
    """Return the answer's JSON; the error tells what was answered instead."""
    assert response.is_success, (
        f"{response.request.method} {response.url}: {response.status_code} {response.text[:500]}"
    )
    return response.json()


def wait_for(what: str, look: Callable[[], T | None]) -> T:
    """Return what `look` returns once that is something."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if (seen := look()) is not None:
            return seen
        time.sleep(0.5)
    raise TimeoutError(f"{what} was not seen within {PATIENCE:.0f} s")


def shown(label_studio: httpx.Client, project: int, wanted: Callable[[int], bool]) -> str | None:
    """Return the name of the predictions that the project shows, if it is of a wanted version."""
    name = answer(label_studio.get(f"/api/projects/{project}"))["model_version"] or ""
    version = name.removeprefix("tandem-v").split(".")[0]
    return str(name) if version.isdigit() and wanted(int(version)) else None


def scores_of_all(label_studio: httpx.Client, project: int, count: int) -> list[float] | None:
    """Return the score column, once every task has one."""
    listed = answer(label_studio.get("/api/tasks", params={"project": project, "fields": "all", "page_size": 100}))
    scores = [round(task["predictions_score"], 3) for task in listed["tasks"] if task["predictions_score"] is not None]
    return sorted(scores) if len(scores) == count else None


def reached(compose: list[str], host: str, port: int) -> bool:
    """Return whether a program in Label Studio's container can connect there."""
    connect = f"__import__('socket').create_connection(('{host}',{port}),5)"
    command = [*compose, "exec", "-T", "label-studio", "python3", "-c", connect]
    return not subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode


def label_of(task: dict[str, Any], images: list[Path]) -> str:
    """Return the class of a task's image, which Label Studio put a prefix before the name of."""
    return next(path.parent.name for path in images if task["data"]["image"].endswith(path.name))


def champion(mlflow: httpx.Client, prefix: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the registered model whose name begins so and its champion's run, once that has learned all labels."""
    found = answer(mlflow.get("/api/2.0/mlflow/registered-models/search")).get("registered_models", [])
    for model in found:
        for alias in model.get("aliases", []):
            if model["name"].startswith(prefix) and alias["alias"] == "champion":
                named = {"name": model["name"], "version": alias["version"]}
                version = answer(mlflow.get("/api/2.0/mlflow/model-versions/get", params=named))["model_version"]
                run = answer(mlflow.get("/api/2.0/mlflow/runs/get", params={"run_id": version["run_id"]}))["run"]
                if {metric["key"]: metric["value"] for metric in run["data"]["metrics"]}["labels"] == LABELS:
                    return model, run
    return None


def objects(prefix: str) -> Iterator[str]:
    """Return what SeaweedFS keeps of MLflow's under a prefix."""
    bucket = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{os.environ['S3_PORT']}",
        aws_access_key_id=os.environ["S3_ACCESS_KEY"],
        aws_secret_access_key=os.environ["S3_SECRET_KEY"],
        region_name="us-east-1",
    )
    for item in bucket.list_objects_v2(Bucket="mlflow", Prefix=prefix).get("Contents", []):
        yield f"s3://mlflow/{item['Key']} ({item['Size']} bytes)"


if __name__ == "__main__":
    main(sys.argv[1:])
